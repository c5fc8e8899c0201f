"""`ptychopinn check-orientation`: what it says, and the mistakes. The ranking itself is tested in tests/torch."""

import json

import numpy as np
import pytest
from runs import check_mistake, run

from ptycho.cli import check_orientation as verb
from ptycho.raw_data import RawData
from ptycho.simulation.recipe import Recipe, simulate
from ptycho_torch import orientation

QUICK = ("--frames", 80, "--epochs", 5, "--device", "cpu")


@pytest.fixture(scope="module")
def raw():
    return simulate(Recipe(n_frames=120, N=32, probe_parameters={"defocus": 19.0})).raw


def write(folder, raw, number=0):
    """The scan with its positions turned so that orientation `number` puts them right."""
    inverse = np.rint(np.linalg.inv(np.array(orientation.ORIENTATIONS[number].matrix)))
    x, y = inverse @ np.stack([raw.xcoords, raw.ycoords])
    path = folder / f"{number}.npz"
    RawData(x, y, diff3d=raw.diff3d, probeGuess=raw.probeGuess).to_file(path)
    return path


def test_defaults_are_those_of_the_ranking():
    assert (verb.FRAMES, verb.EPOCHS) == (orientation.FRAMES, orientation.EPOCHS)


def test_nothing_has_to_be_changed(raw, tmp_path):
    result = run("check-orientation", write(tmp_path, raw), *QUICK)
    assert result.exit_code == 0, result.output
    text = " ".join(result.stdout.split())
    assert "Best: as stored; sure." in text and "Nothing has to be changed in the file." in text
    assert result.stdout.splitlines()[0].endswith("0.npz: 80 of 120 frames of 32 x 32 pixels, 5 epochs each")
    names = tuple(o.name for o in orientation.ORIENTATIONS)
    rows = [line for line in result.stdout.splitlines() if line.startswith(names)]
    assert len(rows) == 8 and rows[0].startswith("as stored") and rows[0].split()[-1] == "1.000"
    assert list(tmp_path.iterdir()) == [tmp_path / "0.npz"]


@pytest.mark.parametrize("number", [2, 5])
def test_the_change_that_is_named_puts_the_scan_right(raw, tmp_path, number):
    path = write(tmp_path, raw, number)
    found = json.loads(run("check-orientation", path, *QUICK, "--json").stdout)
    assert found["best"] == orientation.ORIENTATIONS[number].name and found["verdict"] == "sure"
    assert [o["deviance"] for o in found["orientations"]] == sorted(o["deviance"] for o in found["orientations"])
    scope = dict(np.load(path))
    exec(found["change"], scope)
    for name in ("xcoords", "ycoords"):
        np.testing.assert_allclose(scope[name], getattr(raw, name))
    text = run("check-orientation", path, *QUICK).stdout
    assert f"    {found['change']}" in text.splitlines()
    assert orientation.ORIENTATIONS[number].of_frames in " ".join(text.split())


def test_a_guess_that_is_its_own_twin(tmp_path):
    scan = simulate(Recipe(n_frames=120, N=32, probe_name="disk", probe_parameters={"diameter": 13.0})).raw
    result = run("check-orientation", write(tmp_path, scan), "--epochs", 10, "--frames", 100, "--device", "cpu")
    text = " ".join(result.stdout.split())
    assert "Best: as stored; not decided." in text and "The frames allow two: as stored, and x and y flipped." in text
    assert "correlates 1.00 with its own twin" in text and "unless more is known" in text


def test_nothing_is_decided_by_frames_of_noise(raw, tmp_path):
    noise = np.random.default_rng(0).poisson(1.0, raw.diff3d.shape).astype(np.uint16)
    path = tmp_path / "noise.npz"
    RawData(raw.xcoords, raw.ycoords, diff3d=noise, probeGuess=raw.probeGuess).to_file(path)
    text = " ".join(run("check-orientation", path, *QUICK).stdout.split())
    assert "not decided" in text and "Reasons why nothing is decided" in text and "To change in the file" not in text
    assert "positions in another unit than object pixels" in text
    assert "No orientation explains the frames better than their mean does" in text


def test_mistakes(raw, tmp_path):
    path = write(tmp_path, raw)
    check_mistake(run("check-orientation", tmp_path / "no.npz", "-q"), "no.npz")
    check_mistake(run("check-orientation", path, "--frames", 3, "-q"), "--frames")
    check_mistake(run("check-orientation", path, "--crop", 64, "-q"), "64", "32")
    check_mistake(run("check-orientation", path, "--device", "cuda", "-q"), "cuda", "cpu")
    entries = dict(np.load(path))
    np.savez(tmp_path / "bare.npz", **{k: v for k, v in entries.items() if k != "probeGuess"})
    check_mistake(run("check-orientation", tmp_path / "bare.npz", "-q"), "bare.npz", "probeGuess")
    few = {k: v[:5] if v.shape[:1] == (120,) else v for k, v in entries.items()}
    np.savez(tmp_path / "few.npz", **few)
    check_mistake(run("check-orientation", tmp_path / "few.npz", "-q"), "few.npz", "5 frames")
