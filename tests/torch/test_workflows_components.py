"""The workflow functions, as callers of the reference use them."""

import json
import subprocess
import sys
import textwrap
from types import SimpleNamespace
from unittest.mock import MagicMock

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from small_scans import against_truth, small_scan

from ptycho import params
from ptycho.config.config import InferenceConfig, ModelConfig, PyTorchExecutionConfig, TrainingConfig
from ptycho.errors import InputError
from ptycho.raw_data import RawData
from ptycho_torch import config_factory, config_params, model, model_manager
from ptycho_torch.config_stated import payload_of
from ptycho_torch.data_container_bridge import PtychoDataContainerTorch
from ptycho_torch.generators import registry
from ptycho_torch.model import PtychoPINN_Lightning
from ptycho_torch.workflows import components

CPU = {"accelerator": "cpu"}


@pytest.fixture(scope="session")
def dummy_files(tmp_path_factory):
    """Two scans of ten random frames, as small as a factory needs them."""
    folder = tmp_path_factory.mktemp("dummy")
    for name, seed in (("train", 0), ("test", 1)):
        rng = np.random.default_rng(seed)
        np.savez(
            folder / f"dummy_{name}.npz",
            diffraction=rng.random((10, 64, 64), dtype=np.float32),
            xcoords=np.arange(10.0), ycoords=np.arange(10.0),
            probeGuess=np.ones((64, 64), np.complex64), objectGuess=np.ones((128, 128), np.complex64),
        )  # fmt: skip
    return folder / "dummy_train.npz", folder / "dummy_test.npz"


@pytest.fixture
def config(dummy_files, tmp_path):
    """A small public configuration whose file is there."""

    def make(model=None, **fields):
        quick = {"unet_channels": 4, "merge_block": 8, "stages": 2, "projection_steps": 2, "later_projection_steps": 1}
        known = {"n_groups": 10, "nepochs": 1, "neighbor_count": 4, "calibration_epochs": 2, "nphotons": 1e5}
        return TrainingConfig(
            model=ModelConfig(**{**quick, **(model or {})}), train_data_file=dummy_files[0],
            output_dir=tmp_path / "out", **{**known, **fields},
        )  # fmt: skip

    return make


@pytest.fixture
def amplitudes():
    """Ten frames of random amplitudes on a line."""
    rng = np.random.default_rng(3)
    x = np.linspace(0, 9, 10)
    return RawData.from_coords_without_pc(
        x, x, rng.random((10, 64, 64)).astype(np.float32), np.ones((64, 64), np.complex64), np.zeros(10, int),
        measurement_domain="normalized_amplitude", nphotons=1e5,
    )  # fmt: skip


def grouped(n=10, C=4, N=64):
    """A container as a dict, with as little in it as training takes."""
    rng = np.random.default_rng(5)
    return {
        "X": rng.random((n, N, N, C)).astype(np.float32),
        "Y": np.ones((n, N, N, C), np.complex64),
        "coords_relative": rng.uniform(-2, 2, (n, 1, 2, C)).astype(np.float32),
    }


class Stub(pl.LightningModule):
    """As little of a module as training needs; it takes any configuration."""

    def __init__(self, **configs):
        super().__init__()
        self.seen = configs
        self.weight = torch.nn.Parameter(torch.ones(1))

    def training_step(self, batch, batch_idx):
        return (self.weight**2).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def recorded(monkeypatch):
    """Stands in for Trainer, callbacks and loggers; says what they were made with."""
    seen = SimpleNamespace(trainer={}, fit=[], made={})

    class Trainer:
        def __init__(self, **arguments):
            seen.trainer = arguments

        def fit(self, module, train_dataloaders=None, val_dataloaders=None, **more):
            seen.fit.append((module, train_dataloaders, val_dataloaders))

    def recorder(owner, name):
        real = getattr(owner, name)

        def make(*args, **arguments):
            instance = real(*args, **arguments)
            seen.made.setdefault(name, []).append((instance, arguments))
            return instance

        monkeypatch.setattr(owner, name, make)

    monkeypatch.setattr(pl, "Trainer", Trainer)
    for name in ("ModelCheckpoint", "EarlyStopping"):
        recorder(pl.callbacks, name)
    for name in ("CSVLogger",):
        recorder(pl.loggers, name)
    return seen


