"""The output folder: which may be used, what is written, what the figures and pictures say."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
from runs import made_up_halves, made_up_outcome, small_scan

from ptycho.errors import InputError, OutputError
from ptycho.halves import Halves, HalvesFigures
from ptycho.io.outputs import RESULT_FILES, check_output_dir, clear_results, write_outputs
from ptycho.io.product import load_product
from ptycho.io.reconstruction_files import load_any, load_reconstruction_npz
from ptycho.metrics import illuminated_coverage
from ptycho.placed import PlacedObject, compare_placed, lit_frames, place_loaded, place_outcome, place_truth


@pytest.fixture(scope="module")
def scan():
    return small_scan(pixel_size_m=2e-8)


@pytest.fixture
def outcome(scan):
    return made_up_outcome(scan)


@pytest.fixture(scope="module")
def written(scan, tmp_path_factory):
    """A folder with everything in it, what was written, and the metrics that were returned."""
    folder = tmp_path_factory.mktemp("run") / "out"
    outcome = made_up_outcome(scan)
    outcome.frame_deviance = np.linspace(0.8, 1.4, scan.n_frames, dtype=np.float32)
    outcome.detector_residual = np.random.default_rng(5).normal(0, 0.1, (scan.N, scan.N)).astype(np.float32)
    outcome.phase_interval_90_rad = np.full(outcome.canvas.shape, 0.25, np.float32)
    outcome.phase_interval_90_rad[:4] = np.nan
    outcome.halves = made_up_halves()
    return folder, outcome, write_outputs(folder, outcome, scan)


@pytest.fixture
def no_pictures(monkeypatch):
    """Pictures take a second each; tests of numbers do without."""
    monkeypatch.setattr("ptycho.io.outputs._write_pictures", lambda *_: None)


# ---------------------------------------------------------------------- the folder


def test_a_new_folder_is_accepted_and_not_made(tmp_path):
    out = tmp_path / "a" / "b"
    assert check_output_dir(out) == out
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_accepted_and_stays_empty(tmp_path):
    check_output_dir(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_used_folder_is_refused_unless_told(tmp_path):
    (tmp_path / "something.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"something\.txt.*--overwrite"):
        check_output_dir(tmp_path)
    check_output_dir(tmp_path, overwrite=True)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_in_the_way_is_refused(tmp_path, overwrite):
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OutputError, match="folder"):
            check_output_dir(out, overwrite=overwrite)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a folder that nobody can write to")
def test_an_unwritable_folder_is_refused():
    with pytest.raises(OutputError, match="cannot be used"):
        check_output_dir("/proc/self/results")


def test_clearing_removes_our_names_only(tmp_path):
    (tmp_path / "phase.png").write_text("old")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "best.ckpt").write_text("old")
    (tmp_path / "notes.txt").write_text("mine")
    clear_results(tmp_path, ("phase.png", "checkpoints", "metrics.json"))
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_an_input_that_would_be_replaced_is_refused(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for name in ("reconstruction.npz", "checkpoints/best.ckpt"):
        with pytest.raises(OutputError, match="is read by this run"):
            check_output_dir(
                tmp_path,
                overwrite=True,
                replaces=("reconstruction.npz", "checkpoints"),
                inputs=[tmp_path / name],
            )
    check_output_dir(tmp_path, overwrite=True, replaces=("phase.png",), inputs=[tmp_path / "scan.npz"])


# ---------------------------------------------------------------------- what is written


def test_everything_is_written_under_the_folder(written):
    folder, _, metrics = written
    assert sorted(p.name for p in folder.iterdir()) == sorted(RESULT_FILES)
    assert [p.name for p in folder.parent.iterdir()] == ["out"]
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    for name in RESULT_FILES:
        if name.endswith(".png"):
            assert (folder / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_there_is_no_picture_of_what_is_not_known(tmp_path, scan, outcome):
    """A single stage that nothing was trained for, without residuals and without a reference."""
    outcome.stages = {"network": outcome.stages["network"]}
    outcome.losses = {}
    bare = small_scan()
    bare.object_truth = None
    write_outputs(tmp_path, outcome, bare)
    names = {p.name for p in tmp_path.iterdir()}
    absent = {"stages", "comparison", "positions", "residual", "losses", "interval", "halves"}
    assert names == set(RESULT_FILES) - {f"{name}.png" for name in absent}
    assert "<img" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_picture_of_an_earlier_run_is_not_taken_for_one_of_this(tmp_path, scan, outcome, no_pictures):
    (tmp_path / "residual.png").write_bytes(b"old")
    write_outputs(tmp_path, outcome, scan)
    assert "residual" not in (tmp_path / "report.html").read_text(encoding="utf-8").lower().split("<style>")[0]
    assert "Residual on the detector" not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_result_that_ran_away_is_written_all_the_same(tmp_path, scan, outcome):
    broken = outcome.result.object.copy()
    broken[20:40] = np.nan
    outcome.stages["network"] = replace(outcome.stages["network"], object=broken)
    bare = small_scan()
    bare.object_truth = None
    write_outputs(tmp_path, outcome, bare)
    assert (tmp_path / "phase.png").exists() and (tmp_path / "report.html").exists()


def test_a_folder_without_room_gets_no_half_report(tmp_path, scan, outcome, no_pictures, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ptycho.report.render_report", full)
    with pytest.raises(OutputError, match=r"report\.html.*No space left"):
        write_outputs(tmp_path, outcome, scan)
    assert not (tmp_path / "report.html").exists() and not list(tmp_path.glob(".*"))


def test_files_give_back_the_result(written, scan):
    folder, outcome, _ = written
    rec = load_reconstruction_npz(folder / "reconstruction.npz")
    np.testing.assert_array_equal(rec.object, outcome.stages["network"].object)
    np.testing.assert_array_equal(rec.coverage, outcome.coverage)
    np.testing.assert_array_equal(rec.xcoords, scan.xcoords)
    np.testing.assert_allclose(rec.center_xy, outcome.canvas.center_xy)
    assert rec.pixel_size_m == 2e-8
    product = load_any(folder / "reconstruction.h5")
    np.testing.assert_array_equal(product.object, rec.object)
    np.testing.assert_allclose(product.xcoords, scan.xcoords, rtol=1e-12)


def test_metrics_has_one_object_per_stage(written):
    _, outcome, metrics = written
    for name in ("projection", "network"):
        stage = metrics[name]
        assert stage["deviance"] == outcome.stages[name].deviance
        assert stage["expected_deviance"] == 0.9 and stage["time_s"] == 1.5
        assert {"phase_correlation", "ssim", "psnr", "frc_crossing"} <= set(stage)
    # The noise alone leaves about 0.95 of the network stage; its whole-pixel cut costs a little more.
    assert metrics["network"]["phase_correlation"] > 0.9 > metrics["projection"]["phase_correlation"] > 0.2
    assert metrics["compared_with"] == "true object"
    assert metrics["times_s"] == {"training": 3.0, "total": 4.0}
    assert metrics["notes"] == ["The frames hold counts."] and metrics["settings"] == {"seed": 0}
    assert {"python", "numpy"} <= set(metrics["versions"])


def test_without_a_reference_the_figures_are_null(tmp_path, scan, outcome, no_pictures):
    bare = small_scan()
    bare.object_truth = None
    metrics = write_outputs(tmp_path, outcome, bare)
    assert metrics["compared_with"] is None and metrics["network"]["phase_correlation"] is None
    assert metrics["network"]["deviance"] == outcome.stages["network"].deviance
    assert not (tmp_path / "comparison.png").exists()


def test_a_reference_that_cannot_be_compared_costs_no_result(tmp_path, scan, outcome, no_pictures):
    tiny = PlacedObject(np.ones((4, 4), np.complex64), (1.5, 1.5), None, "tiny.npz")
    metrics = write_outputs(tmp_path, outcome, scan, tiny)
    assert (tmp_path / "reconstruction.npz").exists() and metrics["network"]["phase_correlation"] is None
    assert any("tiny.npz" in note for note in metrics["notes"])


def test_nan_becomes_null(tmp_path, scan, outcome, no_pictures):
    outcome.stages["network"] = replace(outcome.stages["network"], deviance=float("nan"))
    outcome.losses["train"].append(float("inf"))
    text = json.dumps(write_outputs(tmp_path, outcome, scan), allow_nan=False)
    assert json.loads(text)["network"]["deviance"] is None


# ---------------------------------------------------------------------- placing


def test_centers_are_where_the_scan_is(scan, outcome):
    """The value of an object at the middle of the scan does not depend on where its array begins."""
    truth, result = place_truth(scan), place_outcome(outcome, "network")
    middle = [(scan.ycoords.min() + scan.ycoords.max()) / 2, (scan.xcoords.min() + scan.xcoords.max()) / 2]
    np.testing.assert_allclose(truth.center, middle)  # positions are pixel indices of the true object
    np.testing.assert_allclose(result.center, [(n - 1) / 2 for n in result.object.shape], atol=1e-9)


def test_no_shift_is_found_between_the_result_and_the_truth(scan, outcome):
    comparison, _ = compare_placed(place_outcome(outcome, "network"), place_truth(scan))
    # The made-up result is cut at whole pixels: half a pixel at most on each axis.
    assert max(abs(v) for v in comparison.shift_px) <= 0.55


def test_lit_frames_agree_with_a_canvas_that_holds_all(scan):
    truth = place_truth(scan)
    starts = np.rint(np.stack([scan.ycoords, scan.xcoords], 1) - (scan.N - 1) / 2).astype(np.int64)
    expected = illuminated_coverage(scan.probe, starts, scan.object_truth.shape)
    np.testing.assert_array_equal(truth.seen, expected >= 2)


def test_lit_frames_lets_frames_reach_over_the_edge(scan, outcome):
    canvas = replace(outcome.canvas, shape=tuple(n - 6 for n in outcome.canvas.shape))
    inner = lit_frames(outcome.probe, outcome.xcoords, outcome.ycoords, canvas)
    whole = lit_frames(outcome.probe, outcome.xcoords, outcome.ycoords, outcome.canvas)
    np.testing.assert_array_equal(inner, whole[3:-3, 3:-3])


@pytest.mark.parametrize("origin", ["pixel indices", "middle"])
def test_a_file_without_a_center_is_placed(tmp_path, scan, origin):
    """References store positions from the array's middle, others as pixel indices; both find the scan."""
    height, width = scan.object_truth.shape
    x, y = scan.xcoords, scan.ycoords
    if origin == "middle":
        x, y = x - (width - 1) / 2, y - (height - 1) / 2
    np.savez(tmp_path / "r.npz", object=scan.object_truth, probe=scan.probe, xcoords=x, ycoords=y)
    placed, truth = place_loaded(load_any(tmp_path / "r.npz")), place_truth(scan)
    np.testing.assert_allclose(placed.center, truth.center)
    np.testing.assert_array_equal(placed.seen, truth.seen)


