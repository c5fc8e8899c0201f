"""Complete configurations of a run from a few stated values: the public ones, the backend's, and where each came from.

Precedence, highest first: overrides, fields of the execution config that were set, the data file or the archive, the
defaults of the public dataclasses.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from warnings import warn

from ptycho import params
from ptycho.config.config import (
    InferenceConfig,
    ModelConfig,
    PyTorchExecutionConfig,
    TrainingConfig,
    update_legacy_dict,
    validate_inference_config,
    validate_training_config,
)
from ptycho.errors import InputError, MissingFileError
from ptycho_torch import config_bridge, config_params
from ptycho_torch.config_archive import archive_file, trained_configs
from ptycho_torch.config_bridge import ALL_GROUPS
from ptycho_torch.config_overrides import Knobs, read_overrides, with_profile
from ptycho_torch.scan_header import probe_layout, stored_nphotons
from ptycho_torch.settings import superseded_settings

FALLBACK_N = 64
_AUDITED = (
    "accelerator",
    "deterministic",
    "num_workers",
    "enable_progress_bar",
    "learning_rate",
    "scheduler",
    "accum_steps",
    "logger_backend",
    "inference_batch_size",
)


@dataclass
class TrainingPayload:
    """Everything that a training run is configured by.

    Attributes:
        tf_training_config: the public configuration (the name is the reference's).
        pt_data_config, pt_model_config, pt_training_config, pt_inference_config: the backend's.
        execution_config: the payload's own copy.
        overrides_applied: the caller's overrides as given, and what else was decided: N, nphotons, and the main
            fields of the execution config. "sources" says whence each came ("overrides", "execution_config",
            "profile", "data file", "archive", "default"); "superseded" has a sentence for each stated setting
            that has no effect.
    """

    tf_training_config: TrainingConfig
    pt_data_config: config_params.DataConfig
    pt_model_config: config_params.ModelConfig
    pt_training_config: config_params.TrainingConfig
    pt_inference_config: config_params.InferenceConfig
    execution_config: PyTorchExecutionConfig
    overrides_applied: dict[str, Any] = field(default_factory=dict)

    def named_configs(self) -> dict[str, Any]:
        """The backend's configurations and the execution config, by the names that a module is built with."""
        return {
            "model_config": self.pt_model_config,
            "data_config": self.pt_data_config,
            "training_config": self.pt_training_config,
            "inference_config": self.pt_inference_config,
            "execution_config": self.execution_config,
        }


@dataclass
class InferencePayload:
    """Everything that a reconstruction is configured by; attributes as those of TrainingPayload."""

    tf_inference_config: InferenceConfig
    pt_data_config: config_params.DataConfig
    pt_model_config: config_params.ModelConfig
    pt_inference_config: config_params.InferenceConfig
    execution_config: PyTorchExecutionConfig
    overrides_applied: dict[str, Any] = field(default_factory=dict)


def create_training_payload(
    train_data_file: str | Path | None,
    output_dir: str | Path,
    overrides: Mapping[str, Any] | None = None,
    execution_config: PyTorchExecutionConfig | None = None,
    profile: str | None = None,
) -> TrainingPayload:
    """The configurations of a training run; the legacy dictionary is filled on the way (CONFIG-001).

    Args:
        train_data_file: NPZ; only its probe's shape and its dose are looked at. None for frames in memory, whose N
            must then be among the overrides.
        output_dir: where the run will write; nothing is made here.
        overrides: field of any configuration, or an alias -> value. ``n_groups`` is required; 'all' takes every
            frame once per epoch.
        execution_config: how to run; its defaults when None. Overrides of its fields win.
        profile: None, or "ci" for frames that are counts.

    Raises:
        MissingFileError: there is no such training file.
        InputError: no n_groups, an unknown override, contradictions, values out of range.
    """
    output_dir = Path(output_dir)
    train_data_file = None if train_data_file is None else Path(train_data_file)
    if train_data_file is not None and not train_data_file.is_file():
        raise MissingFileError(f"Training data file not found: {train_data_file}. Check the path of the scan.")
    given = with_profile(overrides, profile)
    knobs = read_overrides(
        given, (ModelConfig, TrainingConfig, *_TORCH_TRAINING, PyTorchExecutionConfig),
        {"train_data_file": train_data_file, "output_dir": output_dir},
    )  # fmt: skip
    _require_n_groups(given)
    sources: dict[str, str] = {}
    N, modes = _frames_of(knobs, train_data_file, sources)
    nphotons = _nphotons(knobs, train_data_file, sources)
    execution = _execution(knobs, execution_config, sources)
    public = TrainingConfig(ModelConfig(N=N), train_data_file, nphotons=nphotons, output_dir=output_dir)
    data, model, training, inference = config_bridge.create_training_configs(
        public, execution, N=N, probe_modes=modes, measurement_domain=public.measurement_domain
    )
    data = _data_with(data, knobs)
    model = _model_with(model, knobs, data.C)
    training = dataclasses.replace(training, **_training_values(knobs))
    inference = dataclasses.replace(inference, **knobs.of(config_params.InferenceConfig, without=("batch_size",)))
    tf_config = _public_training(knobs, (data, model, training), public)
    populate_legacy_params(tf_config)
    applied = _audit(
        given, knobs, execution, sources, {"N": N, "nphotons": nphotons},
        (tf_config.model, tf_config, data, model, training, inference, execution),
    )  # fmt: skip
    applied["sources"] |= dict.fromkeys(set(given) - set(overrides or {}), "profile")
    return TrainingPayload(tf_config, data, model, training, inference, dataclasses.replace(execution), applied)


def create_inference_payload(
    model_path: str | Path,
    test_data_file: str | Path,
    output_dir: str | Path,
    overrides: Mapping[str, Any] | None = None,
    execution_config: PyTorchExecutionConfig | None = None,
) -> InferencePayload:
    """The configurations of a reconstruction; the legacy dictionary is filled on the way (CONFIG-001).

    Architecture, frame size and grouping are those of the archive. An archive file of zero bytes is there but says
    nothing (callers that only plan a run make such files): everything then comes from overrides, the test file's
    probe and the defaults.

    Args:
        model_path: folder that holds ``wts.h5.zip``, or that file.
        test_data_file: NPZ.
        output_dir: where the run will write; nothing is made here.
        overrides: field of any configuration, or an alias -> value. ``n_groups`` is required.
        execution_config: how to run; its defaults when None. Overrides of its fields win.

    Raises:
        MissingFileError: no such model_path or test file.
        InputError: no archive in the folder, a damaged one, no n_groups, an unknown override, an override that
            contradicts the archive, values out of range.
    """
    model_path, test_data_file, output_dir = Path(model_path), Path(test_data_file), Path(output_dir)
    archive = archive_file(model_path)
    if not test_data_file.is_file():
        raise MissingFileError(f"Test data file not found: {test_data_file}. Check the path of the scan.")
    knobs = read_overrides(
        overrides, (ModelConfig, InferenceConfig, *_TORCH_INFERENCE, PyTorchExecutionConfig),
        {"model_path": model_path, "test_data_file": test_data_file, "output_dir": output_dir},
    )  # fmt: skip
    _require_n_groups(overrides)
    sources: dict[str, str] = {}
    execution = _execution(knobs, execution_config, sources)
    decided: dict[str, Any] = {}
    if archive.stat().st_size == 0:
        data, model, inference = _from_defaults(knobs, model_path, test_data_file, execution, sources)
    else:
        data, model, inference, decided["intensity_scale"] = _from_archive(knobs, archive, execution, sources)
    inference = dataclasses.replace(inference, **knobs.of(config_params.InferenceConfig))
    public_model = config_bridge.to_model_config(data, model, _only_public(knobs, ModelConfig))
    stated = {"model_path": model_path, "test_data_file": test_data_file, "output_dir": output_dir}
    tf_config = config_bridge.to_inference_config(
        public_model, data, inference, _only_public(knobs, InferenceConfig) | stated
    )
    validate_inference_config(tf_config, architectures=(public_model.architecture,))
    populate_legacy_params(tf_config)
    return InferencePayload(
        tf_config, data, model, inference, dataclasses.replace(execution),
        _audit(overrides, knobs, execution, sources, decided | {"N": data.N, "architecture": model.architecture},
               (public_model, tf_config, data, model, inference, execution)),
    )  # fmt: skip


def infer_probe_size(data_file: str | Path) -> int:
    """Side N of the probe in an NPZ, in pixels; 64 with a warning where it cannot be told. Nothing is unpickled."""
    layout = probe_layout(data_file)
    if isinstance(layout, tuple):
        return layout[1]
    warn(f"{data_file}: {layout}; N={FALLBACK_N} is assumed. State N to be sure.", UserWarning, stacklevel=2)
    return FALLBACK_N


def check_frame_size(N: int, frame_side: int, source: str) -> None:
    """To be called when the frames are there.

    Raises:
        InputError: they are not N x N; both sizes are named.
    """
    if frame_side != N:
        raise InputError(
            f"{source}: frames are {frame_side} x {frame_side} pixels, the configuration says N={N}. State "
            f"N={frame_side}, or crop the frames to {N}."
        )


def populate_legacy_params(tf_config: TrainingConfig | InferenceConfig, force: bool = False) -> None:
    """Write a public configuration into ``ptycho.params.cfg`` (CONFIG-001).

    Args:
        tf_config: what to write.
        force: accepted for callers of the reference; it is always written.

    Raises:
        TypeError: it is no public TrainingConfig or InferenceConfig.
    """
    if not isinstance(tf_config, (TrainingConfig, InferenceConfig)):
        raise TypeError(f"Expected a public TrainingConfig or InferenceConfig, found {type(tf_config).__name__}.")
    update_legacy_dict(params.cfg, tf_config)


_TORCH_INFERENCE = (config_params.DataConfig, config_params.ModelConfig, config_params.InferenceConfig)
_TORCH_TRAINING = (*_TORCH_INFERENCE, config_params.TrainingConfig)


def _require_n_groups(overrides: Mapping[str, Any] | None) -> None:
    stated = overrides or {}
    if stated.get("n_groups", stated.get("n_images")) is None:
        raise InputError("n_groups is required. State it in overrides, as in overrides={'n_groups': 512}.")


def _frames_of(knobs: Knobs, file: Path | None, sources: dict[str, str]) -> tuple[int, int]:
    """N and the number of probe modes: the override's, else the file's, else a guess."""
    if file is None:
        if "N" not in knobs.values:
            raise InputError("N is not stated, and there is no file to read it from. State it, as in {'N': 64}.")
        return knobs.values["N"], knobs.values.get("probe_modes", 1)
    layout = probe_layout(file)
    modes, side = layout if isinstance(layout, tuple) else (1, None)
    if "N" in knobs.values:
        return knobs.values["N"], modes
    sources["N"] = "default" if side is None else "data file"
    return (infer_probe_size(file) if side is None else side), modes


def _nphotons(knobs: Knobs, file: Path | None, sources: dict[str, str]) -> float:
    if "nphotons" in knobs.values:
        return float(knobs.values["nphotons"])
    stored = None if file is None else stored_nphotons(file)
    sources["nphotons"] = "default" if stored is None else "data file"
    return TrainingConfig.nphotons if stored is None else stored


def _execution(knobs: Knobs, given: PyTorchExecutionConfig | None, sources: dict[str, str]) -> PyTorchExecutionConfig:
    """The execution config of the run; made before the rest, since its settings reach the backend's configs."""
    overrides = knobs.of(PyTorchExecutionConfig)
    sources.update({name: "default" for name in _AUDITED})
    if given is None:
        return PyTorchExecutionConfig(**overrides)
    sources.update({name: "execution_config" for name in given.set_fields()})
    return dataclasses.replace(given, **overrides)


def _data_with(data: config_params.DataConfig, knobs: Knobs) -> config_params.DataConfig:
    # the public n_subsample counts frames; the backend's field of that name is another quantity
    values = knobs.of(config_params.DataConfig, without=("n_subsample",))
    rows, columns = values.get("grid_size", data.grid_size)
    if values.get("C", rows * columns) != rows * columns:
        raise InputError(f"C={values['C']!r} does not fit grid_size={(rows, columns)}; state gridsize alone.")
    return dataclasses.replace(data, **values, **({} if "C" in values else {"C": rows * columns}))


def _model_with(model: config_params.ModelConfig, knobs: Knobs, C: int) -> config_params.ModelConfig:
    values = knobs.of(config_params.ModelConfig)
    for name in ("C_model", "C_forward"):
        if values.setdefault(name, C) != C:
            raise InputError(f"{name}={values[name]!r} does not fit C={C} frames in a group; state gridsize alone.")
    mode = values.get("mode", model.mode)
    values.setdefault(
        "loss_function", config_bridge.loss_function(mode, knobs.values.get("torch_loss_mode", "poisson"))
    )
    return dataclasses.replace(model, **values)


def _training_values(knobs: Knobs) -> dict[str, Any]:
    values = knobs.of(config_params.TrainingConfig)
    if "nll_weight" in knobs.values:
        values["nll"] = knobs.values["nll_weight"] > 0
    if "loss_function" in knobs.values and knobs.values.get("mode") != "Supervised":
        values.setdefault("torch_loss_mode", config_bridge.loss_mode(knobs.values["loss_function"]))
    if isinstance(values.get("test_data_file"), Path):
        values["test_data_file"] = str(values["test_data_file"])
    return values


def _only_public(knobs: Knobs, cls: type) -> dict[str, Any]:
    """Overrides of fields of ``cls`` that the bridge does not carry over, or not exactly."""
    torch_names = {f.name for c in _TORCH_TRAINING for f in dataclasses.fields(c)} - {"n_subsample", "n_groups"}
    return {name: value for name, value in knobs.of(cls).items() if name not in torch_names}


def _public_training(
    knobs: Knobs,
    torch_configs: tuple[config_params.DataConfig, config_params.ModelConfig, config_params.TrainingConfig],
    public: TrainingConfig,
) -> TrainingConfig:
    data, model, training = torch_configs
    public_model = config_bridge.to_model_config(data, model, _only_public(knobs, ModelConfig))
    test_file = training.test_data_file
    stated = {
        "nphotons": public.nphotons,
        # frames in memory have no file, and the bridge wants one named
        "train_data_file": public.train_data_file or Path(),
        "test_data_file": None if test_file is None else Path(test_file),
        "output_dir": public.output_dir,
        "n_groups": ALL_GROUPS if training.n_groups is None else training.n_groups,
        # exact, where the bridge has to assume that the default means nothing was stated
        "measurement_domain": data.measurement_domain,
    }
    config = config_bridge.to_training_config(
        public_model, data, model, training, _only_public(knobs, TrainingConfig) | stated
    )
    config.train_data_file = public.train_data_file
    # which networks there are is the generator registry's business
    validate_training_config(config, architectures=(public_model.architecture,))
    return config


_InferenceConfigs = tuple[config_params.DataConfig, config_params.ModelConfig, config_params.InferenceConfig]


def _from_defaults(
    knobs: Knobs, model_path: Path, test_data_file: Path, execution: PyTorchExecutionConfig, sources: dict[str, str]
) -> _InferenceConfigs:
    N, modes = _frames_of(knobs, test_data_file, sources)
    public = InferenceConfig(ModelConfig(N=N), model_path, test_data_file)
    data, model, inference = config_bridge.create_inference_configs(
        public, execution, N=N, probe_modes=modes, measurement_domain=TrainingConfig.measurement_domain
    )
    data = _data_with(data, knobs)
    return data, _model_with(model, knobs, data.C), inference


def _from_archive(
    knobs: Knobs, archive: Path, execution: PyTorchExecutionConfig, sources: dict[str, str]
) -> tuple[config_params.DataConfig, config_params.ModelConfig, config_params.InferenceConfig, float | None]:
    data, model, scale = trained_configs(archive, knobs)
    sources.update(N="archive", architecture="archive", intensity_scale="archive")
    # the execution config decides how to stream, here and now
    inference = config_bridge.streaming_config(execution)
    data = dataclasses.replace(data, **knobs.of(config_params.DataConfig, without=("n_subsample",)))
    return data, model, inference, scale


def _audit(
    overrides: Mapping[str, Any] | None, knobs: Knobs, execution: PyTorchExecutionConfig, sources: dict[str, str],
    decided: dict[str, Any], configs: tuple[Any, ...],
) -> dict[str, Any]:  # fmt: skip
    """``overrides_applied``, see TrainingPayload."""
    runtime = {name: getattr(execution, name) for name in {*_AUDITED, *sources} if hasattr(execution, name)}
    stated = {name: "overrides" for name in (*knobs.values, *knobs.names.values())}
    whence = {**sources, **stated}
    # the backend's defaults are not always the public ones: only what the caller stated is worth a sentence
    notes = {k: v for k, v in superseded_settings(*configs).items() if whence.get(k, "default") != "default"}
    return {
        **runtime,
        **dict(overrides or {}),
        **decided,
        "sources": whence,
        "superseded": list(notes.values()),
    }
