"""Public configuration: defaults, mutability, validation, the legacy dictionary, YAML, light imports."""

import copy
import dataclasses
import subprocess
import sys
import types
import warnings
from pathlib import Path

import pytest

from ptycho import params
from ptycho.config import config as public
from ptycho.config.config import (
    KEY_MAPPINGS,
    InferenceConfig,
    ModelConfig,
    PyTorchExecutionConfig,
    TrainingConfig,
    dataclass_to_legacy_dict,
    load_yaml_config,
    update_legacy_dict,
    validate_inference_config,
    validate_model_config,
    validate_training_config,
)
from ptycho.errors import InputError, MissingFileError


def torch_stub(cuda):
    stub = types.ModuleType("torch")
    stub.cuda = types.SimpleNamespace(is_available=lambda: cuda)
    return stub


# ---- execution config


def test_auto_resolves_to_cuda_where_there_is_one(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", torch_stub(True))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config = PyTorchExecutionConfig()
    assert config.accelerator == "cuda"
    assert config.set_fields() == {}


def test_auto_without_cuda_gives_one_warning_that_points_here(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", torch_stub(False))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        config = PyTorchExecutionConfig()
    assert config.accelerator == "cpu"
    (warning,) = seen
    assert warning.category is UserWarning
    assert "POLICY-001" in str(warning.message) and "No CUDA device detected" in str(warning.message)
    assert Path(warning.filename).name == Path(__file__).name


def test_auto_without_torch_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(RuntimeError, match=r"POLICY-001.*pip install"):
        PyTorchExecutionConfig()
    assert PyTorchExecutionConfig(accelerator="cpu").accelerator == "cpu"


@pytest.mark.parametrize("accelerator", ["cpu", "gpu", "cuda", "mps"])
def test_explicit_accelerators_are_kept_without_torch(monkeypatch, accelerator):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert PyTorchExecutionConfig(accelerator=accelerator).accelerator == accelerator


def test_execution_defaults():
    config = PyTorchExecutionConfig(accelerator="cpu")
    expected = {
        "devices": 1,
        "strategy": "auto",
        "deterministic": True,
        "precision": "32-true",
        "gradient_clip_val": None,
        "gradient_clip_algorithm": "norm",
        "accum_steps": 1,
        "num_workers": 0,
        "pin_memory": False,
        "persistent_workers": False,
        "prefetch_factor": None,
        "learning_rate": 1e-3,
        "scheduler": "Default",
        "enable_progress_bar": False,
        "enable_checkpointing": True,
        "checkpoint_save_top_k": 1,
        "checkpoint_monitor_metric": "val_loss",
        "checkpoint_mode": "min",
        "early_stop_patience": 100,
        "logger_backend": "csv",
        "recon_log_every_n_epochs": None,
        "recon_log_num_patches": 4,
        "recon_log_fixed_indices": None,
        "recon_log_stitch": False,
        "recon_log_max_stitch_samples": None,
        "inference_batch_size": None,
        "middle_trim": 0,
        "pad_eval": False,
        "compile": False,
    }
    found = dataclasses.asdict(config)
    del found["accelerator"]
    assert found == expected


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("devices", v) for v in (0, -1, "gpu", "1", 1.5, True, None)],
        *[("precision", v) for v in ("32", "16", "bf16", "16-true", "32-mixed", "fp12", None, ["32-true"])],
        ("accelerator", "npu"),
        ("accelerator", None),
        ("deterministic", "no"),
        ("deterministic", 1),
        ("num_workers", -1),
        ("learning_rate", 0),
        ("learning_rate", float("nan")),
        ("inference_batch_size", 0),
        ("accum_steps", 0),
        ("checkpoint_save_top_k", -1),
        ("early_stop_patience", 0),
        ("checkpoint_mode", "best"),
        ("scheduler", "Linear"),
        ("gradient_clip_algorithm", "l1"),
        ("gradient_clip_val", -1.0),
        ("logger_backend", "wandb"),
        ("prefetch_factor", 0),
        ("middle_trim", -1),
        ("recon_log_every_n_epochs", 0),
        ("recon_log_fixed_indices", [0, -2]),
        ("strategy", ""),
    ],
)
def test_bad_execution_values_name_their_field(field, value):
    with pytest.raises(ValueError, match=field):
        PyTorchExecutionConfig(**{"accelerator": "cpu", field: value})


def test_tpu_is_refused_by_name():
    with pytest.raises(ValueError, match=r"Torch-XLA.*TPU.*unsupported"):
        PyTorchExecutionConfig(accelerator="tpu")


