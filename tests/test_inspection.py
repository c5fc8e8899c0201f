"""ptycho.inspection: facts against figures worked out here, warnings for scans that have something wrong."""

import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from runs import small_scan

from ptycho.errors import InputError, MissingFileError
from ptycho.inspection import inspect_file, kind_of
from ptycho.inspection.models import ILLUMINATION
from ptycho.io.product import save_product
from ptycho.io.reconstruction_files import save_reconstruction_npz
from ptycho.model_manager import save_archive
from ptycho.preparation import Preparation
from ptycho.simulation.figures import nearest_distances
from ptycho.simulation.recipe import Recipe, simulate

SIDE = 32


@pytest.fixture(scope="module")
def raw():
    return small_scan(n_frames=80)


@pytest.fixture(scope="module")
def entries(raw, tmp_path_factory):
    """The arrays of a good scan file."""
    path = tmp_path_factory.mktemp("good") / "scan.npz"
    raw.to_file(path)
    return dict(np.load(path))


def write(folder, entries, **changes):
    path = folder / "scan.npz"
    np.savez(path, **{name: value for name, value in {**entries, **changes}.items() if value is not None})
    return path


def write_archive(folder, N=SIDE, weight=1.0, mean_counts=1e4, domain="intensity"):
    """An archive as one of the backend looks from outside."""
    probe = np.zeros((2, N, N, 2), dtype=np.float32)
    probe[0, 10:20, 10:20, 0], probe[1, 10:20, 10:20, 1] = 3, 1
    models = {
        "autoencoder": {"layer.weight": np.full((4, 5), weight, np.float32), "layer.bias": np.zeros(4, np.float32)},
        ILLUMINATION: {"probe_parts": probe, "guess_parts": probe, "mean_counts": np.array(mean_counts)},
    }
    config = {
        "model_config": {"architecture": "projection_unet", "stages": 2},
        "data_config": {"N": N, "C": 1, "measurement_domain": domain},
        "settings": {"nepochs": 7, "model": {"N": N}},
    }
    save_archive(folder / "wts.h5.zip", models, config, "pytorch")
    return folder / "wts.h5.zip"


# ---------------------------------------------------------------------- scans


def test_a_good_scan(entries, tmp_path, raw):
    found = inspect_file(write(tmp_path, entries))
    frames, positions = found.sections["frames"], found.sections["positions"]
    totals = entries["diff3d"].sum(axis=(1, 2), dtype=np.float64)
    assert found.kind == "scan" and found.warnings == []
    assert (frames["frames"], frames["side_px"], frames["dtype"]) == (80, SIDE, "uint16")
    assert frames["domain"] == "intensity" and frames["domain_reason"]
    assert frames["mean_counts_per_frame"] == pytest.approx(totals.mean())
    assert frames["mean_counts_per_pixel"] == pytest.approx(totals.mean() / SIDE**2)
    assert frames["frame_counts_range"] == [totals.min(), totals.max()]
    assert frames["largest_stored_value"] == entries["diff3d"].max()
    assert frames["share_of_zeros"] == pytest.approx(np.mean(entries["diff3d"] == 0))
    assert frames["intensity_scale"] == pytest.approx(raw.intensity_scale())
    x, y = entries["xcoords"], entries["ycoords"]
    distances = np.hypot(x[:, None] - x, y[:, None] - y) + 1e9 * np.eye(80)
    nearest = distances.min(axis=1)
    assert positions["nearest_neighbour_px"] == pytest.approx(np.median(nearest))
    # a Gaussian of intensity FWHM f holds 90 % of its power in a circle of diameter f * sqrt(log2 10)
    assert positions["beam_diameter_px"] == pytest.approx(12 * np.sqrt(np.log2(10)), rel=0.02)
    expected = 1 - np.median(nearest) / positions["beam_diameter_px"]
    assert positions["linear_overlap"] == pytest.approx(expected)
    canvas = found.sections["reconstruction"]["canvas_px"]
    assert canvas == [int(np.ceil(np.ptp(y))) + SIDE, int(np.ceil(np.ptp(x))) + SIDE]
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["kind"] == "scan"


@pytest.mark.parametrize("n", [2, 300, 2500])
def test_nearest_distances(n, rng):
    x, y = rng.uniform(0, 50, (2, n))
    distances = np.hypot(x[:, None] - x, y[:, None] - y)
    np.fill_diagonal(distances, np.inf)
    np.testing.assert_allclose(nearest_distances(x, y), distances.min(axis=1))


