"""Several scans in one command, and what is said of scans on the command line."""

import json

import numpy as np
import pytest
from runs import check_mistake, run, small_scan, use_made_up_backend


@pytest.fixture
def backend(monkeypatch):
    return use_made_up_backend(monkeypatch)


@pytest.fixture
def scans(tmp_path):
    files = [tmp_path / "a.npz", tmp_path / "b.npz", tmp_path / "sub" / "a.npz"]
    files[2].parent.mkdir()
    for seed, file in enumerate(files):
        small_scan(30, seed=seed).to_file(file)
    return files


def test_one_model_of_several_scans(scans, tmp_path, backend):
    out = tmp_path / "out"
    result = run("train", *scans, "-o", out, "-q")
    assert result.exit_code == 0, result.output
    assert len(backend.train.raws) == 3 and backend.train.output_dir == out
    assert (out / "wts.h5.zip").is_file() and not (out / "metrics.json").exists()
    for name in ("a", "b", "a_2"):
        assert json.loads((out / name / "metrics.json").read_text())["network"]["phase_correlation"] > 0.5
        assert (out / name / "reconstruction.npz").is_file()
        assert str(out / name) in result.stdout
    check_mistake(run("train", *scans, "-o", out), "--overwrite")
    assert run("train", *scans, "-o", out, "-q", "--overwrite").exit_code == 0


def test_one_model_reconstructs_several_scans(scans, tmp_path, backend):
    model = tmp_path / "model"
    model.mkdir()
    (model / "wts.h5.zip").write_bytes(b"model")
    result = run("infer", model, *scans[:2], "-o", tmp_path / "out", "-q", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a", "b"]
    assert backend.infer.execution.accelerator == "cpu"


def test_a_dry_run_names_them_all(scans, tmp_path, backend):
    result = run("train", *scans[:2], "-o", tmp_path / "out", "--dry-run", "--device", "cpu", "--saturation", "5000")
    assert result.exit_code == 0, result.output
    lines = {tuple(line.split()) for line in result.stdout.splitlines()}
    assert ("scan", str(scans[0]), "flag") in lines and ("scan", "2", str(scans[1]), "flag") in lines
    assert ("saturation", "5000.0", "flag") in lines
    assert not (tmp_path / "out").exists()


def test_what_is_said_of_a_scan_reaches_it(scans, tmp_path, backend):
    mask = np.zeros((32, 32), bool)
    mask[3, 4] = True
    np.save(tmp_path / "mask.npy", mask)
    config = tmp_path / "run.yaml"
    config.write_text("background: 0.5\nsentinel: -1,9999\n")
    result = run(
        "train", scans[0], "-o", tmp_path / "out", "-q", "--config", config, "--mask", tmp_path / "mask.npy",
        "--energy", 8000, "--distance", 2, "--detector-pixel", 75e-6,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    raw = backend.train.raw
    assert raw.bad_pixels[3, 4] and raw.bad_pixels.sum() == 1 and raw.background_counts == 0.5
    assert raw.pixel_size_m == pytest.approx(1.2398e-6 / 8000 * 2 / (32 * 75e-6), rel=1e-4)


@pytest.mark.parametrize(
    ("flags", "words"),
    [(("--mask", "none.npy"), "no such file"), (("--sentinel", "a,b"), "is not a list of numbers"),
     (("--detector-pixel", 1e-5), "State all three"), (("--saturation", -1), "--saturation")],
)  # fmt: skip
def test_mistakes_leave_nothing(scans, tmp_path, backend, flags, words):
    result = run("train", scans[0], "-o", tmp_path / "out", *flags)
    assert result.exit_code == 2 and words in result.stderr and not (tmp_path / "out").exists()
