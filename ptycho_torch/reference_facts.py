"""What the generated tables of specs/ say of each field: who feels it, who needs it, what is accepted.

:mod:`.reference` makes the tables; whether a field acts at all, and why not, says :mod:`ptycho_torch.settings`.
"""

from __future__ import annotations

from typing import Any

from ptycho.config.config import InferenceConfig, ModelConfig, PyTorchExecutionConfig, TrainingConfig
from ptycho.config.execution import ACCELERATORS, CLIP_ALGORITHMS, LOGGER_BACKENDS, PRECISIONS, SCHEDULERS
from ptycho_torch import config_params

PUBLIC = (ModelConfig, TrainingConfig, InferenceConfig)
"""Configurations that have keys in the legacy dictionary."""
BACKENDS_OWN = (
    config_params.DataConfig,
    config_params.ModelConfig,
    config_params.TrainingConfig,
    config_params.InferenceConfig,
)

CALLER: dict[type, tuple[str, ...]] = {
    ModelConfig: ("N",),
    TrainingConfig: ("train_data_file", "test_data_file", "backend"),
    InferenceConfig: ("model", "model_path", "test_data_file", "output_dir", "backend"),
    PyTorchExecutionConfig: (),
}
"""Fields for entry points, scripts and the legacy dictionary, which change nothing of what is computed."""

_STEPS = "`generators.projection_unet.ProjectionUNet`; the figure without the network of every architecture"
_MASK = "`calibration.mask_of`: the probe is multiplied by it, in training and in inference"
_SPLIT = "`data.samplers.split_frames`"
_DRAWN = "`workflows.scans.subsample`: frames drawn before anything else"
_PLATEAU = "`ReduceLROnPlateau`, which watches the training loss"
_CLIP = "`Trainer`, or the module ('agc'); stated here and in PyTorchExecutionConfig differently: an error"
_PICTURES = "`workflows.recon_log.ReconstructionLog`"
_BEST = "`ModelCheckpoint`"
_EARLY = "`EarlyStopping`"
_LOADERS = "training, validation and group loaders; the stream of a whole scan has none"

