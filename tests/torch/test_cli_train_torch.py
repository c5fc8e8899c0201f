"""`python -m ptycho_torch.train`: what its flags reach, what leaves it, what it writes."""

import json
import logging
import subprocess
import sys
import warnings
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from entry_points import call, legacy_scan

from ptycho.raw_data import RawData
from ptycho_torch import config_factory, train
from ptycho_torch.config_params import InferenceConfig
from ptycho_torch.workflows import components


@pytest.fixture
def empty_scan(tmp_path):
    path = tmp_path / "train.npz"
    path.touch()
    return path


@pytest.fixture
def minimal(empty_scan, tmp_path):
    """As short as older scripts are."""
    return ["--train_data_file", empty_scan, "--output_dir", tmp_path / "out", "--n_images", 64, "--max_epochs", 2]


@pytest.fixture
def factory(monkeypatch):
    """Stands in the factory's place and remembers its keywords."""
    asked = {}

    def create_training_payload(**keywords):
        asked.update(keywords)
        return MagicMock()

    monkeypatch.setattr(config_factory, "create_training_payload", create_training_payload)
    return asked


@pytest.fixture
def workflow(monkeypatch):
    """A run that is not done: the reader gives a scan, the workflow remembers what it was handed and saves."""
    calls = MagicMock()
    calls.run.side_effect = lambda train_data, test_data, config, **more: (
        components.save_torch_bundle(
            {"autoencoder": object(), "diffraction_to_obj": object()}, str(config.output_dir / "wts.h5"), config
        )
        or (None, None, {"history": {"train_loss": [0.5]}})
    )
    calls.save.return_value = None
    monkeypatch.setattr(RawData, "from_file", calls.from_file)
    monkeypatch.setattr(components, "run_cdi_example_torch", calls.run)
    monkeypatch.setattr(components, "save_torch_bundle", calls.save)
    return calls


# ---------------------------------------------------------------------- flags


@pytest.mark.parametrize(
    ("flags", "field", "value"),
    [
        ("--accelerator cpu", "accelerator", "cpu"),
        ("--accelerator gpu", "accelerator", "gpu"),
        ("--deterministic", "deterministic", True),
        ("--no-deterministic", "deterministic", False),
        ("", "deterministic", True),
        ("--no-deterministic --num-workers 4", "num_workers", 4),
        ("--learning-rate 5e-4", "learning_rate", 5e-4),
        ("--disable-checkpointing", "enable_checkpointing", False),
        ("--enable-checkpointing", "enable_checkpointing", True),
        ("--checkpoint-save-top-k 3", "checkpoint_save_top_k", 3),
        ("--checkpoint-monitor train_loss", "checkpoint_monitor_metric", "train_loss"),
        ("--checkpoint-mode max", "checkpoint_mode", "max"),
        ("--early-stop-patience 10", "early_stop_patience", 10),
        ("--scheduler Exponential", "scheduler", "Exponential"),
        ("--accumulate-grad-batches 4", "accum_steps", 4),
        ("--logger csv", "logger_backend", "csv"),
        ("--logger tensorboard", "logger_backend", "tensorboard"),
        ("--logger none", "logger_backend", None),
        ("--torch-logger none", "logger_backend", None),
        ("--quiet", "enable_progress_bar", False),
        ("", "enable_progress_bar", True),
    ],
)
def test_flags_reach_the_execution_config(minimal, factory, monkeypatch, tmp_path, flags, field, value):
    """The file is empty: after the factory the run fails, and SystemExit is all that may come of it."""
    assert call(train, monkeypatch, *minimal, *flags.split()) == 1
    assert getattr(factory["execution_config"], field) == value
    assert set(factory) == {"train_data_file", "output_dir", "overrides", "execution_config"}
    assert factory["train_data_file"] == tmp_path / "train.npz" and factory["output_dir"] == tmp_path / "out"


