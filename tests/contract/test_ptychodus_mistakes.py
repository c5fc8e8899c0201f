"""What a user of ptychodus reads when something does not fit: the last line of the error says what to change."""

import contextlib
import shutil
import zipfile

import numpy as np
import pytest

pytest.importorskip("ptychodus")

import torch
from contract import ptychodus_world as world
from ptychodus.api.assemble import AssembledDiffractionData
from ptychodus.api.geometry import PixelGeometry
from ptychodus.api.io import StandardFileLayout, save_diffraction_data, save_product
from ptychodus.api.probe import ProbeSequence
from ptychodus.api.product import Product
from ptychodus.model.processing._subprocess_protocol import ChildError

from ptycho.errors import InputError, MissingFileError
from ptycho.model_manager import save_archive

LIBRARIES = (world.PINN, world.TORCH)


def fails(call, *fragments):
    """The exception of a call in this process; its message is one line that holds all fragments."""
    with pytest.raises(Exception) as caught:
        call()
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    for fragment in fragments:
        assert fragment in text, text
    return caught.value


def fails_in_child(call, *fragments):
    """The same for a child process: its exception arrives whole, and its message is the last line of the error."""
    with pytest.raises(ChildError) as caught:
        call()
    found = caught.value
    assert found.child_exception is not None
    text = str(found.child_exception)
    assert str(found).rstrip().splitlines()[-1].endswith(text)
    for fragment in fragments:
        assert fragment in text
    return found.child_exception


@pytest.fixture
def opened(trained):
    """A session with the scan of a trained model, and that model or another file."""
    stack = contextlib.ExitStack()

    def open_session(algorithm, model=None, folder=None):
        found = trained(world.TORCH if "torch" in algorithm else world.PINN)
        session = stack.enter_context(world.session(algorithm, found.folder if folder is None else folder))
        session.processing.load_model_from_file(found.model if model is None else model)
        return session.quick(1)

    with stack:
        yield open_session


# ---------------------------------------------------------------- models


def test_a_bundle_of_another_backend(opened, tmp_path):
    save_archive(tmp_path / "wts.h5.zip", {}, {}, "tensorflow")
    session = opened(world.PINN, tmp_path / "wts.h5.zip")
    found = fails_in_child(session.reconstruct, "'tensorflow' is not installed", "Load a model that this package")
    assert isinstance(found, RuntimeError)


@pytest.mark.parametrize("unpacked", [True, False])
def test_a_bundle_with_pickles(opened, tmp_path, unpacked):
    file = tmp_path / ("model.zip" if unpacked else "wts.h5.zip")
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("manifest.dill", b"")
        archive.writestr("autoencoder/params.dill", b"")
    found = fails(opened(world.PINN, file).reconstruct_here, "older, pickled kind", "train the model again")
    assert isinstance(found, InputError)


def test_a_bundle_without_a_model(opened, tmp_path):
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as archive:
        archive.writestr("readme.txt", b"")
    found = fails(opened(world.PINN, tmp_path / "model.zip").reconstruct_here, "Model archive not found", "wts.h5.zip")
    assert isinstance(found, MissingFileError)


def test_checkpoints_that_cannot_be_used(opened, trained, tmp_path):
    whole = torch.load(trained(world.TORCH).model, weights_only=True)
    torch.save({**whole, "hyper_parameters": {"model_config": {}}}, tmp_path / "half.ckpt")
    found = fails(
        opened(world.TORCH, tmp_path / "half.ckpt").reconstruct_here,
        "found no data_config, training_config, inference_config", "Load a .ckpt that training with this package",
    )  # fmt: skip
    assert isinstance(found, InputError)
    torch.save({**whole, "hyper_parameters": world.Figures(0, (0, 0), 0, (0, 0), 0, 0)}, tmp_path / "pickled.ckpt")
    fails(opened(world.TORCH, tmp_path / "pickled.ckpt").reconstruct_here, "loaded safely", "train the model again")
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    fails(opened(world.TORCH, tmp_path / "text.ckpt").reconstruct_here, "no checkpoint", "loaded safely")
    fails(opened(world.TORCH, tmp_path / "none.ckpt").reconstruct_here, "Checkpoint not found", "Train a model first")


@pytest.mark.parametrize("algorithm", LIBRARIES)
def test_frames_of_another_size_than_the_models(opened, algorithm, tmp_path):
    folder = world.write_input(tmp_path, world.simulated(20, 64))
    found = fails_in_child(
        opened(algorithm, folder=folder).reconstruct,
        "frames are 64 x 64 pixels", "trained on 32 x 32", "load a model for 64",
    )  # fmt: skip
    assert isinstance(found, InputError)


def test_another_gridsize_than_the_models(opened):
    session = opened(world.PINN).change(gridsize=2)
    fails(session.reconstruct_here, "gridsize=2", "trained with gridsize=1", "(in ptychodus: GridSize) to 1")


