"""`ptychopinn refine`: from flags to files, with the real solver on a small scan."""

import dataclasses
import json

import h5py
import numpy as np
import pytest
from runs import check_mistake, run, small_scan

from ptycho.cli import refine as verb
from ptycho.io.reconstruction_files import load_reconstruction_npz
from ptycho_torch.workflows.refinement import RefinementSettings

QUICK = ("--device", "cpu", "--epochs", 8)


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    path = tmp_path_factory.mktemp("refine") / "scan.npz"
    small_scan(n_frames=80).to_file(path)
    return path


@pytest.fixture(autouse=True)
def _without_pictures(monkeypatch):
    for name in ("_write_pictures", "_write_comparison", "_write_report"):
        monkeypatch.setattr(f"ptycho.io.outputs.{name}", lambda *_, **__: None, raising=False)


def refine(*args):
    result = run("refine", *args)
    assert result.exit_code == 0, result.output
    return result.stdout


def metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_defaults_are_those_of_the_workflow():
    fields = {f.name: f.default for f in dataclasses.fields(RefinementSettings)}
    with verb.refine.make_context("refine", ["scan.npz"]) as context:  # logs until it is left
        pass
    assert set(verb._FIELDS.values()) == set(fields)
    for option, field in verb._FIELDS.items():
        assert context.params[option] == fields[field]


def test_from_vacuum(scan, tmp_path):
    out = tmp_path / "out"
    text = refine(scan, "-o", out, *QUICK)
    found = metrics(out)
    assert found["refined"]["deviance"] < found["start"]["deviance"] / 5
    assert found["refined"]["phase_correlation"] > 0.9 and found["start"]["phase_correlation"] == 0
    header = next(line for line in text.splitlines() if "start" in line)
    assert header.split() == ["start", "refined"]
    assert found["settings"]["epochs"] == 8 and len(found["losses"]["train"]) == 8
    assert (out / "reconstruction.npz").exists() and (out / "reconstruction.h5").exists()
    assert not (out / "wts.h5.zip").exists()


@pytest.mark.parametrize("name", ["", "reconstruction.npz", "reconstruction.h5"])
def test_from_a_run_and_its_files(scan, tmp_path, name):
    refine(scan, "-o", tmp_path / "first", *QUICK)
    refine(scan, "--from", tmp_path / "first" / name, "-o", tmp_path / "second", *QUICK, "--modes", 2)
    first, second = metrics(tmp_path / "first"), metrics(tmp_path / "second")
    assert second["start"]["deviance"] == pytest.approx(first["refined"]["deviance"], rel=0.02)
    assert second["refined"]["deviance"] < second["start"]["deviance"]
    assert second["settings"]["modes"] == 2
    assert np.load(tmp_path / "second" / "reconstruction.npz")["probe"].shape == (2, 32, 32)


def test_flags_reach_the_workflow(scan, tmp_path):
    refine(scan, "-o", tmp_path / "out", "--device", "cpu", "--epochs", 1, "--batch", 20, "--no-probe", "--seed", 3,
           "--crop", 16)  # fmt: skip
    settings = metrics(tmp_path / "out")["settings"]
    assert settings == {
        "epochs": 1, "batch_size": 20, "modes": 1, "refine_probe": False, "seed": 3, "N": 16, "correct_defocus": False,
        "refine_positions": False, "support_diameter_px": None, "stop_improvement": 0.001, "stop_window": 10,
    }  # fmt: skip


def test_halves_of_the_scan(scan, tmp_path):
    out = tmp_path / "out"
    text = refine(scan, "-o", out, *QUICK, "--halves", "--seed", 2)
    found = metrics(out)
    figures = found["refined"]
    assert 1 <= figures["halves_frc_resolution_px"] < 16 and figures["heldout_deviance"] > figures["deviance"]
    assert found["halves"]["frames"] == [40, 40] and found["settings"]["halves"] == {"seed": 2, "half": None}
    assert "halves_frc_resolution_px" not in found["start"]
    (line,) = (line for line in text.splitlines() if line.startswith("Halves of 40 and 40 frames agree down to"))
    assert f"{figures['halves_frc_resolution_px']:.2f} px" in line
    assert f"{figures['heldout_frames_scored']} frames were scored" in line


