"""The tutorial, done as it says: its scripts saved, its commands run in their order in one folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PAGE = Path(__file__).resolve().parents[1] / "docs/tutorial.md"
BLOCK = re.compile(r"(?:`(?P<name>\w+\.py)`:\n\n)?```(?P<kind>console|python)\n(?P<text>.*?)```", re.DOTALL)


def steps():
    """The blocks in their order: ("python", name, text) of a script, ("console", None, command) of each command."""
    for block in BLOCK.finditer(PAGE.read_text(encoding="utf-8")):
        if block["kind"] == "python":
            yield "python", block["name"], block["text"]
            continue
        for command in re.findall(r"^\$ ((?:.*\\\n)*.*)$", block["text"], re.MULTILINE):
            yield "console", None, command


def first_words(command):
    return command.split()[:2]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder in which all was done, and what each command said."""
    folder = tmp_path_factory.mktemp("tutorial")
    # `ptychopinn` and `python` are those of this interpreter
    here = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": os.pathsep.join((here, os.environ["PATH"])), "MPLBACKEND": "agg"}
    said = {}
    for kind, name, text in steps():
        if kind == "python":
            assert name, f"a script without a name: {text[:60]}"
            (folder / name).write_text(text, encoding="utf-8")
            continue
        done = subprocess.run(
            ["bash", "-e", "-c", text], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"$ {text}\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}"
        said[text] = done.stdout
    return folder, said


def of(said, *words):
    """What the commands that hold all these words said, in their order."""
    return [output for command, output in said.items() if all(word in command for word in words)]


def test_every_verb_but_the_demo_is_shown():
    verbs = {first_words(text)[1] for kind, _, text in steps() if kind == "console" and text.startswith("ptychopinn")}
    assert verbs == {"simulate", "inspect", "check-orientation", "train", "infer", "refine", "evaluate"}


def test_inspection_warns_and_then_does_not(finished):
    before, after = of(finished[1], "ptychopinn inspect")
    assert "saturated or dead pixels" in before
    assert "Nothing speaks against using it." in after
    assert "64.5" in after or "64.6" in after


def test_the_orientation_is_sure(finished):
    assert "Best: as stored; sure." in of(finished[1], "check-orientation")[0]


def test_a_run_leaves_what_the_page_speaks_of(finished):
    listed = set(of(finished[1], "ls results")[0].split())
    assert {"report.html", "metrics.json", "reconstruction.npz", "reconstruction.h5", "wts.h5.zip"} <= listed


def test_the_results_are_as_good_as_the_page_says(finished):
    """Against the truth, cropped likewise; the page quotes SSIM 0.95 and 0.96, and the error."""
    from ptycho.io.reconstruction_files import load_any
    from ptycho.placed import compare_placed, place_loaded, place_truth
    from ptycho.raw_data import RawData

    folder, _ = finished
    found = {}
    runs = (("simulated", "results"), ("simulated_next", "next_results"), ("simulated_next", "next_refined"))
    for scan, name in runs:
        truth = place_truth(RawData.from_file(folder / f"{scan}.npz").crop(64))
        found[name], _ = compare_placed(place_loaded(load_any(folder / name)), truth, None)
    assert found["results"].phase_correlation > 0.99
    assert found["next_results"].phase_correlation > 0.99
    assert found["next_refined"].phase_correlation > 0.995
    assert found["next_results"].ssim > 0.9 and found["next_refined"].ssim > found["next_results"].ssim + 0.01
    assert found["next_refined"].phase_error < 0.95 * found["next_results"].phase_error


def test_the_figures_are_drawn(finished):
    folder, said = finished
    assert (folder / "leaves.pdf").stat().st_size > 5000
    assert "pixel 64.6 nm" in of(said, "make_figure.py results")[0]
    assert np.load(folder / "results/reconstruction.npz")["pixel_size_m"] == pytest.approx(64.6e-9, rel=1e-2)