class TestWorkflowsComponentsScaffold:
    def test_the_legacy_dictionary_is_filled(self, config, monkeypatch):
        monkeypatch.setattr(components, "train_cdi_model_torch", lambda *args, **kwargs: {"history": {}})
        params.cfg.clear()
        found = components.run_cdi_example_torch(None, None, config({"gridsize": 2}))
        assert (params.cfg["N"], params.cfg["gridsize"], params.cfg["model_type"]) == (64, 2, "pinn")
        assert found == (None, None, {"history": {}, "backend": "pytorch"})


class TestWorkflowsComponentsTraining:
    def test_the_factory_is_asked_before_the_container(self, config, monkeypatch):
        seen = {}

        def factory(**arguments):
            seen.update(arguments)
            raise RuntimeError("told so")

        monkeypatch.setattr(config_factory, "create_training_payload", factory)
        with pytest.raises(RuntimeError, match="told so"):
            components._train_with_lightning(object(), None, config({"fno_input_transform": "log1p"}))
        assert seen["overrides"]["fno_input_transform"] == "log1p"

    @pytest.mark.parametrize(
        ("name", "default", "value"),
        [("cnn_output_mode", "amp_phase", "real_imag"), ("use_shared_decoder", False, True),
         ("training_patch_weighting", "central_mask", "probe"),
         ("physics_forward_mode", "amplitude", "rectangular_scaled")],
    )  # fmt: skip
    def test_knobs_reach_the_backends_configuration(self, config, monkeypatch, name, default, value):
        payloads = []
        real = config_factory.create_training_payload

        def factory(**arguments):
            payloads.append(real(**arguments))
            raise InterruptedError

        monkeypatch.setattr(config_factory, "create_training_payload", factory)
        for overrides in ({}, {"overrides": {name: value}}):
            with pytest.raises(InterruptedError):
                components._train_with_lightning(
                    train_container=object(), test_container=None, config=config(), **overrides
                )
        assert [getattr(p.pt_model_config, name) for p in payloads] == [default, value]

    def test_supervised(self, config, monkeypatch):
        seen = {}

        class Generator:
            def build_model(self, configs):
                seen.update(configs)
                raise RuntimeError("seen enough")

        monkeypatch.setattr(registry, "resolve_generator", lambda config: Generator())
        with pytest.raises(RuntimeError, match="seen enough"):
            components._train_with_lightning(object(), None, config({"model_type": "supervised"}))
        assert (seen["model_config"].mode, seen["model_config"].loss_function) == ("Supervised", "MAE")

    def test_containers_are_made_first(self, config, monkeypatch):
        calls = []
        monkeypatch.setattr(components, "_ensure_container", lambda data, config: calls.append((data, config)) or "c")
        monkeypatch.setattr(
            components, "_train_with_lightning", lambda *args, **kw: calls.append(args) or {"history": {}}
        )
        wanted = config()
        results = components.train_cdi_model_torch("train", None, wanted)
        assert calls[0] == ("train", wanted) and calls[0][1] is wanted
        assert calls[1][:3] == ("c", None, wanted) and calls[1][2] is wanted
        assert {"history", "train_container", "test_container"} <= set(results)

    def test_what_is_no_data_is_refused(self, config):
        with pytest.raises(TypeError, match="RawDataTorch, or PtychoDataContainerTorch, got list"):
            components._ensure_container([1, 2], config())

    def test_batches(self, config, amplitudes):
        container = components._ensure_container(amplitudes, config())
        assert isinstance(container, PtychoDataContainerTorch) and container.scan is amplitudes
        loader, validation = components._build_lightning_dataloaders(container, None, config(val_fraction=0.0))
        assert validation is None
        batch = next(iter(loader))
        assert isinstance(batch, (tuple, list)) and len(batch) == 3
        fields, probe, scaling = batch
        assert {"images", "coords_relative", "rms_scaling_constant", "physics_scaling_constant"} <= set(fields)
        assert fields["images"].ndim == 4 and torch.is_complex(probe)
        assert scaling.shape[0] == fields["images"].shape[0]

    def test_test_data_validate(self, config, amplitudes):
        _, validation = components._build_lightning_dataloaders(amplitudes, amplitudes, config())
        assert isinstance(validation, torch.utils.data.DataLoader)

    def test_the_batch_size_has_a_default(self):
        plain = SimpleNamespace(
            model=SimpleNamespace(N=64, gridsize=2, object_big=True), sequential_sampling=False, subsample_seed=0
        )
        loader, validation = components._build_lightning_dataloaders(grouped(20), None, plain)
        assert loader.batch_size == 16 and validation is None
        assert [b[0]["images"].shape for b in loader] == [(16, 4, 64, 64), (4, 4, 64, 64)]

    @pytest.mark.parametrize("form", [dict, SimpleNamespace])
    def test_groups_keep_their_places_and_their_scale(self, config, form):
        container = grouped(4)
        scale = np.full((1, 1, 1), 3.0, np.float32)
        built = form(**container, physics_scaling_constant=scale)
        wanted = config({"gridsize": 2}, sequential_sampling=True)
        loader, _ = components._build_lightning_dataloaders(built, None, wanted)
        fields, _, _ = next(iter(loader))
        assert fields["coords_relative"].shape[-3:] == (4, 1, 2)
        relative = container["coords_relative"].transpose(0, 3, 1, 2)
        np.testing.assert_allclose(
            fields["coords_relative"] - fields["coords_relative"].mean(1, keepdim=True),
            relative - relative.mean(1, keepdims=True), atol=1e-4,
        )  # fmt: skip
        np.testing.assert_allclose(
            fields["images"], (3 * container["X"].transpose(0, 3, 1, 2)) ** 2, rtol=1e-4, atol=1e-4
        )  # fmt: skip
        assert fields["physics_scaling_constant"].shape[0] == len(fields["images"]) == 4

    def test_a_mapping_of_the_groups_to_a_scan_is_used(self, config):
        """Frames that stand in several groups are one frame; then everything known of a scan can be done."""
        raw = small_scan(30)
        data = raw.generate_grouped_data(32, K=4, nsamples=30, gridsize=2, seed=1)
        container = PtychoDataContainerTorch(data, raw.probe)
        loader, _ = components._build_lightning_dataloaders(
            container, None, config({"N": 32, "gridsize": 2, "merge_block": 10}, val_fraction=0.0, n_groups=None)
        )
        frames = torch.cat([f["images"][f["scored"]] for f, _, _ in loader])
        seen = set(np.unique(data["nn_indices"]))
        assert len(frames) == len(seen)
        total = raw.diff3d[sorted(seen)].sum(axis=(1, 2)).astype(float)
        found = np.sort(frames.sum((1, 2)).numpy())
        np.testing.assert_allclose(found / found.mean(), np.sort(total / total.mean()), rtol=1e-3)

    def test_groups_without_positions(self, config):
        container = {"X": np.ones((2, 4, 4, 1), np.float32)}
        with pytest.raises(ValueError, match="coords_relative is required"):
            components._build_lightning_dataloaders(container, None, config({"N": 4}))
        loader, _ = components._build_lightning_dataloaders(container, None, config({"N": 4, "object_big": False}))
        assert next(iter(loader))[0]["coords_relative"] is not None

    def test_the_loss_of_a_loaders_batch(self, config, amplitudes):
        loader, _ = components._build_lightning_dataloaders(amplitudes, None, config())
        module = PtychoPINN_Lightning(
            model_config=config_params.ModelConfig(mode="Unsupervised", n_filters_scale=1, C_model=1, C_forward=1),
            data_config=config_params.DataConfig(N=64, C=1, grid_size=(1, 1)),
            training_config=config_params.TrainingConfig(nll=True, learning_rate=1e-4),
            inference_config=config_params.InferenceConfig(),
        )
        loss = module.compute_loss(next(iter(loader)))
        assert torch.isfinite(loss) and loss > 0

    def test_a_foreign_module_trains_on_groups(self, config, monkeypatch):
        monkeypatch.setattr(model, "PtychoPINN_Lightning", Stub)
        results = components._train_with_lightning(
            grouped(), None, config({"gridsize": 2}, nepochs=2, val_fraction=0.0), PyTorchExecutionConfig(**CPU)
        )
        module = results["models"]["diffraction_to_obj"]
        assert isinstance(module, Stub) and module.weight.item() != 1
        assert all(module.seen[name] is not None for name in (
            "model_config", "data_config", "training_config", "inference_config"))  # fmt: skip


