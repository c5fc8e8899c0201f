"""The factories: complete payloads from a few stated values, with the source of each."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from small_scans import write_scan

from ptycho import params
from ptycho.config import config as public
from ptycho.config.config import PyTorchExecutionConfig
from ptycho_torch import config_factory, config_params
from ptycho_torch.config_bridge import create_training_configs
from ptycho_torch.config_factory import (
    InferencePayload,
    TrainingPayload,
    check_frame_size,
    create_inference_payload,
    create_training_payload,
    populate_legacy_params,
)

AUDIT = (
    "N", "accelerator", "deterministic", "num_workers", "enable_progress_bar", "learning_rate", "scheduler",
    "accum_steps", "logger_backend",
)  # fmt: skip


@pytest.fixture
def training(scan_file, tmp_path):
    """Call create_training_payload with overrides by keyword."""

    def create(execution_config=None, profile=None, **overrides):
        return create_training_payload(
            scan_file, tmp_path / "out", {"n_groups": 512, **overrides}, execution_config, profile
        )

    return create


@pytest.fixture
def inference(scan_file, model_folder, tmp_path):
    """Call create_inference_payload with overrides by keyword."""

    def create(execution_config=None, model_path=model_folder, **overrides):
        return create_inference_payload(
            model_path, scan_file, tmp_path / "out", {"n_groups": 64, **overrides}, execution_config
        )

    return create


class TestTrainingPayloadStructure:
    def test_types(self, training):
        payload = training()
        assert isinstance(payload, TrainingPayload) and dataclasses.is_dataclass(payload)
        assert isinstance(payload.tf_training_config, public.TrainingConfig)
        assert isinstance(payload.pt_data_config, config_params.DataConfig)
        assert isinstance(payload.pt_model_config, config_params.ModelConfig)
        assert isinstance(payload.pt_training_config, config_params.TrainingConfig)
        assert isinstance(payload.pt_inference_config, config_params.InferenceConfig)
        assert isinstance(payload.execution_config, PyTorchExecutionConfig)
        assert config_factory.PyTorchExecutionConfig is PyTorchExecutionConfig

    def test_overrides_are_kept_as_given(self, training):
        applied = training(batch_size=8, max_epochs=3).overrides_applied
        assert (applied["n_groups"], applied["batch_size"], applied["max_epochs"]) == (512, 8, 3)

    @pytest.mark.parametrize(("overrides", "C"), [({"gridsize": 1}, 1), ({"gridsize": 2}, 4), ({}, 1)])
    def test_group_size(self, training, overrides, C):
        payload = training(**overrides)
        data, model = payload.pt_data_config, payload.pt_model_config
        assert data.C == model.C_forward == model.C_model == C

    @pytest.mark.parametrize(
        ("shape", "N", "modes"), [((128, 128), 128, 1), ((3, 128, 128), 128, 3), ((128, 128, 1), 128, 1)]
    )
    def test_N_is_read_from_the_probe(self, tmp_path, shape, N, modes):
        file = write_scan(tmp_path / "big.npz", 4, np.ones(shape, np.complex64))
        payload = create_training_payload(file, tmp_path, {"n_groups": 4})
        assert payload.pt_data_config.N == payload.tf_training_config.model.N == N
        assert payload.pt_data_config.probe_modes == modes
        assert payload.overrides_applied["sources"]["N"] == "data file"

    def test_supervised(self, training):
        payload = training(model_type="Supervised")
        assert payload.pt_model_config.mode == "Supervised" and payload.pt_model_config.loss_function == "MAE"
        assert payload.tf_training_config.model.model_type == "supervised"

    def test_defaults_are_the_public_ones(self, training, scan_file, tmp_path):
        expected = public.TrainingConfig(
            public.ModelConfig(), train_data_file=scan_file, n_groups=512, output_dir=tmp_path / "out"
        )
        assert training().tf_training_config == expected
        assert training().pt_inference_config.batch_size == 256

    def test_nothing_is_written(self, training, tmp_path):
        before = sorted(tmp_path.iterdir())
        training()
        assert sorted(tmp_path.iterdir()) == before

    @pytest.mark.parametrize(
        ("name", "value"),
        [("architecture", "fno"), ("generator_output_mode", "amp_phase_logits"), ("cnn_output_mode", "real_imag"),
         ("use_shared_decoder", True), ("training_patch_weighting", "probe"),
         ("physics_forward_mode", "rectangular_scaled"), ("rect_s1s2_trainable", False)],
    )  # fmt: skip
    def test_model_knobs_are_carried(self, training, name, value):
        assert getattr(training().pt_model_config, name) == getattr(config_params.ModelConfig(), name) != value
        assert getattr(training(**{name: value}).pt_model_config, name) == value


class TestInferencePayloadStructure:
    def test_types(self, inference):
        payload = inference()
        assert isinstance(payload, InferencePayload)
        assert isinstance(payload.tf_inference_config, public.InferenceConfig)
        assert isinstance(payload.pt_data_config, config_params.DataConfig)
        assert isinstance(payload.pt_inference_config, config_params.InferenceConfig)

    def test_an_empty_archive_file_says_nothing(self, inference):
        payload = inference(gridsize=2)
        assert (payload.pt_data_config.N, payload.pt_data_config.C) == (64, 4)
        assert payload.overrides_applied["sources"]["N"] == "data file"

    def test_varpro(self, inference, training):
        for create in (inference, training):
            assert create().pt_inference_config.varpro_scaling is True
            assert create(varpro_scaling=False).pt_inference_config.varpro_scaling is False

    def test_batch_sizes(self, inference):
        assert inference().pt_inference_config.batch_size == 256
        assert inference(batch_size=4).pt_inference_config.batch_size == 4
        execution = PyTorchExecutionConfig(accelerator="cpu", inference_batch_size=9)
        assert inference(execution).pt_inference_config.batch_size == 9


class TestConfigBridgeTranslation:
    def test_gridsize(self, training):
        payload = training(gridsize=2)
        assert payload.pt_data_config.grid_size == (2, 2) and payload.tf_training_config.model.gridsize == 2

    def test_epochs(self, training):
        payload = training(max_epochs=20)
        assert payload.pt_training_config.epochs == payload.tf_training_config.nepochs == 20

    def test_neighbours(self, training):
        payload = training(neighbor_count=7)
        assert payload.pt_data_config.K == payload.tf_training_config.neighbor_count == 7

    def test_public_only_fields_reach_the_public_config(self, training):
        stated = {
            "calibration_epochs": 3, "max_time_s": 9.0, "n_subsample": 40, "realspace_weight": 0.5,
            "nll_weight": 0.7, "measurement_domain": "count_intensity", "test_data_file": Path("t.npz"),
        }  # fmt: skip
        payload = training(**stated)
        assert {name: getattr(payload.tf_training_config, name) for name in stated} == stated
        assert payload.pt_data_config.n_subsample == 7, "another quantity of the same name"
        assert payload.pt_training_config.nll is True and payload.pt_training_config.test_data_file == "t.npz"

    def test_either_name_of_the_loss(self, training):
        for payload in (training(loss_function="MAE"), training(torch_loss_mode="mae")):
            assert payload.pt_model_config.loss_function == "MAE"
            assert payload.pt_training_config.torch_loss_mode == payload.tf_training_config.torch_loss_mode == "mae"

    def test_both_sides_agree(self, training):
        """Whatever is stated, the way back from the public config gives the backend's configs again."""
        payload = training(gridsize=2, unet_channels=8, scheduler="Cosine", lr_warmup_epochs=2, gradient_clip_val=1.0)
        data, model, torch_training, inference = create_training_configs(
            payload.tf_training_config, payload.execution_config, N=64, probe_modes=1, measurement_domain="auto"
        )
        assert (data, model) == (payload.pt_data_config, payload.pt_model_config)
        assert (torch_training, inference) == (payload.pt_training_config, payload.pt_inference_config)


