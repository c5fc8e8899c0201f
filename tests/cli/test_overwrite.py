"""`--overwrite`: the results of an earlier run are there until a new run has some of its own."""

import errno
from types import SimpleNamespace

import numpy as np
import pytest
from runs import check_mistake, made_up_outcome, run, small_scan

from ptycho.cli import shared
from ptycho.io.outputs import MODEL_FILES, RESULT_FILES


def tree(folder):
    """Path -> content of all that is in a folder, None for a folder."""
    return {p.relative_to(folder): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


@pytest.fixture
def earlier(tmp_path):
    """The folder of an earlier run, with a file of somebody else."""
    out = tmp_path / "out"
    (out / "checkpoints").mkdir(parents=True)
    (out / "checkpoints" / "best-poisson_val.ckpt").write_text("earlier weights")
    for name in ("wts.h5.zip", "metrics.csv", "reconstruction.npz", "metrics.json", "phase.png", "notes.txt"):
        (out / name).write_text(f"earlier {name}")
    return out


def use_training(monkeypatch, train_scans):
    monkeypatch.setattr(shared, "load_backend", lambda: SimpleNamespace(train_scans=train_scans))


REFUSED = [
    ("--init-from {folder}/nowhere", "nowhere"),
    ("--init-from {folder}/scan.npz", "scan.npz"),
    ("--device cuda", "cuda"),
    ("--architecture cnn", "cnn"),
    ("--n-subsample 3", "3 frame"),
    ("--val-fraction 0.999", "val_fraction"),
]


@pytest.mark.parametrize(("words", "fragment"), REFUSED)
def test_a_refused_training_costs_nothing(earlier, tmp_path, words, fragment):
    """Refused by the real backend, after the settings were found to be good."""
    small_scan(n_frames=20).to_file(tmp_path / "scan.npz")
    before = tree(earlier)
    words = words.format(folder=tmp_path).split()
    words = words if "--device" in words else [*words, "--device", "cpu"]
    check_mistake(run("train", tmp_path / "scan.npz", "-o", earlier, "--overwrite", "-q", *words), fragment)
    assert tree(earlier) == before


def test_scans_of_different_sides_cost_nothing(earlier, tmp_path):
    for name, side in (("a", 32), ("b", 64)):
        small_scan(n_frames=20, N=side).to_file(tmp_path / f"{name}.npz")
    before = tree(earlier)
    result = run("train", tmp_path / "a.npz", tmp_path / "b.npz", "-o", earlier, "--overwrite", "-q", "--device", "cpu")
    check_mistake(result, "different sides", "64 x 64")
    assert tree(earlier) == before


@pytest.mark.parametrize("name", ["", "wts.h5.zip"])
def test_a_training_may_not_replace_the_model_that_it_starts_from(scan_file, earlier, backend, name):
    before = tree(earlier)
    result = run("train", scan_file, "-o", earlier, "--overwrite", "-q", "--init-from", earlier / name)
    check_mistake(result, "wts.h5.zip is read by this run")
    assert backend.train is None and tree(earlier) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("a defect"), OSError(errno.ENOSPC, "Disk full")])
def test_a_training_that_ends_before_its_model_is_written(scan_file, earlier, monkeypatch, error):
    """What it has left goes, what was there comes back."""

    def train_scans(raws, config, execution=None, *, output_dir, **_):
        (output_dir / "checkpoints").mkdir()
        (output_dir / "checkpoints" / "last.ckpt").write_text("half-trained")
        (output_dir / "metrics.csv").write_text("epoch 0")
        assert not (output_dir / "wts.h5.zip").exists() and not (output_dir / "metrics.json").exists()
        raise error

    use_training(monkeypatch, train_scans)
    before = tree(earlier)
    assert run("train", scan_file, "-o", earlier, "--overwrite", "-q").exit_code != 0
    assert tree(earlier) == before


def test_a_training_that_ends_after_its_model_is_written(scan_file, earlier, monkeypatch):
    """The new model stays, and nothing of the earlier run beside it."""

    def train_scans(raws, config, execution=None, *, output_dir, **_):
        (output_dir / "wts.h5.zip").write_text("new model")
        raise KeyboardInterrupt

    use_training(monkeypatch, train_scans)
    assert run("train", scan_file, "-o", earlier, "--overwrite", "-q").exit_code != 0
    assert {str(path): content for path, content in tree(earlier).items()} == {
        "wts.h5.zip": b"new model", "notes.txt": b"earlier notes.txt",
    }  # fmt: skip


def test_a_training_that_is_killed_leaves_the_earlier_results_to_the_next_run(scan_file, earlier, monkeypatch):
    """Nothing can be put back then; the next run that writes there does it."""
    before = tree(earlier)
    killed = {}

    def train_scans(raws, config, execution=None, *, output_dir, **_):
        (output_dir / "metrics.csv").write_text("epoch 0")
        (output_dir / "phase.png").write_text("of the killed run")
        killed.update(tree(output_dir))
        raise RuntimeError("stands for a kill")

    use_training(monkeypatch, train_scans)
    run("train", scan_file, "-o", earlier, "--overwrite", "-q")
    assert tree(earlier) == before
    for path in sorted(earlier.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    for path, content in killed.items():
        (earlier / path).mkdir() if content is None else (earlier / path).write_bytes(content)
    check_mistake(run("train", scan_file, "-o", earlier, "--overwrite", "-q", "--epochs", "-1"), "--epochs")
    assert tree(earlier) == killed, "a dry look changes nothing"
    run("train", scan_file, "-o", earlier, "--overwrite", "-q")
    assert tree(earlier) == before


def test_a_training_that_goes_well_replaces_all(scan_file, earlier, backend):
    assert run("train", scan_file, "-o", earlier, "--overwrite", "-q").exit_code == 0
    after = {str(path): content for path, content in tree(earlier).items()}
    assert after.pop("notes.txt") == b"earlier notes.txt"
    assert set(after) <= {*MODEL_FILES, *RESULT_FILES} and {"wts.h5.zip", "metrics.json"} <= set(after)
    assert not any((content or b"").startswith(b"earlier") for content in after.values())


@pytest.mark.parametrize("verb", ["infer", "refine"])
def test_results_that_cannot_be_written_do_not_cost_the_earlier_ones(
    scan_file, earlier, tmp_path, backend, monkeypatch, verb
):  # fmt: skip
    def no_space(*_args, **_keywords):
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "wts.h5.zip").write_bytes(b"model")
    monkeypatch.setattr(
        "ptycho_torch.workflows.refinement.refine_scan", lambda raw, *_args, **_keywords: made_up_outcome(raw)
    )
    words = {"infer": ["infer", tmp_path, scan_file], "refine": ["refine", scan_file, "--device", "cpu"]}[verb]
    before = tree(earlier)
    monkeypatch.setattr(np, "savez_compressed", no_space)
    monkeypatch.setattr(np, "savez", no_space)
    check_mistake(run(*words, "-o", earlier, "--overwrite", "-q"), "No space left on device")
    assert tree(earlier) == before
    monkeypatch.undo()
