"""Files: scans as NPZ, reconstructions, ptychodus products, atomic writing."""

import json
import pickle

import h5py
import numpy as np
import pytest

from ptycho.errors import InputError, MissingFileError, OutputError
from ptycho.inspection import inspect_file
from ptycho.io import npz as npz_module
from ptycho.io.atomic import atomic_path
from ptycho.io.product import load_product, save_product
from ptycho.io.reconstruction_files import load_any, load_reconstruction_npz, save_reconstruction_npz
from ptycho.raw_data import RawData
from ptycho.reconstruction import Reconstruction


@pytest.fixture
def reconstruction(rng):
    return Reconstruction(
        object=(rng.normal(size=(50, 61)) + 1j * rng.normal(size=(50, 61))).astype(np.complex64),
        coverage=rng.integers(0, 9, (50, 61)).astype(np.int32),
        probe=(rng.normal(size=(2, 16, 16)) + 1j).astype(np.complex64),
        xcoords=rng.uniform(100, 140, 7),
        ycoords=rng.uniform(50, 80, 7),
        center_xy=(120.5, 66.25),
        pixel_size_m=1.25e-8,
        photon_energy_ev=8333.0,
        detector_distance_m=1.9,
        losses=np.array([3.0, 2.0, 1.5]),
        name="star",
    )


def assert_same(a, b, rtol=1e-12):
    for key in ("object", "coverage", "probe"):
        np.testing.assert_array_equal(getattr(a, key), getattr(b, key))
    for key in (
        "xcoords",
        "ycoords",
        "losses",
        "center_xy",
        "pixel_size_m",
        "photon_energy_ev",
        "detector_distance_m",
    ):
        np.testing.assert_allclose(getattr(a, key), getattr(b, key), rtol=rtol)
    assert a.name == b.name


# ---- scans


@pytest.mark.parametrize("compressed", [False, True])
def test_scan_round_trip(tmp_path, scan_arrays, rng, compressed):
    mask = np.zeros((16, 16), dtype=bool)
    mask[2, 3] = True
    raw = RawData(
        **scan_arrays,
        Y=rng.normal(size=(12, 16, 16)) + 0j,
        objectGuess=np.ones((70, 70), dtype=np.complex64),
        object_truth=np.full((70, 70), 1j),
        probe_truth=np.ones((2, 16, 16), dtype=np.complex64),
        bad_pixels=mask,
        pixel_size_m=1e-8,
        photon_energy_ev=8000.0,
        detector_distance_m=2.0,
        metadata={"physics_parameters": {"nphotons": 3e5}},
    )
    raw.to_file(tmp_path / "scan.npz", compressed=compressed)
    again = RawData.from_file(tmp_path / "scan.npz")
    for key in ("xcoords", "ycoords", "diff3d", "probeGuess", "scan_index", "Y", "bad_pixels", "objectGuess",
                "object_truth", "probe_truth"):  # fmt: skip
        np.testing.assert_array_equal(getattr(again, key), getattr(raw, key))
        assert getattr(again, key).dtype == getattr(raw, key).dtype
    assert (
        again.pixel_size_m == 1e-8 and again.photon_energy_ev == 8000.0 and again.detector_distance_m == 2.0
    )
    assert again.nphotons == 3e5 and again.metadata == raw.metadata
    assert again.measurement_domain == "intensity" and "stated" in again.domain_reason
    assert [p.name for p in tmp_path.iterdir()] == ["scan.npz"]


def test_scaled_amplitudes_survive_a_round_trip_of_a_part(tmp_path, scan_arrays):
    arrays = {**scan_arrays, "diff3d": np.sqrt(scan_arrays["diff3d"]) * 0.01}
    raw = RawData(**arrays, measurement_domain="normalized_amplitude", nphotons=1000.0)
    part = raw.subset([1, 4, 5])
    part.to_file(tmp_path / "part.npz")
    again = RawData.from_file(tmp_path / "part.npz")
    np.testing.assert_allclose(again.counts(), raw.counts([1, 4, 5]), rtol=1e-5)


def test_the_other_frame_key_and_a_trailing_axis(tmp_path, scan_arrays):
    frames = scan_arrays.pop("diff3d")
    np.savez(tmp_path / "a.npz", diffraction=frames[..., None], **scan_arrays)
    np.testing.assert_array_equal(RawData.from_file(tmp_path / "a.npz").diff3d, frames)


def test_legacy_stacks_are_recognised_by_the_number_of_positions(tmp_path, scan_arrays):
    frames = scan_arrays["diff3d"]
    np.savez(tmp_path / "a.npz", **{**scan_arrays, "diff3d": frames.transpose(1, 2, 0)})
    np.testing.assert_array_equal(RawData.from_file(tmp_path / "a.npz").diff3d, frames)


