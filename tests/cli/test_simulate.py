"""`ptychopinn simulate`: what the options do to the scan, the files, and the mistakes."""

import json

import h5py
import numpy as np
import pytest
from runs import check_mistake, run

from ptycho import diffsim
from ptycho.cli import simulate as verb
from ptycho.io.product import load_product
from ptycho.raw_data import RawData
from ptycho.simulation import objects, probes, scans
from ptycho.simulation.recipe import Recipe, default_mode_powers, simulate

SMALL = ("--frames", 30, "-N", 32)


def made(tmp_path, *flags, name="scan.npz"):
    result = run("simulate", "-o", tmp_path / name, *SMALL, *flags)
    assert result.exit_code == 0, result.output
    return RawData.from_file(tmp_path / "scan.npz"), result.stdout


def test_the_choices_are_those_of_the_simulator():
    assert set(verb.OBJECTS) == set(objects.OBJECTS)
    assert set(verb.PROBES) == set(probes.PROBES) and set(verb.PATTERNS) == set(scans.SCANS)


def test_defaults_are_those_of_the_recipe_and_the_scan_of_the_demo(tmp_path):
    options = {param.name: param.default for param in verb.simulate.params}
    for name in ("n_frames", "N", "counts_per_frame", "seed", "object_name", "probe_name", "scan_name", "overlap",
                 "amplitude_range", "phase_range", "dead_fraction", "position_error", "poisson"):  # fmt: skip
        assert options[name] == getattr(Recipe(), name), name
    raw, text = made(tmp_path, "--seed", 5)
    demo = diffsim.simulate_demo_scan(5, n_frames=30, N=32)
    np.testing.assert_array_equal(raw.diff3d, demo.diff3d)
    np.testing.assert_array_equal(raw.probeGuess, demo.probeGuess)
    np.testing.assert_allclose(raw.xcoords, demo.xcoords, atol=1e-9)
    assert "30 frames of 32 x 32" in text and str(tmp_path / "scan.npz") in text


def test_what_is_printed_is_so(tmp_path):
    raw, text = made(tmp_path, "--counts", 5000, "--overlap", 0.7)
    lines = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
    totals = raw.diff3d.sum(axis=(1, 2), dtype=np.float64)
    assert lines["counts"].startswith(f"{totals.mean():.4g} per frame, {totals.mean() / 32**2:.4g}")
    distances = np.hypot(*(np.subtract.outer(v, v) for v in (raw.xcoords, raw.ycoords)))
    nearest = np.sort(distances, axis=1)[:, 1]
    assert f"{np.median(nearest):.2f} px apart" in lines["positions"]
    assert nearest.min() == pytest.approx(0.3 * diffsim.probe_diameter(raw.probe_truth), rel=1e-6)


def test_modes_and_their_powers(tmp_path):
    raw, _ = made(tmp_path, "--modes", 3)
    power = (np.abs(raw.probe_truth) ** 2).sum(axis=(1, 2))
    np.testing.assert_allclose(power / power.sum(), np.array([16, 4, 1]) / 21, rtol=1e-4)
    raw, _ = made(tmp_path, "--mode-powers", "0.6,0.4", "--overwrite")
    power = (np.abs(raw.probe_truth) ** 2).sum(axis=(1, 2))
    np.testing.assert_allclose(power / power.sum(), [0.6, 0.4], rtol=1e-4)
    assert sum(default_mode_powers(4)) == pytest.approx(1)


def test_the_guess_of_a_zone_plate_has_the_stated_error(tmp_path):
    raw, _ = made(tmp_path, "--defocus-error", 0, "--probe-option", "defocus=12")
    np.testing.assert_allclose(raw.probeGuess, raw.probe_truth, atol=1e-4 * np.abs(raw.probe_truth).max())
    raw, _ = made(tmp_path, "--defocus-error", 0.5, "--probe-option", "defocus=12", "--overwrite")
    wrong = diffsim.make_probe("zone_plate", 32, defocus=18.0)
    overlap = abs(np.vdot(wrong, raw.probeGuess)) / np.linalg.norm(wrong) / np.linalg.norm(raw.probeGuess)
    assert overlap == pytest.approx(1, abs=1e-5)
    raw, _ = made(tmp_path, "--probe", "gaussian", "--overwrite")
    np.testing.assert_array_equal(raw.probeGuess, raw.probe_truth)


