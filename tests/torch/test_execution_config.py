"""PyTorchExecutionConfig: defaults, resolution of the device, validation, representation, change by replace."""

import copy
import dataclasses
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ptycho.config.config import PyTorchExecutionConfig

ROOT = Path(__file__).resolve().parents[2]


def with_cuda(monkeypatch, available):
    """Make `import torch` give a stub that has, or has not, a CUDA device."""
    stub = SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: available))
    monkeypatch.setitem(sys.modules, "torch", stub)


def cpu(**fields):
    return PyTorchExecutionConfig(accelerator="cpu", **fields)


class TestDefaults:
    """What callers rely on when they state nothing."""

    def test_field_defaults(self):
        found = cpu()
        expected = {
            "devices": 1, "strategy": "auto", "deterministic": True, "precision": "32-true",
            "gradient_clip_val": None, "gradient_clip_algorithm": "norm", "accum_steps": 1, "num_workers": 0,
            "pin_memory": False, "persistent_workers": False, "prefetch_factor": None, "learning_rate": 1e-3,
            "scheduler": "Default", "enable_progress_bar": False, "enable_checkpointing": True,
            "checkpoint_save_top_k": 1, "checkpoint_monitor_metric": "val_loss", "checkpoint_mode": "min",
            "early_stop_patience": 100, "logger_backend": "csv", "recon_log_every_n_epochs": None,
            "recon_log_num_patches": 4, "recon_log_fixed_indices": None, "recon_log_stitch": False,
            "recon_log_max_stitch_samples": None, "inference_batch_size": None, "middle_trim": 0,
            "pad_eval": False,
        }  # fmt: skip
        assert {name: getattr(found, name) for name in expected} == expected

    def test_every_field_has_a_default(self):
        assert all(f.default is not dataclasses.MISSING for f in dataclasses.fields(PyTorchExecutionConfig))

    def test_auto_is_cuda_where_there_is_one(self, monkeypatch):
        with_cuda(monkeypatch, True)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert PyTorchExecutionConfig().accelerator == "cuda"

    def test_auto_is_the_cpu_elsewhere_with_one_warning(self, monkeypatch):
        with_cuda(monkeypatch, False)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            config = PyTorchExecutionConfig()
        assert config.accelerator == "cpu"
        assert len(seen) == 1 and seen[0].category is UserWarning
        assert "POLICY-001" in str(seen[0].message) and "No CUDA device detected" in str(seen[0].message)
        assert seen[0].filename == __file__, "the warning points at the caller"

    @pytest.mark.parametrize("accelerator", ["cpu", "gpu", "cuda", "mps"])
    def test_an_explicit_accelerator_is_kept(self, monkeypatch, accelerator):
        with_cuda(monkeypatch, False)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert PyTorchExecutionConfig(accelerator=accelerator).accelerator == accelerator

    def test_importing_it_imports_no_torch(self):
        code = (
            "import sys; from ptycho.config.config import PyTorchExecutionConfig as C; C(accelerator='cpu'); "
            "assert 'torch' not in sys.modules"
        )
        assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0

    def test_without_torch_the_error_says_what_to_do(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "torch", None)
        with pytest.raises(RuntimeError, match=r"POLICY-001.*pip install"):
            PyTorchExecutionConfig()


class TestValidation:
    """A value that cannot work is refused on construction, by the name of its field."""

    @pytest.mark.parametrize("value", [0, -1, "gpu", "1", 1.5, True, None])
    def test_bad_devices(self, value):
        with pytest.raises(ValueError, match="devices"):
            cpu(devices=value)

    @pytest.mark.parametrize("value", [1, 3, "auto"])
    def test_good_devices(self, value):
        assert cpu(devices=value).devices == value

    @pytest.mark.parametrize("value", ["32", "16", "bf16", "16-true", "32-mixed", "fp12", None, ["32-true"]])
    def test_bad_precision(self, value):
        with pytest.raises(ValueError, match="precision"):
            cpu(precision=value)

    @pytest.mark.parametrize("value", ["32-true", "16-mixed", "bf16-mixed"])
    def test_good_precision(self, value):
        assert cpu(precision=value).precision == value

    def test_tpu(self):
        with pytest.raises(ValueError, match=r"Torch-XLA.*TPU.*unsupported"):
            PyTorchExecutionConfig(accelerator="tpu")

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"accelerator": "npu"}, "Invalid accelerator: 'npu'. Expected one of"),
            ({"num_workers": -1}, "num_workers must be non-negative"),
            ({"learning_rate": 0.0}, "learning_rate must be positive"),
            ({"inference_batch_size": 0}, "inference_batch_size must be positive"),
            ({"accum_steps": 0}, "accum_steps must be positive"),
            ({"checkpoint_save_top_k": -1}, "checkpoint_save_top_k must be non-negative"),
            ({"early_stop_patience": 0}, "early_stop_patience must be positive"),
            ({"checkpoint_mode": "best"}, "Invalid checkpoint_mode: 'best'"),
            ({"scheduler": "Step"}, "Invalid scheduler: 'Step'"),
            ({"gradient_clip_algorithm": "l1"}, "Invalid gradient_clip_algorithm: 'l1'"),
            ({"logger_backend": "wandb"}, "Invalid logger_backend: 'wandb'"),
        ],
    )
    def test_messages(self, fields, message):
        with pytest.raises(ValueError) as caught:
            PyTorchExecutionConfig(**{"accelerator": "cpu", **fields})
        assert message in str(caught.value)

    def test_a_switch_is_true_or_false(self):
        with pytest.raises(ValueError, match=r"pin_memory must be True or False, found 'no'"):
            PyTorchExecutionConfig(pin_memory="no")
        assert PyTorchExecutionConfig(pin_memory=np.True_).pin_memory

    def test_replace_validates_too(self):
        with pytest.raises(ValueError, match="accum_steps"):
            dataclasses.replace(cpu(), accum_steps=-2)


class TestRepr:
    """Short, complete where it differs from the defaults, and Python."""

    def test_defaults_are_short(self):
        assert repr(cpu()) == (
            "PyTorchExecutionConfig(accelerator='cpu', devices=1, deterministic=True, precision='32-true')"
        )

    def test_what_differs_is_shown_and_evaluates(self):
        config = cpu(num_workers=4, scheduler="Cosine", recon_log_fixed_indices=[1, 2])
        assert "num_workers=4" in repr(config) and "scheduler='Cosine'" in repr(config)
        assert eval(repr(config)) == config


class TestReplace:
    """A config is changed by making another one."""

    def test_the_original_stays(self):
        first = cpu(num_workers=2)
        second = dataclasses.replace(first, learning_rate=1e-4)
        assert (first.learning_rate, second.learning_rate, second.num_workers) == (1e-3, 1e-4, 2)

    def test_set_fields_tells_stated_from_resolved(self, monkeypatch):
        with_cuda(monkeypatch, True)
        assert PyTorchExecutionConfig(num_workers=2).set_fields() == {"num_workers": 2}
        assert copy.copy(PyTorchExecutionConfig()).set_fields() == {}
        assert PyTorchExecutionConfig(accelerator="cuda").set_fields() == {"accelerator": "cuda"}
