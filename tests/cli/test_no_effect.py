"""Options that need another one: they ask for it too, or the run says that they have no effect."""

import json

import pytest
from runs import check_mistake, run, small_scan

from ptycho.cli import reference
from ptycho.cli.infer import infer
from ptycho.cli.refine import refine
from ptycho.cli.train import train

IDLE = [
    ("--no-calibrate --calibration-epochs 200", "calibration_epochs=200 has no effect: ", "calibrate_probe"),
    ("--prefetch-factor 2", "prefetch_factor=2 has no effect: ", "num_workers=0"),
    ("--persistent-workers", "persistent_workers=True has no effect: ", "num_workers=0"),
]


@pytest.mark.parametrize(("words", "note", "reason"), IDLE)
def test_a_dry_run_says_what_has_no_effect(scan_file, tmp_path, backend, words, note, reason):
    result = run("train", scan_file, "-o", tmp_path / "out", "--device", "cpu", "--dry-run", *words.split())
    (line,) = (line for line in result.stdout.splitlines() if note in line)
    assert line.startswith("Note: ") and reason in line


@pytest.mark.parametrize("words", ["--calibration-epochs 200", "--prefetch-factor 2 --num-workers 1"])
def test_what_has_an_effect_is_not_spoken_of(scan_file, tmp_path, backend, words):
    result = run("train", scan_file, "-o", tmp_path / "out", "--device", "cpu", "--dry-run", *words.split())
    assert result.exit_code == 0 and "has no effect" not in result.output


def test_a_run_notes_it_with_the_results(scan_file, tmp_path):
    words = "--no-calibrate --calibration-epochs 200 --prefetch-factor 2 --epochs 1 --device cpu -q".split()
    assert run("train", scan_file, "-o", tmp_path / "out", *words).exit_code == 0
    notes = " ".join(json.loads((tmp_path / "out" / "metrics.json").read_text())["notes"])
    for _, note, _ in IDLE[:2]:
        assert note in notes


# ---------------------------------------------------------------------- geometry

GEOMETRY = [
    ("--energy 8000", True),
    ("--distance 2", True),
    ("--energy 8000 --distance 2", True),
    ("--energy 8000 --distance 2 --detector-pixel 75e-6", False),
    ("--energy 8000 --pixel-size 1e-8", False),
    ("", False),
]


@pytest.mark.parametrize(("words", "told"), GEOMETRY)
@pytest.mark.parametrize("verb", ["train", "refine"])
def test_lengths_that_give_no_pixel(scan_file, tmp_path, backend, verb, words, told):
    words = (*words.split(), "--device", "cpu", "--dry-run")
    result = run(verb, scan_file, "-o", tmp_path / "out", *words)
    assert result.exit_code == 0, result.output
    assert ("no effect on the size of the object pixel" in result.stderr) == told
    assert not told or ("--detector-pixel" in result.stderr and "--pixel-size" in result.stderr)


def test_a_file_that_says_its_pixel_needs_no_more(tmp_path, backend):
    small_scan(n_frames=30, pixel_size_m=1e-8).to_file(tmp_path / "scan.npz")
    result = run("train", tmp_path / "scan.npz", "-o", tmp_path / "out", "--energy", 8000, "--device", "cpu")
    assert result.exit_code == 0 and "no effect" not in result.stderr


# ---------------------------------------------------------------------- one option asks for another


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    (path / "wts.h5.zip").write_bytes(b"model")
    return path


def rows_of(result):
    return {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines() if line.startswith("  ")}


def test_passes_of_a_refinement_ask_for_it(scan_file, model_folder, tmp_path, backend):
    verbs = {"a": ("train", scan_file), "b": ("infer", model_folder, scan_file)}
    for name, verb in verbs.items():
        words = (*verb, "-o", tmp_path / name, "--device", "cpu", "--refine-epochs", 10)
        rows = rows_of(run(*words, "--dry-run"))
        assert rows["refine"] == ["True", "flag"] and rows["refine_epochs"] == ["10", "flag"]
        assert run(*words).exit_code == 0
    assert backend.train.refine.epochs == backend.infer.refine.epochs == 10
    rows = rows_of(run("train", scan_file, "-o", tmp_path / "c", "--device", "cpu", "--ensemble", 2, "--dry-run"))
    assert rows["uncertainty"] == ["True", "flag"]


def test_passes_of_no_refinement_are_refused(scan_file, model_folder, tmp_path, backend):
    words = ("--no-refine", "--refine-epochs", "3", "--device", "cpu")
    for verb in (("train", scan_file), ("infer", model_folder, scan_file)):
        for more in ((), ("--dry-run",)):
            check_mistake(run(*verb, "-o", tmp_path / "a", *words, *more), "refine_epochs=3", "leave one of them out")
    assert backend.train is None and backend.infer is None


# ---------------------------------------------------------------------- what the page lists


def test_the_tables_have_every_flag_of_the_verbs():
    """With the key that stands for it in a file."""
    rows = [[cell.strip() for cell in line.split(" | ")] for name in ("flags", "verb-flags")
            for line in reference.TABLES[name]().splitlines()[2:]]  # fmt: skip
    said = {(verb, key.strip("`"), flag.strip("`| ")) for flags, key, _, verbs, *_ in rows
            for verb in verbs.split(", ") for flag in flags.split(", ")}  # fmt: skip
    only_flags = {"config_file", "dry_run", "overwrite", "help", "quiet", "verbose"}
    for command in (train, infer, refine):
        options = [p for p in command.params if hasattr(p, "is_flag") and p.name not in only_flags]
        assert len(options) > 10
        for option in options:
            if option.expose_value:
                assert (command.name, option.name, option.opts[0]) in said


KEYS = [("from", "start"), ("defocus", "correct_defocus"), ("probe", "refine_probe"), ("stop-window", "stop_window")]


@pytest.mark.parametrize(("key", "name"), KEYS)
def test_a_flag_in_the_place_of_a_key_is_named(scan_file, tmp_path, key, name):
    (tmp_path / "run.yaml").write_text(f"{key}: a\n")
    result = run("refine", scan_file, "-o", tmp_path / "out", "--config", tmp_path / "run.yaml", "-q")
    check_mistake(result, f"{key} is unknown; the nearest valid key is '{name}'")