def test_fewer_neighbours_than_a_group_needs(opened):
    session = opened(world.PINN).change(gridsize=3)
    fails(session.reconstruct_here, "K=7 must be >= C=9", "NumNearestNeighbors", "GridSize")


# ---------------------------------------------------------------- training data


@pytest.mark.parametrize("algorithm", LIBRARIES)
def test_a_folder_without_scans(opened, algorithm, tmp_path):
    session = opened(algorithm)
    (tmp_path / "diffraction.h5").touch()
    named = {
        world.PINN: ("test_data.npz: no such file; the folder has no *.npz", "export it under that name"),
        world.TORCH: ("found 0 *.npz file(s)", "Export the training data into this folder"),
    }[algorithm]
    fails(lambda: session.train_here(tmp_path), *named)
    fails(lambda: session.train_here(tmp_path / "none"), "not found" if algorithm == world.TORCH else "no such file")
    if algorithm == world.PINN:
        (tmp_path / "scan.npz").touch()
        fails(lambda: session.train_here(tmp_path), "test_data.npz: no such file; the folder has scan.npz")


def test_files_that_are_no_scans(opened, tmp_path, caplog):
    session = opened(world.TORCH)
    np.savez(tmp_path / "notes.npz", text=np.arange(3))
    fails(lambda: session.train_here(tmp_path), "found 1 *.npz file(s) and none with frames (diff3d)")
    assert "notes.npz holds no frames" in caplog.text
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04")
    fails(lambda: session.train_here(tmp_path), "torn.npz: not a readable NPZ file", "move it away")
    (tmp_path / "torn.npz").unlink()
    world.simulated(20, 32).to_file(tmp_path / "small.npz")
    world.simulated(20, 64).to_file(tmp_path / "large.npz")
    fails(lambda: session.train_here(tmp_path), "frames of different sides (large.npz: 64, small.npz: 32)", "Move")
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".npz"] * 3


@pytest.mark.parametrize("algorithm", [world.LABELLED, world.TORCH_LABELLED])
def test_labels_from_an_empty_guess(opened, algorithm, tmp_path):
    """The object of a new product is the same everywhere."""
    session = opened(algorithm)
    session.export(tmp_path)
    found = fails_in_child(
        lambda: session.train(tmp_path), "DATA-SUP-001", "Reconstruct the object first", "PINN or Unsupervised"
    )
    assert isinstance(found, InputError)
    assert not list(tmp_path.glob("*.zip")) and not list(tmp_path.rglob("*.ckpt"))


def test_a_real_space_term_without_an_object(opened, tmp_path):
    session = opened(world.PINN).change(realspace_weight=0.5, realspace_mae_weight=0.5)
    session.export(tmp_path)
    fails(lambda: session.train_here(tmp_path), "DATA-SUP-001", "real-space weights 0")


@pytest.mark.parametrize("algorithm", LIBRARIES)
def test_one_frame(opened, trained, algorithm, tmp_path):
    session = opened(algorithm)
    one = trained(world.PINN).raw.subset(slice(0, 1))
    for name in ("train_data.npz", "test_data.npz"):
        one.to_file(tmp_path / name)
    fails(lambda: session.train_here(tmp_path), "found 1 frame(s), expected at least 4", "take more frames")


@pytest.mark.parametrize("algorithm", LIBRARIES)
def test_frames_that_are_not_square(opened, trained, algorithm, tmp_path):
    folder = shutil.copytree(trained(algorithm).folder, tmp_path / "in")
    _widen(trained(algorithm).raw, folder)
    session = opened(algorithm, folder=folder)
    session.export(tmp_path / "train")
    fails(lambda: session.train_here(tmp_path / "train"), "frames of 32 x 40 pixels", "Crop or pad them to a square")
    fails(session.reconstruct_here, "square")


def _widen(raw, folder):
    """The input of a scan with eight more columns in every frame."""
    product = world.product_of(raw)
    data = world.diffraction_of(raw)
    wide = np.pad(data.get_patterns(), ((0, 0), (0, 0), (0, 8)))
    assembled = AssembledDiffractionData(
        np.arange(len(wide)), wide, PixelGeometry(width_m=1e-5, height_m=1e-5), np.zeros(wide.shape[1:], bool)
    )
    probe = ProbeSequence(np.pad(raw.probe.astype(complex), ((0, 0), (0, 0), (0, 8))), None, PixelGeometry(5e-8, 5e-8))
    save_diffraction_data(StandardFileLayout.DIFFRACTION.path(folder), assembled)
    save_product(
        StandardFileLayout.PRODUCT.path(folder),
        Product(product.metadata, product.probe_positions, probe, product.object_, []),
    )


def test_no_model(trained):
    found = trained(world.TORCH)
    with world.session(world.TORCH, found.folder) as session, pytest.raises(ChildError, match="no model checkpoint"):
        session.reconstruct()