def test_masked_pixels_take_no_part(entries, tmp_path):
    bad = np.zeros((SIDE, SIDE), dtype=bool)
    bad[3, 4:9] = True
    frames = entries["diff3d"].copy()
    frames[:, bad] = 60000
    found = inspect_file(write(tmp_path, entries, diff3d=frames, bad_pixels=bad))
    clean = np.where(bad, 0, entries["diff3d"])
    facts = found.sections["frames"]
    assert found.sections["detector"]["masked_pixels"] == 5
    assert facts["mean_counts_per_frame"] == pytest.approx(clean.sum(axis=(1, 2)).mean())
    assert facts["largest_stored_value"] == clean.max()
    assert facts["share_of_zeros"] == pytest.approx(np.mean(clean[:, ~bad] == 0))
    floats = frames.astype(np.float32)
    floats[:, bad] = np.nan
    path = write(tmp_path, entries, diff3d=floats, bad_pixels=bad)
    again = inspect_file(path).sections["frames"]
    assert again["mean_counts_per_frame"] == pytest.approx(facts["mean_counts_per_frame"])


def test_what_is_stated_and_a_crop_count(entries, tmp_path):
    path = write(tmp_path, entries)
    whole, half = inspect_file(path), inspect_file(path, crop=16)
    assert half.sections["frames"]["side_px"] == 16
    spacings = [found.sections["positions"]["nearest_neighbour_px"] for found in (whole, half)]
    assert spacings[1] == pytest.approx(spacings[0] / 2)
    masked = inspect_file(path, preparation=Preparation(saturation=100.0))
    assert masked.sections["detector"]["masked_pixels"] == np.count_nonzero((entries["diff3d"] >= 100).any(axis=0))
    roots = np.sqrt(entries["diff3d"]).astype(np.float32)
    amplitudes = write(tmp_path, entries, diff3d=roots, measurement_domain=None)
    facts = inspect_file(amplitudes, measurement_domain="amplitude").sections["frames"]
    assert facts["domain"] == "amplitude"
    assert facts["mean_counts_per_frame"] == pytest.approx(whole.sections["frames"]["mean_counts_per_frame"], rel=1e-4)


def unclear(entries):
    return {"diff3d": (entries["diff3d"] * 0.37).astype(np.float32), "measurement_domain": None, "bad_pixels": None,
            "probeGuess": entries["probeGuess"][0]}  # fmt: skip


def shifted(entries, axis, by):
    return {"diff3d": np.roll(entries["diff3d"], by, axis=axis)}


def doubled(entries):
    x, y = entries["xcoords"].copy(), entries["ycoords"].copy()
    x[5], y[5] = x[6], y[6]
    return {"xcoords": x, "ycoords": y}


def emptied(entries):
    frames = entries["diff3d"].copy()
    frames[[2, 7]] = 0
    return {"diff3d": frames}


def saturated(entries):
    frames = entries["diff3d"].copy()
    frames[3, 16, 16] = 65535
    return {"diff3d": frames}


def some(entries, number):
    names = ("diff3d", "xcoords", "ycoords", "xcoords_start", "ycoords_start", "scan_index")
    return {name: entries[name][:number] for name in names}


def in_unit(entries, pixel):
    """Positions in a unit of which the object pixel has so many."""
    return {name: entries[name] * pixel for name in ("xcoords", "ycoords", "xcoords_start", "ycoords_start")}


