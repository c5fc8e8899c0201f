"""`ptychopinn inspect`: text, JSON, checkpoints, and the mistakes."""

import json
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from runs import check_mistake, run, small_scan

from ptycho.cli.inspect_text import inspection_lines
from ptycho.cli.main import cli
from ptycho.inspection import Inspection


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    path = tmp_path_factory.mktemp("inspect") / "scan.npz"
    small_scan(n_frames=80).to_file(path)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint as Lightning writes one, of a module that was never trained."""
    import torch

    from ptycho_torch.model import PtychoPINN_Lightning

    module = PtychoPINN_Lightning(data_config={"N": 32})
    path = tmp_path_factory.mktemp("ckpt") / "last.ckpt"
    score = {"monitor": "val", "best_model_score": torch.tensor(0.25)}
    torch.save(
        {"epoch": 4, "global_step": 60, "state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams),
         "callbacks": {"ModelCheckpoint": score}, "pytorch-lightning_version": "2.5"},
        path,
    )  # fmt: skip
    return path, sum(p.numel() for p in module.generator.parameters())


def test_a_scan_in_text(scan):
    result = run("inspect", scan)
    assert result.exit_code == 0 and result.stderr == ""
    raw = np.load(scan)
    lines = {line[:31].strip(): line[31:].strip() for line in result.stdout.splitlines() if line.startswith("  ")}
    facts = {key: next(value for name, value in lines.items() if name == key) for key in ("frames", "domain")}
    assert facts == {"frames": "80", "domain": "intensity"}
    assert f"{raw['diff3d'].sum(axis=(1, 2)).mean():.5g}" in result.stdout
    assert "linear overlap" in result.stdout and result.stdout.rstrip().endswith("Nothing speaks against using it.")


def test_a_scan_as_json_is_one_object(scan):
    result = run("inspect", scan, "--json", "--crop", 16)
    found = json.loads(result.stdout)
    assert found["kind"] == "scan" and found["frames"]["side_px"] == 16
    assert any("16 px are small" in warning for warning in found["warnings"])
    assert found["size_bytes"] == scan.stat().st_size


def test_warnings_come_last_and_once(tmp_path, scan):
    entries = dict(np.load(scan))
    entries["xcoords"] = entries["xcoords"] * 1e-8
    entries["ycoords"] = entries["ycoords"] * 1e-8
    np.savez(tmp_path / "metres.npz", **entries)
    result = run("inspect", tmp_path / "metres.npz")
    assert result.exit_code == 0 and result.stderr == ""
    assert result.stdout.splitlines()[-2].startswith("Warning: All positions lie within") or (
        "Warning: All positions lie within" in result.stdout.split("\n\n")[-1]
    )


def test_micrometres_are_told_once(tmp_path, scan):
    entries = dict(np.load(scan))
    for name in ("xcoords", "ycoords"):
        entries[name] = entries[name] * 0.0323
    np.savez(tmp_path / "um.npz", **entries)
    result = run("inspect", tmp_path / "um.npz")
    assert result.exit_code == 0 and result.stderr == ""
    text = " ".join(result.stdout.split())
    assert text.count("are they in object pixels?") == 1 and "Nothing speaks against" not in text


def test_a_checkpoint(checkpoint):
    path, parameters = checkpoint
    found = json.loads(run("inspect", path, "--json").stdout)
    assert found["kind"] == "checkpoint" and found["model"]["N"] == 32
    assert found["model"]["parameters"] == parameters
    assert found["training"] == {"finished_epochs": 5, "steps": 60, "best_so_far": "val 0.25", "lightning": "2.5"}
    assert found["configuration"]["model_config.architecture"] == found["model"]["architecture"]
    assert any("never trained" in warning for warning in found["warnings"])
    assert "finished epochs" in run("inspect", path).stdout


def test_a_checkpoint_that_would_run_code_is_not_run(tmp_path, checkpoint):
    import torch

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"state_dict": {}, "hyper_parameters": Trap()}, tmp_path / "trap.ckpt")
    check_mistake(run("inspect", tmp_path / "trap.ckpt"), "trap.ckpt", "plain tensors")
    assert not (tmp_path / "ran").exists()
    torch.save([1, 2], tmp_path / "list.ckpt")
    check_mistake(run("inspect", tmp_path / "list.ckpt"), "state_dict")
    (tmp_path / "cut.ckpt").write_bytes(checkpoint[0].read_bytes()[:3000])
    check_mistake(run("inspect", tmp_path / "cut.ckpt"), "cut.ckpt")
    (tmp_path / "old.pkl").write_bytes(pickle.dumps({"a": 1}))
    check_mistake(run("inspect", tmp_path / "old.pkl"), "old.pkl")


def test_a_scan_against_a_checkpoint(scan, checkpoint):
    result = run("inspect", scan, "--model", checkpoint[0], "--crop", 16, "--json")
    assert any("takes frames of N = 32, these have 16" in w for w in json.loads(result.stdout)["warnings"])


def test_mistakes(scan, tmp_path):
    check_mistake(run("inspect", tmp_path / "no.npz"), "no.npz", "no such file")
    check_mistake(run("inspect", tmp_path), "folder without")
    check_mistake(run("inspect", scan, "--crop", 64), "64", "32")
    check_mistake(run("inspect", scan, "--model", scan), "expected a model")
    check_mistake(run("inspect", scan, "--measurement-domain", "counts?"), "counts?")
    check_mistake(run("inspect", scan, "--mask", tmp_path / "no.npy"), "no.npy")
    entries = dict(np.load(scan))
    np.savez(tmp_path / "nan.npz", **{**entries, "xcoords": entries["xcoords"] * np.nan})
    check_mistake(run("inspect", tmp_path / "nan.npz"), "nan.npz", "xcoords")
    np.savez(tmp_path / "other.npz", a=np.ones(3))
    check_mistake(run("inspect", tmp_path / "other.npz"), "diff3d")


def test_how_facts_are_written():
    found = Inspection(Path("f"), "scan", {"a": {"size_bytes": 3 * 2**20, "pixel_m": 2.5e-8, "energy_ev": 8800.0,
                                                 "x_range_px": [1.0, 2.5], "off_px": [1.0, 2.0], "linear_overlap": 0.5,
                                                 "unknown": None, "on": True, "inner": {"n": 3}},
                                           "configuration": {"val_fraction": 0.05}})  # fmt: skip
    lines = [" ".join(line.split()) for line in inspection_lines(found)]
    for line in ("size 3.0 MiB", "pixel 25 nm", "energy 8.8 keV", "x range 1 to 2.5 px", "off 1, 2 px",
                 "linear overlap 50.0%", "on yes", "a, inner:", "n 3", "val_fraction 0.05"):  # fmt: skip
        assert line in lines
    assert not any("unknown" in line for line in lines)


def test_a_scan_takes_neither_torch_nor_matplotlib(scan):
    code = f"import sys\nfrom ptycho.cli.main import cli\ncli(['inspect', {str(scan)!r}], standalone_mode=False)\n"
    done = subprocess.run([sys.executable, "-c", code + "print(*sys.modules)"], capture_output=True, text=True,
                          check=True, timeout=60)  # fmt: skip
    assert {"torch", "lightning", "matplotlib"} & set(done.stdout.split()) == set()


def test_the_real_scan_in_a_moment():
    star = os.environ.get("SIEMENS_STAR_DIR")
    if not star:
        pytest.skip("SIEMENS_STAR_DIR is not set: the real scan is not here")
    command = [str(Path(sys.executable).with_name("ptychopinn")), "inspect", f"{star}/scan.npz", "--json"]
    times = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        times.append(time.perf_counter() - start)
    assert json.loads(done.stdout)["warnings"] == [] and min(times) < 1.5


def test_help_has_examples():
    text = CliRunner().invoke(cli, ["inspect", "--help"]).stdout
    assert "ptychopinn inspect" in text.split("Examples:")[1]
