"""The neutral functions that callers of the reference chain: grouped data, loader, predict, reassemble; no torch."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest

from ptycho import model_manager
from ptycho.carried import CarryingArray, GroupedScan, Stitched, canvas_of_guess, carried, carrying
from ptycho.errors import InputError
from ptycho.geometry import Canvas, canvas_for, canvas_over, placements
from ptycho.grouped_data import cut_patches
from ptycho.loader import PtychoDataContainer, load
from ptycho.model import DiffractionToObject
from ptycho.raw_data import RawData
from ptycho.tf_helper import reassemble_position

N = 16


def phantom(height=60, width=71):
    """Nothing about it is symmetric: smooth slopes along both axes, and an F."""
    rows, columns = np.indices((height, width), dtype=float)
    image = (1 + 0.2 * rows / height) * np.exp(1j * columns / width)
    image[15:40, 20:23] *= np.exp(0.7j)
    image[15:18, 20:35] *= 0.6
    image[25:28, 20:30] *= np.exp(-0.5j)
    return image.astype(np.complex64)


@pytest.fixture
def scan(rng):
    """Frames on a lattice of whole start pixels on the phantom, positions in its coordinates."""
    image = phantom()
    y, x = (
        values.reshape(-1).astype(float) + (N - 1) / 2
        for values in np.meshgrid(np.arange(3, 60 - N, 6), np.arange(2, 71 - N, 6), indexing="ij")
    )
    return RawData.from_coords_without_pc(
        x, y, rng.poisson(4.0, (len(x), N, N)).astype(np.uint16), np.ones((2, N, N), complex), objectGuess=image
    )


def grouped(scan, nsamples=1, gridsize=1):
    return scan.generate_grouped_data(N, K=7, nsamples=nsamples, gridsize=gridsize, seed=0)


# ---------------------------------------------------------------- arrays that bring something along


def test_what_is_carried_survives_what_callers_do():
    plain = np.arange(6.0).reshape(2, 3)
    what = Stitched(np.ones((2, 2), np.complex64), Canvas((2, 2), (0.5, 0.5)))
    array = carrying(plain, what)
    assert np.shares_memory(array, plain) and isinstance(array, CarryingArray)
    for derived in (array * 3.0, np.float64(2) * array, array[1:], array.astype(np.float32), np.sqrt(array)):
        assert carried(derived, Stitched) is what
    assert carried(array, GroupedScan) is None and carried(plain, Stitched) is None and carried(None, Stitched) is None
    assert carried(np.asarray(array), Stitched) is None
    assert type(np.asarray(array)) is np.ndarray


# ---------------------------------------------------------------- loader


@pytest.mark.parametrize("gridsize", [1, 2])
def test_a_container_of_groups(scan, gridsize):
    data = grouped(scan, 5, gridsize)
    container = load(lambda: data, scan.probeGuess, which=None, create_split=False)
    C = gridsize**2
    assert len(container) == 5 and container.X.shape == (5, N, N, C) and container.X.dtype == np.float32
    np.testing.assert_allclose(np.square(container.X).sum(axis=(1, 2)).mean(), (N / 2) ** 2, rtol=1e-5)
    assert container.local_offsets.shape == (5, 1, 2, C) and container.global_offsets.shape == (5, 1, 2, 1)
    positions = container.global_offsets - container.local_offsets
    np.testing.assert_allclose(positions[:, 0, 0], scan.xcoords[container.nn_indices])
    np.testing.assert_allclose(positions[:, 0, 1], scan.ycoords[container.nn_indices])
    assert container.probe.shape == (2, N, N) and container.norm_Y_I == 1.0
    assert container.YY_full is scan.objectGuess
    assert carried(container.X * 4.2, GroupedScan).scan is scan
    np.testing.assert_array_equal(np.abs(container.Y), container.Y_I)
    np.testing.assert_array_equal(np.angle(container.Y), container.Y_phi)


def test_a_container_without_labels(scan):
    data = {**grouped(scan, 3), "Y": None}
    container = PtychoDataContainer(data, scan.probeGuess)
    assert np.all(container.Y == 1) and np.all(container.Y_I == 1) and np.all(container.Y_phi == 0)


def test_a_split_of_groups(scan):
    data = grouped(scan, 10)
    parts = [load(lambda: (data, 0.7), scan.probeGuess, which=which, create_split=True) for which in ("train", "test")]
    assert [len(part) for part in parts] == [7, 3]
    np.testing.assert_array_equal(np.concatenate([part.nn_indices for part in parts]), data["nn_indices"])
    # a share of the groups is no scan
    assert all(carried(part.X, GroupedScan) is None for part in parts)
    with pytest.raises(InputError, match="which: found None, expected 'train' or 'test'"):
        load(lambda: (data, 0.7), scan.probeGuess, create_split=True)


def test_what_is_no_grouped_data(scan):
    with pytest.raises(InputError, match="found no coords_offsets, nn_indices"):
        PtychoDataContainer({"X_full": np.ones((1, N, N, 1)), "coords_relative": 0}, scan.probeGuess)


# ---------------------------------------------------------------- reassemble_position


def offsets_of(x, y):
    return np.stack([x, y], axis=1)[:, None, :, None]


def test_patches_go_back_where_they_were_cut(scan):
    image = phantom()
    patches = cut_patches(image, scan.xcoords, scan.ycoords, N)[..., None]
    found = reassemble_position(patches, offsets_of(scan.xcoords, scan.ycoords), M=20)
    assert found.dtype == np.complex64 and found.shape[2] == 1 and type(found) is np.ndarray
    (top, left) = (int(v.min() - (N - 1) / 2) for v in (scan.ycoords, scan.xcoords))
    height, width, _ = found.shape
    np.testing.assert_allclose(found[..., 0], image[top : top + height, left : left + width], atol=1e-6)


def test_patches_of_groups(scan):
    """Offsets (n, 1, 2, 1) are those of the whole group; with a channel axis, of each patch."""
    groups = grouped(scan, 12, 2)["nn_indices"]
    x, y = scan.xcoords[groups], scan.ycoords[groups]
    patches = cut_patches(phantom(), x.reshape(-1), y.reshape(-1), N).reshape(12, 4, N, N).transpose(0, 2, 3, 1)
    each = reassemble_position(patches, np.stack([x, y], axis=1)[:, None], M=N)[..., 0]
    flat = reassemble_position(
        patches.transpose(0, 3, 1, 2).reshape(48, N, N, 1), offsets_of(x.reshape(-1), y.reshape(-1)), M=N
    )
    np.testing.assert_allclose(each, flat[..., 0], atol=1e-6)
    one = reassemble_position(np.ones((1, N, N, 4)), offsets_of(np.array([5.0]), np.array([9.0])))
    assert one.shape == (N, N, 1) and np.all(one == 1)


@pytest.mark.parametrize("side", [15, 16])
@pytest.mark.parametrize("M", [1, 2, 7, 10, 20, 1000])
def test_no_gaps_whatever_is_used_of_a_patch(M, side):
    """Squares are widened where their distance asks for it; what no square reaches is vacuum."""
    y, x = (v.reshape(-1).astype(float) for v in np.meshgrid(np.arange(0, 30, 5), np.arange(0, 40, 5), indexing="ij"))
    patches = np.full((len(x), side, side, 1), 2j, np.complex64)
    found = reassemble_position(patches, offsets_of(x, y), M=M)[..., 0]
    assert found.shape == (25 + side, 35 + side)
    inner = found[side // 2 : -(side // 2), side // 2 : -(side // 2)]
    assert np.all(inner == 2j) and set(np.unique(found)) <= {2j, 1}


def test_uncovered_is_vacuum_and_positions_are_rounded():
    patches = np.stack([np.full((4, 4, 1), 3), np.full((4, 4, 1), 5)]).astype(complex)
    found = reassemble_position(patches, offsets_of(np.array([0.0, 20.3]), np.array([0.0, 0.2])), M=4)[..., 0]
    assert found.shape == (5, 25)
    assert sorted(np.unique(found.real)) == [1, 3, 5] and np.sum(found == 3) == np.sum(found == 5) == 16


def test_a_finished_object_is_returned_as_it_is():
    image = phantom()
    patches = carrying(np.zeros((2, N, N, 1), np.complex64), Stitched(image, Canvas(image.shape, (35, 29.5))))
    found = np.squeeze(reassemble_position(patches, np.zeros((2, 1, 2, 1)), M=20))
    assert type(found) is np.ndarray
    np.testing.assert_array_equal(found, image)


@pytest.mark.parametrize("offsets", [np.zeros((3, 1, 2, 1)), np.zeros((2, 2)), np.zeros((2, 1, 3, 1))])
def test_offsets_that_do_not_fit(offsets):
    with pytest.raises(InputError, match=r"reassemble_position: found patches of shape \(2, 16, 16, 1\)"):
        reassemble_position(np.ones((2, N, N, 1)), offsets)


# ---------------------------------------------------------------- the handle of a model


class FakeModule:
    """A network whose patches are its input, and a record of what it was asked."""

    intensity_scale = 2.0

    def __init__(self, C=1):
        self.data_config = SimpleNamespace(C=C)
        self.calls = []

    def forward_predict(self, x, positions, probe, scale):
        self.calls.append((tuple(x.shape), tuple(positions.shape), probe, scale))
        return x + 0j


def painter(canvases):
    """A backend's reconstruct that paints object coordinates: pixel = x + i y."""

    def reconstruct(module, raw, canvas):
        canvases.append(canvas)
        x, y = canvas.origin_xy
        rows, columns = np.indices(canvas.shape)
        return (columns + x + 1j * (rows + y)).astype(np.complex64)

    return reconstruct