def test_a_cube_is_ambiguous_until_it_is_stated(tmp_path, rng):
    frames = rng.poisson(4.0, (16, 16, 16)).astype(np.uint16)
    arrays = {
        "xcoords": np.arange(16.0),
        "ycoords": np.arange(16.0),
        "diff3d": frames,
        "probeGuess": np.ones((16, 16)),
    }
    file = tmp_path / "cube.npz"
    np.savez(file, **arrays)
    with pytest.raises(InputError, match="layout='frames_first'"):
        RawData.from_file(file)
    np.testing.assert_array_equal(RawData.from_file(file, layout="frames_first").diff3d, frames)
    np.testing.assert_array_equal(
        RawData.from_file(file, layout="frames_last").diff3d, frames.transpose(2, 0, 1)
    )
    with pytest.raises(InputError, match="layout"):
        RawData.from_file(file, layout="sideways")
    # ptychodus writes the mask and a probe with modes, and always frames first.
    np.savez(
        file, **{**arrays, "probeGuess": np.ones((1, 16, 16)), "bad_pixels": np.zeros((16, 16), dtype=bool)}
    )
    np.testing.assert_array_equal(RawData.from_file(file).diff3d, frames)


def test_what_the_caller_states_wins(tmp_path, scan_arrays, caplog):
    np.savez(tmp_path / "a.npz", **scan_arrays, measurement_domain="intensity")
    assert RawData.from_file(tmp_path / "a.npz").domain_reason.startswith("stated")
    stated = RawData.from_file(tmp_path / "a.npz", measurement_domain="amplitude")
    assert stated.measurement_domain == "amplitude" and "stated over" in caplog.text


def test_large_uncompressed_frames_are_mapped(tmp_path, scan_arrays, monkeypatch):
    monkeypatch.setattr(npz_module, "_MAP_BYTES", 1)
    np.savez(tmp_path / "a.npz", **scan_arrays)
    raw = RawData.from_file(tmp_path / "a.npz")
    assert isinstance(raw.diff3d, np.memmap)
    np.testing.assert_array_equal(raw.diff3d, scan_arrays["diff3d"])
    np.testing.assert_array_equal(raw.counts([3, 1]), scan_arrays["diff3d"][[3, 1]])
    np.savez_compressed(tmp_path / "b.npz", **scan_arrays)
    assert not isinstance(RawData.from_file(tmp_path / "b.npz").diff3d, np.memmap)


def test_pickled_entries_are_never_loaded(tmp_path, scan_arrays, caplog):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    bomb = np.empty((), dtype=object)
    bomb[()] = Bomb()
    np.savez(tmp_path / "a.npz", **scan_arrays, objectGuess=bomb, _metadata=bomb)
    raw = RawData.from_file(tmp_path / "a.npz")
    assert raw.objectGuess is None and raw.metadata is None
    assert caplog.text.count("never loaded") == 2
    np.savez(tmp_path / "b.npz", **{**scan_arrays, "probeGuess": bomb})
    with pytest.raises(InputError, match=r"probeGuess.*pickle"):
        RawData.from_file(tmp_path / "b.npz")
    (tmp_path / "c.npz").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(InputError):
        RawData.from_file(tmp_path / "c.npz")


def test_metadata_text(tmp_path, scan_arrays, caplog):
    np.savez(
        tmp_path / "a.npz",
        **scan_arrays,
        _metadata=np.array(json.dumps({"physics_parameters": {"nphotons": 7}})),
    )
    assert RawData.from_file(tmp_path / "a.npz").nphotons == 7
    np.savez(tmp_path / "b.npz", **scan_arrays, _metadata=np.array("{oops"))
    assert RawData.from_file(tmp_path / "b.npz").metadata is None
    assert "not JSON" in caplog.text


# ---- reconstructions


def test_reconstruction_round_trip(tmp_path, reconstruction):
    save_reconstruction_npz(tmp_path / "reconstruction.npz", reconstruction)
    assert_same(load_reconstruction_npz(tmp_path / "reconstruction.npz"), reconstruction)
    loaded = load_any(tmp_path)  # the output folder
    assert (loaded.kind, loaded.key, loaded.center_xy) == ("reconstruction", "object", (120.5, 66.25))
    np.testing.assert_array_equal(loaded.coverage, reconstruction.coverage)


def test_product_round_trip(tmp_path, reconstruction):
    save_product(tmp_path / "r.h5", reconstruction)
    assert_same(load_product(tmp_path / "r.h5"), reconstruction, rtol=1e-9)
    loaded = load_any(tmp_path / "r.h5")
    assert loaded.kind == "product"
    np.testing.assert_array_equal(loaded.object, reconstruction.object)