def test_flags_reach_the_overrides(minimal, factory, monkeypatch):
    flags = "--gridsize 2 --batch_size 8 --probe-mask --probe-mask-sigma 2 --torch-loss-mode mae"
    about_frames = "--measurement-domain amplitude --scale-contract-version legacy_v1"
    call(train, monkeypatch, *minimal, *flags.split(), *about_frames.split())
    assert factory["overrides"] == {
        "n_groups": 64, "nepochs": 2, "gridsize": 2, "batch_size": 8, "probe_mask": True, "probe_mask_sigma": 2.0,
        "torch_loss_mode": "mae", "measurement_domain": "amplitude", "scale_contract_version": "legacy_v1",
        "log_patch_stats": False, "patch_stats_limit": None,
    }  # fmt: skip


def test_patch_statistics_are_always_among_the_overrides(minimal, factory, monkeypatch):
    call(train, monkeypatch, *minimal)
    assert factory["overrides"]["log_patch_stats"] is False and factory["overrides"]["patch_stats_limit"] is None
    call(train, monkeypatch, *minimal, "--log-patch-stats", "--patch-stats-limit", "2")
    assert factory["overrides"]["log_patch_stats"] is True and factory["overrides"]["patch_stats_limit"] == 2


def test_patch_statistics_reach_the_payload(empty_scan, tmp_path):
    def config_with(**overrides):
        return config_factory.create_training_payload(
            train_data_file=empty_scan, output_dir=tmp_path / "out", overrides={"n_groups": 8, **overrides}
        ).pt_inference_config

    with pytest.warns(UserWarning, match="N=64 is assumed"):
        found = config_with(log_patch_stats=True, patch_stats_limit=2)
        default = config_with()
    assert (found.log_patch_stats, found.patch_stats_limit) == (True, 2)
    assert (default.log_patch_stats, default.patch_stats_limit) == (False, None)
    assert (InferenceConfig().log_patch_stats, InferenceConfig().patch_stats_limit) == (False, None)


def test_the_deprecated_ones_warn_and_are_named(minimal, factory, monkeypatch, capsys):
    with pytest.warns(DeprecationWarning, match="--disable_mlflow"):
        call(train, monkeypatch, *minimal, "--disable_mlflow", "--accelerator", "cpu")
    assert factory["execution_config"].logger_backend is None
    assert factory["execution_config"].enable_progress_bar is False
    assert capsys.readouterr().err.count("Warning: --disable_mlflow is deprecated: say --logger none.") == 1
    with pytest.warns(DeprecationWarning, match="--device is deprecated"):
        call(train, monkeypatch, *minimal, "--device", "cuda")
    assert factory["execution_config"].accelerator == "gpu"
    with pytest.warns(DeprecationWarning, match="Ignoring --device value"):
        call(train, monkeypatch, *minimal, "--device", "cuda", "--accelerator", "cpu")
    assert factory["execution_config"].accelerator == "cpu"


def test_the_usual_spellings_do_not_warn(minimal, factory, monkeypatch, capsys):
    call(train, monkeypatch, *minimal, "--accelerator", "cpu", "--batch_size", "8", "--torch-loss-mode", "mae")
    assert "deprecated" not in capsys.readouterr().err


# ---------------------------------------------------------------------- the way through


@pytest.mark.filterwarnings("ignore:.*N=64 is assumed:UserWarning")
def test_the_workflow_gets_the_payload_and_saves_alone(minimal, workflow, monkeypatch, tmp_path):
    """The real factory on an empty file (N falls back to 64); everything after it is made up."""
    assert call(train, monkeypatch, *minimal, "--accelerator", "cpu", "--quiet") == 0
    workflow.from_file.assert_called_once_with(tmp_path / "train.npz")
    (raw, beside, config), keywords = workflow.run.call_args
    assert raw is workflow.from_file.return_value and beside is None
    assert config.output_dir == tmp_path / "out" and config.model.N == 64
    assert (config.n_groups, config.nepochs) == (64, 2)
    assert set(keywords) == {"do_stitching", "execution_config", "overrides"} and keywords["do_stitching"] is False
    execution = keywords["execution_config"]
    assert execution.accelerator == "cpu" and execution.enable_progress_bar is False
    assert keywords["overrides"]["log_patch_stats"] is False and keywords["overrides"]["n_groups"] == 64
    (models, base_path, saved_with), _ = workflow.save.call_args
    assert workflow.save.call_count == 1 and set(models) == {"autoencoder", "diffraction_to_obj"}
    assert "wts.h5" in base_path and saved_with is config


