"""load_data: all frames or a random part, layouts, positions put right, refusals."""

import numpy as np
import pytest

from ptycho.errors import InputError, MissingFileError
from ptycho.raw_data import RawData
from ptycho.workflows.loading import load_data

M, N = 12, 16


@pytest.fixture
def arrays(scan_arrays, rng):
    """Frame i is marked by the value 100 + i at (0, 0), patch i by its real part."""
    scan_arrays["diff3d"][:, 0, 0] = 100 + np.arange(M)
    patches = np.zeros((M, N, N), np.complex64)
    patches += np.arange(M)[:, None, None]
    return {
        **scan_arrays,
        "Y": patches,
        "xcoords_start": scan_arrays["xcoords"] + 0.25,
        "ycoords_start": scan_arrays["ycoords"] - 0.5,
    }


@pytest.fixture
def save(tmp_path, monkeypatch):
    """Writes a file, from a working directory of its own that must stay empty."""
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    monkeypatch.chdir(cwd)

    def write(arrays, name="scan.npz"):
        np.savez(tmp_path / name, **arrays)
        return tmp_path / name

    yield write
    assert list(cwd.iterdir()) == []  # no side-effect files


def which_frames(raw):
    return raw.diff3d[:, 0, 0].astype(int) - 100


# ---- how many


@pytest.mark.parametrize("count", [{}, {"n_images": None}, {"n_subsample": M}, {"n_subsample": 10_000}])
def test_every_frame(save, arrays, count):
    raw = load_data(save(arrays), **count)
    assert isinstance(raw, RawData) and raw.n_frames == M
    np.testing.assert_array_equal(raw.diff3d, arrays["diff3d"])
    np.testing.assert_array_equal(raw.Y, arrays["Y"])
    assert raw.sample_indices.tolist() == list(range(M)) and raw.subsample_seed is None


@pytest.mark.parametrize(
    ("count", "expected"),
    [({"n_images": 5}, 5), ({"n_subsample": 7}, 7), ({"n_images": 5, "n_subsample": 8}, 8), ({"n_images": 99}, M)],
)
def test_n_subsample_wins_over_n_images(save, arrays, count, expected):
    assert load_data(save(arrays), **count).n_frames == expected


def test_everything_is_cut_alike_and_sorted(save, arrays):
    raw = load_data(save(arrays), n_subsample=5, subsample_seed=3)
    chosen = which_frames(raw)
    assert len(set(chosen)) == 5 and (np.diff(chosen) > 0).all()
    np.testing.assert_array_equal(raw.sample_indices, chosen)
    assert raw.subsample_seed == 3
    for key in ("diff3d", "Y", "xcoords", "ycoords", "xcoords_start", "ycoords_start", "scan_index"):
        np.testing.assert_array_equal(getattr(raw, key), arrays[key][chosen])
    np.testing.assert_array_equal(raw.probeGuess, arrays["probeGuess"])