def test_dead_pixels_and_a_beamstop(tmp_path):
    clean, _ = made(tmp_path)
    raw, text = made(tmp_path, "--dead-pixels", 0.02, "--beamstop", 6, "--beamstop-arm", 2, "--overwrite")
    rows, cols = np.indices((32, 32)) - 16
    stop = (np.hypot(rows, cols) < 3) | ((rows >= 0) & (np.abs(cols) < 1))
    assert raw.bad_pixels[stop].all() and not raw.diff3d[:, raw.bad_pixels].any()
    assert raw.bad_pixels.sum() == pytest.approx(stop.sum() + round(0.02 * 1024), abs=3)  # a few coincide
    good = ~raw.bad_pixels
    np.testing.assert_array_equal(raw.diff3d[:, good], clean.diff3d[:, good])
    assert f"masked pixels: {raw.bad_pixels.sum()} of 1024" in text


def test_without_noise_the_rates_are_kept(tmp_path):
    raw, _ = made(tmp_path, "--no-noise", "--object", "lines", "--pattern", "raster", "--jitter", 0.1)
    rates = diffsim.diffraction_rates(raw.object_truth, raw.probe_truth, raw.xcoords, raw.ycoords)
    assert raw.diff3d.dtype == np.float32
    np.testing.assert_allclose(raw.diff3d, rates, rtol=1e-3, atol=1e-2)


def test_positions_with_errors_leave_the_frames_and_the_truth(tmp_path):
    clean, _ = made(tmp_path)
    raw, _ = made(tmp_path, "--position-error", 0.8, "--overwrite", name="scan.h5")
    np.testing.assert_array_equal(raw.diff3d, clean.diff3d)
    error = np.concatenate([raw.xcoords - clean.xcoords, raw.ycoords - clean.ycoords])
    assert error.std() == pytest.approx(0.8, rel=0.3)
    truth = load_product(tmp_path / "scan.h5")
    np.testing.assert_allclose(truth.xcoords, clean.xcoords)
    np.testing.assert_array_equal(truth.object, clean.object_truth)
    np.testing.assert_array_equal(truth.probe, clean.probe_truth)
    height, width = truth.object.shape
    assert truth.center_xy == ((width - 1) / 2, (height - 1) / 2)


def test_the_product_of_the_truth_has_its_geometry(tmp_path):
    made(tmp_path, "--pixel-size", 2e-8, "--energy", 8800, "--distance", 2.0, name="scan.h5")
    with h5py.File(tmp_path / "scan.h5") as file:
        assert file.attrs["photon_energy_eV"] == 8800 and file.attrs["detector_object_distance_m"] == 2.0
        assert file["object"].attrs["pixel_width_m"] == 2e-8
    raw = RawData.from_file(tmp_path / "scan.npz")
    assert (raw.pixel_size_m, raw.photon_energy_ev, raw.detector_distance_m) == (2e-8, 8800, 2.0)
    compared = run("evaluate", tmp_path / "scan.h5", tmp_path / "scan.npz", "--json")
    assert json.loads(compared.stdout)["phase_correlation"] == pytest.approx(1)


def test_objects_and_beams_from_files(tmp_path):
    rows, cols = np.indices((60, 60))
    np.save(tmp_path / "picture.npy", np.sin(rows / 4.0) + np.cos(cols / 5.0))
    np.save(tmp_path / "beam.npy", diffsim.make_probe("disk", 32)[0])
    raw, _ = made(tmp_path, "--object", "file", "--object-file", tmp_path / "picture.npy", "--probe", "file",
                  "--probe-file", tmp_path / "beam.npy")  # fmt: skip
    beam = np.load(tmp_path / "beam.npy")
    assert abs(np.vdot(beam, raw.probe_truth)) / np.linalg.norm(raw.probe_truth) == pytest.approx(1, abs=1e-5)
    assert raw.metadata["simulation"]["object_parameters"]["path"] == str(tmp_path / "picture.npy")


