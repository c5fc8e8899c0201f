"""Pictures of ptychodus's window for docs/ptychodus.md, made without a screen.

Needs ptychodus 1.7.0 with its GUI (PyQt5) and this package: python docs/pictures/make_ptychodus_pictures.py. A small
simulated scan is trained and reconstructed through the window's own model; then the window is grabbed.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "tests"))

EPOCHS = 15


def main() -> None:
    """Write ptychodus_settings.png and ptychodus_object.png beside this file."""
    # imported here: only this picture-maker needs them
    from contract import ptychodus_world as world
    from ptychodus.controller import ControllerCore
    from ptychodus.model import ModelCore
    from ptychodus.view import ViewCore
    from PyQt5.QtWidgets import QApplication

    app = QApplication(["ptychodus"])
    raw = world.simulated(defocus_error=0.1)
    with tempfile.TemporaryDirectory() as folder, ModelCore(log_level=logging.WARNING) as model:
        view = ViewCore(is_developer_mode_enabled=False)
        controller = ControllerCore(model, view, is_developer_mode_enabled=False)
        session = world.Session(model, world.TORCH).load(world.write_input(Path(folder) / "in", raw))
        session.quick(EPOCHS).export(Path(folder) / "train")
        view.resize(1280, 800)
        controller.show_main_window("ptychodus")
        view.processing_action.trigger()
        _settle(app)
        view.grab().save(str(HERE / "ptychodus_settings.png"))
        session.train(Path(folder) / "train")
        session.reconstruct()
        view.object_action.trigger()
        _settle(app)
        tree = view.object_view.tree_view
        tree.setCurrentIndex(tree.model().index(1, 0))
        _settle(app)
        _show_whole(view.object_image_view)
        _settle(app)
        view.grab().save(str(HERE / "ptychodus_object.png"))


def _show_whole(panel: Any) -> None:
    """The image over its own range, as large as the panel allows."""
    from PyQt5.QtWidgets import QAbstractButton

    for tip in ("Rescale to Data Range", "Home"):
        next(button for button in panel.findChildren(QAbstractButton) if button.toolTip() == tip).click()


def _settle(app: Any, seconds: float = 2.5) -> None:
    """Let the window's timers run."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        app.processEvents()
        time.sleep(0.02)


if __name__ == "__main__":
    main()
