"""The bridge between the public configuration and the backend's own, in both directions."""

import dataclasses
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import ptycho_torch
from ptycho import params
from ptycho.config import config as public
from ptycho.config.config import PyTorchExecutionConfig, update_legacy_dict
from ptycho_torch import config_bridge
from ptycho_torch.config_bridge import (
    create_inference_configs,
    create_training_configs,
    merge_execution,
    to_inference_config,
    to_model_config,
    to_training_config,
)
from ptycho_torch.config_params import DataConfig, InferenceConfig, ModelConfig, TrainingConfig

CPU = PyTorchExecutionConfig(accelerator="cpu")
FILES = {"train_data_file": "train.npz", "test_data_file": "test.npz"}


def model_of(overrides=None, data=None, **fields):
    return to_model_config(data or DataConfig(), ModelConfig(**fields), overrides)


def training_of(overrides=None, data=None, model=None, **fields):
    data, model = data or DataConfig(nphotons=1e9), model or ModelConfig()
    stated = {"n_groups": 512, **FILES, **(overrides or {})}
    return to_training_config(to_model_config(data, model), data, model, TrainingConfig(**fields), stated)


class TestConfigBridgeMVP:
    """The shortest way from the backend's dataclasses to the legacy dictionary."""

    def test_it_fills_the_legacy_dictionary(self):
        data = DataConfig(N=128, grid_size=(2, 2), nphotons=1e9, K=7)
        pt_model = ModelConfig(mode="Unsupervised")
        model = to_model_config(data, pt_model)
        training = to_training_config(model, data, pt_model, TrainingConfig(epochs=1), {"n_groups": 512, **FILES})
        inference = to_inference_config(
            model, data, InferenceConfig(batch_size=1),
            {"model_path": "model_dir", "test_data_file": "test.npz", "n_groups": 512},
        )  # fmt: skip
        update_legacy_dict(params.cfg, training)
        update_legacy_dict(params.cfg, inference)
        expected = {
            "N": 128, "gridsize": 2, "model_type": "pinn", "train_data_file_path": "train.npz",
            "test_data_file_path": "test.npz", "model_path": "model_dir", "n_groups": 512, "neighbor_count": 7,
            "nphotons": 1e9,
        }  # fmt: skip
        assert {key: params.cfg[key] for key in expected} == expected

    def test_it_is_there_from_the_package_root(self):
        assert ptycho_torch.to_model_config is to_model_config
        assert {"to_training_config", "to_inference_config"} <= set(dir(ptycho_torch))