@pytest.mark.filterwarnings("ignore:.*N=64 is assumed:UserWarning")
def test_a_second_scan_validates(minimal, workflow, monkeypatch, tmp_path):
    other = tmp_path / "test.npz"
    other.touch()
    assert call(train, monkeypatch, *minimal, "--test_data_file", other, "--nphotons", "500") == 0
    assert [c.args[0] for c in workflow.from_file.call_args_list] == [tmp_path / "train.npz", other]
    assert workflow.from_file.call_args.kwargs == {"nphotons": 500.0}
    assert workflow.run.call_args.args[1] is workflow.from_file.return_value
    assert workflow.run.call_args.args[2].test_data_file == other


@pytest.mark.filterwarnings("ignore:.*N=64 is assumed:UserWarning")
def test_the_profile_is_taken_on(minimal, workflow, monkeypatch):
    seen = {}
    real = config_factory.create_training_payload
    monkeypatch.setattr(
        config_factory, "create_training_payload", lambda **keywords: seen.update(keywords) or real(**keywords)
    )
    call(train, monkeypatch, *minimal, "--profile", "ci")
    assert seen["profile"] == "ci"
    assert workflow.run.call_args.kwargs["overrides"]["physics_forward_mode"] == "rectangular_scaled"


# ---------------------------------------------------------------------- mistakes


