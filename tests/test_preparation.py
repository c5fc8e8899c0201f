"""What a beamline knows of a scan beside its file: masks, saturation, dead pixels, background, geometry."""

import logging

import h5py
import imageio.v3 as imageio
import numpy as np
import pytest

from ptycho.errors import InputError, MissingFileError
from ptycho.io.mask_files import read_mask
from ptycho.preparation import Preparation, object_pixel_size_m, read_prepared_scan
from ptycho.raw_data import RawData


@pytest.fixture
def stored(tmp_path, scan_arrays):
    """Write the small scan with changes; returns its path."""

    def write(frames=None, **more):
        arrays = {**scan_arrays, **more}
        if frames is not None:
            arrays["diff3d"] = frames
        np.savez(tmp_path / "scan.npz", **arrays)
        return tmp_path / "scan.npz"

    return write


def prepared(path, **stated):
    return read_prepared_scan(path, Preparation(**stated))


@pytest.fixture
def dead():
    mask = np.zeros((16, 16), bool)
    mask[2, 3] = mask[11, 0] = True
    return mask


class TestMaskFiles:
    def test_kinds(self, tmp_path, dead):
        np.save(tmp_path / "a.npy", dead)
        np.savez(tmp_path / "b.npz", dead.astype(np.uint8))
        np.savez(tmp_path / "c.npz", other=np.ones(3), bad_pixels=dead)
        with h5py.File(tmp_path / "d.h5", "w") as file:
            file["mask"] = dead
        imageio.imwrite(tmp_path / "e.png", (dead * 255).astype(np.uint8))
        imageio.imwrite(tmp_path / "f.tif", dead.astype(np.uint16) * 3)
        for name in ("a.npy", "b.npz", "c.npz", "d.h5", "e.png", "f.tif"):
            np.testing.assert_array_equal(read_mask(tmp_path / name, 16), dead)

    def test_mistakes(self, tmp_path, dead):
        with pytest.raises(MissingFileError, match="no such file"):
            read_mask(tmp_path / "none.npy", 16)
        np.save(tmp_path / "a.npy", dead)
        with pytest.raises(InputError, match=r"a\.npy: bad_pixels: found shape \(16, 16\), expected \(32, 32\)"):
            read_mask(tmp_path / "a.npy", 32)
        np.save(tmp_path / "all.npy", np.ones((16, 16), bool))
        with pytest.raises(InputError, match="is the mask inverted"):
            read_mask(tmp_path / "all.npy", 16)
        np.savez(tmp_path / "two.npz", a=dead, b=dead)
        with pytest.raises(InputError, match="name one of them bad_pixels"):
            read_mask(tmp_path / "two.npz", 16)
        (tmp_path / "text.npy").write_text("0 1 0")
        with pytest.raises(InputError, match="no readable mask"):
            read_mask(tmp_path / "text.npy", 16)
        np.save(tmp_path / "pickle.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
        with pytest.raises(InputError, match="no readable mask"):
            read_mask(tmp_path / "pickle.npy", 16)


class TestMasking:
    def test_a_mask_joins_the_scans_own(self, stored, tmp_path, dead):
        own = np.zeros((16, 16), bool)
        own[5, 5] = True
        np.save(tmp_path / "mask.npy", dead)
        raw = prepared(stored(bad_pixels=own), mask=tmp_path / "mask.npy")
        np.testing.assert_array_equal(raw.bad_pixels, own | dead)

    def test_values_that_stand_for_dead_pixels(self, stored, scan_arrays, caplog):
        frames = scan_arrays["diff3d"].astype(np.uint32)
        frames[3, 4, 7] = 4294967295
        frames[5, 0, 1] = 77777
        with pytest.raises(InputError, match="impossibly large"):
            RawData.from_file(stored(frames))
        with caplog.at_level(logging.INFO, logger="ptycho.preparation"):
            raw = prepared(stored(frames), sentinel=(4294967295.0, 77777.0))
        assert {tuple(p) for p in np.argwhere(raw.bad_pixels)} == {(4, 7), (0, 1)}
        assert "1 detector pixel(s) masked: value 77777" in caplog.text

    def test_saturation(self, stored, scan_arrays):
        frames = scan_arrays["diff3d"]
        frames[0, 8, 8], frames[1, 8, 9], frames[2, 1, 1] = 1000, 1001, 999
        raw = prepared(stored(frames), saturation=1000.0)
        assert {tuple(p) for p in np.argwhere(raw.bad_pixels)} == {(8, 8), (8, 9)}

    def test_pixels_that_hold_no_number(self, stored, scan_arrays):
        frames = scan_arrays["diff3d"].astype(np.float32)
        frames[0, 1, 2], frames[4, 3, 3], frames[5, 9, 9] = np.nan, -1, np.inf
        raw = prepared(stored(frames, measurement_domain="intensity"), mask_invalid=True)
        assert {tuple(p) for p in np.argwhere(raw.bad_pixels)} == {(1, 2), (3, 3), (9, 9)}

    @pytest.mark.parametrize(("dtype", "values"), [
        (np.uint32, (2**32 - 1, 2**31 - 1, 2**32 - 2)), (np.int64, (-1, 2**31 - 1, 2**63 - 1)),
        (np.uint16, (65535, 65535, 65535)), (np.uint8, (255, 255, 255)),
    ])  # fmt: skip
    def test_whole_numbers_that_are_no_counts(self, stored, scan_arrays, dtype, values):
        frames = scan_arrays["diff3d"].astype(dtype)
        frames[0, 1, 2], frames[4, 3, 3], frames[5, 9, 9] = values
        frames[6, 7, 7] = 200
        raw = prepared(stored(frames), mask_invalid=True)
        assert {tuple(p) for p in np.argwhere(raw.bad_pixels)} == {(1, 2), (3, 3), (9, 9)}

    def test_a_detector_that_is_mostly_masked_is_told(self, stored, scan_arrays, caplog):
        raw = prepared(stored(), saturation=float(np.percentile(scan_arrays["diff3d"].max(axis=0), 50)))
        assert raw.bad_pixels.mean() > 0.3 and "% of the detector is masked" in caplog.text
        with pytest.raises(InputError, match="every pixel marked bad"):
            prepared(stored(), saturation=0.5)


class TestBackground:
    def test_it_is_taken_off_and_never_below_zero(self, stored, scan_arrays, tmp_path):
        raw = prepared(stored(), background=3.0)
        expected = np.maximum(scan_arrays["diff3d"].astype(float) - 3, 0)
        np.testing.assert_allclose(raw.counts(), expected)
        assert raw.mean_counts_per_frame() == pytest.approx(expected.sum() / 12)
        np.testing.assert_allclose(raw.subset([3]).counts(), expected[3:4])
        raw.to_file(tmp_path / "again.npz")
        np.testing.assert_allclose(RawData.from_file(tmp_path / "again.npz").counts(), expected)


class TestEmptyFrames:
    def test_they_are_left_out_and_named(self, stored, scan_arrays, caplog):
        frames = scan_arrays["diff3d"]
        frames[[2, 9]] = 0
        raw = prepared(stored(frames))
        assert raw.n_frames == 10 and list(raw.sample_indices) == [0, 1, 3, 4, 5, 6, 7, 8, 10, 11]
        assert "2 of 12 frames are empty and left out: 2, 9." in caplog.text
        assert prepared(stored(frames), keep_empty=True).n_frames == 12

    def test_nothing_but_empty_frames(self, stored, scan_arrays):
        with pytest.raises(InputError, match="frames without a single count"):
            prepared(stored(np.zeros_like(scan_arrays["diff3d"])))


class TestGeometry:
    def test_the_object_pixel_follows(self, stored):
        """8 keV: 0.15498 nm; 2 m to a detector of 75 um pixels."""
        size = 1.549802e-10 * 2.0 / (16 * 75e-6)
        assert object_pixel_size_m(8000.0, 2.0, 16, 75e-6) == pytest.approx(size, rel=1e-6)
        beam = {"photon_energy_ev": 8000.0, "detector_distance_m": 2.0, "detector_pixel_m": 75e-6}
        raw = prepared(stored(), **beam)
        assert raw.pixel_size_m == pytest.approx(size, rel=1e-6)
        assert (raw.photon_energy_ev, raw.detector_distance_m) == (8000.0, 2.0)
        assert raw.crop(8).pixel_size_m == pytest.approx(2 * size, rel=1e-6)
        of_file = prepared(stored(photon_energy_ev=8000.0, detector_distance_m=2.0), detector_pixel_m=75e-6)
        assert of_file.pixel_size_m == pytest.approx(size, rel=1e-6)

    def test_mistakes(self, stored):
        with pytest.raises(InputError, match="not the photon energy and the distance"):
            prepared(stored(), detector_pixel_m=75e-6)
        with pytest.raises(InputError, match="State one of the two"):
            prepared(
                stored(), photon_energy_ev=8000.0, detector_distance_m=2.0, detector_pixel_m=75e-6, pixel_size_m=1e-8
            )
        with pytest.raises(InputError, match="photon energy: found -1"):
            object_pixel_size_m(-1, 2.0, 16, 75e-6)


class TestUnits:
    """What looks like another unit is asked about when a scan is read, by every run."""

    def test_positions_in_micrometres(self, stored, scan_arrays, caplog):
        small = {name: scan_arrays[name] * 0.05 for name in ("xcoords", "ycoords")}
        prepared(stored(**small, pixel_size_m=5e-8))
        assert "are they in object pixels?" in caplog.text and "(0.05 here)" in caplog.text
        caplog.clear()
        prepared(stored())
        assert caplog.text == ""

    def test_without_a_probe(self, stored, scan_arrays, caplog):
        for probe in (np.zeros((16, 16)), None):
            small = {name: scan_arrays[name] * 0.05 for name in ("xcoords", "ycoords")}
            arrays = {key: value for key, value in {**scan_arrays, **small, "probeGuess": probe}.items()}
            np.savez(stored().with_name("other.npz"), **{k: v for k, v in arrays.items() if v is not None})
            prepared(stored().with_name("other.npz"))
            assert "are they in object pixels?" in caplog.text
            caplog.clear()

    def test_two_exposures_at_each_place(self, stored, scan_arrays, caplog):
        twice = {name: np.repeat(scan_arrays[name][:6], 2) for name in ("xcoords", "ycoords")}
        prepared(stored(**twice))
        assert caplog.text == ""
        prepared(stored(**{name: values * 0.05 for name, values in twice.items()}))
        assert "are they in object pixels?" in caplog.text

    def test_lengths_and_energy(self, stored, caplog):
        for stated, fragment in (
            ({"pixel_size_m": 0.03}, "object pixel of 0.03 m"),
            ({"photon_energy_ev": 8.0}, "photon energy of 8 eV: is it in keV?"),
            ({"photon_energy_ev": 8000.0, "detector_distance_m": 2.0, "detector_pixel_m": 75.0}, "in micrometres?"),
        ):
            prepared(stored(), **stated)
            assert caplog.text.count("WARNING") == 1 and fragment in caplog.text
            caplog.clear()