def test_product_has_todays_names_and_metres(tmp_path, reconstruction):
    save_product(tmp_path / "r.h5", reconstruction)
    with h5py.File(tmp_path / "r.h5") as file:
        assert {
            "name", "comments", "detector_object_distance_m", "focus_object_distance_m", "photon_energy_eV",
            "probe_photon_count", "exposure_time_s", "mass_attenuation_m2_per_kg", "tomography_angle_deg",
            "tilt_angle_deg", "far_field",
        } <= set(file.attrs)  # fmt: skip
        assert file.attrs["photon_energy_eV"] == 8333.0
        np.testing.assert_allclose(file["probe_position_x_m"], reconstruction.xcoords * 1.25e-8)
        assert file["object"].attrs["center_y_m"] == pytest.approx(66.25 * 1.25e-8)
        assert file["object"].attrs["pixel_width_m"] == file["probe"].attrs["pixel_height_m"] == 1.25e-8
        assert file["object"].shape == (1, 50, 61) and file["probe"].shape == (2, 16, 16)
        assert file["object_layer_spacing_m"].shape == (0,)
        assert file["loss_epochs"][()].tolist() == [0, 1, 2]
        assert "opr_weights" not in file


def test_product_without_a_pixel_size_says_so(tmp_path, reconstruction, caplog):
    reconstruction.pixel_size_m = None
    save_product(tmp_path / "r.h5", reconstruction, comments="first run.")
    assert "1.0 m" in caplog.text
    with h5py.File(tmp_path / "r.h5") as file:
        assert file["object"].attrs["pixel_width_m"] == 1.0
        assert file.attrs["comments"].startswith("first run.") and "pixels" in file.attrs["comments"]
    again = load_product(tmp_path / "r.h5")
    assert again.pixel_size_m is None
    np.testing.assert_allclose(again.xcoords, reconstruction.xcoords)


def test_older_products_are_read(tmp_path, reconstruction):
    pixel = 2e-8
    with h5py.File(tmp_path / "old.h5", "w") as file:
        file.attrs.update(
            {"name": "old", "comments": "", "detector_object_distance_m": 1.0, "probe_energy_eV": 6200.0}
        )
        file["probe_position_indexes"] = np.arange(7)
        file["probe_position_x_m"] = reconstruction.xcoords * pixel
        file["probe_position_y_m"] = reconstruction.ycoords * pixel
        file["probe"] = np.stack(
            [reconstruction.probe, 0 * reconstruction.probe]
        )  # (OPR, modes, rows, columns)
        file["probe"].attrs["opr_weights"] = np.ones((7, 2))
        file["object"] = reconstruction.object
        file["object"].attrs.update({"pixel_width_m": pixel, "pixel_height_m": pixel, "center_x_m": 1e-6})
        file["costs"] = np.array([2.0, 1.0])
    old = load_product(tmp_path / "old.h5")
    assert old.photon_energy_ev == 6200.0 and old.name == "old"
    np.testing.assert_array_equal(old.object, reconstruction.object)
    np.testing.assert_array_equal(old.probe, reconstruction.probe)
    np.testing.assert_allclose(old.xcoords, reconstruction.xcoords)
    np.testing.assert_allclose(old.losses, [2.0, 1.0])
    assert old.center_xy == pytest.approx((50.0, 0.0))


def test_load_any_takes_the_object_of_a_scan(tmp_path, scan_arrays):
    truth = np.full((40, 51), 1 + 1j)
    RawData(**scan_arrays, object_truth=truth, objectGuess=np.ones((40, 51))).to_file(tmp_path / "s.npz")
    loaded = load_any(tmp_path / "s.npz")
    assert (loaded.kind, loaded.key, loaded.center_xy) == ("scan", "object_truth", (25.0, 19.5))
    np.testing.assert_allclose(loaded.object, truth)
    np.testing.assert_allclose(loaded.xcoords, scan_arrays["xcoords"])
    assert loaded.probe is None  # the guess is not the probe of the true object
    np.savez(tmp_path / "minimal.npz", object=truth)
    minimal = load_any(tmp_path / "minimal.npz")
    assert minimal.kind == "reconstruction" and minimal.xcoords is None and minimal.center_xy is None


@pytest.mark.parametrize(
    "content", [b"", b"junk" * 9, b"PK\x03\x04 and then nothing", b"\x89HDF\r\n\x1a\n broken"]
)
def test_load_any_refuses_what_is_not_an_object(tmp_path, content):
    file = tmp_path / "thing.npz"
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"thing\.npz"):
        load_any(file)