SCAN, NEW = ["--train_data_file", "scan.npz"], ["--output_dir", "new"]


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ([], "--train_data_file is missing"),
        (["--nonsense"], "--nonsense"),
        (["--train_data_file", "no.npz", *NEW], "Training data file not found: no.npz"),
        (SCAN, "--output_dir"),
        ([*SCAN, *NEW, "--test_data_file", "no.npz"], "Test data file not found"),
        (["--ptycho_dir", "folder", "--config", "run.yaml"], "--train_data_file, not a folder"),
        (["--ptycho_dir"], "--ptycho_dir is not available"),
        ([*SCAN, *NEW, "--accelerator", "tpu"], "--accelerator"),
        ([*SCAN, *NEW, "--backend", "tensorflow"], "tensorflow"),
        ([*SCAN, *NEW, "--profile", "ci"], "physics_forward_mode"),
        ([*SCAN, *NEW, "--N", "32"], "32"),
        ([*SCAN, "--output_dir", "scan.npz/below"], "cannot be used"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_1(tmp_path, monkeypatch, capsys, flags, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text("nepochs: 1\n")
    legacy_scan(tmp_path / "scan.npz")
    before = sorted(tmp_path.iterdir())
    assert call(train, monkeypatch, *flags) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("Error: ") == 1 and "Traceback" not in said.err
    assert text in said.err
    assert sorted(tmp_path.iterdir()) == before, "nothing is left behind"


@pytest.mark.filterwarnings("ignore:.*N=64 is assumed:UserWarning")
def test_a_defect_is_a_traceback_and_exit_code_1(minimal, workflow, monkeypatch, capsys):
    workflow.run.side_effect = KeyError("a defect of ours")
    assert call(train, monkeypatch, *minimal) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:.*N=64 is assumed:UserWarning")
def test_nothing_of_the_process_stays_changed(minimal, monkeypatch, tmp_path):
    before = list(logging.getLogger().handlers), warnings.formatwarning, warnings.showwarning
    for flags in (["--nonsense"], ["--help"], minimal):
        call(train, monkeypatch, *flags)
        assert (list(logging.getLogger().handlers), warnings.formatwarning, warnings.showwarning) == before


def test_importing_it_takes_no_workflow():
    code = "import ptycho_torch.train, ptycho_torch.inference, sys; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert not {"lightning", "ptycho_torch.model", "matplotlib", "click"} & set(result.stdout.split())


def test_it_runs_as_a_program():
    result = subprocess.run([sys.executable, "-m", "ptycho_torch.train", "--help"], capture_output=True, text=True,
                            timeout=120, check=False)  # fmt: skip
    assert result.returncode == 0 and "--max_epochs" in result.stdout and "--log-patch-stats" in result.stdout


# ---------------------------------------------------------------------- the file and the dry run


def test_a_file_states_what_flags_do_not(factory, monkeypatch, tmp_path):
    scan, path = legacy_scan(tmp_path / "scan.npz"), tmp_path / "run.yaml"
    path.write_text(
        f"train_data_file: {scan}\noutput_dir: {tmp_path / 'out'}\nnepochs: 7\ngridsize: 2\nlog_patch_stats: true\n"
        "patch_stats_limit: 3\nlogger_backend: null\nmodel: {stages: 1}\nexecution: {accelerator: cpu}\n"
    )
    call(train, monkeypatch, "--config", path, "--max_epochs", "3")  # it fails later: the payload is made up
    assert factory["train_data_file"] == scan and factory["output_dir"] == tmp_path / "out"
    assert factory["overrides"] == {"nepochs": 3, "gridsize": 2, "log_patch_stats": True, "patch_stats_limit": 3,
                                    "stages": 1, "n_groups": "all"}  # fmt: skip
    assert factory["execution_config"].logger_backend is None and factory["execution_config"].accelerator == "cpu"


def test_the_dry_run_names_values_and_sources(monkeypatch, tmp_path, capsys):
    scan, path = legacy_scan(tmp_path / "scan.npz"), tmp_path / "run.yaml"
    path.write_text("gridsize: 2\nprobe_scale: 2.0\n")
    before = sorted(tmp_path.rglob("*"))
    flags = ["--train_data_file", scan, "--output_dir", tmp_path / "out", "--config", path, "--max_epochs", 3]
    assert call(train, monkeypatch, *flags, "--dry-run") == 0
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")}
    assert rows["train_data_file"] == [str(scan), "flag"] and rows["nepochs"] == ["3", "flag"]
    assert rows["gridsize"] == ["2", "file"] and rows["N"] == ["64", "data"] and rows["batch_size"] == ["16", "default"]
    assert "crop" not in rows
    assert sorted(tmp_path.rglob("*")) == before


def test_the_dry_run_refuses_what_the_run_refuses(monkeypatch, tmp_path, capsys):
    scan = legacy_scan(tmp_path / "scan.npz")
    flags = ["--train_data_file", scan, "--output_dir", tmp_path / "out", "--dry-run", "--accelerator", "cpu"]
    refused = {("--N", 32): "N=32", ("--no-positions-provided",): "positions_provided", ("--profile", "ci"): "physics"}
    for more, text in refused.items():
        assert call(train, monkeypatch, *flags, *more) == 1
        assert text in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------- a run


@pytest.mark.parametrize("frames", ["counts", "unknown"])
def test_training_and_inference_write_patch_statistics(tmp_path, monkeypatch, capsys, frames):
    """Small but real, on the CPU; also where the file does not say what its frames are."""
    from ptycho_torch import inference

    monkeypatch.chdir(tmp_path)
    scan = legacy_scan(tmp_path / "scan.npz", known=frames == "counts")
    common = ["--n_images", 8, "--log-patch-stats", "--patch-stats-limit", 2, "--accelerator", "cpu"]
    flags = ["--train_data_file", scan, "--output_dir", "out", "--max_epochs", 1, "--batch_size", 16, "--gridsize", 2]
    assert call(train, monkeypatch, *flags, *common, "--quiet") == 0
    assert {"wts.h5.zip", "analysis", "checkpoints", "metrics.csv"} == {p.name for p in (tmp_path / "out").iterdir()}
    flags = ["--model_path", "out", "--test_data", scan, "--output_dir", "out2"]
    capsys.readouterr()
    assert call(inference, monkeypatch, *flags, *common) == 0
    assert ("Taken for 'normalized_amplitude'" in capsys.readouterr().err) == (frames == "unknown")
    for out in ("out", "out2"):
        entries = json.loads((tmp_path / out / "analysis" / "torch_patch_stats.json").read_text())
        assert len(entries) == 2 and entries[0]["shape"] == [4, 64, 64]
        assert entries[0]["var_zero_mean"] > 1e-6 and abs(entries[0]["global_mean"]) > 1e-9
        assert (tmp_path / out / "analysis" / "torch_patch_grid.png").read_bytes().startswith(b"\x89PNG")
    with np.load(tmp_path / "out2" / "reconstructed_object.npz") as saved:
        assert saved["object"].dtype == np.complex64 and np.isfinite(saved["object"]).all()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "out2", "scan.npz"]
    assert torch.is_grad_enabled()