def test_the_seed_decides(save, arrays):
    path = save(arrays)
    first, again, other = (which_frames(load_data(path, n_subsample=6, subsample_seed=s)) for s in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    free = {tuple(which_frames(load_data(path, n_subsample=6))) for _ in range(20)}
    assert len(free) > 1  # without a seed others each time: 924 choices


def test_frames_are_drawn_evenly(save, arrays):
    path = save(arrays)
    drawn = [which_frames(load_data(path, n_subsample=3, subsample_seed=s)) for s in range(120)]
    counts = np.bincount(np.concatenate(drawn), minlength=M)
    # 360 draws over 12 frames: 30 +- 5 (one sigma)
    assert counts.min() > 10 and counts.max() < 50


def test_the_global_generator_is_left_alone(save, arrays):
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    load_data(save(arrays), n_subsample=6, subsample_seed=4)
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_groups_know_the_frames_of_the_file(save, arrays):
    raw = load_data(save(arrays), n_subsample=6, subsample_seed=3)
    grouped = raw.generate_grouped_data(N, nsamples=6, gridsize=1)
    np.testing.assert_array_equal(grouped["sample_indices"], which_frames(raw))


# ---- keys and layout


@pytest.mark.parametrize("key", ["diff3d", "diffraction"])
def test_either_key_and_both_layouts(save, arrays, key):
    frames = arrays.pop("diff3d")
    for name, stored in (("first.npz", frames), ("last.npz", frames.transpose(1, 2, 0))):
        raw = load_data(save({**arrays, key: stored}, name))
        np.testing.assert_array_equal(raw.diff3d, frames)
        assert raw.diff3d.dtype == np.uint16
        part = load_data(save({**arrays, key: stored}, name), n_subsample=4, subsample_seed=1)
        np.testing.assert_array_equal(part.diff3d, frames[part.sample_indices])


def test_few_large_frames_are_not_taken_for_the_legacy_layout(save, rng):
    frames = rng.poisson(3.0, (4, 128, 128)).astype(np.float32)
    arrays = {"xcoords": np.arange(4.0), "ycoords": np.zeros(4), "probeGuess": np.ones((128, 128), complex)}
    raw = load_data(save({**arrays, "diffraction": frames}))
    assert raw.diff3d.shape == (4, 128, 128)
    np.testing.assert_array_equal(raw.diff3d, frames)


def test_a_file_needs_neither_nominal_positions_nor_patches(save, scan_arrays):
    raw = load_data(save(scan_arrays), n_subsample=5, subsample_seed=0, flip_x=True)
    np.testing.assert_array_equal(raw.xcoords_start, raw.xcoords)
    assert raw.Y is None


def test_pickled_metadata_does_not_stop_it(save, arrays):
    raw = load_data(save({**arrays, "_metadata": np.array({"a": 1}, dtype=object)}), n_subsample=3)
    assert raw.n_frames == 3 and raw.metadata is None


# ---- positions

MOVES = [
    ({"flip_x": True}, lambda x, y: (-x, y)),
    ({"flip_y": True}, lambda x, y: (x, -y)),
    ({"swap_xy": True}, lambda x, y: (y, x)),
    ({"coord_scale": 2.5}, lambda x, y: (2.5 * x, 2.5 * y)),
    ({"flip_x": True, "swap_xy": True, "coord_scale": 3}, lambda x, y: (3 * y, -3 * x)),
]


@pytest.mark.parametrize(("options", "moved"), MOVES)
def test_positions_are_moved_and_frames_are_not(save, arrays, options, moved):
    raw = load_data(save(arrays), **options)
    for suffix in ("", "_start"):
        x, y = moved(arrays["xcoords" + suffix], arrays["ycoords" + suffix])
        np.testing.assert_array_equal(getattr(raw, "xcoords" + suffix), x)
        np.testing.assert_array_equal(getattr(raw, "ycoords" + suffix), y)
    np.testing.assert_array_equal(raw.diff3d, arrays["diff3d"])
    np.testing.assert_array_equal(raw.Y, arrays["Y"])


def test_moved_positions_of_a_part(save, arrays):
    raw = load_data(save(arrays), n_subsample=4, subsample_seed=2, flip_y=True)
    np.testing.assert_array_equal(raw.ycoords, -arrays["ycoords"][raw.sample_indices])


def test_one_nominal_axis_alone_is_swapped_too(save, arrays):
    del arrays["ycoords_start"]
    raw = load_data(save(arrays), swap_xy=True)
    np.testing.assert_array_equal(raw.ycoords_start, arrays["xcoords_start"])
    assert raw.xcoords_start.shape == (M,)


def test_positions_in_metres_can_be_put_right(save, arrays, caplog):
    for key in ("xcoords", "ycoords", "xcoords_start", "ycoords_start"):
        arrays[key] = arrays[key] * 1e-8
    raw = load_data(save(arrays), coord_scale=1e8)
    assert 5 < np.ptp(raw.xcoords) < 20 and "metres" not in caplog.text


def test_objects_do_not_fit_moved_positions(save, arrays, caplog):
    arrays["objectGuess"] = np.ones((60, 60), np.complex64)
    path = save(arrays)
    assert load_data(path).objectGuess is not None
    assert "left out" not in caplog.text
    assert load_data(path, flip_x=True).objectGuess is None
    assert "objectGuess is left out" in caplog.text


# ---- refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_samples": 2}, r"n_samples: found 2, expected 1.*generate_grouped_data"),
        ({"n_subsample": 0}, "n_subsample: found 0"),
        ({"n_images": -3, "n_subsample": 4}, "n_images: found -3"),
        ({"n_subsample": 2.5}, "n_subsample: found 2.5"),
        ({"n_subsample": True}, "n_subsample: found True"),
        ({"n_subsample": 3, "subsample_seed": -1}, "subsample_seed: found -1"),
        ({"coord_scale": 0}, "coord_scale"),
        ({"coord_scale": float("nan")}, "coord_scale"),
    ],
)
def test_arguments_out_of_range(save, arrays, options, message):
    with pytest.raises(InputError, match=message):
        load_data(save(arrays), **options)


def test_numpy_integers_are_whole_numbers(save, arrays):
    assert load_data(save(arrays), n_subsample=np.int64(3), subsample_seed=np.int32(1)).n_frames == 3


def test_unusable_files(save, arrays, tmp_path):
    with pytest.raises(MissingFileError, match=r"none\.npz"):
        load_data(tmp_path / "none.npz")
    del arrays["diff3d"]
    with pytest.raises(InputError, match="diff3d"):
        load_data(save(arrays))
    with pytest.raises(InputError, match="xcoords.*NaN"):
        load_data(save({**arrays, "diff3d": np.ones((M, N, N)), "xcoords": np.full(M, np.nan)}), flip_x=True)
