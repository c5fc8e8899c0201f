"""`python -m ptycho_torch.inference`: what its flags reach, the two helpers, what it writes."""

from types import SimpleNamespace
from unittest.mock import MagicMock, call

import numpy as np
import pytest
import torch
from entry_points import call as run
from small_scans import small_scan

from ptycho.config.config import InferenceConfig, ModelConfig, PyTorchExecutionConfig
from ptycho.errors import InputError
from ptycho.io.reconstruction_files import load_any
from ptycho.raw_data import RawData
from ptycho_torch import config_factory, inference
from ptycho_torch.cli import shared
from ptycho_torch.inference import _run_inference_and_reconstruct, save_individual_reconstructions
from ptycho_torch.model import PtychoPINN_Lightning
from ptycho_torch.workflows import components, reconstruct


@pytest.fixture
def minimal(model_folder, tmp_path):
    """As short as older scripts are; the archive has zero bytes."""
    scan = tmp_path / "test.npz"
    small_scan(12).to_file(scan)
    return ["--model_path", model_folder, "--test_data", scan, "--output_dir", tmp_path / "inference_outputs",
            "--n_images", 32]  # fmt: skip


@pytest.fixture
def factory(monkeypatch):
    """Stands in the factory's place and remembers its keywords."""
    asked = {}

    def create_inference_payload(**keywords):
        asked.update(keywords)
        payload = MagicMock()
        payload.execution_config.accelerator = "cpu"
        payload.tf_inference_config.n_groups = 32
        return payload

    monkeypatch.setattr(config_factory, "create_inference_payload", create_inference_payload)
    return asked


# ---------------------------------------------------------------------- flags


@pytest.mark.parametrize(
    ("flags", "field", "value"),
    [
        ("--accelerator cpu", "accelerator", "cpu"),
        ("--accelerator gpu", "accelerator", "gpu"),
        ("--num-workers 4", "num_workers", 4),
        ("--inference-batch-size 32", "inference_batch_size", 32),
        ("--torch-inference-batch-size 32", "inference_batch_size", 32),
        ("", "inference_batch_size", None),
        ("--quiet", "enable_progress_bar", False),
        ("", "enable_progress_bar", True),
    ],
)
def test_flags_reach_the_execution_config(minimal, factory, monkeypatch, model_folder, flags, field, value):
    """There is no model in the archive: after the factory the run fails, and SystemExit is all that may come of it."""
    assert run(inference, monkeypatch, *minimal, *flags.split()) == 1
    assert getattr(factory["execution_config"], field) == value
    assert set(factory) == {"model_path", "test_data_file", "output_dir", "overrides", "execution_config"}
    assert factory["model_path"] == model_folder and factory["test_data_file"] == minimal[3]


def test_flags_reach_the_overrides(minimal, factory, monkeypatch):
    flags = "--patch-weighting probe --varpro-scaling --log-patch-stats --patch-stats-limit 2 --probe-mask-sigma 3"
    run(inference, monkeypatch, *minimal, *flags.split())
    assert factory["overrides"] == {
        "n_groups": 32, "patch_weighting": "probe", "varpro_scaling": True, "probe_mask_sigma": 3.0,
        "log_patch_stats": True, "patch_stats_limit": 2,
    }  # fmt: skip
    run(inference, monkeypatch, *minimal[:-2])
    assert factory["overrides"] == {"n_groups": "all", "log_patch_stats": False, "patch_stats_limit": None}


def test_the_older_device_warns(minimal, factory, monkeypatch):
    with pytest.warns(DeprecationWarning, match="--device is deprecated"):
        run(inference, monkeypatch, *minimal, "--device", "cpu")
    assert factory["execution_config"].accelerator == "cpu"


# ---------------------------------------------------------------------- delegation