FELT_BY: dict[type, dict[str, str]] = {
    ModelConfig: {
        "N": "the side of the frames: `train_scan` takes theirs, the other workflow functions refuse frames of another",
        "gridsize": "a group has gridsize^2 frames: channels of the `cnn`; `batch_size` and `n_groups` count groups",
        "n_filters_scale": "`generators.cnn.CnnAutoencoder`: factor on all widths",
        "model_type": "`objective.objective`: 'supervised' compares with the known object",
        "architecture": "`generators.registry.build_generator`",
        "amp_activation": "`generators.cnn.amplitude_head`",
        "object_big": "False: blocks of one frame in training, one channel in the `cnn`; inference always merges",
        "probe_big": "`generators.cnn.DecoderLast`: False leaves the border of a patch vacuum",
        "probe_mask": _MASK,
        "probe_mask_sigma": "edge of that mask",
        "probe_mask_diameter": "diameter of that mask; None is N / 2",
        "merge_block": "`data.module.BlockDataModule`: frames of a block, at most the training frames",
        "stages": _STEPS,
        "projection_steps": _STEPS,
        "later_projection_steps": _STEPS,
        "unet_channels": "`generators.unet.UNet`: channels of the finest level",
    },
    TrainingConfig: {
        "model": "section 5.1",
        "train_data_file": "`config_factory.create_training_payload` looks at its headers",
        "test_data_file": "kept with the settings; `python -m ptycho_torch.train` validates with it",
        "batch_size": "groups of frames per step, in whole blocks, at least one",
        "nepochs": "`Trainer.max_epochs`; the length of the schedules",
        "mae_weight": "`objective.likelihood_weights`",
        "nll_weight": "`objective.likelihood_weights`",
        "realspace_mae_weight": "`objective.objective`: times `realspace_weight`; one alone is an error",
        "realspace_weight": "`objective.objective`: see `realspace_mae_weight`",
        "nphotons": "scale of groups of frames that do not say theirs; `--nphotons` reaches `RawData.from_file`",
        "n_groups": "groups per epoch, in whole blocks; None is every frame once",
        "n_images": "deprecated name of `n_groups`, which it sets where that is None",
        "n_subsample": _DRAWN,
        "subsample_seed": "seed of that choice, and of groups of frames; None is `seed` there and 0 here",
        "output_dir": "checkpoints, logs and the archive; `train_scan` has an argument for it",
        "sequential_sampling": "`data.samplers.TrainingBlocks`: the first frames, every epoch in one order",
        "backend": "`ptycho.workflows.backend_selector.load_backend`",
        "torch_loss_mode": "`objective.likelihood_weights`; the names of the losses in the log",
        "gradient_clip_val": _CLIP,
        "gradient_clip_algorithm": _CLIP,
        "optimizer": "`optimisers.make_optimiser`",
        "momentum": "`SGD`",
        "weight_decay": "the optimiser",
        "adam_beta1": "`Adam`, `AdamW`",
        "adam_beta2": "`Adam`, `AdamW`",
        "scheduler": "`optimisers.make_scheduler`; stated here and in PyTorchExecutionConfig differently: an error",
        "lr_warmup_epochs": "schedules 'WarmupCosine', 'Cosine'",
        "lr_min_ratio": "schedules 'WarmupCosine', 'Cosine', 'Exponential'",
        "plateau_factor": _PLATEAU,
        "plateau_patience": _PLATEAU,
        "plateau_min_lr": _PLATEAU,
        "plateau_threshold": _PLATEAU,
        "measurement_domain": "reaches `RawData.from_file` and `RawDataTorch`; training refuses a scan read otherwise",
        "calibrate_probe": "`calibration.calibrate_probe` runs or not",
        "calibration_epochs": "`calibration.calibrate_probe`",
        "val_fraction": _SPLIT + ": share of the scan points",
        "init_from": "`workflows.training.TrainingJob`: starts from the network there; probe and scale are the scan's",
        "pretrain_scans": "`workflows.pretraining.pretrain`",
        "max_time_s": "`callbacks.TimeLimit`: of calibration and training together",
        "stop_improvement": "`callbacks.PlateauStop`",
        "stop_window": "`callbacks.PlateauStop`",
        "seed": "initial weights, split, blocks, order of the calibration",
    },
    InferenceConfig: {
        "model": "the archive says how the model was made",
        "model_path": "`config_factory.create_inference_payload`; `infer_scan` has an argument for it",
        "test_data_file": "`config_factory.create_inference_payload`",
        "n_subsample": _DRAWN,
        "subsample_seed": "seed of that choice; None is 0",
        "output_dir": "the commands write there; `infer_scan` writes nothing",
        "backend": "compared with the backend that made the archive",
    },
    PyTorchExecutionConfig: {
        "accelerator": "`Trainer.accelerator`; the device of calibration and of the stream",
        "devices": "`Trainer.devices`",
        "strategy": "`Trainer.strategy`; for several devices that no launcher serves, 'auto' and 'ddp' are 'ddp_spawn'",
        "deterministic": "`Trainer.deterministic`",
        "precision": "`Trainer.precision`; Fourier transforms take 32 bits at least",
        "compile": "`Module.compile` of the generator's networks",
        "learning_rate": "`optimisers.make_optimiser`; the `cnn` takes a fifth of it",
        "scheduler": "`optimisers.make_scheduler`",
        "gradient_clip_val": "`Trainer.gradient_clip_val`; None for a module that steps its optimiser itself",
        "gradient_clip_algorithm": "`Trainer.gradient_clip_algorithm`; 'agc': `optimisers.clip_adaptively`",
        "accum_steps": "`Trainer.accumulate_grad_batches`",
        "num_workers": "`DataLoader.num_workers`: " + _LOADERS,
        "pin_memory": "`DataLoader.pin_memory`",
        "persistent_workers": "`DataLoader.persistent_workers`; not without workers, with a warning",
        "prefetch_factor": "`DataLoader.prefetch_factor`; not without workers, with a warning",
        "enable_progress_bar": "`Trainer.enable_progress_bar`, `TQDMProgressBar`",
        "enable_checkpointing": f"{_BEST}, {_EARLY}; without it the last weights are kept, not the best",
        "checkpoint_save_top_k": _BEST,
        "checkpoint_monitor_metric": f"{_BEST}, {_EARLY}; 'val_loss' is the model's own loss, see 4.9.4",
        "checkpoint_mode": f"{_BEST}, {_EARLY}",
        "early_stop_patience": _EARLY,
        "logger_backend": "`Trainer.logger`, made by `lightning_utils.make_logger`",
        "recon_log_every_n_epochs": _PICTURES + ": None makes none",
        "recon_log_num_patches": _PICTURES,
        "recon_log_fixed_indices": _PICTURES + ": frames whose patches are shown instead",
        "recon_log_stitch": _PICTURES + ": the whole object too",
        "recon_log_max_stitch_samples": _PICTURES + ": frames used, around the middle of the scan",
        "inference_batch_size": "`reassembly.StreamedFrames`: frames at a time, None is the fastest; batch size of "
        "group loaders, None is the configuration's `batch_size`",
    },
}  # fmt: skip
"""Configuration -> field -> who feels it, for every field that is neither refused nor superseded.

Paths are below `ptycho_torch`; Trainer and callbacks are Lightning's, DataLoader and optimisers torch's.
"""