class TestWorkflowsComponentsRun:
    def test_without_stitching(self, config, monkeypatch):
        seen = []
        monkeypatch.setattr(
            components, "train_cdi_model_torch", lambda *args, **kw: seen.append((args, kw)) or {"history": {}}
        )
        wanted = config()
        amplitude, phase, results = components.run_cdi_example_torch("a", "b", wanted, do_stitching=False)
        assert amplitude is None and phase is None and "history" in results
        assert seen == [(("a", "b", wanted), {})]

    def test_the_bundle_is_saved(self, config, monkeypatch):
        models = {"autoencoder": 1, "diffraction_to_obj": 2}
        monkeypatch.setattr(components, "train_cdi_model_torch", lambda *a, **k: {"history": {}, "models": models})
        save = MagicMock()
        monkeypatch.setattr(components, "save_torch_bundle", save)
        wanted = config()
        components.run_cdi_example_torch(None, None, wanted)
        (given, base, passed, _), _ = save.call_args
        assert given is models and passed is wanted and base == str(wanted.output_dir / "wts.h5")

    def test_loading(self, tmp_path, monkeypatch):
        seen = []

        def load(path, **more):
            seen.append(path)
            params.cfg.update(N=64, gridsize=2)
            return {"diffraction_to_obj": object()}, {"N": 64}

        monkeypatch.setattr(components, "load_torch_bundle", load)
        models, restored = components.load_inference_bundle_torch(bundle_dir=str(tmp_path / "none"))
        assert models is not None and restored is not None and str(tmp_path / "none") in str(seen[0])
        assert (params.cfg["N"], params.cfg["gridsize"]) == (64, 2)


