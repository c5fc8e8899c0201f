"""`python -m ptychodus -b train|reconstruct`, from a settings file, for both libraries."""

import re
import shutil
import subprocess
import sys
import time

import pytest

pytest.importorskip("ptychodus")

from contract import ptychodus_world as world
from ptychodus.api.io import load_product

SETTINGS = {
    world.PINN: """[Processing]
Algorithm = PtychoPINN_PINN

[PtychoPINNTraining]
NumEpochs = {epochs}
""",
    world.TORCH: """[Processing]
Algorithm = PtychoPINN-Torch_Unsupervised

[PtychoPINNTorchTraining]
epochs = {epochs}
num_dataloader_workers = 1
device = cpu
""",
}


def ptychodus(action, folder, output, cwd):
    """One run of the command line, whose messages are returned; it must end well and leave nothing where it was."""
    cwd.mkdir(exist_ok=True)
    run = subprocess.run(
        [sys.executable, "-m", "ptychodus", "-b", action, "-i", folder, "-o", output],
        cwd=cwd, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    assert list(cwd.iterdir()) == []
    return run.stdout


def train_and_reconstruct(algorithm, raw, epochs, tmp_path):
    """Figures of the product that the two commands leave, and how long the first of them took, in seconds."""
    folder, output, cwd = (tmp_path / name for name in ("in", "out", "cwd"))
    world.write_input(folder, raw)
    (folder / "settings.ini").write_text(SETTINGS[algorithm].format(epochs=epochs))
    with world.session(algorithm, folder) as session:
        session.export(folder)
    start = time.monotonic()
    told = ptychodus("train", folder, output, cwd)
    taken_s = time.monotonic() - start
    # messages go through logging only, which puts the time in front
    assert all(re.match(r"\d{4}-\d\d-\d\d .* \[[A-Z]+\] ", line) for line in told.splitlines()), told
    assert "measurement domain intensity" in told and "Training time" in told
    (model,) = output.glob("wts.h5.zip") if algorithm == world.PINN else output.glob("run_*/checkpoints/best*.ckpt")
    # the second command knows of the first by one file only
    shutil.move(model, folder / ("model.zip" if algorithm == world.PINN else "model.ckpt"))
    shutil.rmtree(output)
    ptychodus("reconstruct", folder, output, cwd)
    (product,) = output.iterdir()
    assert product.name == ("product.000000.h5" if algorithm == world.PINN else "product.000001.h5")
    found = world.figures(load_product(product), raw)
    assert found.best == (0, 0) and max(map(abs, found.shift_px)) < 0.3
    return found, taken_s


@pytest.mark.parametrize("algorithm", [world.PINN, world.TORCH])
def test_train_and_reconstruct(algorithm, trained, tmp_path):
    found, _ = train_and_reconstruct(algorithm, trained(algorithm).raw, 3, tmp_path)
    assert found.correlation > 0.97


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", [world.PINN, world.TORCH])
def test_acceptance(algorithm, tmp_path, record_property):
    """279 frames of 64 x 64, and of the settings only the epochs stated (and a device that every machine has)."""
    found, taken_s = train_and_reconstruct(algorithm, world.simulated(N=64), 15, tmp_path)
    record_property("training_s", round(taken_s, 1))
    record_property("figures", str(found))
    assert found.correlation > 0.9


def test_a_failure_is_told_and_is_the_exit_code(trained, tmp_path):
    found = trained(world.TORCH)
    folder = shutil.copytree(found.folder, tmp_path / "in")
    (folder / "settings.ini").write_text(SETTINGS[world.TORCH].format(epochs=3))
    (tmp_path / "cwd").mkdir()
    run = subprocess.run(
        [sys.executable, "-m", "ptychodus", "-b", "train", "-i", folder, "-o", tmp_path / "out"],
        cwd=tmp_path / "cwd", capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert run.returncode != 0
    assert "found 0 *.npz file(s)" in run.stdout and "Export the training data into this folder first" in run.stdout
