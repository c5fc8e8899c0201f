"""Scans as HDF5: what is written comes back; frames stay on disk until they are asked for."""

import multiprocessing
import pickle

import h5py
import numpy as np
import pytest
from runs import run, small_scan

from ptycho.errors import InputError, OutputError
from ptycho.io.hdf5 import StoredFrames
from ptycho.raw_data import RawData


@pytest.fixture(params=[False, True], ids=["in one piece", "in chunks"])
def stored(request, tmp_path):
    """A scan and the same scan read from a file."""
    raw = small_scan(pixel_size_m=1e-8)
    raw.to_file(tmp_path / "scan.h5", compressed=request.param)
    return raw, RawData.from_file(tmp_path / "scan.h5")


def test_what_is_written_comes_back(stored):
    raw, read = stored
    assert isinstance(read.diff3d, (np.memmap, StoredFrames)) and read.diff3d.dtype == raw.diff3d.dtype
    np.testing.assert_array_equal(np.asarray(read.diff3d), raw.diff3d)
    for name in ("xcoords", "ycoords", "scan_index", "probeGuess", "object_truth", "probe_truth"):
        np.testing.assert_array_equal(getattr(read, name), getattr(raw, name))
    assert read.measurement_domain == "intensity" and read.pixel_size_m == 1e-8
    assert read.metadata == raw.metadata


@pytest.mark.parametrize(
    "index",
    [
        slice(3, 9), slice(None), slice(50, 3, -7), slice(5, 5), 7, np.array([40, 2, 2, 59, 3]),
        np.array([[1, 9], [30, 8]]), np.arange(60) % 3 == 0, np.zeros(0, dtype=int),
    ],
)  # fmt: skip
def test_frames_are_picked_as_from_an_array(tmp_path, index):
    raw = small_scan()
    raw.to_file(tmp_path / "scan.h5", compressed=True)
    frames = RawData.from_file(tmp_path / "scan.h5").diff3d
    np.testing.assert_array_equal(frames[index], raw.diff3d[index])
    rows, columns = slice(4, 28), slice(6, 30)
    cut = frames.cropped(rows, columns).cropped(slice(1, 20), slice(2, 21))
    np.testing.assert_array_equal(cut[index], raw.diff3d[index][..., 5:24, 8:27])
    assert cut.shape == (60, 19, 19) and cut.nbytes == cut[:].nbytes
    with pytest.raises(IndexError):
        frames[60]


def test_a_crop_leaves_the_frames_on_disk(stored):
    raw, read = stored
    cut = read.crop(16)
    assert isinstance(cut.diff3d, (np.memmap, StoredFrames))
    np.testing.assert_array_equal(cut.counts(np.array([5, 0])), raw.crop(16).counts(np.array([5, 0])))


def test_parts_of_a_scan(stored):
    raw, read = stored
    chosen = np.array([4, 1, 33])
    np.testing.assert_array_equal(read.subset(chosen).counts(), raw.subset(chosen).counts())


def test_other_processes_read_by_themselves(tmp_path):
    """A handle that is open here must not be used there."""
    raw = small_scan()
    raw.to_file(tmp_path / "scan.h5", compressed=True)
    frames = RawData.from_file(tmp_path / "scan.h5").diff3d
    expected = frames[5]  # opens the file here
    with multiprocessing.get_context("fork").Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply(frames.__getitem__, (5,)), expected)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(frames))[5], expected)


def test_a_pickled_scan_leaves_its_frames_on_disk(stored):
    raw, read = stored
    some = slice(3, 40, 5)
    for scan, expected in ((read, raw), (read.crop(16), raw.crop(16)), (read.subset(some), raw.subset(some))):
        pickled = pickle.dumps(scan)
        if not isinstance(scan.diff3d, np.ndarray) or isinstance(scan.diff3d, np.memmap):
            assert len(pickled) < len(pickle.dumps(expected)) - expected.diff3d.nbytes // 3
        np.testing.assert_array_equal(pickle.loads(pickled).counts(), expected.counts())


def test_frames_of_detectors_are_read_with_their_filters(tmp_path):
    plugin = pytest.importorskip("hdf5plugin")
    raw = small_scan()
    raw.to_file(tmp_path / "scan.h5")
    with h5py.File(tmp_path / "scan.h5", "a") as file:
        del file["diff3d"]
        file.create_dataset("diff3d", data=raw.diff3d, chunks=(1, 32, 32), **plugin.Bitshuffle())
    np.testing.assert_array_equal(RawData.from_file(tmp_path / "scan.h5").counts(), raw.counts())


@pytest.mark.parametrize("chunks", [None, (32, 32, 5)])
def test_the_legacy_layout(tmp_path, chunks):
    raw = small_scan()
    raw.to_file(tmp_path / "scan.h5")
    with h5py.File(tmp_path / "scan.h5", "a") as file:
        del file["diff3d"]
        file.create_dataset("diffraction", data=raw.diff3d.transpose(1, 2, 0), chunks=chunks)
    np.testing.assert_array_equal(RawData.from_file(tmp_path / "scan.h5").counts(), raw.counts())