@pytest.mark.parametrize(
    ("field", "value"),
    [("devices", 3), ("devices", "auto"), ("precision", "bf16-mixed"), ("deterministic", "warn"),
     ("gradient_clip_val", 0.0), ("inference_batch_size", 8), ("scheduler", "Cosine")],
)  # fmt: skip
def test_good_execution_values_are_kept_and_shown(field, value):
    config = dataclasses.replace(PyTorchExecutionConfig(accelerator="cpu"), **{field: value})
    assert getattr(config, field) == value
    assert config.set_fields() == {"accelerator": "cpu", field: value}
    assert f"{field}={value!r}" in repr(config)
    assert eval(repr(config)) == config


def test_no_logger_has_two_spellings():
    assert PyTorchExecutionConfig(accelerator="cpu", logger_backend="none").logger_backend is None
    assert PyTorchExecutionConfig(accelerator="cpu", logger_backend=None).logger_backend is None


def test_copies_remember_that_the_accelerator_was_not_chosen(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", torch_stub(True))
    config = PyTorchExecutionConfig()
    assert copy.copy(config).set_fields() == copy.deepcopy(config).set_fields() == {}


# ---- the three configs


def test_defaults_pass_their_validators():
    validate_model_config(ModelConfig())
    validate_training_config(TrainingConfig(ModelConfig()))
    assert ModelConfig().architecture == "projection_unet"
    assert TrainingConfig(ModelConfig()).backend == "pytorch"
    assert TrainingConfig(ModelConfig()).n_groups is None


def test_placeholders_construct_and_can_be_filled_in():
    config = TrainingConfig(
        model=ModelConfig(N=0, architecture="unknown", amp_activation="silu", n_filters_scale=1.0),
        train_data_file=Path(),
        nepochs=0,
        output_dir=Path(),
    )
    config.model.N = 64
    config.output_dir = Path("elsewhere")
    assert config.model.N == 64
    InferenceConfig(model=ModelConfig(N=4), model_path=Path(), test_data_file=Path())


def test_ptychodus_keywords_are_all_there():
    model = ModelConfig(
        N=0, gridsize=1, n_filters_scale=2, model_type="pinn", amp_activation="swish", object_big=True,
        probe_big=True, probe_mask=False, pad_object=True, probe_scale=4.0, gaussian_smoothing_sigma=0.0,
    )  # fmt: skip
    training = TrainingConfig(
        model=model, train_data_file=Path(), test_data_file=None, batch_size=16, nepochs=50, mae_weight=0.0,
        nll_weight=1.0, realspace_mae_weight=0.0, realspace_weight=0.0, nphotons=1e6, positions_provided=True,
        probe_trainable=False, intensity_scale_trainable=True, output_dir=Path(),
    )  # fmt: skip
    inference = InferenceConfig(model=model, model_path=Path(), test_data_file=Path(), debug=True, output_dir=Path())
    assert training.nphotons == 1e6 and inference.debug is True and model.amp_activation == "swish"
    model.N = 64  # as ptychodus does once it has seen the frames
    assert training.model.N == inference.model.N == 64


def test_n_images_is_a_deprecated_alias():
    with pytest.warns(DeprecationWarning, match="n_groups"):
        config = TrainingConfig(ModelConfig(), n_images=7)
    assert (config.n_groups, config.n_images) == (7, 7)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert TrainingConfig(ModelConfig(), n_images=7, n_groups=3).n_groups == 3


@pytest.mark.parametrize(
    ("field", "value"),
    [("architecture", "fno"), ("architecture", []), ("model_type", "PINN"), ("N", 0), ("gridsize", 0),
     ("gridsize", 1.5), ("n_filters_scale", 0), ("probe_scale", -1), ("gaussian_smoothing_sigma", -0.1),
     ("amp_activation", "gelu"), ("merge_block", 0), ("stages", 0), ("projection_steps", 0),
     ("probe_mask_diameter", 0)],
)  # fmt: skip
def test_bad_model_values_are_refused(field, value):
    with pytest.raises(ValueError, match=field):
        validate_model_config(ModelConfig(**{field: value}))


def test_other_code_can_register_architectures():
    validate_model_config(ModelConfig(architecture="mine"), architectures=("cnn", "mine"))
    with pytest.raises(ValueError, match="mine"):
        validate_model_config(ModelConfig(architecture="mine"))


@pytest.mark.parametrize(
    ("field", "value"),
    [("batch_size", 0), ("nepochs", -1), ("mae_weight", 1.5), ("nll_weight", -0.1), ("nphotons", 0),
     ("backend", "jax"), ("torch_loss_mode", "nll"), ("optimizer", "lion"), ("scheduler", "Step"),
     ("n_groups", 0), ("neighbor_count", 0), ("measurement_domain", "flux"), ("val_fraction", 1.0),
     ("max_time_s", 0), ("seed", -1), ("calibration_epochs", -1), ("gradient_clip_algorithm", "x"),
     ("adam_beta1", 2.0)],
)  # fmt: skip
def test_bad_training_values_are_refused(field, value):
    with pytest.raises(ValueError, match=field):
        validate_training_config(TrainingConfig(ModelConfig(), **{field: value}))


def test_inference_needs_an_archive(tmp_path):
    def config(path):
        return InferenceConfig(ModelConfig(), path, Path())

    with pytest.raises(ValueError, match="Model archive not found"):
        validate_inference_config(config(tmp_path))
    with pytest.raises(ValueError, match="Model archive not found"):
        validate_inference_config(config(tmp_path / "missing"))
    (tmp_path / "wts.h5.zip").touch()
    for path in (tmp_path, tmp_path / "wts.h5.zip", tmp_path / "wts.h5"):
        validate_inference_config(config(path))
    # a model that was trained with a setting without effect is still a model
    validate_inference_config(InferenceConfig(ModelConfig(later_projection_steps=5), tmp_path, Path()))


# ---- legacy dictionary


def test_flattening_renames_and_stringifies():
    config = TrainingConfig(ModelConfig(N=128, gridsize=2), train_data_file=Path("a/train.npz"))
    flat = dataclass_to_legacy_dict(config)
    assert flat["N"] == 128 and flat["gridsize"] == 2 and "model" not in flat
    assert flat["train_data_file_path"] == str(Path("a/train.npz"))
    assert flat["output_prefix"] == "training_outputs"
    assert flat["test_data_file_path"] is None
    assert not set(KEY_MAPPINGS) & set(flat)
    assert set(KEY_MAPPINGS.values()) <= set(flat)
    inference = dataclass_to_legacy_dict(InferenceConfig(ModelConfig(), Path("m"), Path("t.npz")))
    assert inference["model_path"] == "m"


def test_update_skips_none_and_keeps_the_same_dictionary():
    params.cfg["n_groups"] = 33
    held = params.cfg
    config = TrainingConfig(ModelConfig(N=64, gridsize=2))
    update_legacy_dict(params.cfg, config)
    update_legacy_dict(params.cfg, config)
    assert held is params.cfg and held["N"] == 64 and held["n_groups"] == 33
    assert not any(isinstance(v, Path) for v in held.values())


def test_update_takes_any_dataclass_but_not_the_execution_config():
    @dataclasses.dataclass
    class Other:
        epochs: int = 3
        folder: Path = Path("x")
        nothing: None = None

    cfg = {}
    update_legacy_dict(cfg, Other())
    assert cfg == {"epochs": 3, "folder": "x"}
    with pytest.raises(TypeError, match="CONFIG-002"):
        update_legacy_dict(cfg, PyTorchExecutionConfig(accelerator="cpu"))
    with pytest.raises(TypeError, match="dataclass"):
        update_legacy_dict(cfg, {"N": 64})


def test_params_get_set_and_seal(caplog):
    with pytest.raises(KeyError):
        params.get("intensity_scale")
    assert params.get("intensity_scale", 2.0) == 2.0
    params.cfg.clear()
    assert params.get("gridsize") == 2 and params.get("bigN") == 132
    params.seal()
    params.set("intensity_scale", 1.0)
    assert "post-seal" not in caplog.text
    params.set("N", 64)
    assert "post-seal" in caplog.text and Path(__file__).name in caplog.text
    assert params.get("N") == 64
    with pytest.raises(AssertionError, match="data_source"):
        params.set("data_source", "nowhere")


# ---- YAML, imports


def test_yaml(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("nepochs: 3\nmodel:\n  N: 64\n")
    assert load_yaml_config(file) == {"nepochs": 3, "model": {"N": 64}}
    file.write_text("")
    assert load_yaml_config(file) == {}
    for text in ("a: [1", "- 1\n- 2\n", "!!python/object/apply:os.getcwd []"):
        file.write_text(text)
        with pytest.raises(InputError, match=r"c\.yaml"):
            load_yaml_config(file)
    with pytest.raises(MissingFileError):
        load_yaml_config(tmp_path / "none.yaml")


def test_public_names_are_the_documented_ones():
    assert all(hasattr(public, name) for name in public.__all__)
    assert {"PyTorchExecutionConfig", "update_legacy_dict", "ModelConfig"} <= set(public.__all__)


def test_configuration_imports_nothing_heavy():
    code = (
        "import sys; import ptycho.config.config, ptycho.params; "
        "bad = {'torch', 'lightning', 'matplotlib', 'numpy', 'scipy', 'h5py', 'yaml'} & set(sys.modules); "
        "assert not bad, bad; "
        "import ptycho.raw_data, ptycho.io.registry, ptycho.io.reconstruction_files, ptycho.cropping; "
        "bad = {'torch', 'lightning', 'matplotlib', 'h5py', 'scipy'} & set(sys.modules); assert not bad, bad"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[1])
    assert done.returncode == 0