ENTRY_POINTS: dict[str, dict[str, tuple[str, ...]]] = {
    "neutral-workflows": {
        "ptycho.workflows.components": (
            "load_data", "run_cdi_example", "train_cdi_model", "load_inference_bundle", "save_outputs",
        ),
    },
    "torch-workflows": {
        "ptycho_torch.workflows.components": (
            "run_cdi_example_torch", "train_cdi_model_torch", "load_inference_bundle_torch",
            "run_inference_with_lightning", "_train_with_lightning", "_ensure_container",
            "_build_lightning_dataloaders", "_build_inference_dataloader", "_reassemble_cdi_image_torch",
        ),
        "ptycho_torch.workflows.reconstruct": ("train_scan", "train_scans", "infer_scan"),
    },
    "neutral-data": {
        "ptycho.raw_data": ("RawData.from_file", "RawData.from_coords_without_pc", "RawData.generate_grouped_data"),
        "ptycho.loader": ("load",),
        "ptycho.probe": ("set_probe_guess",),
        "ptycho.tf_helper": ("reassemble_position",),
    },
    "data-bridges": {
        "ptycho_torch.raw_data_bridge": ("RawDataTorch", "RawDataTorch.generate_grouped_data"),
        "ptycho_torch.memmap_bridge": ("MemmapDatasetBridge", "MemmapDatasetBridge.get_grouped_data"),
        "ptycho_torch.data_container_bridge": ("PtychoDataContainerTorch", "PtychoDataContainerTorch.of_scan"),
        "ptycho_torch.dataloader": ("npz_headers", "_get_diffraction_stack"),
    },
    "factories": {
        "ptycho_torch.config_factory": (
            "create_training_payload", "create_inference_payload", "infer_probe_size", "populate_legacy_params",
            "check_frame_size", "TrainingPayload", "InferencePayload",
        ),
        "ptycho_torch.config_bridge": (
            "to_model_config", "to_training_config", "to_inference_config", "create_training_configs",
            "create_inference_configs",
        ),
    },
    "bundles": {
        "ptycho_torch.model_manager": (
            "save_torch_bundle", "load_torch_bundle", "create_torch_model_with_gridsize",
        ),
        "ptycho.model_manager": ("save", "save_archive", "load_archive", "archive_backend"),
    },
    "handle": {
        "ptycho.model": ("DiffractionToObject.predict",),
        "ptycho_torch.model": ("PtychoPINN_Lightning", "PtychoPINN_Lightning.forward_predict"),
    },
    "selection": {
        "ptycho.workflows.backend_selector": (
            "run_cdi_example_with_backend", "train_cdi_model_with_backend", "load_inference_bundle_with_backend",
            "load_backend",
        ),
    },
}  # fmt: skip
"""Name of a block of the page -> module -> what callers use of it."""

def _choices(values: tuple[Any, ...]) -> str:
    return ", ".join(repr(value) for value in values)


_SWITCH = "True, False"
_WHOLE_FROM = "whole number >= {}"

VALID: dict[str, str] = {
    "accelerator": _choices(ACCELERATORS) + "; 'tpu' is refused by name",
    "devices": _WHOLE_FROM.format(1) + ", 'auto'",
    "strategy": "name of a Lightning strategy",
    "deterministic": _SWITCH + ", 'warn'",
    "precision": _choices(PRECISIONS),
    "compile": _SWITCH,
    "learning_rate": "> 0",
    "scheduler": _choices(SCHEDULERS),
    "gradient_clip_val": "None, >= 0",
    "gradient_clip_algorithm": _choices(CLIP_ALGORITHMS),
    "accum_steps": _WHOLE_FROM.format(1),
    "num_workers": _WHOLE_FROM.format(0),
    "pin_memory": _SWITCH,
    "persistent_workers": _SWITCH,
    "prefetch_factor": "None, " + _WHOLE_FROM.format(1),
    "enable_progress_bar": _SWITCH,
    "enable_checkpointing": _SWITCH,
    "checkpoint_save_top_k": _WHOLE_FROM.format(0),
    "checkpoint_monitor_metric": "name of a metric",
    "checkpoint_mode": "'min', 'max'",
    "early_stop_patience": _WHOLE_FROM.format(1),
    "logger_backend": _choices(LOGGER_BACKENDS) + ", None; 'none' becomes None",
    "recon_log_every_n_epochs": "None, " + _WHOLE_FROM.format(1),
    "recon_log_num_patches": _WHOLE_FROM.format(0),
    "recon_log_fixed_indices": "None, list or tuple of whole numbers >= 0",
    "recon_log_stitch": _SWITCH,
    "recon_log_max_stitch_samples": "None, " + _WHOLE_FROM.format(1),
    "inference_batch_size": "None, " + _WHOLE_FROM.format(1),
    "middle_trim": _WHOLE_FROM.format(0),
    "pad_eval": _SWITCH,
}
"""Field of PyTorchExecutionConfig -> what is accepted."""