def test_corrections_are_written(scan, tmp_path):
    """Flags for the corrections act, and what they found is in the files beside what the scan says."""
    out = tmp_path / "out"
    refine(scan, "-o", out, *QUICK, "--defocus", "--positions", "--support", 28, "--stop-improvement", 0.5,
           "--stop-window", 1, "--epochs", 20)  # fmt: skip
    found, given, written = metrics(out), np.load(scan), np.load(out / "reconstruction.npz")
    settings = found["settings"]
    assert settings["correct_defocus"] and settings["refine_positions"] and settings["support_diameter_px"] == 28
    # positions are held for five epochs, two more are compared, and a last one takes smaller steps
    assert len(found["losses"]["train"]) == 8 and any("stopped after 8 of 20" in note for note in found["notes"])
    tried = dict(found["corrections"]["defocus"]["tried"])
    assert list(tried) == sorted(tried) and min(tried) < 0.0 < max(tried) and 0.0 in tried
    assert found["corrections"]["defocus"]["distance_px2"] == min(tried, key=tried.get)
    np.testing.assert_array_equal(written["xcoords_start"], given["xcoords"])
    moved = np.hypot(written["xcoords"] - given["xcoords"], written["ycoords"] - given["ycoords"])
    assert found["corrections"]["positions"]["rms_px"] == pytest.approx(np.sqrt(np.mean(moved**2)), rel=1e-6)
    assert 0 < moved.max() == pytest.approx(found["corrections"]["positions"]["largest_px"], rel=1e-6)
    dark = np.hypot(*np.meshgrid(np.arange(32) - 16, np.arange(32) - 16)) > 20
    assert not written["probe"][0][dark].any()
    loaded = load_reconstruction_npz(out / "reconstruction.npz")
    np.testing.assert_array_equal(loaded.ycoords_start, given["ycoords"])
    with h5py.File(out / "reconstruction.h5") as product:
        np.testing.assert_array_equal(product["probe_position_start_x_m"], given["xcoords"])
        np.testing.assert_array_equal(product["probe_position_x_m"], written["xcoords"])


def test_a_file_states_settings_and_a_flag_wins(scan, tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text(f"output_dir: {tmp_path / 'out'}\nepochs: 1\nbatch: 30\nrefine_probe: false\naccelerator: cpu\n")
    refine(scan, "--config", config, "--epochs", 2)
    settings = metrics(tmp_path / "out")["settings"]
    assert (settings["epochs"], settings["batch_size"], settings["refine_probe"]) == (2, 30, False)


def test_a_dry_run_runs_and_writes_nothing(scan, tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text("epochs: 7\n")
    text = refine(scan, "-o", tmp_path / "out", "--config", config, "--modes", 2, "--device", "cpu", "--dry-run")
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.startswith("  ")}
    assert rows["epochs"] == ["7", "file"] and rows["modes"] == ["2", "flag"] and rows["batch"] == ["-", "default"]
    assert rows["N"] == ["32", "data"] and rows["accelerator"][0] == "cpu"
    assert not (tmp_path / "out").exists()


def test_a_run_may_not_replace_what_it_starts_from(scan, tmp_path):
    out = tmp_path / "out"
    refine(scan, "-o", out, *QUICK)
    before = (out / "reconstruction.npz").read_bytes()
    check_mistake(run("refine", scan, "--from", out, "-o", out, "--overwrite", *QUICK, "-q"), "is read by this run")
    assert (out / "reconstruction.npz").read_bytes() == before
    refine(scan, "-o", out, *QUICK, "--overwrite", "--seed", 5)
    assert (out / "reconstruction.npz").read_bytes() != before


def test_mistakes(scan, tmp_path):
    out = tmp_path / "out"
    refine(scan, "-o", tmp_path / "first", *QUICK)
    (tmp_path / "text.npz").write_text("no")
    config = tmp_path / "run.yaml"
    config.write_text("epoch: 7\n")
    for args, fragments in (
        ([tmp_path / "no.npz"], ["no.npz"]),
        ([scan, "--from", tmp_path / "no.npz"], ["no.npz"]),
        ([scan, "--from", tmp_path / "text.npz"], ["text.npz"]),
        ([scan, "--from", tmp_path / "first", "--crop", "16"], ["reconstruction.npz", "--crop"]),
        ([scan, "--reference", tmp_path / "no.npz"], ["no.npz"]),
        ([scan, "--epochs", "-1"], ["--epochs"]),
        ([scan, "--batch", "0"], ["--batch"]),
        ([scan, "--modes", "0"], ["--modes"]),
        ([scan, "--support", "0"], ["--support"]),
        ([scan, "--stop-window", "0"], ["--stop-window"]),
        ([scan, "--config", config], ["epoch is unknown", "'epochs'"]),
        ([scan, "--device", "cuda"], ["cuda"]),
    ):
        check_mistake(run("refine", *args, "-o", out, "-q"), *fragments)
        assert not out.exists(), "nothing half-written"
    check_mistake(run("refine", scan, "-q"), "output-dir")