class TestLegacyParamsPopulation:
    @pytest.mark.parametrize("clear", [False, True])
    def test_training(self, training, clear):
        if clear:
            params.cfg.clear()
        training(gridsize=2)
        assert (params.cfg["N"], params.cfg["gridsize"], params.cfg["n_groups"]) == (64, 2, 512)

    def test_inference(self, inference):
        params.cfg.clear()
        inference(gridsize=2)
        assert (params.cfg["N"], params.cfg["gridsize"], params.cfg["n_groups"]) == (64, 2, 64)

    def test_the_execution_config_stays_out(self, training):
        before = set(params.cfg)
        training(PyTorchExecutionConfig(accelerator="cpu", num_workers=3))
        assert not {"accelerator", "num_workers", "learning_rate"} & (set(params.cfg) - before)

    def test_populate(self):
        populate_legacy_params(public.TrainingConfig(public.ModelConfig(N=32), n_groups=5))
        assert (params.cfg["N"], params.cfg["n_groups"]) == (32, 5)
        populate_legacy_params(public.InferenceConfig(public.ModelConfig(N=16), Path("m"), Path("t")), force=True)
        assert params.cfg["N"] == 16
        with pytest.raises(TypeError, match="found dict"):
            populate_legacy_params({"N": 3})

    def test_an_error_leaves_the_dictionary_alone(self, training):
        before = dict(params.cfg)
        with pytest.raises(ValueError):
            training(batch_size=0, gridsize=3)
        assert params.cfg == before