class TestTrainWithLightningRed:
    def test_the_module_needs_no_more_than_this(self, config, monkeypatch, recorded):
        built = []

        class Bare:
            def __init__(self, **configs):
                built.append(configs)

            def save_hyperparameters(self):
                pass

        monkeypatch.setattr(model, "PtychoPINN_Lightning", Bare)
        results = components._train_with_lightning(grouped(), None, config({"gridsize": 2}))
        assert len(built) == 1 and all(value is not None for value in built[0].values()) and len(built[0]) == 4
        assert isinstance(recorded.fit[0][0], Bare)
        assert results["models"]["diffraction_to_obj"] is recorded.fit[0][0]


class TestTrainWithLightningGreen:
    @pytest.fixture
    def train(self, config, monkeypatch, recorded):
        def run(stub, container=None, test=None, fields=None, **knobs):
            monkeypatch.setattr(model, "PtychoPINN_Lightning", stub)
            execution = PyTorchExecutionConfig(**knobs)
            wanted = config({"gridsize": 2}, **(fields or {}))
            components._train_with_lightning(grouped() if container is None else container, test, wanted, execution)
            return recorded

        return run

    def test_execution_config_overrides_trainer(self, train):
        class Automatic:
            automatic_optimization = True

            def __init__(self, **configs):
                pass

            def save_hyperparameters(self):
                pass

        seen = train(Automatic, accelerator="gpu", deterministic=False, gradient_clip_val=1.0, num_workers=4)
        assert seen.trainer["accelerator"] == "gpu" and seen.trainer["deterministic"] is False
        assert seen.trainer["gradient_clip_val"] == 1.0
        assert seen.fit[0][1].num_workers == 4

    def test_execution_config_controls_determinism(self, train):
        class Bare:
            def __init__(self, **configs):
                pass

            def save_hyperparameters(self):
                pass

        assert train(Bare, deterministic=True, accelerator="cpu").trainer["deterministic"] is True

    def test_a_module_that_steps_itself_clips_itself(self, train):
        class Manual(Stub):
            automatic_optimization = False

        Manual.automatic_optimization = property(lambda self: False, lambda self, value: None)
        seen = train(Manual, accelerator="cpu", gradient_clip_val=1.0)
        assert seen.trainer["gradient_clip_val"] is None and seen.trainer["gradient_clip_algorithm"] is None

    def test_execution_config_reaches_everything(self, train):
        seen = train(
            Stub, accelerator="cpu", devices=2, strategy="ddp", precision="bf16-mixed", accum_steps=3,
            enable_progress_bar=True, enable_checkpointing=False, logger_backend=None, gradient_clip_val=0.5,
            gradient_clip_algorithm="value", fields={"nepochs": 7},
        )  # fmt: skip
        expected = {
            "devices": 2, "strategy": "ddp_spawn", "precision": "bf16-mixed", "accumulate_grad_batches": 3,
            "enable_progress_bar": True, "enable_checkpointing": False, "logger": False, "gradient_clip_val": 0.5,
            "gradient_clip_algorithm": "value", "max_epochs": 7,
        }  # fmt: skip
        assert {name: seen.trainer[name] for name in expected} == expected


