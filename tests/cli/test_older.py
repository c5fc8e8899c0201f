"""`ptycho_train` and `ptycho_inference`, and the older spellings that `ptychopinn train` and `infer` take."""

import dataclasses
import logging
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from runs import check_mistake, run

from ptycho.cli import knobs, older, older_options
from ptycho.cli.fields import field_knobs
from ptycho.cli.infer import infer
from ptycho.cli.options import HeadedOption, Indices
from ptycho.cli.train import train
from ptycho.config.config import InferenceConfig, ModelConfig, PyTorchExecutionConfig, TrainingConfig

COMMANDS = (train, infer, older.ptycho_train, older.ptycho_inference)


def run_train(*args):
    return CliRunner().invoke(older.ptycho_train, [str(a) for a in args])


def run_inference(*args):
    return CliRunner().invoke(older.ptycho_inference, [str(a) for a in args])


def table_of(result):
    """Setting -> (value, source), from the printed table."""
    assert result.exit_code == 0, result.output
    lines = [re.split(r"  +", line.strip()) for line in result.stdout.splitlines() if line.startswith("  ")]
    assert all(len(cells) == 3 for cells in lines) and len({cells[0] for cells in lines}) == len(lines)
    return {name: (value, source) for name, value, source in lines}


def field_of(call, owner, name):
    parts = {ModelConfig: call.config.model, PyTorchExecutionConfig: call.execution}
    return getattr(parts.get(owner, call.config), name)


@pytest.fixture
def no_backend_check(monkeypatch):
    """What the backend refuses is its own matter, and tested there."""
    monkeypatch.setattr("ptycho.cli.shared.check_settings", lambda *configs: [])


@pytest.fixture
def model_folder(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "wts.h5.zip").write_bytes(b"model")
    return tmp_path / "model"


# ---------------------------------------------------------------------- older spellings of the new verbs

# Older spelling, as it stands in scripts -> (field, value).
OLDER = {
    "--max_epochs 7": ("nepochs", 7),
    "--nepochs 7": ("nepochs", 7),
    "--n_images 48": ("n_groups", 48),
    "--batch_size 5": ("batch_size", 5),
    "--torch-learning-rate 0.02": ("learning_rate", 0.02),
    "--torch-accelerator cuda": ("accelerator", "cuda"),
    "--torch-loss-mode mae": ("torch_loss_mode", "mae"),
    "--torch-scheduler Cosine": ("scheduler", "Cosine"),
    "--torch-accumulate-grad-batches 4": ("accum_steps", 4),
    "--early-stop-patience 4": ("early_stop_patience", 4),
    "--no-deterministic --torch-deterministic": ("deterministic", True),
    "--torch-num-workers 2": ("num_workers", 2),
    "--torch-inference-batch-size=8": ("inference_batch_size", 8),
    "--torch-logger none": ("logger_backend", None),
    "--disable-checkpointing --torch-enable-checkpointing": ("enable_checkpointing", True),
    "--torch-checkpoint-save-top-k 2": ("checkpoint_save_top_k", 2),
    "--gradient_clip_val 0.7": ("gradient_clip_val", 0.7),
    "--weight_decay 0.01": ("weight_decay", 0.01),
    "--n_subsample 30": ("n_subsample", 30),
}


@pytest.mark.parametrize("text", OLDER)
def test_an_older_spelling_acts_and_warns_once(scan_file, tmp_path, backend, no_backend_check, text):
    field, value = OLDER[text]
    result = run("train", scan_file, "-o", tmp_path / "out", *text.split())
    assert result.exit_code == 0, result.output
    owner = next(knob.owner for knob in knobs.TRAINING_KNOBS if knob.field == field)
    assert field_of(backend.train, owner, field) == value
    flag = next(knob.flag.split("/")[0] for knob in knobs.TRAINING_KNOBS if knob.field == field)
    spelling = text.split()[-1 if text.split()[-1].startswith("-") else 0].partition("=")[0]
    assert result.stderr.count("deprecated") == 1
    assert f"Warning: {spelling} is deprecated; say {flag}." in result.stderr


