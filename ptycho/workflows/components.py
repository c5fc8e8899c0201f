"""The workflow functions that callers of the reference import; each goes to the backend that the configuration names.

Importing this module imports no torch.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ptycho import model_manager
from ptycho.config.config import PyTorchExecutionConfig, TrainingConfig
from ptycho.io.atomic import atomic_path
from ptycho.model import DiffractionToObject
from ptycho.workflows import backend_selector
from ptycho.workflows.loading import load_data

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

__all__ = [
    "load_data",
    "load_inference_bundle",
    "parse_arguments",
    "run_cdi_example",
    "save_outputs",
    "train_cdi_model",
]

logger = logging.getLogger(__name__)

Image = npt.NDArray[np.floating[Any]]


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The flags of `ptycho_train` by the names of their fields; what is not stated has its default.

    arguments: None takes those of the process. Ends the process with a message where they cannot be understood.
    """
    import argparse
    import sys

    import click

    from ptycho.cli.older import ptycho_train

    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with ptycho_train.make_context("ptycho_train", given) as context:  # it logs until it is left
            return argparse.Namespace(**context.params)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)


def run_cdi_example(
    train_data: Any,
    test_data: Any,
    config: TrainingConfig,
    flip_x: bool = False,
    flip_y: bool = False,
    transpose: bool = False,
    M: int = 20,
    do_stitching: bool = False,
    execution_config: PyTorchExecutionConfig | None = None,
) -> tuple[Any, Any, dict[str, Any]]:
    """Train, and with `do_stitching` reconstruct; see backend_selector.run_cdi_example_with_backend."""
    return backend_selector.run_cdi_example_with_backend(
        train_data, test_data, config, flip_x, flip_y, transpose, M, do_stitching, execution_config
    )


def train_cdi_model(
    train_data: Any,
    test_data: Any,
    config: TrainingConfig,
    execution_config: PyTorchExecutionConfig | None = None,
) -> dict[str, Any]:
    """Train; see backend_selector.train_cdi_model_with_backend."""
    return backend_selector.train_cdi_model_with_backend(train_data, test_data, config, execution_config)


def load_inference_bundle(
    bundle_dir: str | Path, model_name: str = "diffraction_to_obj"
) -> tuple[DiffractionToObject, dict[str, Any]]:
    """(a model with `predict`, what was written into `ptycho.params.cfg`) of a trained model.

    bundle_dir: a folder with wts.h5.zip or with its unpacked members, or the archive itself. MissingFileError or
    InputError when there is none that can be used.
    """
    module, restored = backend_selector.load_inference_bundle_with_backend(bundle_dir, model_name=model_name)
    backend = backend_selector.load_backend(model_manager.archive_backend(bundle_dir))
    logger.info("%s: loaded. A model works with the settings that it was trained with.", bundle_dir)
    return DiffractionToObject(module, backend.reconstruct), restored


def save_outputs(
    amplitude: Image | None, phase: Image | None, results: dict[str, Any], output_prefix: str | Path
) -> None:
    """Write reconstructed_amplitude.png and reconstructed_phase.png into a folder, and the arrays as an NPZ.

    amplitude, phase: (H, W), or None when nothing was reconstructed: then nothing is written. results: of the run;
    entries that are None or no image are passed over. output_prefix: the folder, made if it is not there.
    """
    if amplitude is None or phase is None:
        logger.info("Nothing was reconstructed (do_stitching=False): there are no images to write.")
        return
    from ptycho.plotting import amplitude_figure, phase_figure

    folder = Path(output_prefix)
    image = np.asarray(amplitude) * np.exp(1j * np.asarray(phase))
    seen = np.ones(image.shape, dtype=bool)
    for name, figure in (("amplitude", amplitude_figure(image, seen)), ("phase", phase_figure(image, seen))):
        with atomic_path(folder / f"reconstructed_{name}.png") as temporary:
            figure.savefig(temporary)
    with atomic_path(folder / "reconstructed_object.npz") as temporary:
        np.savez(temporary, object=image.astype(np.complex64))