def test_different_pixel_sizes_are_refused(scan):
    truth = place_truth(scan)
    with pytest.raises(InputError, match="pixels of"):
        compare_placed(replace(truth, pixel_size_m=4e-8), truth)


def test_runs_that_are_compared_are_told_apart(tmp_path, scan, outcome, no_pictures, monkeypatch):
    """Every run has a reconstruction.npz: what tells one from another is its folder."""
    for name in ("monday", "tuesday"):
        write_outputs(tmp_path / name, outcome, scan)
    monkeypatch.chdir(tmp_path / "tuesday")
    monday = place_loaded(load_any(tmp_path / "monday"))
    for path, label in (("reconstruction.npz", "tuesday/reconstruction.npz"), (".", "tuesday/reconstruction.npz"),
                        ("../monday/reconstruction.h5", "monday/reconstruction.h5")):  # fmt: skip
        assert place_loaded(load_any(path)).label == label
    other = replace(place_loaded(load_any(".")), pixel_size_m=4e-8)
    with pytest.raises(InputError, match=r"tuesday/reconstruction\.npz has .* m, monday/reconstruction\.npz of"):
        compare_placed(other, monday)
    metrics = write_outputs(tmp_path / "third", outcome, scan, monday)
    assert metrics["compared_with"] == "monday/reconstruction.npz"
    assert "monday/reconstruction.npz" in (tmp_path / "third" / "report.html").read_text()
    np.savez(tmp_path / "lsqml.npz", object=scan.object_truth)
    assert place_loaded(load_any(tmp_path / "lsqml.npz")).label == "lsqml.npz"


