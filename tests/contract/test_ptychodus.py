"""Both PtychoPINN libraries of an unmodified ptychodus: training, reconstruction, and where the object lies.

Objects are compared in ptychodus's world coordinates. `session` also sees to it that nothing is left in the working
directory. Figures of the slow tests are recorded as properties (pytest --junit-xml).
"""

import logging
import resource
import shutil
import time
import zipfile

import numpy as np
import pytest

pytest.importorskip("ptychodus")

from contract import ptychodus_world as world
from ptychodus.api.reconstruct import PositionIndexFilter

LIBRARIES = (world.PINN, world.TORCH)
ALL = (world.PINN, world.LABELLED, world.TORCH, world.TORCH_LABELLED)


def check(product, raw, least):
    """The figures of a product, after what holds for each: its place, its orientation, its amplitude, its coverage."""
    found = world.figures(product, raw)
    assert found.correlation >= least, found
    assert found.unregistered >= least - 0.005, found
    assert found.best == (0, 0), found
    assert max(map(abs, found.shift_px)) < 0.3, found
    assert found.turned < found.correlation - 0.3, found
    image = product.object_.get_layer(0)
    assert type(image) is np.ndarray and np.isfinite(image).all() and image.dtype.kind == "c"
    needed = world.canvas_shape(raw)
    assert image.shape[0] >= needed[0] and image.shape[1] >= needed[1]
    return found


def reconstructed(trained, algorithm, *, model=None, product=None, raw=None, tmp_path=None, **options):
    """What ptychodus makes of the scan of a training, or of another one, with its model or a copy of that."""
    folder = trained.folder if tmp_path is None else world.write_input(tmp_path / "other", raw or trained.raw, product)
    with world.session(algorithm, folder) as session:
        session.processing.load_model_from_file(trained.model if model is None else model)
        return session.reconstruct(**options)


# ---------------------------------------------------------------- training and its reconstruction


@pytest.mark.parametrize("algorithm", ALL)
def test_what_was_trained_reconstructs(algorithm, trained):
    found = trained(algorithm)
    figures = check(reconstructed(found, algorithm), found.raw, 0.97)
    labelled = algorithm in (world.LABELLED, world.TORCH_LABELLED)
    # labels bring the scale of their object along
    assert 0.75 < figures.amplitude < 1.1 if labelled else 0.95 < figures.amplitude < 1.05


@pytest.mark.parametrize("algorithm", [world.TORCH, world.TORCH_LABELLED])
def test_a_loss_for_each_epoch(algorithm, trained):
    output = trained(algorithm).output
    for losses in (output.training_loss, output.validation_loss):
        assert [loss.epoch for loss in losses] == [0, 1, 2]
        assert all(np.isfinite(loss.value) for loss in losses)
    assert output.progress == 3


@pytest.mark.parametrize("algorithm", LIBRARIES)
def test_what_training_leaves(algorithm, trained):
    found = trained(algorithm)
    left = sorted(str(path.relative_to(found.training)) for path in found.training.rglob("*") if path.is_file())
    if algorithm == world.PINN:
        assert left == ["test_data.npz", "train_data.npz", "wts.h5.zip"]
        assert found.model == found.training / "wts.h5.zip"
        return
    run = found.model.parents[1].name
    names = ("checkpoints/best-poisson_val.ckpt", "checkpoints/last.ckpt", "metrics.csv", "wts.h5.zip")
    assert run.startswith("run_") and left == [*(f"{run}/{name}" for name in names), "train_data.npz"]


@pytest.mark.parametrize("algorithm", LIBRARIES)
def test_two_trainings_and_a_reconstruction_in_one_folder(algorithm, trained, tmp_path):
    """As the GUI does it: in one session, input folder == output folder."""
    raw = trained(algorithm).raw
    with world.session(algorithm, trained(algorithm).folder) as session:
        session.quick(1).export(tmp_path)
        models = []
        for _ in range(2):
            session.train(tmp_path)
            models.append(session.reconstructor._loaded_model_path)
            assert models[-1].is_file()
        check(session.reconstruct(), raw, 0.95)
    assert (models[0] == models[1]) is (algorithm == world.PINN)