def test_the_helpers_are_reached(minimal, factory, monkeypatch, tmp_path):
    """With objects of which every attribute is there and true, the default flags take the plain way."""
    calls = MagicMock()
    images = np.ones((4, 4)), np.zeros((4, 4))
    calls.reconstruct.return_value = images
    calls.load.return_value = ({"diffraction_to_obj": MagicMock()}, {})
    monkeypatch.setattr(shared, "validate_paths", calls.validate)
    monkeypatch.setattr(RawData, "from_file", calls.from_file)
    monkeypatch.setattr(components, "load_inference_bundle_torch", calls.load)
    monkeypatch.setattr(inference, "_run_inference_and_reconstruct", calls.reconstruct)
    monkeypatch.setattr(inference, "save_individual_reconstructions", calls.save)
    assert run(inference, monkeypatch, *minimal, "--accelerator", "cpu", "--quiet") == 0
    scan, out = tmp_path / "test.npz", tmp_path / "inference_outputs"
    assert calls.validate.call_args == call(train_file=None, test_file=scan, output_dir=out)
    assert calls.from_file.call_args == call(scan)
    args, keywords = calls.reconstruct.call_args
    assert args == () and set(keywords) == {"model", "raw_data", "config", "execution_config", "device", "quiet"}
    assert keywords["model"] is calls.load.return_value[0]["diffraction_to_obj"]
    assert keywords["raw_data"] is calls.from_file.return_value and keywords["config"].n_groups == 32
    assert keywords["execution_config"].accelerator == keywords["device"] == "cpu" and keywords["quiet"] is True
    assert calls.save.call_args == call(*images, out) and calls.save.call_count == calls.reconstruct.call_count == 1


# ---------------------------------------------------------------------- the two helpers


@pytest.fixture
def trained():
    raw = small_scan(12)
    torch.manual_seed(0)
    module = PtychoPINN_Lightning(data_config={"N": 32}, model_config={"stages": 1, "projection_steps": 2})
    module.set_illumination(raw.probe, raw.probe, raw.good_pixels, raw.mean_counts_per_frame(), raw.measurement_domain)
    return module, raw


def inference_config():
    return InferenceConfig(ModelConfig(N=32), "model", "scan.npz")


def test_our_module_streams_the_scan(trained):
    module, raw = trained
    module.train()
    execution = PyTorchExecutionConfig(accelerator="cpu", inference_batch_size=5)
    amplitude, phase = _run_inference_and_reconstruct(module, raw, inference_config(), execution, "cpu", quiet=True)
    expected = reconstruct.infer_with(module, raw, execution).result.object
    np.testing.assert_allclose(amplitude * np.exp(1j * phase), expected, atol=1e-6)
    assert not module.training and amplitude.ndim == 2


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_model_is_moved_and_then_put_into_evaluation(device, monkeypatch):
    model, images = MagicMock(), (np.ones((2, 2)), np.zeros((2, 2)), {})
    asked = {}
    monkeypatch.setattr(
        components, "_reassemble_cdi_image_torch", lambda *args, **more: asked.update(more) or images
    )  # fmt: skip
    execution = PyTorchExecutionConfig(accelerator="cpu")
    found = _run_inference_and_reconstruct(model, MagicMock(), MagicMock(), execution, device, quiet=True)
    assert model.method_calls[:2] == [call.to(device), call.eval()]
    assert found[0] is images[0] and found[1] is images[1]
    assert asked["train_results"]["models"]["diffraction_to_obj"] is model


def test_what_a_reader_should_know_is_in_the_log(trained, caplog):
    module, raw = trained
    execution = PyTorchExecutionConfig(accelerator="cpu", num_workers=2)
    with caplog.at_level("INFO", "ptycho_torch.inference"):
        _run_inference_and_reconstruct(module, raw, inference_config(), execution, "cpu", quiet=True)
        assert caplog.messages == []
        _run_inference_and_reconstruct(module, raw, inference_config(), execution, "cpu")
    assert "num_workers=2 has no effect: the frames are streamed." in caplog.messages
    assert any("training guess" in message for message in caplog.messages)


class Foreign(torch.nn.Module):
    """A network that is not ours: its patches are a constant."""

    def forward_predict(self, x, positions, probe, input_scale_factor):
        return torch.full(x.shape, 0.5j, dtype=torch.complex64)


