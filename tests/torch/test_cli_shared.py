"""From parsed arguments to an execution config, a device and checked paths."""

import argparse
import warnings

import pytest
import torch

from ptycho.config.config import PyTorchExecutionConfig
from ptycho.errors import OutputError
from ptycho_torch.cli.shared import build_execution_config_from_args, resolve_accelerator, validate_paths


def training_args(**changes):
    """What a training script has: nothing else may be needed."""
    given = dict(accelerator="cpu", device=None, deterministic=True, num_workers=0, learning_rate=1e-3,
                 disable_mlflow=False, quiet=False)  # fmt: skip
    return argparse.Namespace(**{**given, **changes})


def inference_args(**changes):
    given = dict(accelerator="cpu", device=None, num_workers=0, inference_batch_size=None, quiet=False)
    return argparse.Namespace(**{**given, **changes})


# ---------------------------------------------------------------------- the accelerator


@pytest.mark.parametrize("name", ["cpu", "gpu", "cuda", "mps"])
def test_an_accelerator_that_is_named_is_kept(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert resolve_accelerator(name) == name


@pytest.mark.parametrize(("device", "expected"), [("cpu", "cpu"), ("cuda", "gpu")])
def test_the_older_device_counts_where_nothing_else_does(device, expected):
    with pytest.warns(DeprecationWarning, match="--device is deprecated"):
        assert resolve_accelerator("auto", device) == expected


def test_the_older_device_is_ignored_beside_an_accelerator():
    with pytest.warns(DeprecationWarning, match="Ignoring --device value"):
        assert resolve_accelerator("cpu", "cuda") == "cpu"


def test_accelerators_and_devices_that_are_refused():
    with pytest.raises(ValueError, match=r"Torch-XLA.*TPU.*unsupported"):
        resolve_accelerator("tpu")
    with pytest.raises(ValueError, match="Invalid accelerator: 'abacus'"):
        resolve_accelerator("abacus")
    with pytest.raises(ValueError, match="found 'tpu', expected one of cpu, cuda"):
        resolve_accelerator("auto", "tpu")


def test_auto_takes_a_cuda_device_if_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert resolve_accelerator() == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.warns(UserWarning, match="POLICY-001"):
        assert resolve_accelerator("auto", None) == "cpu"


# ---------------------------------------------------------------------- the execution config


def test_training_arguments():
    config = build_execution_config_from_args(training_args(deterministic=False, num_workers=4, learning_rate=5e-4))
    assert config == PyTorchExecutionConfig(
        accelerator="cpu", deterministic=False, num_workers=4, learning_rate=5e-4, enable_progress_bar=True
    )


@pytest.mark.parametrize(
    ("quiet", "disable", "bar"), [(False, False, True), (True, False, False), (False, True, False)]
)
@pytest.mark.filterwarnings("ignore:--disable_mlflow:DeprecationWarning")
def test_the_progress_bar(quiet, disable, bar):
    config = build_execution_config_from_args(training_args(quiet=quiet, disable_mlflow=disable))
    assert config.enable_progress_bar is bar


def test_workers_cost_a_deterministic_run():
    with pytest.warns(UserWarning, match="performance degradation"):
        config = build_execution_config_from_args(training_args(num_workers=4))
    assert config.num_workers == 4 and config.deterministic is True
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build_execution_config_from_args(inference_args(num_workers=4), mode="inference")


def test_the_older_device_reaches_the_config():
    with pytest.warns(DeprecationWarning, match="--device is deprecated"):
        config = build_execution_config_from_args(training_args(accelerator="auto", device="cuda"))
    assert config.accelerator == "gpu"


def test_the_older_way_to_log_nothing():
    with pytest.warns(DeprecationWarning, match="--disable_mlflow"):
        config = build_execution_config_from_args(training_args(disable_mlflow=True))
    assert config.logger_backend is None


def test_flags_that_are_spelled_otherwise_than_their_field():
    config = build_execution_config_from_args(
        training_args(logger="tensorboard", accumulate_grad_batches=4, checkpoint_monitor="train_loss", strategy=None)
    )
    assert (config.logger_backend, config.accum_steps) == ("tensorboard", 4)
    assert config.checkpoint_monitor_metric == "train_loss" and config.strategy == "auto"
    assert build_execution_config_from_args(training_args(logger="none")).logger_backend is None


@pytest.mark.parametrize("size", [32, 64, None])
def test_inference_arguments(size):
    args = inference_args(num_workers=2, inference_batch_size=size, quiet=True)
    config = build_execution_config_from_args(args, mode="inference")
    assert (config.accelerator, config.num_workers, config.inference_batch_size) == ("cpu", 2, size)
    assert config.enable_progress_bar is False


def test_a_mode_that_is_unknown():
    args = argparse.Namespace(accelerator="cpu", device=None, num_workers=0)
    with pytest.raises(ValueError, match="Invalid mode: foo"):
        build_execution_config_from_args(args, mode="foo")


# ---------------------------------------------------------------------- paths


def test_paths_are_checked_and_the_folder_is_made(tmp_path):
    file, out = tmp_path / "a.npz", tmp_path / "new" / "deeper"
    file.touch()
    validate_paths(file, None, out)
    assert out.is_dir()
    validate_paths(None, file, out)
    for train, test, text in ((tmp_path / "no", None, "Training"), (file, tmp_path / "no", "Test")):
        with pytest.raises(FileNotFoundError, match=f"{text} data file not found: .*no"):
            validate_paths(train, test, tmp_path / "never")
    assert not (tmp_path / "never").exists()
    with pytest.raises(OutputError, match="cannot be used"):
        validate_paths(None, None, file / "below")