class TestInferenceExecutionConfig:
    def test_inference_uses_execution_batch_size(self):
        container = {"X": np.ones((20, 64, 64), np.float32), "coords_nominal": np.ones((20, 2))}
        config = SimpleNamespace(batch_size=16)
        execution = PyTorchExecutionConfig(inference_batch_size=2, num_workers=0, accelerator="cpu")
        loader = components._build_inference_dataloader(container, config, execution_config=execution)
        assert loader.batch_size == 2
        assert components._build_inference_dataloader(container, config).batch_size == 16

    def test_execution_config_reaches_the_inference_loader(self):
        container = {"X": np.ones((3, 8, 8)), "coords_nominal": np.ones((3, 2))}
        execution = PyTorchExecutionConfig(
            accelerator="cpu", num_workers=2, pin_memory=True, persistent_workers=True, prefetch_factor=3
        )
        loader = components._build_inference_dataloader(container, SimpleNamespace(batch_size=2), execution)
        assert loader.num_workers == 2 and loader.prefetch_factor == 3
        assert loader.pin_memory is True and loader.persistent_workers is True
        assert isinstance(loader.sampler, torch.utils.data.SequentialSampler) and loader.drop_last is False

    def test_frames_are_not_made_up(self):
        with pytest.raises(InputError, match="no X"):
            components._build_inference_dataloader({}, SimpleNamespace())


class TestReassembleCdiImageTorchFloat32:
    def test_batches_are_float32(self):
        container = {
            "X": np.random.default_rng(0).random((6, 8, 8, 1)), "coords_relative": np.zeros((6, 1, 2, 1)),
            "local_offsets": np.zeros((6, 1, 2, 1)), "global_offsets": np.zeros((6, 1, 2, 1)),
        }  # fmt: skip
        for batch in components._build_inference_dataloader(container, SimpleNamespace(batch_size=4)):
            assert len(batch) == 2 and all(part.dtype == torch.float32 for part in batch)


class PatchModel(pl.LightningModule):
    """Predicts the same patches from anything."""

    def __init__(self, patch):
        super().__init__()
        self.patch = patch
        self.layer = torch.nn.Linear(2, 2)

    def forward_predict(self, X, positions, probe, input_scale_factor):
        assert X.shape[:2] == positions.shape[:2] and positions.shape[2:] == (1, 2)
        return self.patch.expand(*X.shape[:2], *self.patch.shape)