def test_an_older_spelling_counts_as_a_flag(scan_file, tmp_path, backend):
    (tmp_path / "run.yaml").write_text("nepochs: 20\n")
    flags = ["--output_dir", tmp_path / "out", "--config", tmp_path / "run.yaml", "--max_epochs", "3", "--dry-run"]
    result = run("train", scan_file, *flags)
    rows = table_of(result)
    assert rows["nepochs"] == ("3", "flag") and rows["output_dir"] == (str(tmp_path / "out"), "flag")
    assert "--output_dir is deprecated; say --output-dir." in result.stderr


def test_the_last_spelling_wins_and_quiet_hides_the_warning(scan_file, tmp_path, backend, model_folder):
    result = run("train", scan_file, "-o", tmp_path / "a", "-q", "--epochs", "3", "--max_epochs", "4")
    assert backend.train.config.nepochs == 4 and result.stderr == ""
    flags = ["--torch-accelerator", "cpu", "--n_subsample", "9"]
    result = run("infer", model_folder, scan_file, "-o", tmp_path / "b", *flags)
    assert backend.infer.config.n_subsample == 9 and result.stderr.count("is deprecated; say") == 2


def test_new_spellings_do_not_warn(scan_file, tmp_path, backend):
    result = run("train", scan_file, "-o", tmp_path / "out", "--epochs", "3", "--seed", "1", "--accelerator", "cpu")
    assert result.exit_code == 0 and "deprecated" not in result.stderr


def test_older_spellings_are_not_in_the_help_text():
    text = run("train", "--help").stdout
    assert "--max_epochs" not in text and "--torch-" not in text and "--output_dir" not in text
    check_mistake_text = run("train", "x.npz", "-o", "y", "--max_epochs", "-1").stderr
    assert "'--epochs'" in check_mistake_text


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_no_spelling_stands_for_two_options(command):
    spellings = [
        name
        for option in command.params
        if isinstance(option, HeadedOption)
        for name in (*option.opts, *option.secondary_opts, *option.aliases)
    ]
    assert len(spellings) == len(set(spellings)) > 10


# ---------------------------------------------------------------------- ptycho_train

WORDS = {
    "architecture": "cnn", "model_type": "supervised", "amp_activation": "relu", "fno_input_transform": "sqrt",
    "generator_output_mode": "amp_phase", "measurement_domain": "intensity", "torch_loss_mode": "mae",
    "optimizer": "sgd", "gradient_clip_algorithm": "value", "scheduler": "Cosine", "N": 32,
    "init_from": Path("earlier"),
}  # fmt: skip
APART = ("model", "train_data_file", "test_data_file", "output_dir", "n_images", "backend")
FIELDS = [
    (owner, f) for owner in (ModelConfig, TrainingConfig) for f in dataclasses.fields(owner) if f.name not in APART
]


def another(field):
    """A value of the field that is valid and not its default."""
    if field.name in WORDS:
        return WORDS[field.name]
    if isinstance(field.default, bool):
        return not field.default
    if "float" in field.type:
        return (field.default or 1.0) / 2
    if isinstance(field.default, int):
        return field.default + 1
    return 3


