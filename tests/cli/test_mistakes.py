"""Mistakes on the command line: each ends in one message and exit code 2, with nothing half-written."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from runs import check_mistake, run, small_scan

from ptycho.cli import shared
from ptycho.errors import PtychoError


def broken_scans(folder):
    """Name -> (file, what the message has to say)."""
    raw = small_scan(n_frames=20)
    good = {
        "diff3d": raw.diff3d,
        "xcoords": raw.xcoords,
        "ycoords": raw.ycoords,
        "probeGuess": raw.probeGuess,
    }

    def save(name, **changes):
        entries = {k: v for k, v in {**good, **changes}.items() if v is not None}
        np.savez(folder / f"{name}.npz", **entries)
        return folder / f"{name}.npz"

    (folder / "text.npz").write_text("no archive")
    whole = save("whole").read_bytes()
    (folder / "short.npz").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.npz").write_bytes(b"")
    negative = raw.diff3d.astype(np.float32)
    negative[3, 4, 5] = -1
    return {
        "missing": (folder / "missing.npz", "no such file"),
        "folder": (folder, "folder"),
        "text": (folder / "text.npz", "expected"),
        "truncated": (folder / "short.npz", "short.npz"),
        "empty": (folder / "empty.npz", "empty"),
        "no frames key": (save("a", diff3d=None), "diff3d"),
        "no positions": (save("b", xcoords=None), "xcoords"),
        "no probe": (save("c", probeGuess=None), "probe"),
        "short positions": (save("d", xcoords=raw.xcoords[:-1], ycoords=raw.ycoords[:-1]), "19"),
        "complex frames": (save("e", diff3d=raw.diff3d.astype(np.complex64)), "complex"),
        "negative counts": (save("f", diff3d=negative), "negative"),
        "probe of zeros": (save("g", probeGuess=np.zeros((32, 32), np.complex64)), "zeros"),
        "frames not square": (save("h", diff3d=raw.diff3d[:, :, :30]), "30"),
        "probe of another size": (save("i", probeGuess=raw.probeGuess[..., :16, :16]), "16"),
        "nan positions": (save("j", xcoords=np.full(20, np.nan)), "NaN"),
        "no counts": (save("k", diff3d=np.zeros_like(raw.diff3d)), "count"),
        "pickle": (save("m", probeGuess=np.array([{}], dtype=object)), "pickle"),
    }


BROKEN = (
    "missing",
    "folder",
    "text",
    "truncated",
    "empty",
    "no frames key",
    "no positions",
    "no probe",
    "short positions",
    "complex frames",
    "negative counts",
    "probe of zeros",
    "frames not square",
    "probe of another size",
    "nan positions",
    "no counts",
    "pickle",
)


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    return broken_scans(tmp_path_factory.mktemp("broken"))


@pytest.mark.parametrize("kind", BROKEN)
def test_bad_scans(broken, tmp_path, backend, kind):
    path, fragment = broken[kind]
    result = run("train", path, "--output-dir", tmp_path / "out", "--quiet")
    check_mistake(result, fragment)
    assert not (tmp_path / "out").exists(), "nothing half-written"
    assert backend.train is None


@pytest.mark.parametrize("crop", ["33", "1000"])
def test_a_crop_larger_than_the_frame(scan_file, tmp_path, backend, crop):
    check_mistake(run("train", scan_file, "-o", tmp_path / "out", "--crop", crop, "-q"), crop, "32")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "flags", [["--crop", "0"], ["--half", "2"], ["--epochs", "-1"], ["--max-time", "soon"]]
)
def test_bad_values_of_flags(scan_file, tmp_path, backend, flags):
    check_mistake(run("train", scan_file, "-o", tmp_path / "out", *flags), flags[0])


def test_processes_of_a_launcher(scan_file, tmp_path, backend, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_mistake(run("train", scan_file, "--output-dir", tmp_path / "out"), "WORLD_SIZE=2", "--devices 2")
    assert not (tmp_path / "out").exists()


def test_a_verb_that_one_process_does_alone(scan_file, monkeypatch):
    for name, value in {"TORCHELASTIC_RUN_ID": "job", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    check_mistake(run("inspect", scan_file), "inspect: found 2 processes", "train and infer")


def test_an_unknown_domain(scan_file, tmp_path, backend):
    result = run("train", scan_file, "-o", tmp_path / "out", "--measurement-domain", "counts?", "-q")
    check_mistake(result, "counts?", "intensity")


@pytest.mark.parametrize("verb", ["train", "infer", "demo"])
def test_output_folders_that_cannot_be_used(scan_file, tmp_path, backend, verb):
    (tmp_path / "wts.h5.zip").write_bytes(b"model")
    inputs = {"train": [scan_file], "infer": [tmp_path, scan_file], "demo": []}[verb]
    used = tmp_path / "used"
    used.mkdir()
    (used / "precious.txt").write_text("mine")
    check_mistake(run(verb, *inputs, "-o", used), "used", "precious.txt", "--overwrite")
    check_mistake(run(verb, *inputs, "-o", used / "precious.txt"), "expected a folder")
    check_mistake(run(verb, *inputs, "-o", used / "precious.txt" / "below"), "cannot be used")
    if Path("/proc/self").is_dir():
        check_mistake(run(verb, *inputs, "-o", "/proc/self/out"), "/proc/self/out")
    assert (
        [p.name for p in used.iterdir()] == ["precious.txt"]
        and backend.train is None
        and backend.infer is None
    )


def test_overwriting_keeps_what_is_not_ours(scan_file, tmp_path, backend):
    out = tmp_path / "out"
    (out / "checkpoints").mkdir(parents=True)
    (out / "checkpoints" / "old.ckpt").write_text("old")
    (out / "notes.txt").write_text("mine")
    assert run("train", scan_file, "-o", out, "--overwrite").exit_code == 0
    assert (out / "notes.txt").read_text() == "mine" and not (out / "checkpoints" / "old.ckpt").exists()


def test_an_input_is_never_overwritten(scan_file, tmp_path, backend):
    out = tmp_path / "out"
    assert run("train", scan_file, "-o", out).exit_code == 0
    before = (out / "reconstruction.npz").read_bytes()
    result = run(
        "train", scan_file, "-o", out, "--overwrite", "--reference", out / "reconstruction.npz", "-q"
    )
    check_mistake(result, "is read by this run")
    assert (out / "reconstruction.npz").read_bytes() == before


@pytest.mark.parametrize("model", ["nowhere", "folder"])
def test_models_that_are_not_there(scan_file, tmp_path, backend, model):
    (tmp_path / "folder").mkdir()
    check_mistake(
        run("infer", tmp_path / model, scan_file, "-o", tmp_path / "out", "-q"), model, "training run"
    )


def test_a_reference_that_is_not_there_is_noticed_before_the_work(scan_file, tmp_path, backend):
    result = run("train", scan_file, "-o", tmp_path / "out", "--reference", tmp_path / "no.npz", "-q")
    check_mistake(result, "no.npz")
    assert backend.train is None and not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["text.npz", "short.npz", "empty.npz"])
def test_evaluate_unreadable_files(broken, tmp_path, name):
    folder = broken["folder"][0]
    check_mistake(run("evaluate", folder / name, folder / name), name)


def test_errors_of_the_backend_and_of_the_file_system(scan_file, tmp_path, backend, monkeypatch):
    for error, fragment in (
        (PtychoError("The archive is of another version."), "another version"),
        (OSError(28, "No space left on device", "checkpoints/best.ckpt"), "No space left on device"),
    ):

        def fail(*args, error=error, **kwargs):
            raise error

        monkeypatch.setattr(shared, "load_backend", lambda fail=fail: SimpleNamespace(train_scans=fail))
        check_mistake(run("train", scan_file, "-o", tmp_path / "out", "--overwrite", "-q"), fragment)


@pytest.mark.parametrize("n_frames", [1, 3])
def test_too_few_frames_for_the_real_backend(tmp_path, n_frames):
    small_scan(n_frames=20).subset(slice(n_frames)).to_file(tmp_path / "few.npz")
    result = run("train", tmp_path / "few.npz", "-o", tmp_path / "out", "--accelerator", "cpu", "-q")
    check_mistake(result, f"{n_frames} frame", "at least")
    assert not (tmp_path / "out").exists()


def test_a_missing_torch_is_one_message():
    for error in (
        ModuleNotFoundError("No module named 'torch'", name="torch"),
        RuntimeError("POLICY-001: no torch"),
    ):
        if isinstance(error, RuntimeError):
            error.__cause__ = ImportError("torch")
        with pytest.raises(PtychoError, match="torch"), shared.backend_errors():
            raise error
    with pytest.raises(RuntimeError, match="a defect"), shared.backend_errors():
        raise RuntimeError("a defect")


def test_defects_are_not_hidden(scan_file, tmp_path, backend, monkeypatch):
    def fail(*args, **kwargs):
        raise KeyError("a defect of ours")

    monkeypatch.setattr(shared, "load_backend", lambda: SimpleNamespace(train_scans=fail))
    result = run("train", scan_file, "-o", tmp_path / "out")
    assert isinstance(result.exception, KeyError) and result.exit_code == 1
