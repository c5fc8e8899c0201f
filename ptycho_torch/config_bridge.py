"""Between the public configuration and the backend's own, in both directions, with nothing lost on the way.

``to_*`` go from the backend's dataclasses to the public ones, ``create_*`` go back. Neither decides which settings
act; that is :mod:`ptycho_torch.settings`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from warnings import warn

from ptycho.config.config import InferenceConfig, ModelConfig, PyTorchExecutionConfig, TrainingConfig
from ptycho.errors import InputError
from ptycho_torch import config_params as torch_side
from ptycho_torch.config_params import NPHOTONS_UNSET, did_you_mean

ALL_GROUPS = "all"
"""Said for n_groups: every frame once per epoch. It is the public default None, in a word that can be stated."""

STREAMED_FRAMES = 256
"""Frames in memory at a time where the caller states no inference_batch_size."""

MODEL_TYPES = {"Unsupervised": "pinn", "Supervised": "supervised"}
LOSSES = {"poisson": "Poisson", "mae": "MAE"}
"""torch_loss_mode -> ModelConfig.loss_function of the backend."""
ACTIVATIONS = {
    "silu": "swish",
    "SiLU": "swish",
    "swish": "swish",
    "sigmoid": "sigmoid",
    "softplus": "softplus",
    "relu": "relu",
}
TWINS = ("scheduler", "gradient_clip_val", "gradient_clip_algorithm")
"""Fields that the public TrainingConfig and PyTorchExecutionConfig both have."""

Overrides = dict[str, Any] | None


def to_model_config(
    data: torch_side.DataConfig, model: torch_side.ModelConfig, overrides: Overrides = None
) -> ModelConfig:
    """The public ModelConfig.

    Args:
        data: N, grid_size and probe_scale.
        model: everything else.
        overrides: public field -> value; they win.

    Raises:
        InputError: a grid that is not square, an unknown mode or activation, an unknown override.
    """
    rows, columns = data.grid_size
    if rows != columns:
        raise InputError(f"Non-square grids are not supported: found grid_size={data.grid_size}, expected (g, g).")
    if model.mode not in MODEL_TYPES:
        raise InputError(f"Invalid mode: {model.mode!r}. Expected 'Unsupervised' or 'Supervised'.")
    if model.amp_activation not in ACTIVATIONS:
        raise InputError(
            f"Unknown activation: amp_activation={model.amp_activation!r}. Expected one of {', '.join(ACTIVATIONS)}."
        )
    values = _shared(ModelConfig, model)
    values.update(
        N=data.N,
        gridsize=rows,
        probe_scale=data.probe_scale,
        model_type=MODEL_TYPES[model.mode],
        amp_activation=ACTIVATIONS[model.amp_activation],
        probe_mask=model.probe_mask_tensor is not None or bool(model.probe_mask),
    )
    return ModelConfig(**_with(ModelConfig, values, overrides))


def to_training_config(
    tf_model: ModelConfig,
    data: torch_side.DataConfig,
    pt_model: torch_side.ModelConfig,
    training: torch_side.TrainingConfig,
    overrides: Overrides = None,
) -> TrainingConfig:
    """The public TrainingConfig.

    ``n_subsample`` of ``data`` is another quantity than the public field and is not carried over. The default
    'count_intensity' of ``data.measurement_domain`` becomes the public default 'auto': the frames decide.

    Args:
        tf_model: from :func:`to_model_config`.
        data, pt_model, training: the backend's.
        overrides: public field -> value; they win, and some facts can only be stated here.

    Raises:
        InputError: no training file, no n_groups, nphotons never stated, an unknown override.
    """
    stated = overrides or {}
    if data.nphotons == NPHOTONS_UNSET and "nphotons" not in stated:
        raise InputError(
            f"nphotons default divergence: the backend's default is {NPHOTONS_UNSET:g}, the public one is "
            f"{TrainingConfig(model=tf_model).nphotons:g}. State it in overrides, as in overrides=dict(nphotons=1e9)."
        )
    if stated.get("n_groups", training.n_groups) is None:
        raise InputError("n_groups is not stated. Give it in overrides, as in overrides=dict(n_groups=512).")
    if stated.get("train_data_file", training.train_data_file) is None:
        raise InputError("train_data_file is required. Give it in overrides, as in dict(train_data_file='scan.npz').")
    if "test_data_file" not in stated and training.test_data_file is None:
        warn(
            "test_data_file is not stated: evaluation and inference will need one. Give it in overrides.",
            UserWarning, stacklevel=2,
        )  # fmt: skip
    values = _shared(TrainingConfig, training)
    values.update(
        model=tf_model,
        nepochs=training.epochs,
        nll_weight=training.nll_weight if training.nll else 0.0,
        torch_loss_mode=_loss_mode(pt_model, training),
        nphotons=data.nphotons,
        neighbor_count=data.K,
        subsample_seed=data.subsample_seed,
        measurement_domain=_public_domain(data),
        intensity_scale_trainable=pt_model.intensity_scale_trainable,
        backend="pytorch",
    )
    complete = _with(TrainingConfig, values, overrides)
    if complete["n_groups"] == ALL_GROUPS:
        complete["n_groups"] = None
    return TrainingConfig(**_with_paths(complete))


def to_inference_config(
    tf_model: ModelConfig,
    data: torch_side.DataConfig,
    inference: torch_side.InferenceConfig,
    overrides: Overrides = None,
) -> InferenceConfig:
    """The public InferenceConfig.

    Args:
        tf_model: from :func:`to_model_config`.
        data: K and subsample_seed.
        inference: has no field that the public class knows; kept for callers.
        overrides: public field -> value; model_path and test_data_file are stated here.

    Raises:
        InputError: no model_path, no test_data_file, an unknown override.
    """
    stated = overrides or {}
    for name in ("model_path", "test_data_file"):
        if stated.get(name) is None:
            raise InputError(f"{name} is required. Give it in overrides, as in dict({name}=...).")
    values = _shared(InferenceConfig, inference)
    values.update(model=tf_model, neighbor_count=data.K, subsample_seed=data.subsample_seed, backend="pytorch")
    return InferenceConfig(**_with_paths(_with(InferenceConfig, values, overrides)))


def create_training_configs(
    config: TrainingConfig,
    execution_config: PyTorchExecutionConfig,
    *,
    N: int,
    probe_modes: int,
    measurement_domain: str,
) -> tuple[torch_side.DataConfig, torch_side.ModelConfig, torch_side.TrainingConfig, torch_side.InferenceConfig]:
    """The way back: the backend's configurations of a training run.

    Args:
        config: what to compute.
        execution_config: how; its learning rate, workers and device settings are copied into the result.
        N: side of the frames, which decides over ``config.model.N``.
        probe_modes: modes of the probe.
        measurement_domain: as decided for the scan.

    Raises:
        InputError: a knob that both configs have is stated twice, differently; an unknown loss mode or model type.
    """
    execution = merge_execution(config, execution_config)
    data = _data_config(config, N, probe_modes, measurement_domain)
    data.nphotons = config.nphotons
    training = torch_side.TrainingConfig(
        **_shared(torch_side.TrainingConfig, config)
        | _shared(torch_side.TrainingConfig, execution)
        | {
            "epochs": config.nepochs,
            "nll": config.nll_weight > 0,
            "device": execution.accelerator,
            "n_devices": execution.devices,
            "train_data_file": _text(config.train_data_file),
            "test_data_file": _text(config.test_data_file),
            "output_dir": str(config.output_dir),
        }
    )
    model = _model_config(config.model, data.C, config.torch_loss_mode)
    model.intensity_scale_trainable = config.intensity_scale_trainable
    return data, model, training, streaming_config(execution)


def create_inference_configs(
    config: InferenceConfig,
    execution_config: PyTorchExecutionConfig,
    *,
    N: int,
    probe_modes: int,
    measurement_domain: str,
) -> tuple[torch_side.DataConfig, torch_side.ModelConfig, torch_side.InferenceConfig]:
    """The way back for inference; arguments and errors as in :func:`create_training_configs`."""
    data = _data_config(config, N, probe_modes, measurement_domain)
    return data, _model_config(config.model, data.C, "poisson"), streaming_config(execution_config)


def merge_execution(config: TrainingConfig, execution_config: PyTorchExecutionConfig) -> PyTorchExecutionConfig:
    """A copy of the execution config with the knobs that the training config has too and that were set there.

    Raises:
        InputError: such a knob is stated twice, differently.
    """
    chosen = {}
    for name in TWINS:
        default = getattr(PyTorchExecutionConfig, name)
        asked = [v for v in (getattr(config, name), getattr(execution_config, name)) if v != default]
        if len(asked) == 2 and asked[0] != asked[1]:
            raise InputError(
                f"{name}: found {asked[0]!r} in the training config and {asked[1]!r} in the execution config. "
                "State it once."
            )
        chosen[name] = asked[0] if asked else default
    return dataclasses.replace(execution_config, **chosen)


def merged_twins(configs: Sequence[Any]) -> list[Any]:
    """Configurations in which a knob that the training and the execution config both have says the same in both.

    Raises:
        InputError: such a knob is stated twice, differently.
    """
    training = next((c for c in configs if isinstance(c, TrainingConfig)), None)
    execution = next((c for c in configs if isinstance(c, PyTorchExecutionConfig)), None)
    if training is None or execution is None:
        return list(configs)
    merged = merge_execution(training, execution)
    told = dataclasses.replace(training, **{name: getattr(merged, name) for name in TWINS})
    return [told if c is training else merged if c is execution else c for c in configs]


def loss_function(mode: str, torch_loss_mode: str) -> str:
    """``loss_function`` of the backend; labelled training compares objects, by their mean absolute error.

    Raises:
        InputError: unknown loss mode.
    """
    if torch_loss_mode not in LOSSES:
        raise InputError(f"torch_loss_mode: found {torch_loss_mode!r}, expected 'poisson' or 'mae'.")
    return "MAE" if mode == "Supervised" else LOSSES[torch_loss_mode]


def loss_mode(loss_function: str) -> str:
    """``torch_loss_mode`` of a ``loss_function`` of the backend.

    Raises:
        InputError: unknown loss function.
    """
    found = {function: mode for mode, function in LOSSES.items()}.get(loss_function)
    if found is None:
        raise InputError(f"loss_function: found {loss_function!r}, expected {' or '.join(map(repr, LOSSES.values()))}.")
    return found


def torch_mode(model_type: str) -> str:
    """'Unsupervised' or 'Supervised' from any spelling of either side.

    Raises:
        InputError: it is none of them.
    """
    spellings = {public: mode for mode, public in MODEL_TYPES.items()} | {m.lower(): m for m in MODEL_TYPES}
    if str(model_type).lower() not in spellings:
        raise InputError(
            f"Invalid mode: {model_type!r}. Expected 'Unsupervised' or 'Supervised', in public words 'pinn' or "
            "'supervised'."
        )
    return spellings[str(model_type).lower()]


def _data_config(
    config: TrainingConfig | InferenceConfig, N: int, probe_modes: int, domain: str
) -> torch_side.DataConfig:
    side = config.model.gridsize
    return torch_side.DataConfig(
        N=N,
        grid_size=(side, side),
        C=side**2,
        K=config.neighbor_count,
        subsample_seed=config.subsample_seed,
        probe_scale=config.model.probe_scale,
        probe_modes=probe_modes,
        measurement_domain=domain,
        # the public side knows no bounds
        x_bounds=(0.0, 1.0),
        y_bounds=(0.0, 1.0),
    )


def _model_config(model: ModelConfig, C: int, torch_loss_mode: str) -> torch_side.ModelConfig:
    mode = torch_mode(model.model_type)
    activation = "silu" if model.amp_activation == "swish" else model.amp_activation
    return torch_side.ModelConfig(
        **_shared(torch_side.ModelConfig, model)
        | {
            "mode": mode,
            "loss_function": loss_function(mode, torch_loss_mode),
            "amp_activation": activation,
            "C_model": C,
            "C_forward": C,
        }
    )


def streaming_config(execution: PyTorchExecutionConfig) -> torch_side.InferenceConfig:
    """How the execution config wants a scan to be streamed."""
    return torch_side.InferenceConfig(
        batch_size=execution.inference_batch_size or STREAMED_FRAMES,
        middle_trim=execution.middle_trim,
        pad_eval=execution.pad_eval,
    )


def _loss_mode(model: torch_side.ModelConfig, training: torch_side.TrainingConfig) -> str:
    """ptychodus states the loss by the model's loss_function only."""
    unset = training.torch_loss_mode == torch_side.TrainingConfig.torch_loss_mode
    return loss_mode(model.loss_function) if model.mode == "Unsupervised" and unset else training.torch_loss_mode


def _public_domain(data: torch_side.DataConfig) -> str:
    default = torch_side.DataConfig.measurement_domain
    return TrainingConfig.measurement_domain if data.measurement_domain == default else data.measurement_domain


def _shared(target: type, source: Any) -> dict[str, Any]:
    """The fields of ``source`` that ``target`` knows by the same name."""
    names = {f.name for f in dataclasses.fields(target)}
    return {f.name: getattr(source, f.name) for f in dataclasses.fields(source) if f.name in names}


def _with(target: type, values: dict[str, Any], overrides: Overrides) -> dict[str, Any]:
    known = {f.name for f in dataclasses.fields(target)}
    for name in overrides or {}:
        if name not in known:
            raise InputError(f"{name!r} is not a field of {target.__name__}{did_you_mean(name, known)}.")
    return values | (overrides or {})


def _with_paths(values: dict[str, Any]) -> dict[str, Any]:
    names = ("train_data_file", "test_data_file", "model_path", "output_dir")
    return {k: Path(v) if k in names and isinstance(v, str) else v for k, v in values.items()}


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