class TestConfigBridgeParity:
    """Which field becomes which."""

    @pytest.mark.parametrize(
        ("field", "value"),
        [("n_filters_scale", 3), ("object_big", False), ("probe_big", False), ("learned_input_channels", 4),
         ("architecture", "fno"), ("fno_input_transform", "log1p"), ("generator_output_mode", "amp_phase_logits"),
         ("probe_mask_sigma", 2.5), ("probe_mask_diameter", 20.0), ("unet_channels", 8), ("stages", 3),
         ("pad_object", False), ("gaussian_smoothing_sigma", 0.7)],
    )  # fmt: skip
    def test_model_fields_pass_through(self, field, value):
        assert getattr(model_of(**{field: value}), field) == value

    def test_shape_of_groups(self):
        data = DataConfig(N=96, grid_size=(3, 3), probe_scale=2.0)
        model = model_of(data=data)
        assert (model.N, model.gridsize, model.probe_scale) == (96, 3, 2.0)

    @pytest.mark.parametrize(("mode", "expected"), [("Unsupervised", "pinn"), ("Supervised", "supervised")])
    def test_mode(self, mode, expected):
        assert model_of(mode=mode).model_type == expected

    @pytest.mark.parametrize(
        ("stated", "expected"),
        [("silu", "swish"), ("SiLU", "swish"), ("swish", "swish"), ("sigmoid", "sigmoid"), ("relu", "relu")],
    )
    def test_activation(self, stated, expected):
        assert model_of(amp_activation=stated).amp_activation == expected

    def test_defaults_of_the_public_side(self):
        model, training = model_of(), training_of()
        assert model.pad_object is True and model.gaussian_smoothing_sigma == 0.0
        assert (training.mae_weight, training.realspace_mae_weight, training.realspace_weight) == (0.0, 0.0, 0.0)
        assert training.positions_provided is True and training.probe_trainable is False
        assert training.sequential_sampling is False and training.backend == "pytorch"
        assert model_of({"gaussian_smoothing_sigma": 1.5}).gaussian_smoothing_sigma == 1.5
        assert training_of({"mae_weight": 0.3}).mae_weight == 0.3

    @pytest.mark.parametrize(
        ("fields", "overrides", "expected"),
        [({"probe_mask": True}, {}, True), ({"probe_mask": False}, {}, False), ({"probe_mask": None}, {}, False),
         ({"probe_mask": False, "probe_mask_tensor": torch.ones(4, 4)}, {}, True),
         ({"probe_mask_tensor": np.zeros((4, 4))}, {}, True), ({}, {"probe_mask": True}, True)],
    )  # fmt: skip
    def test_probe_mask(self, fields, overrides, expected):
        assert model_of(overrides, **fields).probe_mask is expected

    @pytest.mark.parametrize(
        ("field", "target", "value"),
        [("epochs", "nepochs", 7), ("batch_size", "batch_size", 5), ("optimizer", "optimizer", "sgd"),
         ("momentum", "momentum", 0.5), ("weight_decay", "weight_decay", 0.01), ("adam_beta1", "adam_beta1", 0.8),
         ("adam_beta2", "adam_beta2", 0.95), ("gradient_clip_algorithm", "gradient_clip_algorithm", "agc"),
         ("gradient_clip_val", "gradient_clip_val", 2.0), ("scheduler", "scheduler", "WarmupCosine"),
         ("lr_warmup_epochs", "lr_warmup_epochs", 3), ("lr_min_ratio", "lr_min_ratio", 0.05),
         ("torch_mae_pred_l2_match_target", "torch_mae_pred_l2_match_target", True),
         ("plateau_patience", "plateau_patience", 9), ("val_fraction", "val_fraction", 0.2), ("seed", "seed", 4)],
    )  # fmt: skip
    def test_training_fields_reach_the_public_config_and_the_dictionary(self, field, target, value):
        config = training_of(**{field: value})
        update_legacy_dict(params.cfg, config)
        assert getattr(config, target) == value and params.cfg[target] == value

    @pytest.mark.parametrize(("nll", "weight"), [(True, 1.0), (False, 0.0)])
    def test_nll(self, nll, weight):
        assert training_of(nll=nll).nll_weight == weight
        assert training_of({"nll_weight": 0.7}, nll=nll).nll_weight == 0.7

    def test_the_loss_that_ptychodus_states_on_the_model(self):
        assert training_of(model=ModelConfig(loss_function="MAE")).torch_loss_mode == "mae"
        assert training_of().torch_loss_mode == "poisson"
        assert training_of(torch_loss_mode="mae").torch_loss_mode == "mae"

    def test_n_subsample_is_another_quantity_and_the_seed_is_not(self):
        data = DataConfig(nphotons=1e9, n_subsample=7, subsample_seed=42)
        config = training_of(data=data)
        assert (config.n_subsample, config.subsample_seed) == (None, 42)
        config = training_of({"n_subsample": 1000, "subsample_seed": 99}, data=data)
        assert (config.n_subsample, config.subsample_seed) == (1000, 99)
        stated = {"model_path": "m", "test_data_file": "t.npz", "n_subsample": 500}
        inference = to_inference_config(model_of(data=data), data, InferenceConfig(), stated)
        assert (inference.n_subsample, inference.subsample_seed, inference.neighbor_count) == (500, 42, 6)

    def test_a_stated_domain_is_carried_and_the_default_decides_nothing(self):
        assert training_of().measurement_domain == "auto"
        data = DataConfig(nphotons=1e9, measurement_domain="amplitude")
        assert training_of(data=data).measurement_domain == "amplitude"

    def test_inference(self):
        data = DataConfig()
        stated = {"model_path": "m", "test_data_file": "t.npz"}
        config = to_inference_config(model_of(), data, InferenceConfig(), stated)
        assert config.debug is False and config.model_path == Path("m") and config.backend == "pytorch"
        assert to_inference_config(model_of(), data, InferenceConfig(), {**stated, "debug": True}).debug is True

    def test_paths_are_paths(self):
        config = training_of(output_dir="somewhere")
        assert config.output_dir == Path("somewhere") and config.train_data_file == Path("train.npz")


class TestConfigBridgeErrors:
    """Errors say what was found and what to state."""

    @pytest.mark.parametrize(
        ("data", "model", "message"),
        [({"grid_size": (2, 3)}, {}, "Non-square grids"), ({}, {"mode": "PINN"}, "Invalid mode"),
         ({}, {"amp_activation": "gelu"}, "Unknown activation")],
    )  # fmt: skip
    def test_model(self, data, model, message):
        with pytest.raises(ValueError, match=message):
            to_model_config(DataConfig(**data), ModelConfig(**model))

    def test_missing_facts(self):
        with pytest.raises(ValueError, match="train_data_file is required"):
            training_of({"train_data_file": None})
        with pytest.raises(ValueError, match=r"n_groups.*overrides.*n_groups="):
            training_of({"n_groups": None})
        with pytest.raises(ValueError, match=r"nphotons default divergence.*overrides.*nphotons="):
            training_of(data=DataConfig())
        assert training_of({"nphotons": 1e5}, data=DataConfig()).nphotons == 1e5
        for name in ("model_path", "test_data_file"):
            stated = {"model_path": "m", "test_data_file": "t", name: None}
            with pytest.raises(ValueError, match=f"{name} is required"):
                to_inference_config(model_of(), DataConfig(), InferenceConfig(), stated)

    def test_no_test_file_is_one_warning(self):
        data, model = DataConfig(nphotons=1e9), ModelConfig()
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            to_training_config(
                to_model_config(data, model), data, model, TrainingConfig(),
                {"train_data_file": "train.npz", "n_groups": 4},
            )  # fmt: skip
        assert len(seen) == 1 and "test_data_file" in str(seen[0].message) and "evaluation" in str(seen[0].message)

    def test_unknown_overrides(self):
        with pytest.raises(ValueError, match=r"'nepoch' is not a field of TrainingConfig \(did you mean 'nepochs'"):
            training_of({"nepoch": 3})
        with pytest.raises(ValueError, match="'batch' is not a field of ModelConfig"):
            model_of({"batch": 3})


