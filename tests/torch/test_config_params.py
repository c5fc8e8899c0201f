"""The backend's own dataclasses: what they take, what a checkpoint holds of them, and which fields act."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from ptycho.config import config as public
from ptycho_torch import settings
from ptycho_torch.config_params import (
    DataConfig,
    DatagenConfig,
    InferenceConfig,
    ModelConfig,
    TrainingConfig,
    as_config,
    as_plain,
)
from ptycho_torch.model import PtychoPINN_Lightning

# What ptychodus 1.7 passes by keyword, with the values of its own defaults.
PTYCHODUS = {
    DataConfig: {
        "N": 128, "C": 4, "normalize": "Batch", "neighbor_function": "Nearest", "scan_pattern": "Isotropic",
        "probe_normalize": True, "x_bounds": (0.1, 0.9), "y_bounds": (0.1, 0.9), "min_neighbor_distance": 0.0,
        "max_neighbor_distance": 3.0, "K_quadrant": 30, "n_subsample": 7, "probe_scale": 4.0, "K": 6,
        "grid_size": (2, 2), "probe_ramp_removal": False, "data_scaling": "Parseval", "phase_subtraction": True,
    },
    ModelConfig: {
        "mode": "Unsupervised", "object_big": True, "probe_big": True, "loss_function": "Poisson",
        "amp_activation": "silu", "cbam_encoder": True, "decoder_last_amp_channels": 4,
        "use_shared_decoder": False, "intensity_scale_trainable": False, "intensity_scale": 10000.0,
        "max_position_jitter": 10, "num_datasets": 1, "C_model": 4, "C_forward": 4, "amp_loss": None,
        "phase_loss": None, "amp_loss_coeff": 1.0, "phase_loss_coeff": 1.0, "n_filters_scale": 2,
        "probe_mask": None, "eca_decoder": False, "batch_norm": False, "edge_pad": 10,
        "decoder_last_c_outer_fraction": 0.125, "cbam_bottleneck": False, "cbam_decoder": False,
        "spatial_decoder": False, "decoder_spatial_kernel": 7, "eca_encoder": False, "offset": 6,
        "probe_reference_coeff": 0.0, "amplitude_variance_loss": False, "amplitude_variance_coeff": 0.01,
    },
    TrainingConfig: {
        "epochs": 50, "batch_size": 16, "learning_rate": 1e-3, "n_devices": 1, "num_workers": 4,
        "accum_steps": 1, "epochs_fine_tune": 0, "fine_tune_gamma": 0.1, "gradient_clip_val": None, "nll": True,
        "device": "cuda", "strategy": "ddp_spawn", "framework": "Lightning", "orchestrator": "Lightning",
        "scheduler": "Default", "warmup_epochs": 0, "min_lr_ratio": 0.1, "notes": "",
        "model_name": "PtychoPINNv2", "enable_staged_finetuning": False, "finetune_stage1_epochs": 7,
        "finetune_stage2_epochs": 7, "finetune_stage3_epochs": 5, "finetune_stage1_lr_decoder": 0.1,
        "finetune_stage2_lr_encoder_top": 0.01, "finetune_stage2_lr_decoder": 0.05,
        "finetune_stage2_lr_phase_head": 0.1, "finetune_stage3_lr_encoder_bottom": 0.005,
        "finetune_stage3_lr_encoder_top": 0.01, "finetune_stage3_lr_decoder": 0.02,
        "finetune_stage3_lr_phase_head": 0.05, "finetune_skip_stage3": True, "finetune_early_stop_patience": 3,
        "finetune_val_split": 0.05,
    },
    InferenceConfig: {
        "batch_size": 1000, "middle_trim": 32, "experiment_number": 0, "patch_weighting": "probe",
        "pad_eval": True, "window": 20,
    },
    DatagenConfig: {},
}  # fmt: skip


class TestKeywords:
    """The classes take what callers pass."""

    @pytest.mark.parametrize("cls", PTYCHODUS)
    def test_all_that_ptychodus_passes(self, cls):
        keywords = PTYCHODUS[cls]
        config = cls(**keywords)
        assert {name: getattr(config, name) for name in keywords} == keywords

    @pytest.mark.parametrize("cls", PTYCHODUS)
    def test_its_defaults_are_ours(self, cls):
        stated = {**PTYCHODUS[cls]}
        # its own setting, not a default of the class; channels of the decoder follow its C
        for name in ("N", "decoder_last_amp_channels", "probe_mask"):
            stated.pop(name, None)
        assert {name: getattr(cls(), name) for name in stated} == stated

    @pytest.mark.parametrize("cls", PTYCHODUS)
    def test_no_argument_is_needed_and_fields_can_be_assigned(self, cls):
        config = cls()
        name = dataclasses.fields(cls)[0].name
        setattr(config, name, 3)
        assert getattr(config, name) == 3

    def test_ptychodus_defaults_are_neither_refused_nor_worth_a_word(self):
        configs = [cls(**keywords) for cls, keywords in PTYCHODUS.items() if cls is not DatagenConfig]
        # its decoder has as many amplitude channels as a group has frames
        assert settings.check_settings(*configs) == [
            "decoder_last_amp_channels=4 has no effect: a decoder has as many channels as a group has frames."
        ]

    def test_object_big_default_parity(self):
        assert ModelConfig().object_big is public.ModelConfig().object_big

    def test_the_default_architecture_is_the_public_one(self):
        assert ModelConfig().architecture == public.ModelConfig().architecture == "projection_unet"

    def test_grad_norm_logging_flag(self):
        assert (TrainingConfig().log_grad_norm, TrainingConfig().grad_norm_log_freq) == (False, 1)

    def test_the_other_names_of_the_schedule_act(self):
        config = TrainingConfig(warmup_epochs=5, min_lr_ratio=0.2)
        assert (config.lr_warmup_epochs, config.lr_min_ratio) == (5, 0.2)
        with pytest.raises(ValueError, match=r"warmup_epochs=5 and lr_warmup_epochs=3"):
            TrainingConfig(warmup_epochs=5, lr_warmup_epochs=3)


class TestPlain:
    """Checkpoints hold plain types."""

    @pytest.mark.parametrize("cls", PTYCHODUS)
    def test_there_and_back(self, cls):
        config = cls(**PTYCHODUS[cls])
        assert as_config(cls, as_plain(config)) == config

    def test_no_mask_tensor_and_no_path_in_a_checkpoint(self, tmp_path):
        mask = torch.ones(64, 64)
        module = PtychoPINN_Lightning(
            ModelConfig(probe_mask_tensor=mask), training_config=TrainingConfig(output_dir=Path("runs"))
        )
        assert "probe_mask_tensor" not in module.hparams["model_config"]
        assert module.hparams["training_config"]["output_dir"] == "runs"
        assert module.model_config.probe_mask_tensor is mask
        torch.save(dict(module.hparams), tmp_path / "h.pt")
        assert torch.load(tmp_path / "h.pt", weights_only=True)["data_config"]["grid_size"] == [2, 2]

    def test_an_unknown_key_names_the_nearest(self):
        with pytest.raises(ValueError, match=r"unknown stagez \(did you mean 'stages'\?\).*known are"):
            as_config(ModelConfig, {"stagez": 3})


class TestSettings:
    """The tables of settings that do not act."""

    @pytest.mark.parametrize("cls", list(settings.SUPERSEDED))
    def test_the_tables_name_real_fields(self, cls):
        fields = {f.name for f in dataclasses.fields(cls)}
        assert set(settings.REFUSED[cls]) | set(settings.SUPERSEDED[cls]) <= fields
        assert not set(settings.REFUSED[cls]) & set(settings.SUPERSEDED[cls])

    def test_options_of_architectures_are_real_fields(self):
        fields = {f.name for f in dataclasses.fields(ModelConfig)}
        assert all(set(names) <= fields for names in settings.OPTIONS_OF.values())

    def test_a_backend_setting_is_refused_or_told(self):
        with pytest.raises(ValueError, match=r"enable_staged_finetuning=True does not act"):
            settings.check_settings(TrainingConfig(enable_staged_finetuning=True))
        assert settings.check_settings(DataConfig(data_scaling="Max"))[0].startswith("data_scaling='Max' has no effect")

    def test_arrays_do_not_confuse_it(self):
        assert settings.check_settings(ModelConfig(probe_mask_tensor=np.ones((3, 3)))) == []
