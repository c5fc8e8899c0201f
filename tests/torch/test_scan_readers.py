"""npz_headers and _get_diffraction_stack: layouts, what is read, and what is refused."""

import io
import zipfile

import numpy as np
import pytest

from ptycho.errors import InputError, MissingFileError
from ptycho.raw_data import RawData
from ptycho_torch.dataloader import _get_diffraction_stack, npz_headers


def stack_of(shape):
    """Frames that differ from one another and from their transposes."""
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


@pytest.mark.parametrize("key", ["diffraction", "diff3d"])
@pytest.mark.parametrize("shape", [(64, 64, 1087), (1087, 64, 64)])
def test_headers_of_both_layouts(tmp_path, key, shape):
    x, y = np.arange(1087.0), np.arange(1087.0) / 2
    np.savez(tmp_path / "s.npz", **{key: np.zeros(shape, np.uint8)}, xcoords=x, ycoords=y)
    found, found_x, found_y = npz_headers(tmp_path / "s.npz")
    assert found == (1087, 64, 64)
    np.testing.assert_array_equal(found_x, x)
    np.testing.assert_array_equal(found_y, y)


def test_headers_do_not_need_the_frames(tmp_path):
    """The frames are a header only: 10 TB that are not there."""
    np.savez(tmp_path / "s.npz", xcoords=np.arange(1e4), ycoords=np.zeros(10_000))
    stream = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": (10_000, 16_384, 16_384)}
    np.lib.format.write_array_header_2_0(stream, header)
    with zipfile.ZipFile(tmp_path / "s.npz", "a") as archive:
        archive.writestr("diff3d.npy", stream.getvalue())
    assert npz_headers(str(tmp_path / "s.npz"))[0] == (10_000, 16_384, 16_384)


@pytest.mark.parametrize("key", ["diffraction", "diff3d"])
@pytest.mark.parametrize(
    ("shape", "legacy"), [((64, 64, 100), True), ((100, 64, 64), False), ((65, 64, 64), False), ((8, 8, 7), True)]
)
def test_stacks_without_positions(tmp_path, key, shape, legacy):
    frames = stack_of(shape)
    np.savez(tmp_path / "s.npz", **{key: frames})
    found = _get_diffraction_stack(tmp_path / "s.npz")
    assert found.dtype == np.float32
    if legacy:
        assert found.shape == (shape[2], shape[0], shape[1])
        assert all(np.array_equal(found[i], frames[:, :, i]) for i in (0, 3, shape[2] - 1))
    else:
        np.testing.assert_array_equal(found, frames)


@pytest.mark.parametrize("shape", [(5, 8, 8), (8, 8, 5), (8, 8, 9), (9, 8, 8), (5, 8, 8, 1), (1, 8, 8), (8, 8, 1)])
def test_the_layout_is_that_of_the_scan_reader(tmp_path, shape):
    n = shape[2] if shape[:2] == (8, 8) else shape[0]
    np.savez(tmp_path / "s.npz", diff3d=stack_of(shape), xcoords=np.arange(n) * 1.0, ycoords=np.zeros(n),
             probeGuess=np.ones((8, 8), complex))  # fmt: skip
    raw = RawData.from_file(tmp_path / "s.npz")
    assert npz_headers(tmp_path / "s.npz")[0] == raw.diff3d.shape == (n, 8, 8)
    np.testing.assert_array_equal(_get_diffraction_stack(tmp_path / "s.npz"), raw.diff3d)


def test_a_stack_that_fits_both_ways(tmp_path):
    frames = stack_of((8, 8, 8))
    entries = {"xcoords": np.arange(8.0), "ycoords": np.zeros(8)}
    np.savez(tmp_path / "s.npz", diff3d=frames, **entries)
    for read in (npz_headers, _get_diffraction_stack):
        with pytest.raises(InputError, match="layout='frames_first'"):
            read(tmp_path / "s.npz")
        with pytest.raises(InputError, match="'rows'"):
            read(tmp_path / "s.npz", layout="rows")
    found = _get_diffraction_stack(tmp_path / "s.npz", layout="frames_last")
    np.testing.assert_array_equal(found[3], frames[:, :, 3])
    assert npz_headers(tmp_path / "s.npz", layout="frames_last")[0] == (8, 8, 8)
    np.testing.assert_array_equal(_get_diffraction_stack(tmp_path / "s.npz", layout="frames_first"), frames)
    ptychodus = {"bad_pixels": np.zeros((8, 8), bool), "probeGuess": np.ones((1, 8, 8), complex)}
    np.savez(tmp_path / "p.npz", diff3d=frames, **entries, **ptychodus)
    np.testing.assert_array_equal(_get_diffraction_stack(tmp_path / "p.npz"), frames)
    assert npz_headers(tmp_path / "p.npz")[0] == (8, 8, 8)


def test_files_that_are_no_scans(tmp_path):
    positions = {"xcoords": np.arange(5.0), "ycoords": np.zeros(5)}
    cases = [
        ({**positions, "images": np.ones((5, 8, 8))}, "diffraction"),
        ({"diff3d": np.ones((5, 8, 8)), "xcoords": np.arange(5.0)}, "xcoords and ycoords"),
        ({**positions, "diff3d": np.ones((4, 8, 8))}, "4 frames for 5 positions"),
        ({**positions, "ycoords": np.zeros(4), "diff3d": np.ones((5, 8, 8))}, "matching shapes"),
        ({**positions, "diff3d": np.ones((5, 8, 9))}, "square frames"),
        ({**positions, "diff3d": np.ones((5, 8))}, "square frames"),
    ]
    for number, (entries, message) in enumerate(cases):
        np.savez(tmp_path / f"{number}.npz", **entries)
        with pytest.raises(ValueError, match=message):
            npz_headers(tmp_path / f"{number}.npz")
    with pytest.raises(ValueError, match="diff3d"):
        _get_diffraction_stack(tmp_path / "0.npz")
    with pytest.raises(InputError, match="square frames"):
        _get_diffraction_stack(tmp_path / "4.npz")


def test_damaged_and_missing_files(tmp_path):
    with zipfile.ZipFile(tmp_path / "s.npz", "w") as archive:
        archive.writestr("diff3d.npy", b"nothing that NumPy wrote")
    for read in (npz_headers, _get_diffraction_stack):
        with pytest.raises(MissingFileError, match=r"none\.npz"):
            read(tmp_path / "none.npz")
    with pytest.raises(InputError, match=r"s\.npz: diff3d: found unreadable data"):
        _get_diffraction_stack(tmp_path / "s.npz")
    np.savez(tmp_path / "t.npz", xcoords=np.zeros(3), ycoords=np.zeros(3))
    with zipfile.ZipFile(tmp_path / "t.npz", "a") as archive:
        archive.writestr("diff3d.npy", b"nothing that NumPy wrote")
    with pytest.raises(InputError, match=r"t\.npz: diff3d: found unreadable data"):
        npz_headers(tmp_path / "t.npz")


def test_pickles_are_never_loaded(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    bomb = np.empty((3, 4, 4), dtype=object)
    bomb[...] = Bomb()
    np.savez(tmp_path / "s.npz", diff3d=bomb, xcoords=np.zeros(3), ycoords=np.zeros(3))
    with pytest.raises(InputError, match="pickle"):
        _get_diffraction_stack(tmp_path / "s.npz")
