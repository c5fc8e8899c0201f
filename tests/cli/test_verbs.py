"""The command `ptychopinn`, with a made-up backend: verbs, flags, what a run writes and says.

What the real backend does with a scan is tested in tests/torch and by the slow acceptance tests.
"""

import dataclasses
import json
import re
import subprocess
import sys

import click
import numpy as np
import pytest
from runs import check_mistake, run, small_scan

from ptycho.cli import knobs, options
from ptycho.cli.infer import infer
from ptycho.cli.summary import figure_lines
from ptycho.cli.train import train
from ptycho.config.config import ModelConfig, TrainingConfig

VERBS = ("demo", "train", "infer", "evaluate")


# ---------------------------------------------------------------------- help


def test_help_lists_the_verbs():
    result = run("--help")
    assert result.exit_code == 0
    for verb in VERBS:
        assert re.search(rf"^  {verb} +\w+", result.stdout, re.MULTILINE)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_with_an_example(verb):
    result = run(verb, "--help")
    assert result.exit_code == 0 and f"ptychopinn {verb}" in re.split("Examples?:", result.stdout)[1]


@pytest.mark.parametrize("verb", ["train", "infer", "refine", "inspect"])
def test_help_says_of_which_frames_the_object_pixel_is(verb):
    assert "in m, of the frames as stored, before --crop" in " ".join(run(verb, "--help").stdout.split())


def test_help_lists_the_common_options_first():
    for command, verb in ((train, "train"), (infer, "infer")):
        text = run(verb, "--help").stdout
        sections = re.split(r"^(\S.*):$", text, flags=re.MULTILINE)
        names = sections[1::2]
        assert names[0] == "Options" and "Device and data loading" in names[1:]
        assert "--output-dir" in sections[2] and "--dry-run" in sections[2] and "--prefetch-factor" not in sections[2]
        listed = re.findall(r"^  (?:-\w, )?(--[\w-]+)", text, flags=re.MULTILINE)
        expected = [option.opts[0] for option in command.params if hasattr(option, "heading")]
        assert set(expected) <= set(listed) and len(listed) == len(set(listed))


def test_unknown_verbs_and_flags_are_refused():
    for args in (["trian"], ["train", "--epohcs", "3"], ["train"]):
        result = run(*args)
        assert result.exit_code == 2 and "Traceback" not in result.output


def test_it_runs_as_a_program():
    result = subprocess.run([sys.executable, "-m", "ptycho.cli.main", "evaluate", "no.npz", "no.npz"],
                            capture_output=True, text=True, timeout=60, check=False)  # fmt: skip
    assert result.returncode == 2 and result.stdout == ""
    assert (
        result.stderr.startswith("Error: ") and "no.npz" in result.stderr and "Traceback" not in result.stderr
    )


# ---------------------------------------------------------------------- flags and the dataclasses


def test_defaults_are_those_of_the_dataclasses():
    for knob in (*knobs.TRAINING_KNOBS, *knobs.SCAN_KNOBS, *knobs.INFERENCE_KNOBS):
        field = next(f for f in dataclasses.fields(knob.owner) if f.name == knob.field)
        assert knob.default == field.default


def test_shown_defaults_follow(scan_file, tmp_path, backend):
    text = " ".join(run("train", "--help").stdout.split())
    assert f"[default: {TrainingConfig(ModelConfig()).nepochs}" in text


@pytest.mark.parametrize(
    ("flags", "part", "field", "value"),
    [
        (["--max-time", "90"], "config", "max_time_s", 90.0),
        (["--calibrate"], "config", "calibrate_probe", True),
        ([], "config", "calibrate_probe", True),
        ([], "config", "nphotons", 1e9),
        ([], "model", "N", 32),
        (["--crop", "16"], "model", "N", 16),
        (["--accelerator", "cpu"], "execution", "accelerator", "cpu"),
    ],
)
def test_train_flags_reach_the_backend(scan_file, tmp_path, backend, flags, part, field, value):
    result = run("train", scan_file, "--output-dir", tmp_path / "out", *flags)
    assert result.exit_code == 0, result.output
    call = backend.train
    parts = {"config": call.config, "model": call.config.model, "execution": call.execution}
    assert getattr(parts[part], field) == value
    assert call.output_dir == call.config.output_dir == tmp_path / "out"


def test_crop_reaches_the_scan(scan_file, tmp_path, backend):
    assert run("train", scan_file, "-o", tmp_path / "out", "--crop", "16").exit_code == 0
    full = np.load(scan_file)["diff3d"]
    np.testing.assert_array_equal(backend.train.raw.diff3d, full[:, 8:24, 8:24])


@pytest.mark.parametrize("text", ["0", "-3", "ten", "10d", "", "nan", "1e400"])
def test_durations_that_are_none(text):
    with pytest.raises(click.BadParameter, match="is not a time"):
        options.Duration().convert(text, None, None)


# ---------------------------------------------------------------------- what a run writes and says