def test_the_archive_of_the_one_library_is_a_model_of_the_other(trained, tmp_path):
    found = trained(world.TORCH)
    model = shutil.copyfile(found.model.parents[1] / "wts.h5.zip", tmp_path / "model.zip")
    with world.session(world.PINN, found.folder) as session:
        session.change(gridsize=2).processing.load_model_from_file(model)
        check(session.reconstruct(), found.raw, 0.97)


# ---------------------------------------------------------------- scans


@pytest.mark.parametrize("algorithm", LIBRARIES)
def test_two_modes_of_the_probe(algorithm, tmp_path):
    raw = world.simulated(110, 32, modes=(0.8, 0.2), seed=3)
    folder = world.write_input(tmp_path / "in", raw)
    with world.session(algorithm, folder) as session:
        session.quick(3).export(tmp_path / "train")
        session.train(tmp_path / "train")
        figures = check(session.reconstruct(), raw, 0.95)
    assert 0.95 < figures.amplitude < 1.05


@pytest.mark.parametrize("algorithm", LIBRARIES)
def test_bad_pixels(algorithm, tmp_path, rng):
    """ptychodus repairs them in what it hands over for reconstruction, and marks them in training data."""
    raw = world.simulated(110, 32, seed=5)
    raw.bad_pixels = rng.random((32, 32)) < 0.01
    raw.bad_pixels[:, 10] = raw.bad_pixels[15:18, 16:18] = True
    folder = world.write_input(tmp_path / "in", raw)
    with world.session(algorithm, folder) as session:
        session.quick(3).export(tmp_path / "train")
        session.train(tmp_path / "train")
        figures = check(session.reconstruct(), raw, 0.95)
    assert 0.95 < figures.amplitude < 1.05


@pytest.mark.parametrize(
    ("algorithm", "pad"),
    [*((world.PINN, pad) for pad in ((0, 1), (9, 40), (120, 33))), *((world.TORCH, pad) for pad in ((1, 0), (9, 40)))],
)
def test_a_canvas_larger_than_the_scan(algorithm, pad, trained, tmp_path):
    found = trained(algorithm)
    product = reconstructed(found, algorithm, product=world.product_of(found.raw, pad=pad), tmp_path=tmp_path)
    check(product, found.raw, 0.97)
    smallest = world.canvas_shape(found.raw)
    shape = product.object_.get_layer(0).shape
    # the second library is not told the size of the canvas
    expected = tuple(np.add(smallest, pad)) if algorithm == world.PINN else smallest
    assert shape == expected


def test_an_object_that_frames_reach_beyond(trained, tmp_path):
    """An object that a user has loaded may be smaller than the scan; the middle stays where it is."""
    found = trained(world.PINN)
    product = world.product_of(found.raw, pad=(-7, -10))
    result = reconstructed(found, world.PINN, product=product, tmp_path=tmp_path)
    check(result, found.raw, 0.97)
    assert np.subtract(result.object_.get_layer(0).shape, product.object_.get_layer(0).shape).tolist() == [8, 10]


@pytest.mark.parametrize("algorithm", LIBRARIES)
def test_the_scan_is_covered_whatever_is_asked_for(algorithm, trained, caplog):
    """NumSamples is 1 by default."""
    found = trained(algorithm)
    caplog.set_level(logging.INFO)
    product = reconstructed(found, algorithm)
    image = product.object_.get_layer(0)
    seen = world.lit_frames(found.raw.probe_truth, *_on(product, found.raw)) >= 1
    assert np.abs(image - 1)[seen].min() > 0
    if algorithm == world.PINN:
        assert f"All {found.raw.n_frames} frames are used, each once; the number of groups (1; " in caplog.text
    else:
        assert "Deviance per pixel of the object by network" in caplog.text


