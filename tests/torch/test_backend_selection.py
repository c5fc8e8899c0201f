"""Which backend runs, and what callers are told when it cannot."""

import builtins
import warnings
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ptycho import params
from ptycho.config.config import InferenceConfig, ModelConfig, PyTorchExecutionConfig, TrainingConfig
from ptycho.model_manager import save_archive
from ptycho.workflows import backend_selector
from ptycho.workflows import components as neutral
from ptycho_torch.workflows import components


@pytest.fixture
def torch_run(monkeypatch):
    """Stands in for the PyTorch workflow; says what it was called with."""
    calls = []

    def run(*args, **arguments):
        calls.append((args, arguments))
        return None, None, {"history": {}}

    monkeypatch.setattr(components, "run_cdi_example_torch", run)
    return calls


def config(**fields):
    return TrainingConfig(ModelConfig(N=64, gridsize=2), **fields)


def test_pytorch_is_the_default_and_the_field_is_in_both():
    assert config().backend == "pytorch" == InferenceConfig(ModelConfig(), Path(), Path()).backend
    assert config(backend="tensorflow").backend == "tensorflow"
    differences = {k for k, v in vars(config()).items() if vars(config(backend="tensorflow"))[k] != v}
    assert differences == {"backend"}


def test_the_backend_is_registered_as_an_entry_point():
    found = [p for p in metadata.entry_points(group=backend_selector.ENTRY_POINT_GROUP) if p.name == "pytorch"]
    assert len(found) == 1 and isinstance(found[0].load()(), backend_selector.PytorchBackend)


def test_pytorch_runs_after_the_legacy_dictionary_was_filled_once(torch_run, monkeypatch):
    updates = []
    monkeypatch.setattr(backend_selector, "update_legacy_dict", lambda *args: updates.append(args))
    wanted = config()
    execution = PyTorchExecutionConfig(accelerator="cpu")
    amplitude, phase, results = backend_selector.run_cdi_example_with_backend(
        "train", "test", wanted, M=12, do_stitching=True, torch_execution_config=execution
    )
    assert updates == [(params.cfg, wanted)]
    assert amplitude is None and phase is None and results == {"history": {}, "backend": "pytorch"}
    (args, arguments) = torch_run[0]
    assert args == ("train", "test", wanted) and arguments["execution_config"] is execution
    assert (arguments["M"], arguments["do_stitching"], arguments["flip_x"]) == (12, True, False)


@pytest.mark.parametrize("cuda", [True, False])
def test_an_execution_config_is_made_where_none_is_given(torch_run, monkeypatch, cuda):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        backend_selector.run_cdi_example_with_backend(None, None, config(), torch_execution_config=None)
    assert torch_run[0][1]["execution_config"].accelerator == ("cuda" if cuda else "cpu")
    assert len(told) == (0 if cuda else 1)
    assert cuda or ("POLICY-001" in str(told[0].message) and "No CUDA device detected" in str(told[0].message))


def test_torch_that_cannot_be_imported(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **more):
        if "ptycho_torch.workflows" in name:
            raise ImportError(f"No module named {name!r}")
        return real(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(RuntimeError) as caught:
        backend_selector.run_cdi_example_with_backend(None, None, config())
    text = str(caught.value).lower()
    assert "pytorch" in text and "unavailable" in text and "pip install" in text


def test_other_backends():
    with pytest.raises(ValueError, match="Invalid backend: 'jax'"):
        backend_selector.run_cdi_example_with_backend(None, None, config(backend="jax"))
    with pytest.raises(RuntimeError, match=r"'tensorflow' is not installed.*ptychopinn\.backends.*backend='pytorch'"):
        backend_selector.run_cdi_example_with_backend(None, None, config(backend="tensorflow"))


def test_a_provider_of_another_package_is_found(monkeypatch):
    class Provider:
        def run_cdi_example(self, train_data, test_data, config, **options):
            return np.ones(2), np.zeros(2), {"seen": options["execution_config"]}

        def train_cdi_model(self, train_data, test_data, config, execution_config=None):
            return {"trained": True}

    found = SimpleNamespace(load=lambda: Provider)
    monkeypatch.setattr(metadata, "entry_points", lambda group, name: [found] if name == "tensorflow" else [])
    amplitude, _, results = neutral.run_cdi_example(None, None, config(backend="tensorflow"))
    assert amplitude.tolist() == [1, 1] and results == {"seen": None, "backend": "tensorflow"}
    trained = neutral.train_cdi_model(None, None, config(backend="tensorflow"))
    assert trained == {"trained": True, "backend": "tensorflow"}


def test_the_archive_says_which_backend_loads_it(tmp_path, monkeypatch):
    save_archive(tmp_path / "wts.h5.zip", {}, {}, "tensorflow")
    with pytest.raises(ValueError, match="found a model of backend 'tensorflow', the configuration says 'pytorch'"):
        backend_selector.load_inference_bundle_with_backend(tmp_path, config())
    with pytest.raises(RuntimeError, match="'tensorflow' is not installed"):
        neutral.load_inference_bundle(tmp_path)
    with pytest.raises(FileNotFoundError, match="Model archive not found"):
        neutral.load_inference_bundle(tmp_path / "none")


def test_outputs(tmp_path, caplog):
    neutral.save_outputs(None, None, {}, tmp_path / "none")
    assert not (tmp_path / "none").exists()
    rng = np.random.default_rng(0)
    amplitude, phase = rng.uniform(0.5, 1, (9, 7)), rng.uniform(-1, 1, (9, 7))
    neutral.save_outputs(amplitude, phase, {"history": {}}, str(tmp_path / "out"))
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names == ["reconstructed_amplitude.png", "reconstructed_object.npz", "reconstructed_phase.png"]
    with np.load(tmp_path / "out" / "reconstructed_object.npz") as found:
        np.testing.assert_allclose(found["object"], amplitude * np.exp(1j * phase), rtol=1e-6)


def test_the_flags_of_the_older_command_by_their_fields(capsys):
    args = neutral.parse_arguments(["--train_data_file", "scan.npz", "--n_groups", "12"])
    assert (str(args.train_data_file), args.n_groups, args.batch_size) == ("scan.npz", 12, 16)
    with pytest.raises(SystemExit) as stopped:
        neutral.parse_arguments(["--no-such-flag"])
    assert stopped.value.code and "--no-such-flag" in capsys.readouterr().err