def test_load_any_names_what_is_missing(tmp_path, scan_arrays):
    np.savez(tmp_path / "s.npz", **scan_arrays)
    with pytest.raises(InputError, match=r"diff3d.*one of object"):
        load_any(tmp_path / "s.npz")
    with h5py.File(tmp_path / "p.h5", "w") as file:
        file["patterns"] = np.zeros(3)
    with pytest.raises(InputError, match=r"object.*patterns"):
        load_any(tmp_path / "p.h5")
    with pytest.raises(MissingFileError):
        load_any(tmp_path / "none.npz")
    with pytest.raises(InputError, match="folder"):
        load_any(tmp_path)


def odd_product(folder, reconstruction, where, name, value):
    reconstruction.phase_interval_90_rad = np.ones((50, 61), np.float32)
    save_product(folder / "odd.h5", reconstruction)
    with h5py.File(folder / "odd.h5", "a") as file:
        if where == "dataset":
            kept = dict(file[name].attrs)
            del file[name]
            file[name] = value
            file[name].attrs.update(kept)
        else:
            (file if where == "file" else file["object"]).attrs[name] = value
    return folder / "odd.h5"


@pytest.mark.parametrize(("where", "name", "value"), [
    ("object", "pixel_width_m", "12 nm"), ("object", "center_x_m", "left"), ("object", "center_y_m", np.nan),
    ("object", "pixel_height_m", np.ones(2)), ("file", "photon_energy_eV", "8 keV"),
    ("file", "detector_object_distance_m", "far"), ("file", "lengths_in_pixels", np.ones(3)),
    ("dataset", "loss_values", "none"), ("dataset", "loss_values", np.array([b"3", b"2"])),
    ("dataset", "coverage", "all"), ("dataset", "coverage", np.ones((3, 3))), ("dataset", "coverage", np.nan),
    ("dataset", "phase_interval_90_rad", "narrow"), ("dataset", "probe", np.zeros((0, 2, 16, 16))),
    ("dataset", "probe_position_x_m", "here"), ("dataset", "probe_position_y_m", np.zeros(0)),
    ("dataset", "probe_position_y_m", np.zeros((7, 1))), ("dataset", "probe_position_x_m", np.full(7, np.nan)),
])  # fmt: skip
def test_odd_products_are_one_message(tmp_path, reconstruction, where, name, value):
    path = odd_product(tmp_path, reconstruction, where, name, value)
    for look in (load_any, inspect_file):
        with pytest.raises(InputError, match=rf"odd\.h5: (object|{name}): found .*, expected ") as error:
            look(path)
        assert name in str(error.value) or name == "probe"


@pytest.mark.parametrize(("name", "value"), [
    ("center_xy", np.array(["a", "b"])), ("center_xy", np.array([np.nan, 1.0])), ("center_xy", np.ones(3)),
    ("coverage", np.full((50, 61), "a")), ("coverage", np.full((50, 61), -1.0)), ("losses", np.array("none")),
    ("phase_interval_90_rad", np.array("narrow")), ("xcoords_start", np.array("here")),
    ("pixel_size_m", np.array("12")),
])  # fmt: skip
def test_odd_reconstructions_are_one_message(tmp_path, reconstruction, name, value):
    save_reconstruction_npz(tmp_path / "good.npz", reconstruction)
    np.savez(tmp_path / "odd.npz", **{**np.load(tmp_path / "good.npz"), name: value})
    with pytest.raises(InputError, match=rf"odd\.npz: {name}: found .*, expected "):
        load_reconstruction_npz(tmp_path / "odd.npz")
    with pytest.raises(InputError, match=name):
        inspect_file(tmp_path / "odd.npz")


def test_a_single_loss_is_a_course_of_one(tmp_path, reconstruction):
    save_reconstruction_npz(tmp_path / "good.npz", reconstruction)
    np.savez(tmp_path / "one.npz", **{**np.load(tmp_path / "good.npz"), "losses": np.array(0.5)})
    assert inspect_file(tmp_path / "one.npz").sections["losses"]["epochs"] == 1


# ---- atomic writing


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    target = tmp_path / "out.txt"
    target.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_path(target) as temporary:
        temporary.write_text("half")
        assert temporary.parent == tmp_path and temporary.suffix == ".txt"
        raise ZeroDivisionError
    assert target.read_text() == "old" and len(list(tmp_path.iterdir())) == 1
    with atomic_path(target) as temporary:
        temporary.write_text("new")
    assert target.read_text() == "new" and len(list(tmp_path.iterdir())) == 1


def test_missing_folders_are_made_and_impossible_ones_reported(tmp_path):
    with atomic_path(tmp_path / "a" / "b.txt") as temporary:
        temporary.write_text("x")
    assert (tmp_path / "a" / "b.txt").read_text() == "x"
    with pytest.raises(OutputError, match="folder"), atomic_path(tmp_path / "a"):
        pass
    with pytest.raises(OutputError, match="Cannot write"), atomic_path(tmp_path / "a" / "b.txt" / "c.txt"):
        pass