def test_a_different_crop_is_noticed_by_the_span_of_the_scan():
    bare = small_scan()
    with pytest.raises(InputError, match="same --crop"):
        compare_placed(place_truth(bare.crop(16)), place_truth(bare))


# ---------------------------------------------------------------------- intervals of the phase


def test_intervals_lie_beside_the_object(written):
    folder, outcome, metrics = written
    for name, load in (("reconstruction.npz", load_reconstruction_npz), ("reconstruction.h5", load_product)):
        np.testing.assert_array_equal(load(folder / name).phase_interval_90_rad, outcome.phase_interval_90_rad, name)
    assert metrics["network"]["phase_interval_90_rad"] == pytest.approx(0.25)
    assert "phase_interval_90_rad" not in metrics["projection"], "of the result only"
    page = (folder / "report.html").read_text()
    assert "How far the phase can be trusted" in page and "90 % interval of the phase" in page


def test_a_run_without_intervals_has_none_in_its_files(scan, outcome, tmp_path, no_pictures):
    metrics = write_outputs(tmp_path, outcome, scan)
    assert load_reconstruction_npz(tmp_path / "reconstruction.npz").phase_interval_90_rad is None
    assert load_product(tmp_path / "reconstruction.h5").phase_interval_90_rad is None
    assert "phase_interval_90_rad" not in metrics["network"]
    assert "trusted" not in (tmp_path / "report.html").read_text()


