"""Models that ptychodus has trained, each made once for all tests."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest

from ptycho_torch import calibration

EPOCHS = 3


@dataclass(frozen=True)
class Trained:
    """A training of ptychodus's. raw: the scan; folder: its input folder, with diffraction.h5 and product.h5; training:
    its training data, and what training left beside them; model: the file that the child reported; output: what it
    reported else."""

    raw: Any
    folder: Path
    training: Path
    model: Path
    output: Any


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """algorithm -> Trained, on a small scan."""
    world = pytest.importorskip("contract.ptychodus_world")
    made = {}

    def get(algorithm):
        if algorithm not in made:
            raw = world.simulated(110, 32)
            guess = world.guess_of(raw) if algorithm in (world.LABELLED, world.TORCH_LABELLED) else None
            folder = world.write_input(tmp_path_factory.mktemp("input"), raw, world.product_of(raw, guess=guess))
            training = tmp_path_factory.mktemp("training")
            with world.session(algorithm, folder) as session:
                session.quick(EPOCHS).export(training)
                (output,) = session.outputs(training)
                model = session.reconstructor._loaded_model_path
            made[algorithm] = Trained(raw, folder, training, model, output)
        return made[algorithm]

    return get


@pytest.fixture(scope="module")
def labelled_scan():
    """A small scan that knows its object."""
    world = pytest.importorskip("contract.ptychodus_world")
    scan = world.simulated(110, 32)
    scan.objectGuess = scan.object_truth
    return scan


@pytest.fixture
def stopped(monkeypatch):
    """Training ends before its first step; what the Trainer was handed is kept."""
    seen = SimpleNamespace()
    true_init = pl.Trainer.__init__

    def init(trainer, *args, **arguments):
        seen.arguments = arguments
        true_init(trainer, *args, **arguments)

    def fit(trainer, module, train_dataloaders=None, val_dataloaders=None):
        seen.loader, seen.module = train_dataloaders, module

    monkeypatch.setattr(pl.Trainer, "__init__", init)
    monkeypatch.setattr(pl.Trainer, "fit", fit)
    monkeypatch.setattr(calibration, "calibrate_probe", lambda raw, guess, *_, **__: guess)
    return seen
