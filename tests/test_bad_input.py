"""Unusable scans, from arrays and files: each error names file, key, what was found, and a remedy."""

import numpy as np
import pytest

from ptycho.errors import InputError, MissingFileError, PtychoError
from ptycho.raw_data import RawData


def without(key):
    return lambda a: a.pop(key)


def replaced(key, change):
    def apply(arrays):
        arrays[key] = change(arrays[key])

    return apply


def poisoned(value, dtype=np.float32):
    def apply(arrays):
        frames = arrays["diff3d"].astype(dtype)
        frames[4, 2, 3] = value
        arrays["diff3d"] = frames

    return apply


def added(**entries):
    return lambda arrays: arrays.update(entries)


CASES = {
    "no frames key": (without("diff3d"), ["keys", "diff3d (or diffraction)", "probeGuess"]),
    "no positions": (without("xcoords"), ["keys", "xcoords"]),
    "two-dimensional frames": (replaced("diff3d", lambda v: v[0]), ["diff3d", "rank 2", "(frames, N, N)"]),
    "four-dimensional frames": (replaced("diff3d", lambda v: v[None]), ["diff3d", "rank 4"]),
    "two-dimensional positions": (replaced("xcoords", lambda v: v[:, None]), ["xcoords", "(12, 1)"]),
    "fewer positions": (
        replaced("ycoords", lambda v: v[:9]),
        ["ycoords", "9", "12", "must have matching shapes"],
    ),
    "fewer frames": (replaced("diff3d", lambda v: v[:9]), ["diff3d", "9 frames", "12 positions"]),
    "short scan index": (replaced("scan_index", lambda v: v[:9]), ["scan_index", "(9,)"]),
    "complex frames": (replaced("diff3d", lambda v: v * 1j), ["diff3d", "complex", "|F|^2"]),
    "text frames": (replaced("diff3d", lambda v: v.astype(str)), ["diff3d", "dtype"]),
    "negative float": (
        poisoned(-1.0),
        ["diff3d", "1 NaN, infinite or negative", "frame 4", "row 2", "column 3", "bad_pixels"],
    ),
    "negative integer": (poisoned(-1, np.int32), ["diff3d", "negative", "frame 4"]),
    "sentinel": (poisoned(2**32 - 1, np.uint32), ["diff3d", "impossibly large", "4294967295", "bad_pixels"]),
    "NaN": (poisoned(np.nan), ["diff3d", "NaN", "frame 4"]),
    "infinity": (poisoned(np.inf), ["diff3d", "frame 4"]),
    "NaN position": (replaced("xcoords", lambda v: np.where(v == v[3], np.nan, v)), ["xcoords", "frame 3"]),
    "complex positions": (replaced("xcoords", lambda v: v * 1j), ["xcoords", "complex"]),
    "another N": (replaced("probeGuess", lambda v: v[:8, :8]), ["probeGuess", "8 x 8", "16 x 16"]),
    "non-square frames": (replaced("diff3d", lambda v: v[:, :10]), ["diff3d", "10 x 16", "square"]),
    "non-square probe": (replaced("probeGuess", lambda v: v[:, :8]), ["probeGuess", "(16, 8)"]),
    "NaN probe": (replaced("probeGuess", lambda v: v * np.nan), ["probeGuess", "NaN"]),
    "mask of another size": (
        added(bad_pixels=np.zeros((8, 8), dtype=bool)),
        ["bad_pixels", "(8, 8)", "(16, 16)"],
    ),
    "mask of numbers": (added(bad_pixels=np.full((16, 16), 7)), ["bad_pixels", "0 and 1"]),
    "everything masked": (added(bad_pixels=np.ones((16, 16), dtype=bool)), ["bad_pixels", "inverted"]),
    "layered object": (added(objectGuess=np.ones((2, 40, 40))), ["objectGuess", "(2, 40, 40)"]),
    "NaN object": (added(objectGuess=np.full((40, 40), np.nan)), ["objectGuess", "NaN"]),
    "too few true patches": (added(Y=np.ones((3, 16, 16))), ["Y", "(3, 16, 16)"]),
    "unknown domain": (added(measurement_domain="flux"), ["measurement_domain", "flux"]),
    "negative pixel": (added(pixel_size_m=-1.0), ["pixel_size_m", "-1.0"]),
    "pixel as text": (added(pixel_size_m="small"), ["pixel_size_m", "small"]),
    "two pixel sizes": (added(pixel_size_m=np.ones(2)), ["pixel_size_m", "(2,)"]),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_files(tmp_path, scan_arrays, case):
    spoil, expected = CASES[case]
    spoil(scan_arrays)
    file = tmp_path / "bad scan.npz"
    np.savez(file, **scan_arrays)
    with pytest.raises(InputError) as error:
        RawData.from_file(file)
    message = str(error.value)
    for fragment in expected:
        assert fragment in message, message
    if case != "unknown domain":
        assert "bad scan.npz" in message
    assert isinstance(error.value, PtychoError) and isinstance(error.value, ValueError)


@pytest.mark.parametrize("case", [c for c in CASES if c not in ("no frames key", "no positions")])
def test_bad_arrays(scan_arrays, case):
    spoil, _ = CASES[case]
    spoil(scan_arrays)
    with pytest.raises(InputError):
        RawData(**scan_arrays)


def test_empty_scan(scan_arrays, tmp_path):
    empty = {k: (v if k == "probeGuess" else v[:0]) for k, v in scan_arrays.items()}
    with pytest.raises(InputError, match="empty"):
        RawData(**empty)
    np.savez(tmp_path / "e.npz", **empty)
    with pytest.raises(InputError, match=r"e\.npz.*empty"):
        RawData.from_file(tmp_path / "e.npz")


def test_one_frame_is_a_scan(scan_arrays):
    raw = RawData(**{k: (v if k == "probeGuess" else v[:1]) for k, v in scan_arrays.items()})
    assert raw.n_frames == 1 and raw.counts().shape == (1, 16, 16)


def test_a_probe_of_zeros_or_none_is_refused_where_it_is_used(scan_arrays):
    raw = RawData(**{**scan_arrays, "probeGuess": np.zeros((16, 16))})
    with pytest.raises(InputError, match="probe of zeros"):
        _ = raw.probe
    raw = RawData(**{**scan_arrays, "probeGuess": None})
    with pytest.raises(InputError, match="no probe"):
        _ = raw.probe


def test_who_has_no_probe_is_told_what_makes_one_that_works(scan_arrays):
    """A flat disk where the beam is out of focus reconstructs nothing: width alone is not enough."""
    for guess in (None, np.zeros((16, 16))):
        raw = RawData(**{**scan_arrays, "probeGuess": guess})
        with pytest.raises(InputError) as error:
            _ = raw.probe
        for fragment in ("width and defocus", 'make_probe("disk", N, diameter=', "curvature=", "common_mistakes.md"):
            assert fragment in str(error.value)
        assert "is enough" not in str(error.value)


def test_frames_without_counts(scan_arrays):
    raw = RawData(**{**scan_arrays, "diff3d": np.zeros((12, 16, 16), dtype=np.uint16)})
    with pytest.raises(InputError, match="without a single count"):
        raw.mean_counts_per_frame()


def test_dead_pixels_are_pointed_out_and_a_mask_is_the_remedy(scan_arrays):
    frames = scan_arrays["diff3d"].astype(np.float32)
    frames[:, 5, 6] = -1
    frames[:, 7, 7] = np.nan
    with pytest.raises(InputError, match=r"24 .* in 12 of 12 frames.*The same 2 pixel"):
        RawData(**{**scan_arrays, "diff3d": frames})
    mask = np.zeros((16, 16), dtype=bool)
    mask[5, 6] = mask[7, 7] = True
    raw = RawData(**{**scan_arrays, "diff3d": frames}, bad_pixels=mask)
    assert raw.mean_counts_per_frame() > 0


@pytest.mark.parametrize(("value", "dtype", "flags"), [
    (2**32 - 1, np.uint32, "--sentinel 4294967295"), (2**31 - 1, np.int32, "--sentinel 2147483647"),
    (2**64 - 1, np.uint64, "--sentinel 18446744073709551615"), (-1, np.int32, "--mask-invalid"),
    (np.nan, np.float32, "--mask-invalid"), (-2.5, np.float64, "--mask-invalid"),
])  # fmt: skip
def test_the_flag_that_masks_bad_values_is_named(scan_arrays, value, dtype, flags):
    frames = scan_arrays["diff3d"].astype(dtype)
    frames[:, 5, 6] = value
    with pytest.raises(InputError) as error:
        RawData(**{**scan_arrays, "diff3d": frames})
    assert flags in str(error.value) and "command line" in str(error.value)
    assert "remove the frames" not in str(error.value)  # nothing would be left
    frames = scan_arrays["diff3d"].astype(dtype)
    frames[3, 5, 6] = value
    with pytest.raises(InputError, match=f"{flags}.* or remove the frames"):
        RawData(**{**scan_arrays, "diff3d": frames})


def test_the_flag_that_states_the_domain_is_named(scan_arrays):
    probe = scan_arrays["probeGuess"]
    unclear, contrary = scan_arrays["diff3d"] * 0.37, np.sqrt(scan_arrays["diff3d"])
    for frames, guess in ((unclear, probe), (contrary, probe[None])):
        raw = RawData(**{**scan_arrays, "diff3d": frames, "probeGuess": guess})
        with pytest.raises(InputError, match="--measurement-domain intensity"):
            _ = raw.measurement_domain


def test_saturated_pixels_are_reported(scan_arrays, caplog):
    frames = scan_arrays["diff3d"].copy()
    frames[2, 3, 4] = 65535
    RawData(**{**scan_arrays, "diff3d": frames})
    assert "1 values equal the largest uint16" in caplog.text


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        (b"", "an empty file"),
        (b"hello world, hello", "an unknown format"),
        (b"PK\x03\x04 truncated", "cannot be read"),
        (b"\x89HDF\r\n\x1a\n", "cannot be read as HDF5"),
    ],
)
def test_files_that_are_no_scans(tmp_path, content, fragment):
    file = tmp_path / "scan.npz"
    file.write_bytes(content)
    with pytest.raises(InputError, match=fragment):
        RawData.from_file(file)


def test_a_truncated_or_damaged_npz(tmp_path, scan_arrays):
    file = tmp_path / "scan.npz"
    np.savez_compressed(file, **scan_arrays)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"scan\.npz"):
        RawData.from_file(file)
    rng = np.random.default_rng(0)
    refused = 0
    for place in rng.integers(0, len(whole), 60):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        file.write_bytes(damaged)
        try:
            RawData.from_file(file)
        except PtychoError:
            refused += 1  # any other exception fails the test
    assert refused > 30


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(MissingFileError, match=r"none\.npz.*no such file"):
        RawData.from_file(tmp_path / "none.npz")
    with pytest.raises(FileNotFoundError):
        RawData.from_file(str(tmp_path / "none.npz"))
    with pytest.raises(InputError, match="folder"):
        RawData.from_file(tmp_path)