def test_a_damaged_chunk_is_told(tmp_path):
    raw = small_scan()
    raw.to_file(tmp_path / "scan.h5", compressed=True)
    with h5py.File(tmp_path / "scan.h5") as file:
        chunk = file["diff3d"].id.get_chunk_info(3)
    with open(tmp_path / "scan.h5", "r+b") as file:
        file.seek(chunk.byte_offset)
        file.write(bytes(chunk.size))
    with pytest.raises(InputError, match=r"scan\.h5: diff3d: found frames that cannot be read"):
        RawData.from_file(tmp_path / "scan.h5")
    result = run("inspect", tmp_path / "scan.h5")
    assert result.exit_code == 2 and "Traceback" not in result.output


def test_mistakes(tmp_path):
    raw = small_scan()
    raw.to_file(tmp_path / "scan.h5")
    with h5py.File(tmp_path / "scan.h5", "a") as file:
        del file["xcoords"]
    with pytest.raises(InputError, match=r"scan\.h5: keys: found .*diff3d.*expected also xcoords"):
        RawData.from_file(tmp_path / "scan.h5")
    with h5py.File(tmp_path / "product.h5", "w") as file:
        file["object"], file["probe"] = np.ones((3, 3)), np.ones((3, 3))
    with pytest.raises(InputError, match=r"product\.h5: .*A product holds a result, not frames"):
        RawData.from_file(tmp_path / "product.h5")
    (tmp_path / "cut.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(InputError, match=r"cut\.h5: .*cannot be read as HDF5"):
        RawData.from_file(tmp_path / "cut.h5")
    (tmp_path / "folder.h5").mkdir()
    with pytest.raises(OutputError, match="it is a folder"):
        raw.to_file(tmp_path / "folder.h5")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.h5", "folder.h5", "product.h5", "scan.h5"]


@pytest.fixture
def facility(tmp_path):
    """A file as beamlines write it: frames and positions in groups, and much else; some frames in another file."""
    raw = small_scan()
    with h5py.File(tmp_path / "frames.h5", "w") as file:
        file["entry/data/data_000001"] = raw.diff3d
    with h5py.File(tmp_path / "master.h5", "w") as file:
        file["entry/data/data"] = raw.diff3d
        file["entry/data/data_000001"] = h5py.ExternalLink("frames.h5", "/entry/data/data_000001")
        file["entry/sample/x"], file["entry/sample/y"] = raw.xcoords, raw.ycoords
        file["entry/same"] = h5py.SoftLink("/entry/data/data")
        file["entry/data/above"] = file["entry"]  # a ring of hard links
        for number in range(30):
            file[f"entry/instrument/number_{number}"] = number
    return raw, tmp_path / "master.h5"


def test_a_file_with_groups_is_answered_with_what_is_in_them(facility):
    _, path = facility
    for read in (RawData.from_file, lambda file: run("inspect", file).stderr):
        try:
            text = read(path)
        except InputError as error:
            text = str(error)
        assert "master.h5: keys: found entry/data/data (60 x 32 x 32 uint16), " in text, text
        assert "entry/sample/x (60 float64)" in text and "entry/data/data_000001 (in frames.h5)" in text
        assert "diff3d (or diffraction), xcoords, ycoords in the root of the file" in text
        assert text.count("entry/") <= 22 and "14 more" in text and "ExternalLink" in text


def test_some_keys_in_the_root_and_others_in_groups(facility):
    _, path = facility
    with h5py.File(path, "a") as file:
        file["diff3d"] = h5py.SoftLink("/entry/data/data")
    with pytest.raises(InputError, match=r"entry/sample/x \(60 float64\).*expected xcoords, ycoords in the root"):
        RawData.from_file(path)


@pytest.mark.parametrize("chunks", [None, (8, 32, 32)])
def test_links_to_other_files_are_followed(facility, tmp_path, chunks):
    raw, path = facility
    with h5py.File(path, "a") as file:
        if chunks:
            del file["entry/data/data"]
            file.create_dataset("entry/data/data", data=raw.diff3d, chunks=chunks)
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["xcoords"] = h5py.ExternalLink("master.h5", "/entry/sample/x")
        file["ycoords"] = h5py.ExternalLink(str(path), "/entry/sample/y")
        file["diff3d"] = h5py.ExternalLink("master.h5", "/entry/data/data")
        file["probeGuess"] = raw.probeGuess
    read = RawData.from_file(tmp_path / "scan.h5")
    np.testing.assert_array_equal(read.counts(), raw.counts())
    np.testing.assert_array_equal(read.ycoords, raw.ycoords)


def test_the_command_line_takes_it(tmp_path):
    small_scan().to_file(tmp_path / "scan.h5")
    result = run("inspect", tmp_path / "scan.h5")
    assert result.exit_code == 0 and "60" in result.output and "uint16" in result.output