@pytest.mark.parametrize(("owner", "field"), FIELDS, ids=lambda part: getattr(part, "name", ""))
def test_every_field_has_its_flag(scan_file, tmp_path, backend, no_backend_check, owner, field):
    value = another(field)
    assert value != field.default
    flags = ["--train_data_file", scan_file, "--output_dir", tmp_path / "out", "--quiet"]
    text = str(value).lower() if isinstance(value, bool) else value
    result = run_train(*flags, f"--{field.name}", text)
    assert result.exit_code == 0, result.output
    found = field_of(backend.train, owner, field.name)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("--torch-accelerator cuda", "accelerator", "cuda"),
        ("--torch-deterministic", "deterministic", True),
        ("--torch-num-workers 2", "num_workers", 2),
        ("--torch-accumulate-grad-batches 4", "accum_steps", 4),
        ("--torch-learning-rate 0.01", "learning_rate", 0.01),
        ("--torch-scheduler ReduceLROnPlateau", "scheduler", "ReduceLROnPlateau"),
        ("--torch-logger none", "logger_backend", None),
        ("--torch-recon-log-every-n-epochs 2", "recon_log_every_n_epochs", 2),
        ("--torch-recon-log-num-patches 2", "recon_log_num_patches", 2),
        ("--torch-recon-log-fixed-indices 0,5", "recon_log_fixed_indices", (0, 5)),
        ("--torch-recon-log-stitch", "recon_log_stitch", True),
        ("--torch-recon-log-max-stitch-samples 9", "recon_log_max_stitch_samples", 9),
        ("--torch-enable-checkpointing", "enable_checkpointing", True),
        ("--torch-checkpoint-save-top-k 3", "checkpoint_save_top_k", 3),
        ("--gradient-clip-val 2", "gradient_clip_val", 2.0),
    ],
)
def test_flags_that_say_how_to_run(scan_file, tmp_path, backend, no_backend_check, text, field, value):
    result = run_train("--train_data_file", scan_file, "--output_dir", tmp_path / "out", *text.split())
    assert result.exit_code == 0 and "deprecated" not in result.stderr, result.output
    assert getattr(backend.train.execution, field) == value


def test_plateau_flags_and_n_images(scan_file, tmp_path, backend):
    flags = "--torch-plateau-factor 0.25 --torch-plateau-patience 4 --torch-plateau-min-lr 1e-6 --n_images 48"
    more = "--torch-plateau-threshold 0.01 --max_epochs 3".split()
    result = run_train("--train_data_file", scan_file, "--output_dir", tmp_path / "out", *flags.split(), *more)
    assert result.exit_code == 0 and "deprecated" not in result.stderr, result.output
    config = backend.train.config
    assert (config.plateau_factor, config.plateau_patience, config.plateau_min_lr) == (0.25, 4, 1e-6)
    assert (config.plateau_threshold, config.n_groups, config.nepochs) == (0.01, 48, 3)