class TestOverridePrecedence:
    def test_overrides_win(self, training):
        payload = training(n_groups=1024, batch_size=16)
        assert (payload.tf_training_config.n_groups, payload.pt_training_config.batch_size) == (1024, 16)
        assert payload.overrides_applied["sources"]["batch_size"] == "overrides"

    def test_a_stated_N_beats_the_file(self, training):
        payload = training(N=128)
        assert payload.pt_data_config.N == payload.tf_training_config.model.N == 128
        assert payload.overrides_applied["sources"]["N"] == "overrides"
        with pytest.raises(ValueError, match=r"frames are 64 x 64 pixels.*N=128"):
            check_frame_size(128, 64, "scan")

    def test_overrides_beat_the_execution_config(self, training):
        given = PyTorchExecutionConfig(accelerator="cpu", learning_rate=0.1, num_workers=2)
        payload = training(given, learning_rate=0.2)
        assert payload.pt_training_config.learning_rate == payload.execution_config.learning_rate == 0.2
        assert given.learning_rate == 0.1, "the caller's own is left alone"
        sources = payload.overrides_applied["sources"]
        assert (sources["learning_rate"], sources["num_workers"]) == ("overrides", "execution_config")
        assert sources["scheduler"] == "default"

    def test_the_execution_config_beats_the_defaults(self, training):
        given = PyTorchExecutionConfig(accelerator="cpu", scheduler="Cosine", gradient_clip_val=2.0, num_workers=2)
        payload = training(given)
        for config in (payload.pt_training_config, payload.tf_training_config):
            assert (config.scheduler, config.gradient_clip_val) == ("Cosine", 2.0)
        assert payload.pt_training_config.num_workers == 2

    def test_nphotons(self, tmp_path, training):
        assert training().tf_training_config.nphotons == 1e9
        metadata = json.dumps({"physics_parameters": {"nphotons": 5e8}})
        file = write_scan(tmp_path / "meta.npz", _metadata=np.array(metadata))
        payload = create_training_payload(file, tmp_path, {"n_groups": 4})
        assert payload.tf_training_config.nphotons == payload.pt_data_config.nphotons == 5e8
        assert payload.overrides_applied["nphotons"] == 5e8
        assert payload.overrides_applied["sources"]["nphotons"] == "data file"
        own = write_scan(tmp_path / "own.npz", _metadata=np.array(metadata), nphotons=np.array(7e6))
        assert create_training_payload(own, tmp_path, {"n_groups": 4}).pt_data_config.nphotons == 7e6
        stated = create_training_payload(file, tmp_path, {"n_groups": 4, "nphotons": 1e5})
        assert stated.tf_training_config.nphotons == 1e5

    def test_the_ci_profile(self, training):
        payload = training(profile="ci")
        assert payload.tf_training_config.measurement_domain == "count_intensity"
        assert payload.pt_model_config.rect_s1s2_init == "data"
        assert payload.overrides_applied["sources"]["rect_s1s2_init"] == "profile"
        with pytest.raises(ValueError, match="profile 'ci' means torch_loss_mode='poisson'"):
            training(profile="ci", torch_loss_mode="mae")
        with pytest.raises(ValueError, match="found 'fast'"):
            training(profile="fast")

    def test_superseded_settings_are_recorded(self, training):
        assert training().overrides_applied["superseded"] == []
        notes = training(probe_scale=2.0, data_scaling="Max").overrides_applied["superseded"]
        assert [note.split("=")[0] for note in notes] == ["probe_scale", "data_scaling"]