FAULTS = {
    "few frames": (lambda e: some(e, 20), "Only 20 frames"),
    "far apart": (lambda e: {"xcoords": e["xcoords"] * 5, "ycoords": e["ycoords"] * 5}, "overlap by 0% only"),
    "metres": (lambda e: {"xcoords": e["xcoords"] * 1e-8, "ycoords": e["ycoords"] * 1e-8}, "look like metres"),
    "millimetres": (lambda e: in_unit(e, 0.01), "look like metres"),
    "micrometres": (lambda e: in_unit(e, 0.0323), "are they in object pixels?"),
    "micrometres, pixel known": (lambda e: in_unit(e, 0.0323) | {"pixel_size_m": 3.23e-8}, "(0.0323 here)"),
    "few frames at one place": (lambda e: some(e, 4) | {"ycoords": np.arange(4.0)} | {"xcoords": np.zeros(4)},
                                "are they in object pixels?"),
    "a pixel in micrometres": (lambda e: {"pixel_size_m": 0.0323}, "object pixel of 0.0323 m"),
    "a pixel below any wavelength": (lambda e: {"pixel_size_m": 1e-15}, "object pixel of 1e-15 m"),
    "keV": (lambda e: {"photon_energy_ev": 8.8}, "photon energy of 8.8 eV: is it in keV?"),
    "duplicates": (doubled, "2 frames share their position"),
    "a line": (lambda e: {"ycoords": np.full_like(e["ycoords"], 30.0)}, "on a line"),
    "runaway": (lambda e: {"xcoords": np.append(e["xcoords"][:-1], 400.0)}, "runaway"),
    "impossible canvas": (lambda e: {"xcoords": np.append(e["xcoords"][:-1], 1e9)}, "canvas of"),
    "empty frames": (emptied, "2 frame(s) without beam"),
    "nothing": (lambda e: {"diff3d": e["diff3d"] * 0}, "hold nothing"),
    "probe of zeros": (lambda e: {"probeGuess": e["probeGuess"] * 0}, "probe guess is zero"),
    "probe of ones": (lambda e: {"probeGuess": np.ones((SIDE, SIDE), complex)}, "same everywhere"),
    "no probe": (lambda e: {"probeGuess": None, "probe_truth": None}, "No probe guess"),
    "wide probe": (lambda e: {"probeGuess": np.random.default_rng(0).normal(size=(SIDE, SIDE)) + 0j}, "outermost"),
    "odd side": (lambda e: {"diff3d": e["diff3d"][:, 1:, 1:], "probeGuess": e["probeGuess"][:, 1:, 1:],
                            "probe_truth": None}, "odd side (31 px)"),
    "off centre": (lambda e: shifted(e, 2, 6), "+6."),
    "corners": (lambda e: shifted(e, (1, 2), (SIDE // 2, SIDE // 2)), "fftshift"),
    "unclear domain": (unclear, "State measurement_domain"),
    "saturated": (saturated, "--saturation 65535"),
    "dim": (lambda e: {"diff3d": (e["diff3d"] > 150).astype(np.uint16)}, "counts per frame"),
    "mostly masked": (lambda e: {"bad_pixels": np.indices((SIDE, SIDE))[1] % 2 == 0}, "of the detector is masked"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_is_said(entries, tmp_path, fault):
    change, fragment = FAULTS[fault]
    found = inspect_file(write(tmp_path, entries, **change(entries)))
    assert any(fragment in warning for warning in found.warnings), found.warnings
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_detector_pixel_in_micrometres_is_asked_about(entries, tmp_path):
    stated = {"photon_energy_ev": 8800.0, "detector_distance_m": 2.0}
    path = write(tmp_path, entries)
    assert inspect_file(path, preparation=Preparation(detector_pixel_m=75e-6, **stated)).warnings == []
    found = inspect_file(path, preparation=Preparation(detector_pixel_m=75.0, **stated)).warnings
    assert len(found) == 1 and "detector pixel of 75 m: is it in micrometres?" in found[0]


@pytest.mark.parametrize("step", [1.1, 2.0])
def test_dense_scans_have_nothing_wrong_however_they_are_cropped(entries, tmp_path, step):
    """Cropping by four divides the steps by four; the positions are no less in object pixels."""
    rows, columns = np.divmod(np.arange(80), 9)
    place = {"xcoords": step * columns, "ycoords": step * rows}
    path = write(tmp_path, entries, **place, pixel_size_m=2e-6, photon_energy_ev=250.0)
    for crop in (None, SIDE // 4):
        found = inspect_file(path, crop=crop).warnings
        assert not [warning for warning in found if "object pixels" in warning], found


def test_scans_of_the_simulator_have_nothing_wrong(tmp_path):
    faulty = Recipe(n_frames=100, dead_fraction=0.02, beamstop_diameter=4)
    other = Recipe(n_frames=100, N=48, probe_name="disk", object_name="lines", modes=2)
    for number, recipe in enumerate((faulty, other)):
        path = tmp_path / f"{number}.npz"
        simulate(recipe).raw.to_file(path)
        assert inspect_file(path).warnings == []


# ---------------------------------------------------------------------- models


def test_an_archive(tmp_path):
    archive = write_archive(tmp_path)
    for path in (archive, tmp_path):
        found = inspect_file(path)
        model = found.sections["model"]
        assert found.kind == "model archive" and found.path == archive and found.warnings == []
        assert (model["architecture"], model["N"], model["parameters"]) == ("projection_unet", SIDE, 24)
        assert model["probe"]["modes"] == 2 and model["probe"]["mode_shares"] == [0.9, 0.1]
        assert model["intensity_scale"] == pytest.approx(100 / 16)
        assert found.sections["configuration"] == {"nepochs": 7, "model.N": SIDE}
        assert found.sections["made"]["backend"] == "pytorch" and "numpy" in found.sections["made"]


def test_an_unpacked_archive(tmp_path):
    with zipfile.ZipFile(write_archive(tmp_path)) as archive:
        archive.extractall(tmp_path / "unpacked")
    assert inspect_file(tmp_path / "unpacked").sections["model"]["N"] == SIDE


def test_models_that_are_no_good(tmp_path):
    assert any("not finite" in w for w in inspect_file(write_archive(tmp_path, weight=np.nan)).warnings)
    assert any("never trained" in w for w in inspect_file(write_archive(tmp_path, mean_counts=0.0)).warnings)


@pytest.mark.parametrize(("known", "fragment"), [
    ({"N": 64}, "Train a model for 32"), ({"N": 16}, "--crop 16"), ({"domain": "amplitude"}, "taken as amplitude"),
    ({"mean_counts": 1e9}, "1e+09 counts per frame"), ({}, None),
])  # fmt: skip
def test_a_scan_and_a_model(entries, tmp_path, known, fragment):
    found = inspect_file(write(tmp_path, entries), model=write_archive(tmp_path, **known))
    assert found.sections["model"]["N"] == known.get("N", SIDE)
    assert [fragment in w for w in found.warnings] == ([] if fragment is None else [True])


def test_a_damaged_archive(tmp_path):
    archive = write_archive(tmp_path)
    archive.write_bytes(archive.read_bytes()[:-200])
    with pytest.raises(InputError, match="wts.h5.zip"):
        inspect_file(archive)


# ---------------------------------------------------------------------- results


def test_reconstructions_and_products(raw, tmp_path):
    truth = simulate(Recipe(n_frames=30, N=32, pixel_size_m=1e-8, photon_energy_ev=9e3)).truth
    save_reconstruction_npz(tmp_path / "reconstruction.npz", truth)
    save_product(tmp_path / "product.h5", truth)
    for name, kind in (("reconstruction.npz", "reconstruction"), ("product.h5", "product"), (".", "reconstruction")):
        found = inspect_file(tmp_path / name)
        image = found.sections["object"]
        seen = np.abs(truth.object[truth.coverage > 0])
        assert found.kind == kind and found.warnings == []
        assert image["shape_px"] == list(truth.object.shape) and image["pixel_size_m"] == pytest.approx(1e-8)
        np.testing.assert_allclose(image["amplitude_range"], [seen.min(), seen.max()], rtol=1e-6)
        assert found.sections["positions"]["frames"] == 30 and "object" in found.sections["arrays"]


def test_results_that_are_no_good(tmp_path):
    truth = simulate(Recipe(n_frames=30, N=32)).truth
    truth.object = np.ones_like(truth.object)
    truth.losses = np.array([1.0, 2.0])
    truth.xcoords = truth.xcoords + 500
    save_reconstruction_npz(tmp_path / "r.npz", truth)
    warnings = " ".join(inspect_file(tmp_path / "r.npz").warnings)
    for fragment in ("constant", "did not converge", "do not belong together", "No pixel size"):
        assert fragment in warnings


def test_an_object_alone(tmp_path):
    np.savez(tmp_path / "o.npz", object=np.exp(1j * np.indices((20, 30))[0] / 9))
    found = inspect_file(tmp_path / "o.npz")
    assert found.kind == "reconstruction" and "center_xy" in found.warnings[-1]


# ---------------------------------------------------------------------- what is none of these


def test_kinds(entries, tmp_path):
    assert kind_of(write(tmp_path, entries))[0] == "scan"
    assert kind_of(write(tmp_path, entries, object=np.ones((5, 5))))[0] == "scan"


def test_files_that_are_nothing(tmp_path, entries):
    with pytest.raises(MissingFileError, match="no such file"):
        inspect_file(tmp_path / "no.npz")
    (tmp_path / "empty").mkdir()
    for name, content in (("text.npz", b"hello"), ("none.npz", b""), ("cut.npz", b"PK\x03\x04 and no more"),
                          ("cut.h5", b"\x89HDF\r\n\x1a\n and no more")):  # fmt: skip
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=name):
            inspect_file(tmp_path / name)
    with pytest.raises(InputError, match="folder without"):
        inspect_file(tmp_path / "empty")
    with pytest.raises(InputError, match="crop, model is stated"):
        inspect_file(write_archive(tmp_path), crop=8, model=tmp_path)
    with pytest.raises(InputError, match="expected a model"):
        scan = write(tmp_path, entries)
        inspect_file(scan, model=scan)


def test_looking_at_a_scan_takes_numpy_alone(entries, tmp_path):
    path = write(tmp_path, entries)
    code = (
        "import sys\nfrom ptycho.inspection import inspect_file\n"
        f"inspect_file({str(path)!r})\nprint(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert {"torch", "lightning", "matplotlib", "scipy"} & set(done.stdout.split()) == set()