class TestReassembleCdiImageTorchGreen:
    @pytest.fixture
    def grid(self):
        y, x = (10.0 * v.reshape(-1) for v in np.indices((4, 5)))
        frames = np.random.default_rng(0).random((20, 64, 64)).astype(np.float32)
        return RawData.from_coords_without_pc(
            x, y, frames, np.ones((64, 64), np.complex64), np.zeros(20, int), measurement_domain="amplitude"
        )

    @staticmethod
    def results():
        patch = torch.polar(torch.full((64, 64), 0.5), torch.full((64, 64), 0.3))
        return {
            "models": {"diffraction_to_obj": PatchModel(patch), "autoencoder": {"_sentinel": "autoencoder"}},
            "history": {},
        }

    def test_results_are_needed(self, config, grid):
        with pytest.raises(NotImplementedError, match="not yet fully implemented without train_results"):
            components._reassemble_cdi_image_torch(grid, config(), False, False, False, 128, train_results=None)
        with pytest.raises(ValueError, match="expected the trained module"):
            components._reassemble_cdi_image_torch(grid, config(), False, False, False, 128, train_results={})

    @pytest.mark.parametrize(
        "turn", [(False,) * 3, (True, False, False), (False, True, False), (False, False, True), (True,) * 3]
    )
    def test_orientations(self, config, grid, turn):
        amplitude, phase, more = components._reassemble_cdi_image_torch(
            grid, config({"gridsize": 2}), *turn, M=128, train_results=self.results()
        )
        assert amplitude.ndim == phase.ndim == 2 and np.isfinite(amplitude).all() and np.isfinite(phase).all()
        np.testing.assert_allclose(amplitude[20:40, 20:40], 0.5, atol=1e-4)
        np.testing.assert_allclose(phase[20:40, 20:40], 0.3, atol=1e-4)
        patches = more["obj_tensor_full"]
        assert isinstance(patches, np.ndarray) and patches.shape == (40, 64, 64, 1)
        assert isinstance(more["global_offsets"], np.ndarray) and set(more["containers"]) == {"test"}

    def test_patches_land_where_they_were_measured(self, config):
        """A bright pixel in each patch's middle, on a canvas: at the position of each frame."""
        raw = RawData.from_coords_without_pc(
            [0.0, 20.0, 7.0], [0.0, 3.0, 16.0], np.ones((3, 9, 9), np.float32), np.ones((9, 9), np.complex64),
            np.zeros(3, int), measurement_domain="amplitude",
        )  # fmt: skip
        patch = torch.ones(9, 9, dtype=torch.complex64)
        patch[4, 4] = 5
        results = {"models": {"diffraction_to_obj": PatchModel(patch)}}
        amplitude, _, _ = components._reassemble_cdi_image_torch(
            raw, config({"N": 9}, n_groups=None), False, False, False, 9, train_results=results
        )
        assert amplitude.shape == (25, 29)
        assert {tuple(p) for p in np.argwhere(amplitude > 2)} == {(4, 4), (7, 24), (20, 11)}

    def test_the_whole_way_with_a_foreign_module(self, config, grid, monkeypatch):
        monkeypatch.setattr(components, "_train_with_lightning", lambda *args, **kw: self.results())
        wanted = config({"gridsize": 2})
        amplitude, phase, results = components.run_cdi_example_torch(grid, grid, wanted, do_stitching=True)
        assert amplitude.ndim == phase.ndim == 2
        assert (wanted.output_dir / "wts.h5.zip").is_file() and results["backend"] == "pytorch"
        with pytest.raises(InputError, match="do not fit"):
            components.load_inference_bundle_torch(wanted.output_dir)


class TestLightningCheckpointCallbacks:
    @pytest.fixture
    def train(self, config, recorded):
        def run(container=None, test=None, **knobs):
            failure = None
            try:
                components._train_with_lightning(
                    MagicMock() if container is None else container, test, config({"gridsize": 2}),
                    PyTorchExecutionConfig(accelerator="cpu", **knobs),
                )  # fmt: skip
            except Exception as error:  # a mock has no frames; everything of interest is made before
                failure = error
            assert recorded.trainer, failure
            return recorded

        return run

    def test_execution_config_checkpoint(self, train):
        seen = train(checkpoint_save_top_k=3, checkpoint_monitor_metric="train_loss", checkpoint_mode="max")
        instance, arguments = seen.made["ModelCheckpoint"][0]
        assert (arguments["save_top_k"], arguments["monitor"], arguments["mode"]) == (3, "train_loss", "max")
        assert instance in seen.trainer["callbacks"]

    def test_execution_config_early_stopping(self, train):
        seen = train(test=MagicMock(), early_stop_patience=5)
        instance, arguments = seen.made["EarlyStopping"][0]
        assert (arguments["patience"], arguments["mode"]) == (5, "min") and "val" in arguments["monitor"]
        assert instance in seen.trainer["callbacks"]

    def test_execution_config_disables_checkpoints(self, train):
        seen = train(enable_checkpointing=False)
        assert "ModelCheckpoint" not in seen.made and "EarlyStopping" not in seen.made

    @pytest.mark.parametrize(("loss", "name"), [("poisson", "poisson_val_loss"), ("mae", "mae_val_loss")])
    def test_execution_config_monitor_is_the_models_own(self, train, config, recorded, loss, name):
        with pytest.raises(Exception):  # noqa: B017 the mock
            components._train_with_lightning(
                MagicMock(), MagicMock(), config(torch_loss_mode=loss), PyTorchExecutionConfig(accelerator="cpu")
            )
        checkpoint, stopping = (recorded.made[n][0][1] for n in ("ModelCheckpoint", "EarlyStopping"))
        assert checkpoint["monitor"] == stopping["monitor"] == name
        assert name.removesuffix("_loss") in checkpoint["filename"]

    def test_execution_config_logger(self, train):
        seen = train(logger_backend="csv")
        assert seen.trainer["logger"] is seen.made["CSVLogger"][0][0]
        assert train(logger_backend=None).trainer["logger"] is False

    def test_execution_config_accumulation_needs_automatic_optimisation(self, config, monkeypatch):
        class Manual(PtychoPINN_Lightning):
            def __init__(self, **configs):
                super().__init__(**configs)
                self.automatic_optimization = False

        monkeypatch.setattr(model, "PtychoPINN_Lightning", Manual)
        with pytest.raises(RuntimeError, match="accumulate_grad_batches"):
            components._train_with_lightning(
                grouped(), None, config({"gridsize": 2}), PyTorchExecutionConfig(accelerator="cpu", accum_steps=4)
            )