def test_train_writes_and_prints_both_stages(scan_file, tmp_path, backend):
    out = tmp_path / "out"
    result = run("train", scan_file, "--output-dir", out)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    header = next(line for line in lines if "projection" in line)
    assert header.split() == ["projection", "network"]
    row = next(line for line in lines if line.startswith("phase correlation"))
    metrics = json.loads((out / "metrics.json").read_text())
    expected = [f"{metrics[name]['phase_correlation']:.4f}" for name in ("projection", "network")]
    assert row.split()[-2:] == expected
    assert f"Results are in {out}" in lines[-1] and "Compared with: true object" in lines
    assert (out / "wts.h5.zip").exists() and (out / "reconstruction.npz").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_infer_takes_the_folder_or_the_archive(scan_file, tmp_path, backend):
    (tmp_path / "model").mkdir()
    archive = tmp_path / "model" / "wts.h5.zip"
    archive.write_bytes(b"model")
    for number, model in enumerate((archive.parent, archive)):
        result = run("infer", model, scan_file, "-o", tmp_path / f"out{number}", "--crop", "16")
        assert result.exit_code == 0, result.output
        assert backend.infer.model_path == archive and backend.infer.raw.N == 16
    assert archive.read_bytes() == b"model"


def test_a_reference_file_is_compared_with(scan_file, tmp_path, backend):
    first = run("train", scan_file, "-o", tmp_path / "first")
    assert first.exit_code == 0
    result = run(
        "train", scan_file, "-o", tmp_path / "out", "--reference", tmp_path / "first", "--half", "12"
    )
    assert result.exit_code == 0, result.output
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["compared_with"] == "first/reconstruction.npz" and metrics["half"] == 12
    assert metrics["network"]["phase_correlation"] > 0.999 and metrics["network"]["n_pixels"] <= 24**2


def test_demo_writes_its_scan_and_compares(tmp_path, backend, monkeypatch):
    monkeypatch.setattr("ptycho.diffsim.simulate_demo_scan", lambda seed: small_scan(seed=seed))
    result = run("demo", "--output-dir", tmp_path / "demo", "--seed", "5")
    assert result.exit_code == 0, result.output
    assert backend.train.config.seed == 5 and (tmp_path / "demo" / "scan.npz").exists()
    assert run("evaluate", tmp_path / "demo", tmp_path / "demo" / "scan.npz").exit_code == 0
    check_mistake(run("demo", "--output-dir", tmp_path / "demo"), "--overwrite")
    assert run("demo", "--output-dir", tmp_path / "demo", "--overwrite").exit_code == 0


def test_quiet_and_verbose(scan_file, tmp_path, backend):
    quiet = run("train", scan_file, "-o", tmp_path / "a", "--quiet", "--accelerator", "cpu")
    assert quiet.stderr == "" and "Results are in" in quiet.stdout
    normal = run("train", scan_file, "-o", tmp_path / "b", "--accelerator", "cpu")
    assert "measurement domain intensity" in normal.stderr and "[ptycho" not in normal.stderr
    verbose = run("evaluate", "--verbose", "no.npz", "no.npz")
    assert verbose.exit_code == 2 and "Traceback" in verbose.stderr
    assert "Traceback" in run("--verbose", "evaluate", "no.npz", "no.npz").stderr


# ---------------------------------------------------------------------- evaluate


def test_evaluate_two_files(tmp_path):
    """A copy that is moved by whole pixels and tilted in phase agrees; a constant one does not."""
    raw = small_scan()
    truth = raw.object_truth
    rows, _ = np.indices(truth.shape)
    moved = np.roll(truth, (2, -1), (0, 1)) * np.exp(1j * (1 + 0.03 * rows))
    for name, image in (("a", moved), ("b", truth), ("flat", np.ones_like(truth))):
        np.savez(tmp_path / f"{name}.npz", object=image.astype(np.complex64))
    result = run("evaluate", tmp_path / "a.npz", tmp_path / "b.npz", "--half", "16", "--json")
    figures = json.loads(result.stdout)
    assert figures["phase_correlation"] > 0.999 and figures["n_pixels"] == 32**2
    np.testing.assert_allclose(figures["shift_px"], (2, -1), atol=0.01)
    text = run("evaluate", tmp_path / "a.npz", tmp_path / "b.npz", "--half", "16").stdout
    assert f"{figures['phase_correlation']:.4f}" in text and "pixels compared" in text
    assert figures["registration_residual_px"] < 0.01 and "left after registration" in text
    flat = run("evaluate", tmp_path / "flat.npz", tmp_path / "b.npz")
    assert (
        flat.exit_code == 0
        and "flat" in flat.stdout
        and re.search(r"phase correlation +0\.0000", flat.stdout)
    )


def test_table_leaves_out_what_nobody_has():
    lines = figure_lines(
        {"projection": {"ssim": None, "time_s": 1.0}, "network": {"ssim": None, "time_s": 12.0}}
    )
    assert [line.split() for line in lines] == [["projection", "network"], ["time", "(s)", "1.0", "12.0"]]