def test_another_module_is_asked_for_patches():
    raw = small_scan(12)
    execution = PyTorchExecutionConfig(accelerator="cpu")
    amplitude, phase = _run_inference_and_reconstruct(Foreign(), raw, inference_config(), execution, "cpu")
    middle = tuple(slice(side // 2 - 4, side // 2 + 4) for side in amplitude.shape)
    np.testing.assert_allclose(amplitude[middle], 0.5, atol=1e-3)
    np.testing.assert_allclose(phase[middle], np.pi / 2, atol=1e-3)


def test_a_module_that_cannot_predict():
    execution = PyTorchExecutionConfig(accelerator="cpu")
    with pytest.raises(InputError, match=r"type Linear, expected one with forward_predict"):
        _run_inference_and_reconstruct(torch.nn.Linear(2, 2), small_scan(12), inference_config(), execution, "cpu")


def test_what_is_saved(tmp_path, rng):
    amplitude, phase = 1 + 0.1 * rng.random((40, 30)), rng.normal(size=(40, 30))
    amplitude[:5], phase[:5] = 1, 0
    save_individual_reconstructions(amplitude, phase, tmp_path / "new" / "out")
    assert sorted(p.name for p in (tmp_path / "new" / "out").iterdir()) == [
        "reconstructed_amplitude.png", "reconstructed_object.npz", "reconstructed_phase.png",
    ]  # fmt: skip
    for name in ("amplitude", "phase"):
        picture = (tmp_path / "new" / "out" / f"reconstructed_{name}.png").read_bytes()
        assert picture.startswith(b"\x89PNG") and len(picture) > 1000
    saved = load_any(tmp_path / "new" / "out" / "reconstructed_object.npz").object
    np.testing.assert_allclose(saved, amplitude * np.exp(1j * phase), atol=1e-6)


@pytest.mark.parametrize("shapes", [((4, 4), (4, 5)), ((2, 4, 4), (2, 4, 4))])
def test_images_that_do_not_fit(tmp_path, shapes):
    with pytest.raises(InputError, match=r"expected two arrays \(H, W\)"):
        save_individual_reconstructions(np.ones(shapes[0]), np.ones(shapes[1]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------- mistakes, the file, the dry run


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"--model_path": None}, "--model_path is missing"),
        ({"--test_data": None}, "--test_data is missing"),
        ({"--output_dir": None}, "--output_dir"),
        ({"--test_data": "no.npz"}, "Test data file not found: no.npz"),
        ({"--model_path": "nowhere"}, "Model path not found: nowhere"),
        ({"--model_path": "."}, "Model archive not found"),
        ({"--accelerator": "tpu"}, "--accelerator"),
        ({"--n_images": "0"}, "--n_images"),
        ({}, "wts.h5.zip"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_1(minimal, monkeypatch, tmp_path, capsys, changes, text):
    monkeypatch.chdir(tmp_path)
    flags = dict(zip(minimal[::2], minimal[1::2], strict=True)) | changes
    assert run(inference, monkeypatch, *(part for f, v in flags.items() if v is not None for part in (f, v))) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("Error: ") == 1 and "Traceback" not in said.err
    assert text in said.err and not (tmp_path / "inference_outputs").exists()


def test_a_file_and_the_dry_run(minimal, monkeypatch, tmp_path, capsys):
    path = tmp_path / "run.yaml"
    path.write_text(f"model_path: {minimal[1]}\ninference_batch_size: 4\naccelerator: cpu\nlog_patch_stats: true\n")
    before = sorted(tmp_path.rglob("*"))
    assert run(inference, monkeypatch, *minimal[2:], "--config", path, "--accelerator", "gpu", "--dry-run") == 0
    said = capsys.readouterr().out
    rows = {line.split()[0]: line.split()[1:] for line in said.splitlines() if line.startswith("  ")}
    assert rows["model_path"] == [str(minimal[1]), "file"] and rows["test_data"] == [str(minimal[3]), "flag"]
    assert rows["accelerator"] == ["gpu", "flag"] and rows["inference_batch_size"] == ["4", "file"]
    assert rows["n_groups"] == ["32", "flag"] and "Note: n_groups=32 has no effect" in said
    assert sorted(tmp_path.rglob("*")) == before


def test_a_note_about_what_has_no_effect(minimal, monkeypatch, capsys):
    made = SimpleNamespace(
        overrides_applied={"superseded": ["n_groups=32 has no effect: inference uses every frame once."]},
        execution_config=PyTorchExecutionConfig(accelerator="mps"), tf_inference_config=inference_config(),
    )  # fmt: skip
    seen = {}
    monkeypatch.setattr(config_factory, "create_inference_payload", lambda **_: made)
    monkeypatch.setattr(components, "load_inference_bundle_torch", lambda *_, **__: ({"diffraction_to_obj": 1}, {}))
    monkeypatch.setattr(
        inference, "_run_inference_and_reconstruct",
        lambda **keywords: seen.update(keywords) or (np.ones((8, 8)), np.zeros((8, 8))),
    )  # fmt: skip
    assert run(inference, monkeypatch, *minimal, "--accelerator", "cpu") == 0
    assert "n_groups=32 has no effect" in capsys.readouterr().err
    assert seen["device"] == "mps" and isinstance(seen["raw_data"], RawData)