def predicted(scan, model, nsamples=1, gridsize=1):
    container = load(lambda: grouped(scan, nsamples, gridsize), scan.probeGuess)
    return model.predict([container.X * 3.0, container.local_offsets]), container


@pytest.mark.parametrize("pad", [(0, 0), (1, 0), (200, 31)])
def test_a_whole_scan_is_reconstructed_whatever_its_groups(scan, pad, caplog):
    caplog.set_level(logging.INFO)
    scan.objectGuess = np.pad(phantom(), [(extra, extra) for extra in pad], constant_values=1)
    scan = RawData.from_coords_without_pc(
        scan.xcoords + pad[1], scan.ycoords + pad[0], scan.diff3d, scan.probeGuess, objectGuess=scan.objectGuess
    )
    canvases = []
    patches, container = predicted(scan, DiffractionToObject(FakeModule(), painter(canvases)))
    assert patches.shape == (1, N, N, 1)
    assert f"All {scan.n_frames} frames are used, each once" in caplog.text
    image = np.squeeze(reassemble_position(patches, container.global_offsets, M=20))
    assert image.shape == scan.objectGuess.shape
    # computed where frames lie, in place, vacuum elsewhere
    (canvas,) = canvases
    assert canvas.shape == canvas_for(scan.xcoords, scan.ycoords, N).shape
    rows, columns = np.indices(image.shape)
    painted = image != 1
    np.testing.assert_allclose(image[painted], (columns + 1j * rows)[painted], atol=1e-4)
    assert painted.sum() == np.prod(canvas.shape)
    # the patch is cut from it, about its position
    frame = container.nn_indices[0, 0]
    np.testing.assert_allclose(patches.mean(), scan.xcoords[frame] + 1j * scan.ycoords[frame], rtol=1e-5)