def test_the_scan_remembers_its_recipe(tmp_path):
    raw, _ = made(tmp_path, "--object-option", "radius=2,9", "--scan-option", "turn=0.5", "--amplitude", 0.5, 0.9)
    kept = raw.metadata["simulation"]
    assert kept["object_parameters"] == {"radius": [2, 9]} and kept["scan_parameters"] == {"turn": 0.5}
    assert np.abs(raw.object_truth).max() <= 0.9 + 1e-6 and np.abs(raw.object_truth).min() >= 0.5 - 1e-6


def test_parts_have_random_numbers_of_their_own():
    one, two = (simulate(Recipe(n_frames=20, N=32, scan_name="random", seed=3, position_error=e)) for e in (0.0, 1.0))
    np.testing.assert_array_equal(one.raw.diff3d, two.raw.diff3d)
    np.testing.assert_array_equal(one.xcoords, two.xcoords)
    other = simulate(Recipe(n_frames=20, N=32, scan_name="random", seed=4))
    assert not np.array_equal(one.xcoords, other.xcoords)


MISTAKES = {
    "suffix": (["-o", "OUT/x.txt"], ".npz or .h5"),
    "folder": (["-o", "OUT"], "suffix"),
    "unknown detail": (["-o", "OUT/x.npz", "--object-option", "leaf=3"], "leaf"),
    "detail without value": (["-o", "OUT/x.npz", "--object-option", "radius"], "name=value"),
    "file not named": (["-o", "OUT/x.npz", "--object", "file"], "--object-file"),
    "file without kind": (["-o", "OUT/x.npz", "--probe-file", "p.npy"], "--probe file"),
    "no such file": (["-o", "OUT/x.npz", "--object", "file", "--object-file", "no.png"], "no.png"),
    "jitter of a spiral": (["-o", "OUT/x.npz", "--jitter", "0.1"], "raster"),
    "too much jitter": (["-o", "OUT/x.npz", "--pattern", "raster", "--jitter", "0.7"], "jitter"),
    "defocus of a disk": (["-o", "OUT/x.npz", "--probe", "disk", "--defocus-error", "0.1"], "zone_plate"),
    "modes that differ": (["-o", "OUT/x.npz", "--modes", "3", "--mode-powers", "0.5,0.5"], "mode powers"),
    "beam too wide": (["-o", "OUT/x.npz", "--probe-option", "defocus=900"], "does not fit"),
    "defocus as text": (["-o", "OUT/x.npz", "--probe-option", "defocus=far"], "defocus"),
    "huge frames": (["-o", "OUT/x.npz", "--frames", "100000", "-N", "4096"], "fewer or smaller"),
    "all dead": (["-o", "OUT/x.npz", "--dead-pixels", "1"], "0 <= share < 1"),
    "beamstop too large": (["-o", "OUT/x.npz", "--beamstop", "500"], "beamstop"),
    "no room": (["-o", "OUT/x.npz", "--step", "1e9"], "canvas"),
    "amplitudes": (["-o", "OUT/x.npz", "--amplitude", "0.9", "0.2"], "amplitude_range"),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_mistakes(tmp_path, kind):
    flags, fragment = MISTAKES[kind]
    result = run("simulate", "--frames", 20, "-N", 32, *(flag.replace("OUT", str(tmp_path)) for flag in flags), "-q")
    check_mistake(result, fragment)
    assert list(tmp_path.iterdir()) == [], "nothing half-written"


def test_a_file_is_replaced_only_when_asked(tmp_path):
    made(tmp_path)
    before = (tmp_path / "scan.npz").read_bytes()
    for name in ("scan.npz", "scan.h5"):
        check_mistake(run("simulate", "-o", tmp_path / name, *SMALL, "-q"), "scan.npz", "--overwrite")
    assert (tmp_path / "scan.npz").read_bytes() == before and len(list(tmp_path.iterdir())) == 1
    made(tmp_path, "--seed", 9, "--overwrite")
    assert (tmp_path / "scan.npz").read_bytes() != before


def test_folders_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("mine")
    check_mistake(run("simulate", "-o", tmp_path / "file" / "x.npz", *SMALL, "-q"), "file")
