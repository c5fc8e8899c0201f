"""What callers of the reference know of RawData's groups: names, shapes, counts, messages, cost."""

import os
import time
import tracemalloc
from itertools import combinations

import numpy as np
import pytest

from ptycho import params
from ptycho.raw_data import RawData, normalize_data


def scan_of(x, y, side=8, seed=0, **known):
    """A scan of counts at these positions; frame i is marked by the value 200 + i at (0, 0)."""
    n = len(x)
    frames = np.random.default_rng(seed).poisson(4.0, (n, side, side)).astype(np.float32)
    frames[:, 0, 0] = 200 + np.arange(n)
    probe = np.ones((side, side), np.complex64)
    return RawData(x, y, x, y, frames, probe, np.zeros(n, int), **known)


@pytest.fixture(scope="module")
def lattice():
    """20 x 20 points at a distance of 1."""
    y, x = np.mgrid[:20, :20].astype(float)
    return scan_of(x.ravel(), y.ravel())


def points(raw, groups):
    """Positions of the members, (groups, C, 2)."""
    return np.stack([raw.xcoords[groups], raw.ycoords[groups]], axis=-1)


# ---- constructors


def test_positional_arguments_in_the_order_of_the_reference():
    x, y, xs, ys = np.arange(3.0), np.ones(3), np.arange(3.0) + 0.5, np.zeros(3)
    frames, probe = np.ones((3, 8, 8), np.float32), np.full((8, 8), 2j)
    raw = RawData(x, y, xs, ys, frames, probe, [4, 5, 6], np.full((20, 21), 3j), np.zeros((3, 8, 8), complex))
    expected = {"xcoords": x, "ycoords": y, "xcoords_start": xs, "ycoords_start": ys, "diff3d": frames}
    for name, value in {**expected, "probeGuess": probe, "scan_index": [4, 5, 6]}.items():
        np.testing.assert_array_equal(getattr(raw, name), value)
    assert raw.objectGuess.shape == (20, 21) and raw.Y.shape == (3, 8, 8)
    short = RawData.from_coords_without_pc(x, y, frames, probe, [4, 5, 6], objectGuess=np.ones((9, 9), complex))
    np.testing.assert_array_equal(short.xcoords_start, x)
    np.testing.assert_array_equal(short.ycoords_start, y)
    assert short.objectGuess.shape == (9, 9)


def test_coordinates_of_different_lengths():
    with pytest.raises(ValueError, match=r"Coordinate arrays must have matching shapes\."):
        RawData(np.zeros(3), np.zeros(4), np.zeros(3), np.zeros(3), None, None, np.zeros(3, int))


# ---- _generate_groups_efficiently


def test_groups_are_distinct_frames_of_the_scan(lattice):
    groups = lattice._generate_groups_efficiently(nsamples=64, K=6, C=4, seed=42)
    assert groups.shape == (64, 4) and groups.dtype == np.int32
    assert groups.min() >= 0 and groups.max() < 400
    assert all(len(set(group)) == 4 for group in groups.tolist())


def test_groups_are_close_together(lattice):
    for K, C in ((6, 4), (8, 4), (12, 9)):
        where = points(lattice, lattice._generate_groups_efficiently(50, K, C, seed=1))
        from_centre = np.linalg.norm(where - where.mean(axis=1, keepdims=True), axis=2)
        assert from_centre.max() < 2 * np.sqrt(K)
    where = points(lattice, lattice._generate_groups_efficiently(50, 8, 4, seed=1))
    assert max(np.linalg.norm(w[i] - w[j]) for w in where for i, j in combinations(range(4), 2)) < 5


def test_more_samples_than_points_gives_one_group_each(lattice):
    assert len(lattice._generate_groups_efficiently(1000, 6, 4, seed=0)) == 400


@pytest.mark.parametrize(("K", "C"), [(3, 4), (3, 5), (1, 2)])
def test_too_few_neighbours(lattice, K, C):
    with pytest.raises(ValueError, match=f"K={K} must be >= C={C}"):
        lattice._generate_groups_efficiently(10, K, C)