def test_a_scan_without_a_guess_is_centred_on_itself(scan):
    scan.objectGuess = None
    canvases = []
    patches, container = predicted(scan, DiffractionToObject(FakeModule(), painter(canvases)), 4)
    image = np.squeeze(reassemble_position(patches, container.global_offsets))
    assert image.shape == canvases[0].shape == canvas_for(scan.xcoords, scan.ycoords, N).shape
    assert canvases[0].center_xy == canvas_for(scan.xcoords, scan.ycoords, N).center_xy


def test_another_gridsize_than_the_models(scan):
    with pytest.raises(InputError, match=r"gridsize=2, the model was trained with gridsize=1.*GridSize"):
        predicted(scan, DiffractionToObject(FakeModule(1), painter([])), gridsize=2)
    patches, _ = predicted(scan, DiffractionToObject(FakeModule(4), painter([])), 3, gridsize=2)
    assert patches.shape == (3, N, N, 4)


def test_groups_by_themselves(scan):
    """Without the scan, or for some of its groups only, the network sees the groups."""
    module = FakeModule()
    container = load(lambda: grouped(scan, 5), scan.probeGuess)
    for model in (DiffractionToObject(module), DiffractionToObject(module, painter([]))):
        found = model.predict([np.asarray(container.X) * 2, container.local_offsets])
        np.testing.assert_allclose(found, np.asarray(container.X) * 2)
        assert module.calls.pop() == ((5, 1, N, N), (5, 1, 1, 2), None, 0.5)
    some = DiffractionToObject(module, painter([])).predict([container.X[:2], container.local_offsets[:2]])
    assert some.shape == (2, N, N, 1) and carried(some, Stitched) is None