# ---------------------------------------------------------------------- two halves of the scan


def test_what_halves_say_is_written(written):
    folder, outcome, metrics = written
    for name, figures in outcome.halves.stages.items():
        found = metrics[name]
        assert found["halves_frc_resolution_px"] == pytest.approx(0.5 / figures.frc.crossing)
        assert found["halves_frc_resolution_m"] == pytest.approx(2e-8 * found["halves_frc_resolution_px"])
        assert found["heldout_deviance"] == figures.deviance and found["heldout_frames_scored"] == 41
        curve = metrics["halves"]["frc"][name]
        np.testing.assert_allclose(curve["correlation"], figures.frc.correlation)
        np.testing.assert_allclose(curve["frequency_cycles_per_px"], figures.frc.frequency)
    assert metrics["halves"]["frames"] == [30, 30]
    page = (folder / "report.html").read_text()
    for words in ("Two halves of the scan", "Nothing but the probe is shared.", "van Heel", "held-out frames"):
        assert words in page


def test_a_run_without_halves_says_nothing_of_them(scan, outcome, tmp_path):
    metrics = write_outputs(tmp_path, outcome, scan)
    assert not [key for key in (*metrics, *metrics["network"]) if "halves" in key or "heldout" in key]
    assert not (tmp_path / "halves.png").exists()
    assert "halves" not in (tmp_path / "report.html").read_text()


def test_halves_that_could_not_be_compared(scan, outcome, tmp_path, no_pictures):
    outcome.halves = Halves({"network": HalvesFigures(None, None, None, None, 0)}, (30, 30), "Nothing.")
    metrics = write_outputs(tmp_path, outcome, scan)
    assert metrics["network"]["halves_frc_resolution_px"] is None and metrics["halves"]["frc"] == {}
    assert "halves_frc_resolution_px" not in metrics["projection"]