def test_it_writes_what_the_new_verb_writes(scan_file, tmp_path, backend, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run_train("--train_data_file", scan_file, "--crop", "16", "--half", "12")
    assert result.exit_code == 0, result.output
    assert backend.train.raw.N == 16 and [p.name for p in tmp_path.iterdir()] == ["training_outputs"]
    run("train", scan_file, "-o", "new", "--crop", "16", "--half", "12")
    assert {p.name for p in (tmp_path / "training_outputs").iterdir()} == {p.name for p in (tmp_path / "new").iterdir()}
    assert "Results are in training_outputs" in result.stdout


def test_what_has_no_effect_is_said(scan_file, tmp_path, backend):
    out = ["--output_dir", tmp_path / "out"]
    result = run_train("--train_data_file", scan_file, *out, "--do_stitching", "--test_data_file", "other.npz")
    assert result.exit_code == 0, result.output
    assert "--do_stitching has no effect: the object is always stitched." in result.stderr
    assert "--test_data_file has no effect: frames to validate with are withheld" in result.stderr
    assert backend.train.config.test_data_file is None
    # earlier results are replaced, as this command always did
    assert run_train("--train_data_file", scan_file, *out).exit_code == 0


def test_mistakes_of_training(scan_file, tmp_path, backend):
    new = ["--output_dir", tmp_path / "out"]
    check_mistake(run_train(*new), "--train_data_file is missing", "configuration file")
    check_mistake(run_train("--train_data_file", "no.npz", *new), "no.npz")
    check_mistake(run_train("--train_data_file", scan_file, *new, "--N", "64"), "N=64", "32 x 32")
    check_mistake(run_train("--train_data_file", scan_file, *new, "--backend", "tensorflow"), "tensorflow", "pytorch")
    check_mistake(run_train("--train_data_file", scan_file, *new, "--object_big", "maybe"), "--object_big")
    check_mistake(run_train("--train_data_file", scan_file, *new, "--positions_provided", "false", "--quiet"),
                  "positions_provided")  # fmt: skip
    check_mistake(run_train("--train_data_file", scan_file, *new, "--fno_modes", "8"), "--fno_modes")
    assert backend.train is None and not (tmp_path / "out").exists()


def test_a_file_states_everything(scan_file, tmp_path, backend):
    path = tmp_path / "run.yaml"
    stated = {"train_data_file": str(scan_file), "output_dir": str(tmp_path / "out"), "nepochs": 20, "gridsize": 2,
              "do_stitching": True, "model": {"n_filters_scale": 1}, "execution": {"accelerator": "cpu"}}  # fmt: skip
    path.write_text(yaml.safe_dump(stated))
    rows = table_of(run_train("--config", path, "--nepochs", "5", "--dry-run"))
    assert rows["train_data_file"] == (str(scan_file), "file") and rows["output_dir"] == (str(tmp_path / "out"), "file")
    assert rows["nepochs"] == ("5", "flag") and rows["gridsize"] == ("2", "file") and rows["N"] == ("32", "data")
    assert rows["accelerator"] == ("cpu", "file") and rows["batch_size"] == ("16", "default")
    assert backend.train is None and not (tmp_path / "out").exists()
    result = run_train("--config", path)
    assert result.exit_code == 0 and "--do_stitching has no effect" in result.stderr
    assert backend.train.output_dir == tmp_path / "out" and backend.train.config.model.gridsize == 2
    rows = table_of(run_train("--train_data_file", scan_file, "--dry-run"))
    assert rows["output_dir"] == ("training_outputs", "default") and rows["train_data_file"][1] == "flag"


@pytest.mark.parametrize(("level", "heard"), [("DEBUG", True), ("INFO", True), ("WARNING", False), ("ERROR", False)])
def test_console_levels(scan_file, tmp_path, backend, level, heard):
    flags = ["--train_data_file", scan_file, "--output_dir", tmp_path / "out", "--torch-accelerator", "cpu"]
    result = run_train(*flags, "--do_stitching", "--console-level", level)
    assert ("has no effect" in result.stderr) == heard


def test_a_command_leaves_no_handler_behind(scan_file, tmp_path, backend):
    before = list(logging.getLogger().handlers), warnings.formatwarning, warnings.showwarning
    for flags in (["--nonsense"], ["--help"], ["--output_dir", tmp_path / "out"], ["--nepochs", "-1"]):
        run_train(*flags)
        assert (list(logging.getLogger().handlers), warnings.formatwarning, warnings.showwarning) == before


# ---------------------------------------------------------------------- ptycho_inference


def test_inference(scan_file, model_folder, tmp_path, backend, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = "--torch-accelerator cuda --torch-inference-batch-size 8 --n_subsample 30 --subsample_seed 4 --n_images 9"
    result = run_inference("--model_path", model_folder, "--test_data", scan_file, "--debug", *flags.split())
    assert result.exit_code == 0 and "deprecated" not in result.stderr, result.output
    call = backend.infer
    assert (call.execution.accelerator, call.execution.inference_batch_size) == ("cuda", 8)
    assert (call.config.n_subsample, call.config.subsample_seed, call.config.n_groups) == (30, 4, 9)
    assert call.config.debug is True and isinstance(call.config, InferenceConfig)
    assert call.model_path == model_folder / "wts.h5.zip" and call.config.test_data_file == scan_file
    assert "Results are in inference_outputs" in result.stdout and (tmp_path / "inference_outputs").is_dir()


def test_what_has_no_effect_in_inference(scan_file, model_folder, tmp_path, backend):
    flags = ["--model_path", model_folder, "--test_data", scan_file, "--output_dir", tmp_path / "out"]
    more = "--comparison_plot --phase_vmin -1 --phase_vmax 1 --torch-num-workers 2"
    result = run_inference(*flags, *more.split())
    assert result.exit_code == 0, result.output
    for flag in ("--comparison_plot", "--phase_vmin", "--phase_vmax", "--torch-num-workers"):
        assert result.stderr.count(f"{flag} has no effect: ") == 1
    assert backend.infer.execution.num_workers == 0


def test_mistakes_of_inference(scan_file, model_folder, tmp_path, backend):
    out = ["--output_dir", tmp_path / "out"]
    both = ["--model_path", model_folder, "--test_data", scan_file]
    check_mistake(run_inference(*both[:2], *out), "--test_data is missing")
    check_mistake(run_inference(*both[2:], *out), "--model_path is missing")
    check_mistake(run_inference(*both, *out, "--debug_dump"), "--debug_dump is not available", "--log-patch-stats")
    check_mistake(run_inference(*both, *out, "--debug_dump", tmp_path / "dump"), "--debug_dump is not available")
    check_mistake(run_inference(*both, *out, "--backend", "tensorflow"), "tensorflow", "pytorch")
    check_mistake(run_inference("--model_path", tmp_path / "no", *both[2:], *out), "no such file or folder")
    assert backend.infer is None and not (tmp_path / "out").exists()


def test_a_file_and_the_dry_run_of_inference(scan_file, model_folder, tmp_path, backend):
    path = tmp_path / "run.yaml"
    path.write_text(f"model_path: {model_folder}\nn_images: 9\nexecution: {{inference_batch_size: 4}}\n")
    result = run_inference("--config", path, "--test_data", scan_file, "--n_subsample", "20", "--dry-run")
    rows = table_of(result)
    assert rows["model_path"] == (str(model_folder / "wts.h5.zip"), "file") and rows["test_data"][1] == "flag"
    assert rows["n_subsample"] == ("20", "flag") and rows["inference_batch_size"] == ("4", "file")
    assert rows["n_groups"] == ("9", "file") and rows["output_dir"] == ("inference_outputs", "default")
    assert "Note: n_groups=9 has no effect" in result.stdout and backend.infer is None


# ---------------------------------------------------------------------- the table, and the start


def test_every_field_is_a_flag_of_the_older_training_commands():
    fields = {f.name for c in (ModelConfig, TrainingConfig, PyTorchExecutionConfig) for f in dataclasses.fields(c)}
    apart = set(APART) - {"backend"}
    for made in (older_options.ptycho_training_knobs(), older_options.module_training_knobs()):
        assert {knob.field for knob in made} == fields - apart
    assert len(field_knobs()) > 20


def test_a_knob_lists_its_spellings():
    epochs = next(knob for knob in knobs.TRAINING_KNOBS if knob.field == "nepochs")
    assert epochs.older == ("--nepochs", "--max_epochs", "--max-epochs")
    assert older_options.module_spelled(epochs).flag == "--max_epochs"
    assert set(older_options.field_spelled(epochs).older) == {"--epochs", "--max_epochs", "--max-epochs"}
    seed = next(knob for knob in knobs.TRAINING_KNOBS if knob.field == "seed")
    assert seed.older == ()


@pytest.mark.parametrize("text", ["a,b", "1;2", "-1", "", "1,,2"])
def test_lists_of_numbers_that_are_none(text):
    with pytest.raises(Exception, match="is not a list of whole numbers"):
        Indices().convert(text, None, None)


@pytest.mark.parametrize("name", ["main_train", "main_inference"])
def test_the_scripts_start_light_and_end_with_a_code(name):
    code = (
        f"import sys\nfrom ptycho.cli.older import {name}\n"
        "heavy = {'torch', 'numpy', 'lightning', 'matplotlib'} & set(sys.modules)\n"
        f"assert not heavy, heavy\n{name}()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 2 and result.stderr.startswith("Error: --") and "is missing" in result.stderr
