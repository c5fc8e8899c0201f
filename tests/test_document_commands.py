"""The commands that the pages show, run in their order in one folder each; the tutorial has a test of its own."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ptycho.diffsim import simulate_demo_scan

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[1]
OURS = ("ptychopinn ", "ptycho_train ", "ptycho_inference ", "python -m ptycho_torch.")
PAGES = ("README.md", "docs/CONFIGURATION.md", "docs/common_mistakes.md", "docs/workflows/pytorch.md")
FRAMES = 150


def commands_of(page):
    """(command, the block that it stands in), as they stand; a continued line is one command."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for kind, block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        if kind == "python":
            continue
        for line in block.replace("\\\n", " ").splitlines():
            command = line.removeprefix("# ").removeprefix(".venv/bin/")
            if command.startswith(OURS):
                yield command, block


def prepare(folder):
    """The files that the pages take for granted: scans, a mask, a reference."""
    for seed, name in enumerate(("scan", "other_scan", "monday", "tuesday")):
        simulate_demo_scan(seed, n_frames=FRAMES, N=64).to_file(folder / f"{name}.npz")
    shutil.copy(folder / "other_scan.npz", folder / "other.npz")
    shutil.copy(folder / "scan.npz", folder / "reference.npz")  # a simulated scan carries its truth
    dead = np.zeros((64, 64), dtype=bool)
    dead[3, 5] = True
    np.save(folder / "dead_pixels.npy", dead)


@pytest.fixture(scope="module", params=PAGES)
def finished(request, tmp_path_factory):
    """The page, the folder in which its commands ran, and what they said."""
    folder = tmp_path_factory.mktemp("page")
    prepare(folder)
    # `ptychopinn` and `python` are those of this interpreter
    here = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": os.pathsep.join((here, os.environ["PATH"])), "MPLBACKEND": "agg"}
    said = {}
    for command, block in commands_of(request.param):
        if "run.yaml" in command:
            (folder / "run.yaml").write_text(block, encoding="utf-8")
        done = subprocess.run(
            ["bash", "-e", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"$ {command}\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}"
        said[command] = done.stdout
    return request.param, folder, said


def outputs(said):
    """The folders that the commands were told to write."""
    return {match[1] for command in said if (match := re.search(r"--output[-_]dir (\S+)", command))}


def test_each_run_leaves_what_the_readme_lists(finished):
    page, folder, said = finished
    assert len(said) == {"README.md": 7, "docs/CONFIGURATION.md": 1, "docs/common_mistakes.md": 2}.get(page, 5)
    for name in outputs(said):
        left = {path.name for path in (folder / name).iterdir()}
        if name == "older":
            assert "wts.h5.zip" in left
        elif name == "out":  # of the older entry points
            assert {"reconstructed_amplitude.png", "reconstructed_phase.png", "reconstructed_object.npz"} <= left
        elif name == "both":
            assert {"monday", "tuesday", "wts.h5.zip"} <= left
        else:
            assert {"report.html", "phase.png", "metrics.json", "reconstruction.npz", "reconstruction.h5"} <= left
            figures = json.loads((folder / name / "metrics.json").read_text())
            # compared with the truth that the simulated scan carries
            assert figures.get("network", figures.get("refined"))["phase_correlation"] > 0.9


def test_nothing_lies_beside_the_folders_that_were_named(finished):
    _, folder, said = finished
    given = {"scan.npz", "other_scan.npz", "other.npz", "monday.npz", "tuesday.npz", "reference.npz", "dead_pixels.npy"}
    named = outputs(said) | {"run.yaml", "results", "simulated.npz"}
    assert {path.name for path in folder.iterdir()} - given <= named