class TestFactoryValidation:
    def test_missing_facts(self, scan_file, model_folder, tmp_path):
        for overrides in (None, {}, {"n_groups": None}):
            with pytest.raises(ValueError, match="n_groups is required"):
                create_training_payload(scan_file, tmp_path, overrides)
        with pytest.raises(ValueError, match="n_groups is required"):
            create_inference_payload(model_folder, scan_file, tmp_path)
        with pytest.raises(FileNotFoundError, match="Training data file not found"):
            create_training_payload(tmp_path / "none.npz", tmp_path, {"n_groups": 1})
        with pytest.raises(FileNotFoundError, match="Test data file not found"):
            create_inference_payload(model_folder, tmp_path / "none.npz", tmp_path, {"n_groups": 1})

    def test_no_archive(self, scan_file, tmp_path):
        (tmp_path / "empty").mkdir()
        with pytest.raises(ValueError, match="Model archive not found"):
            create_inference_payload(tmp_path / "empty", scan_file, tmp_path, {"n_groups": 1})
        with pytest.raises(FileNotFoundError, match="Model path not found"):
            create_inference_payload(tmp_path / "none", scan_file, tmp_path, {"n_groups": 1})

    @pytest.mark.parametrize(("name", "nearest"), [("batchsize", "batch_size"), ("gridsze", "gridsize")])
    def test_unknown_overrides(self, training, inference, name, nearest):
        for create in (training, inference):
            with pytest.raises(ValueError, match=rf"override '{name}' is unknown \(did you mean '{nearest}'\?\)"):
                create(**{name: 2})

    @pytest.mark.parametrize(
        "overrides",
        [{"max_epochs": 2, "nepochs": 3}, {"gridsize": 2, "grid_size": (3, 3)}, {"C": 3, "gridsize": 2}, {"C": 4},
         {"nll": False, "nll_weight": 1.0}, {"loss_function": "MAE", "torch_loss_mode": "poisson"},
         {"C_model": 2}, {"warmup_epochs": 1, "lr_warmup_epochs": 2}, {"model_type": "pinn", "mode": "Supervised"},
         {"output_dir": "elsewhere"}],
    )  # fmt: skip
    def test_a_knob_stated_twice(self, training, overrides):
        with pytest.raises(ValueError, match=next(iter(overrides))):
            training(**overrides)

    def test_the_same_thing_twice_is_fine(self, training, tmp_path):
        payload = training(max_epochs=3, nepochs=3, model_type="pinn", mode="Unsupervised", output_dir=tmp_path / "out")
        assert payload.tf_training_config.nepochs == 3

    @pytest.mark.parametrize("overrides", [{"batch_size": 0}, {"accum_steps": 0}, {"gridsize": 1.5}, {"N": 0}])
    def test_values_are_validated(self, training, overrides):
        with pytest.raises(ValueError, match=next(iter(overrides))):
            training(**overrides)


class TestExecutionConfigOverrides:
    def test_there_always_is_one(self, training, inference):
        for payload in (training(), inference()):
            execution = payload.execution_config
            assert isinstance(execution, PyTorchExecutionConfig)
            assert execution.accelerator == ("cuda" if torch.cuda.is_available() else "cpu")
            assert execution.deterministic is True and execution.num_workers == 0
            assert hasattr(execution, "gradient_clip_val") and hasattr(execution, "enable_progress_bar")

    def test_object_big(self, inference):
        model = inference(object_big=True).tf_inference_config.model
        assert model.object_big is True and model.probe_big is True

    def test_a_given_one_is_copied(self, training, inference):
        given = PyTorchExecutionConfig(accelerator="gpu", enable_progress_bar=True, deterministic=False)
        for create in (training, inference):
            found = create(given).execution_config
            assert found == given and found is not given
            assert (found.accelerator, found.enable_progress_bar, found.deterministic) == ("gpu", True, False)

    def test_audit(self, training, inference):
        given = PyTorchExecutionConfig(accelerator="cpu", num_workers=4, inference_batch_size=3)
        for create in (training, inference):
            applied = create(given).overrides_applied
            assert set(AUDIT) <= set(applied)
            assert (applied["accelerator"], applied["num_workers"], applied["inference_batch_size"]) == ("cpu", 4, 3)
            assert applied["sources"]["num_workers"] == "execution_config"

    def test_checkpoint_knobs(self, training):
        knobs = {"enable_checkpointing": False, "checkpoint_save_top_k": 3, "checkpoint_mode": "max",
                 "checkpoint_monitor_metric": "train_loss", "early_stop_patience": 10}  # fmt: skip
        found = training(PyTorchExecutionConfig(accelerator="cpu", **knobs)).execution_config
        assert {name: getattr(found, name) for name in knobs} == knobs
        found = training().execution_config
        assert [getattr(found, name) for name in knobs] == [True, 1, "min", "val_loss", 100]

    def test_scheduler_accumulation_logger(self, training):
        given = PyTorchExecutionConfig(accelerator="cpu", scheduler="Exponential", accum_steps=4, logger_backend="csv")
        applied = training(given).overrides_applied
        assert (applied["scheduler"], applied["accum_steps"], applied["logger_backend"]) == ("Exponential", 4, "csv")
        other = PyTorchExecutionConfig(accelerator="cpu", logger_backend="tensorboard")
        assert training(other).execution_config.logger_backend == "tensorboard"

    def test_its_fields_can_be_overridden(self, training):
        payload = training(accelerator="cpu", num_workers=3, devices=2, logger_backend=None)
        execution = payload.execution_config
        assert (execution.num_workers, execution.devices, execution.logger_backend) == (3, 2, None)
        assert (payload.pt_training_config.num_workers, payload.pt_training_config.n_devices) == (3, 2)