def _on(product, raw):
    """Positions of the frames in the product's object, and its canvas."""
    geometry = product.object_.get_geometry()
    x = geometry.map_probe_positions_to_object_x_px(product.probe_positions)
    y = geometry.map_probe_positions_to_object_y_px(product.probe_positions)
    height, width = geometry.height_px, geometry.width_px
    return x, y, world.Canvas((height, width), ((width - 1) / 2, (height - 1) / 2))


@pytest.mark.parametrize("algorithm", LIBRARIES)
def test_half_of_the_frames(algorithm, trained):
    """ptychodus's filter of odd and even frames keeps the canvas of all of them."""
    found = trained(algorithm)
    with world.session(algorithm, found.folder) as session:
        session.processing.load_model_from_file(found.model)
        index = session.processing.reconstruct(
            product_index=session.scan.get_product_index(), index_filter=PositionIndexFilter.ODD, block=True
        )
        product = session.core.workflow_api.get_product(index).get_product()
    figures = world.figures(product, found.raw)
    assert figures.correlation > 0.8
    if algorithm == world.PINN:
        assert max(map(abs, figures.shift_px)) < 0.3


@pytest.mark.parametrize("algorithm", LIBRARIES)
def test_one_frame_is_reconstructed(algorithm, trained, tmp_path):
    found = trained(algorithm)
    one = found.raw.subset(slice(0, 1))
    image = reconstructed(found, algorithm, raw=one, tmp_path=tmp_path).object_.get_layer(0)
    assert image.shape == (32, 32) and np.ptp(np.abs(image)) > 0.01


# ---------------------------------------------------------------- models from elsewhere


@pytest.mark.parametrize("algorithm", LIBRARIES)
def test_a_model_saved_and_loaded_elsewhere(algorithm, trained, tmp_path):
    found = trained(algorithm)
    first = reconstructed(found, algorithm)
    with world.session(algorithm, found.folder) as session:
        session.processing.load_model_from_file(found.model)
        extension = session.processing.get_model_file_extension()
        saved = tmp_path / f"saved here{extension}"
        session.processing.save_model_to_file(saved)
    # in another session, where nothing of the training is left
    again = reconstructed(found, algorithm, model=saved)
    np.testing.assert_array_equal(again.object_.get_array(), first.object_.get_array())


def test_a_bundle_that_somebody_has_zipped_by_hand(trained, tmp_path):
    found = trained(world.PINN)
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as outer:
        outer.write(found.model, "my model/wts.h5.zip")
    check(reconstructed(found, world.PINN, model=tmp_path / "model.zip"), found.raw, 0.97)


# ---------------------------------------------------------------- acceptance


def cpu_seconds():
    """Of the child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "N", "defocus_error", "least"),
    [
        *((algorithm, 64, 0.0, 0.9) for algorithm in ALL),
        *((algorithm, 64, 0.1, 0.85) for algorithm in ALL),
        *((algorithm, 128, 0.0, 0.9) for algorithm in ALL),
    ],
)
def test_acceptance(algorithm, N, defocus_error, least, tmp_path, record_property):
    """ptychodus's default settings, but for the number of epochs."""
    raw = world.simulated(N=N, defocus_error=defocus_error)
    guess = world.guess_of(raw) if algorithm in (world.LABELLED, world.TORCH_LABELLED) else None
    folder = world.write_input(tmp_path / "in", raw, world.product_of(raw, guess=guess))
    with world.session(algorithm, folder) as session:
        session.change(**{"epochs" if "torch" in algorithm else "nepochs": 15 if N == 64 else 8})
        session.export(tmp_path / "train")
        start, used = time.monotonic(), cpu_seconds()
        session.train(tmp_path / "train", tmp_path / "model")
        record_property("training_s", round(time.monotonic() - start, 1))
        record_property("training_cpu_s", round(cpu_seconds() - used, 1))
        figures = check(session.reconstruct(), raw, least)
    record_property("figures", str(figures))