def test_two_points():
    raw = scan_of(np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    groups = raw._generate_groups_efficiently(nsamples=2, K=1, C=1, seed=0)
    assert groups.shape == (2, 1) and set(groups.ravel()) == {0, 1}


def test_the_seed_decides(lattice):
    first, again, other = (lattice._generate_groups_efficiently(30, 6, 4, seed=s) for s in (7, 7, 8))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_sampling_is_roughly_uniform():
    raw = scan_of(np.arange(20.0), np.zeros(20))
    drawn = np.concatenate([raw._generate_groups_efficiently(5, 1, 1, seed=s).ravel() for s in range(100)])
    counts = np.bincount(drawn, minlength=20)
    # 500 draws over 20 frames: 25 +- 4.3 (one sigma)
    assert counts.min() > 7 and counts.max() < 43


@pytest.mark.parametrize(("n", "peak"), [(1_000, 10e6), (10_000, 100e6)])
def test_cost(rng, n, peak):
    raw = RawData(rng.uniform(0, 100, n), rng.uniform(0, 100, n))
    raw._generate_groups_efficiently(4, 6, 4, seed=0)  # imports
    began = time.process_time()
    assert len(raw._generate_groups_efficiently(512, 6, 4, seed=0)) == 512
    assert time.process_time() - began < 1.0
    tracemalloc.start()
    raw._generate_groups_efficiently(512, 6, 4, seed=0)
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert used < peak


# ---- generate_grouped_data


@pytest.mark.parametrize(("gridsize", "C"), [(1, 1), (2, 4), (3, 9)])
def test_keys_and_shapes(lattice, gridsize, C):
    grouped = lattice.generate_grouped_data(8, K=10, nsamples=6, seed=3, gridsize=gridsize)
    shapes = {
        "diffraction": (6, 8, 8, C),
        "X_full": (6, 8, 8, C),
        "coords_nn": (6, 1, 2, C),
        "coords_start_nn": (6, 1, 2, C),
        "coords_relative": (6, 1, 2, C),
        "coords_start_relative": (6, 1, 2, C),
        "coords_offsets": (6, 1, 2, 1),
        "coords_start_offsets": (6, 1, 2, 1),
        "nn_indices": (6, C),
    }
    assert {key: grouped[key].shape for key in shapes} == shapes
    assert grouped["Y"] is None and grouped["objectGuess"] is None
    assert grouped["diffraction"].dtype == grouped["X_full"].dtype == np.float32
    assert np.issubdtype(grouped["nn_indices"].dtype, np.integer)
    np.testing.assert_array_equal(grouped["diffraction"][:, 0, 0] - 200, grouped["nn_indices"])


def test_gridsize_of_the_legacy_dictionary(lattice):
    for gridsize, C in ((1, 1), (2, 4)):
        params.cfg["gridsize"] = gridsize
        assert lattice.generate_grouped_data(8, K=6, nsamples=3)["nn_indices"].shape == (3, C)
    assert lattice.generate_grouped_data(8, K=6, nsamples=3, gridsize=1)["nn_indices"].shape == (3, 1)


def test_no_cache_is_written(lattice, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with_path = lattice.generate_grouped_data(
        8, K=6, nsamples=5, dataset_path=str(tmp_path / "scan.npz"), seed=1, gridsize=2
    )
    without = lattice.generate_grouped_data(8, K=6, nsamples=5, seed=1, gridsize=2)
    np.testing.assert_array_equal(with_path["nn_indices"], without["nn_indices"])
    assert os.listdir(tmp_path) == []


def test_the_true_patches_come_along():
    n = 9
    patches = np.zeros((n, 8, 8, 1), np.complex64) + np.arange(n)[:, None, None, None]
    raw = scan_of(np.arange(float(n)), np.zeros(n), Y=patches)
    grouped = raw.generate_grouped_data(8, K=4, nsamples=5, seed=2, gridsize=2)
    assert grouped["Y"].dtype == np.complex64
    np.testing.assert_array_equal(grouped["Y"][:, 3, 5].real, grouped["nn_indices"])


@pytest.mark.parametrize("gridsize", [1, 2])
def test_sequential_groups_are_those_of_the_first_points(lattice, gridsize):
    a, b, c = (
        lattice.generate_grouped_data(8, K=6, nsamples=7, seed=s, sequential_sampling=True, gridsize=gridsize)
        for s in (None, 1, 2)
    )
    np.testing.assert_array_equal(a["nn_indices"][:, 0], np.arange(7))
    np.testing.assert_array_equal(a["nn_indices"], b["nn_indices"])
    np.testing.assert_array_equal(b["nn_indices"], c["nn_indices"])
    np.testing.assert_array_equal(b["X_full"], c["X_full"])


@pytest.mark.parametrize("sequential", [False, True])
def test_single_frames_are_never_oversampled(sequential):
    raw = scan_of(np.arange(10.0), np.zeros(10))
    grouped = raw.generate_grouped_data(
        8, K=7, nsamples=25, seed=0, sequential_sampling=sequential, gridsize=1, enable_oversampling=True
    )
    assert sorted(grouped["nn_indices"].ravel()) == list(range(10))


# ---- oversampling


@pytest.fixture
def few(rng):
    return scan_of(rng.uniform(0, 10, 30), rng.uniform(0, 10, 30))


def test_oversampling_has_to_be_asked_for(few):
    with pytest.raises(ValueError) as refused:
        few.generate_grouped_data(8, K=7, nsamples=100, gridsize=2)
    for words in ("OVERSAMPLING-001", "enable_oversampling", "K choose C oversampling"):
        assert words in str(refused.value)
    with pytest.raises(ValueError) as refused:
        few.generate_grouped_data(8, K=7, nsamples=100, gridsize=2, enable_oversampling=True, neighbor_pool_size=3)
    for words in ("neighbor_pool_size >= C", "OVERSAMPLING-001"):
        assert words in str(refused.value)


@pytest.mark.parametrize("options", [{"K": K} for K in (5, 6, 7, 8)] + [{"K": 4, "neighbor_pool_size": 7}])
def test_oversampled_groups(few, options):
    def groups(seed):
        grouped = few.generate_grouped_data(8, nsamples=100, seed=seed, gridsize=2, enable_oversampling=True, **options)
        assert grouped["diffraction"].shape == (100, 8, 8, 4)
        return grouped["nn_indices"]

    first = groups(5)
    assert first.shape == (100, 4) and all(len(set(group)) == 4 for group in first.tolist())
    np.testing.assert_array_equal(first, groups(5))
    assert not np.array_equal(first, groups(6))


# ---- normalize_data


@pytest.mark.parametrize("dtype", [np.float32, np.uint16])
@pytest.mark.parametrize("N", [8, 64])  # N need not be the side of the array
def test_normalisation(rng, dtype, N):
    stack = rng.integers(0, 60_000, (3, 8, 8, 4)).astype(dtype)
    energy = np.mean([[(stack[b, :, :, c].astype(float) ** 2).sum() for c in range(4)] for b in range(3)])
    out = normalize_data({"diffraction": stack}, N)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, stack.astype(float) * (N / 2) / np.sqrt(energy), rtol=1e-5)