QUICK = {
    "N": 32, "unet_channels": 4, "merge_block": 12, "stages": 2, "projection_steps": 6, "later_projection_steps": 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A small scan trained through the workflow function, frames in memory, reconstructed too."""
    folder = tmp_path_factory.mktemp("workflow")
    raw = small_scan(80)
    config = TrainingConfig(
        ModelConfig(**QUICK), nepochs=3, calibration_epochs=5, output_dir=folder, stop_improvement=0.0
    )
    execution = PyTorchExecutionConfig(accelerator="cpu")
    found = components.run_cdi_example_torch(raw, raw, config, do_stitching=True, execution_config=execution)
    return raw, config, folder, found


class TestTheWholeWay:
    def test_frames_in_memory_become_an_object(self, trained):
        raw, _, _, (amplitude, phase, results) = trained
        image = amplitude * np.exp(1j * phase)
        assert against_truth(image, raw).phase_correlation > 0.85
        assert len(results["history"]["train_loss"]) == len(results["history"]["val_loss"]) == 3
        assert results["models"]["autoencoder"] is results["models"]["diffraction_to_obj"].generator
        assert results["intensity_scale"] == pytest.approx(np.sqrt(raw.diff3d.sum(axis=(1, 2)).mean()) / 16)

    def test_patches_are_cuts_of_the_object(self, trained):
        raw, _, _, (amplitude, _, results) = trained
        patches = results["obj_tensor_full"]
        assert patches.shape == (80, 32, 32, 1) and patches.dtype == np.complex64
        x0, y0 = (raw.xcoords.min() + raw.xcoords.max()) / 2, (raw.ycoords.min() + raw.ycoords.max()) / 2
        row = round(raw.ycoords[7] - y0 + (amplitude.shape[0] - 32) / 2)
        column = round(raw.xcoords[7] - x0 + (amplitude.shape[1] - 32) / 2)
        np.testing.assert_allclose(
            np.abs(patches[7, ..., 0]), amplitude[row : row + 32, column : column + 32], rtol=1e-5
        )  # fmt: skip

    def test_save_load_in_a_new_process_infer_is_the_same_to_the_bit(self, trained, tmp_path):
        raw, config, folder, (_, _, results) = trained
        execution = PyTorchExecutionConfig(accelerator="cpu")
        model = results["models"]["diffraction_to_obj"]
        container = components._ensure_container(raw, config)
        before = components.run_inference_with_lightning(model, container, config, execution)
        groups = {name: np.asarray(getattr(container, name)) for name in ("X", "coords_relative")}
        alone = components.run_inference_with_lightning(model, groups, config, execution)
        assert before.shape == alone.shape == (80, 1, 32, 32)
        raw.to_file(tmp_path / "scan.npz")
        np.savez(tmp_path / "groups.npz", **groups)
        code = f"""
            import numpy as np
            from ptycho import params
            from ptycho.config.config import ModelConfig, PyTorchExecutionConfig, TrainingConfig
            from ptycho.raw_data import RawData
            from ptycho_torch.workflows import components
            models, restored = components.load_inference_bundle_torch({str(folder)!r})
            model = models["diffraction_to_obj"]
            config = TrainingConfig(ModelConfig(N=params.cfg["N"]))
            container = components._ensure_container(RawData.from_file({str(tmp_path / "scan.npz")!r}), config)
            execution = PyTorchExecutionConfig(accelerator="cpu")
            infer = components.run_inference_with_lightning
            np.save({str(tmp_path / "scan.npy")!r}, infer(model, container, config, execution))
            with np.load({str(tmp_path / "groups.npz")!r}) as groups:
                np.save({str(tmp_path / "groups.npy")!r}, infer(model, dict(groups), config, execution))
            print(params.get("intensity_scale"))
        """
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=300, check=False
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert float(done.stdout) == pytest.approx(results["intensity_scale"], rel=1e-12)
        np.testing.assert_array_equal(np.load(tmp_path / "scan.npy"), before)
        np.testing.assert_array_equal(np.load(tmp_path / "groups.npy"), alone)

    def test_the_bundle_restores_the_legacy_dictionary(self, trained):
        _, _, folder, (_, _, results) = trained
        params.cfg.clear()
        models, restored = components.load_inference_bundle_torch(folder)
        assert set(models) == {"autoencoder", "diffraction_to_obj"}
        assert params.cfg["N"] == 32 and params.cfg["model_type"] == "pinn"
        assert params.cfg["intensity_scale"] == restored["intensity_scale"] == results["intensity_scale"]

    def test_deterministic_training_twice_gives_the_same_weights(self, trained, tmp_path):
        raw, config, _, (_, _, results) = trained
        config = TrainingConfig(
            ModelConfig(**QUICK), nepochs=3, calibration_epochs=5, output_dir=tmp_path, stop_improvement=0.0
        )
        again = components.train_cdi_model_torch(raw, raw, config, PyTorchExecutionConfig(accelerator="cpu"))
        first = results["models"]["diffraction_to_obj"].state_dict()
        second = again["models"]["diffraction_to_obj"].state_dict()
        assert all(torch.equal(value, second[name]) for name, value in first.items())

    def test_nothing_is_written_without_a_folder(self, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        saved = MagicMock()
        monkeypatch.setattr(components, "save_torch_bundle", saved)
        monkeypatch.setattr(components, "train_cdi_model_torch", lambda *a, **k: {"models": {"a": 1}})
        from pathlib import Path

        components.run_cdi_example_torch(None, None, TrainingConfig(ModelConfig(), output_dir=Path()))
        assert not saved.called and list(tmp_path.iterdir()) == []


class TestPayloadOfAConfiguration:
    def test_what_is_set_is_carried_and_its_source_told(self, config):
        payload = payload_of(config({"stages": 3}, nepochs=7, scheduler="Exponential"), PyTorchExecutionConfig(**CPU))
        assert payload.tf_training_config.model.stages == 3
        assert payload.pt_training_config.epochs == 7
        assert payload.execution_config.scheduler == payload.pt_training_config.scheduler == "Exponential"
        sources = payload.overrides_applied["sources"]
        assert sources["stages"] == sources["epochs"] == "config" and sources["num_workers"] == "default"

    def test_overrides_win_over_the_object(self, config):
        payload = payload_of(config(nepochs=7), None, {"max_epochs": 3})
        assert payload.tf_training_config.nepochs == 3 and payload.overrides_applied["sources"]["epochs"] == "overrides"

    def test_a_knob_of_both_stated_twice_is_refused(self, config):
        with pytest.raises(ValueError, match="State it once"):
            payload_of(config(scheduler="Exponential"), PyTorchExecutionConfig(scheduler="Cosine", **CPU))

    def test_the_payload_says_what_the_object_says(self, config):
        stated = config({"merge_block": 5}, n_subsample=8, val_fraction=0.2, max_time_s=3.0, optimizer="sgd", seed=4)
        assert payload_of(stated, PyTorchExecutionConfig(**CPU)).tf_training_config == stated

    def test_frames_that_disagree_name_both_sizes(self, config, amplitudes):
        with pytest.raises(InputError, match=r"64 x 64 pixels, expected N = 128"):
            components.train_cdi_model_torch(amplitudes, None, config({"N": 128}))


def test_an_inference_config_will_do_for_a_container(amplitudes, tmp_path):
    config = InferenceConfig(ModelConfig(), tmp_path, tmp_path / "t.npz")
    assert len(components._ensure_container(amplitudes, config)) == 10


def test_a_fresh_module_from_a_legacy_dictionary():
    module = model_manager.create_torch_model_with_gridsize(1, 64, {"n_filters_scale": 1.0, "nphotons": 5e8, "x": 1})
    assert module.data_config.C == 1 and module.model_config.C_model == 1 and module.data_config.nphotons == 5e8
    assert json.dumps(dict(module.hparams))