@pytest.mark.parametrize("offsets", [np.zeros((5, 1, 2, 4)), np.zeros((4, 1, 2, 1)), np.zeros((5, 2))])
def test_inputs_that_do_not_fit(offsets):
    with pytest.raises(InputError, match="predict: found X of shape"):
        DiffractionToObject(FakeModule()).predict([np.ones((5, N, N, 1)), offsets])


# ---------------------------------------------------------------- canvases of an object


@pytest.mark.parametrize("shape", [(60, 71), (61, 70), (40, 71), (33, 34)])
def test_a_canvas_over_an_object(scan, shape):
    canvas = canvas_over(shape, scan.xcoords, scan.ycoords, N)
    assert canvas.center_xy == ((shape[1] - 1) / 2, (shape[0] - 1) / 2)
    for own, array in zip(canvas.shape, shape, strict=True):
        assert own >= array and (own - array) % 2 == 0
    assert canvas.shape == shape or shape[0] < 60
    # pixels of the canvas lie on pixels of the array: the lattice of frames is met exactly
    fractions = placements(scan.xcoords, scan.ycoords, N, canvas)[1]
    assert np.abs(fractions).max() == 0
    assert canvas.origin_xy == ((shape[1] - canvas.shape[1]) / 2, (shape[0] - canvas.shape[0]) / 2)


def test_the_canvas_of_a_guess(scan):
    assert canvas_of_guess(scan).shape == scan.objectGuess.shape
    scan.objectGuess = None
    assert canvas_of_guess(scan) is None


# ---------------------------------------------------------------- scans seen otherwise


def test_a_scan_taken_as_another_domain(scan, rng):
    values = rng.uniform(0.3, 7.7, scan.diff3d.shape).astype(np.float32)
    unclear = RawData.from_coords_without_pc(scan.xcoords, scan.ycoords, values, np.ones((N, N), complex))
    with pytest.raises(InputError, match="cannot tell"):
        unclear.counts()
    np.testing.assert_array_equal(unclear.taken_as("intensity").counts(), values)
    np.testing.assert_allclose(unclear.taken_as("amplitude").counts(), values**2, rtol=1e-6)
    decided = scan.taken_as("amplitude")
    assert (scan.measurement_domain, decided.measurement_domain) == ("intensity", "amplitude")
    np.testing.assert_array_equal(decided.counts(), scan.diff3d.astype(np.float32) ** 2)
    assert decided.mean_counts_per_frame() > scan.mean_counts_per_frame()
    with pytest.raises(InputError, match="measurement_domain: found 'counting'"):
        scan.taken_as("counting")


def test_a_scan_with_another_mask(scan):
    bad = np.zeros((N, N), bool)
    bad[3] = True
    before = scan.mean_counts_per_frame()
    masked = scan.masked(bad)
    assert scan.bad_pixels is None and np.array_equal(masked.bad_pixels, bad)
    np.testing.assert_allclose(masked.mean_counts_per_frame(), before * 15 / 16, rtol=0.05)
    assert scan.mean_counts_per_frame() == before
    with pytest.raises(InputError, match="bad_pixels"):
        scan.masked(np.zeros((3, 3), bool))


# ---------------------------------------------------------------- what was trained last


def test_saving_what_was_trained_last(tmp_path, monkeypatch):
    monkeypatch.setattr(model_manager, "_trained", {})
    with pytest.raises(InputError, match="no model to save: nothing was trained in this process"):
        model_manager.save(tmp_path)
    for name in ("first", "second"):
        model_manager.remember(lambda folder, name=name: (folder / name).touch())
    model_manager.save(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["second"]


def test_a_folder_with_a_pickled_model(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "params.dill").touch()
    with pytest.raises(InputError, match="older, pickled kind.*train the model again"):
        model_manager.archive_path(tmp_path)