class TestTheWayBack:
    """From the public configuration to the backend's, and round again."""

    def configs(self, execution=CPU, **fields):
        model = public.ModelConfig(N=48, gridsize=2, amp_activation="swish", probe_mask=True, stages=3)
        values = {
            "train_data_file": Path("a.npz"), "test_data_file": Path("b.npz"), "nphotons": 3e6, "n_groups": 9,
            "nepochs": 4, "batch_size": 6, "neighbor_count": 5, "subsample_seed": 8, "optimizer": "sgd",
            "measurement_domain": "amplitude", "torch_loss_mode": "mae", "seed": 2, "lr_warmup_epochs": 1, **fields,
        }  # fmt: skip
        config = public.TrainingConfig(model=model, **values)
        back = create_training_configs(config, execution, N=48, probe_modes=3, measurement_domain="amplitude")
        return config, back

    def test_what_it_makes(self):
        _, (data, model, training, inference) = self.configs(
            dataclasses.replace(CPU, learning_rate=0.01, num_workers=2, accum_steps=3, inference_batch_size=17)
        )
        assert (data.N, data.grid_size, data.C, data.K, data.probe_modes) == (48, (2, 2), 4, 5, 3)
        assert (data.measurement_domain, data.nphotons, data.subsample_seed) == ("amplitude", 3e6, 8)
        assert (model.mode, model.loss_function, model.C_model, model.C_forward) == ("Unsupervised", "MAE", 4, 4)
        assert (model.amp_activation, model.probe_mask, model.stages) == ("silu", True, 3)
        assert (training.epochs, training.learning_rate, training.num_workers, training.accum_steps) == (4, 0.01, 2, 3)
        assert (training.train_data_file, training.output_dir) == ("a.npz", "training_outputs")
        assert (training.device, training.strategy, training.n_devices) == ("cpu", "auto", 1)
        assert inference.batch_size == 17

    def test_there_and_back_loses_nothing(self):
        config, (data, model, training, _) = self.configs()
        again = to_training_config(to_model_config(data, model), data, model, training)
        assert again == config

    def test_the_default_streams_256_frames(self):
        _, (_, _, _, inference) = self.configs()
        assert inference.batch_size == config_bridge.STREAMED_FRAMES == 256

    def test_labelled_training_scores_objects(self):
        config = public.TrainingConfig(public.ModelConfig(model_type="supervised"))
        _, model, _, _ = create_training_configs(config, CPU, N=64, probe_modes=1, measurement_domain="intensity")
        assert (model.mode, model.loss_function) == ("Supervised", "MAE")

    def test_inference(self):
        config = public.InferenceConfig(public.ModelConfig(gridsize=2), Path("m"), Path("t"), subsample_seed=3)
        data, model, inference = create_inference_configs(
            config, CPU, N=32, probe_modes=2, measurement_domain="intensity"
        )
        assert (data.N, data.C, data.subsample_seed, data.probe_modes) == (32, 4, 3, 2)
        assert model.C_forward == 4 and inference.batch_size == 256

    @pytest.mark.parametrize(
        ("name", "one", "other"),
        [("scheduler", "Cosine", "Exponential"), ("gradient_clip_val", 1.0, 2.0),
         ("gradient_clip_algorithm", "value", "agc")],
    )  # fmt: skip
    def test_a_knob_of_both_sides(self, name, one, other):
        config = public.TrainingConfig(public.ModelConfig(), **{name: one})
        assert getattr(merge_execution(config, CPU), name) == one
        assert getattr(merge_execution(config, dataclasses.replace(CPU, **{name: one})), name) == one
        with pytest.raises(ValueError, match=rf"{name}: found {one!r}.*{other!r}.*State it once"):
            merge_execution(config, dataclasses.replace(CPU, **{name: other}))

    def test_an_unknown_loss(self):
        with pytest.raises(ValueError, match="torch_loss_mode"):
            self.configs(torch_loss_mode="l2")
