"""The classes that ptychodus drives, called as it calls them; ptychodus itself is not needed."""

import copy
import json
import logging
import subprocess
import sys
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from facade import EPOCHS, configs, trainer_for
from small_scans import against_truth, small_scan

from ptycho.errors import InputError, MissingFileError
from ptycho_torch.api import base_api
from ptycho_torch.api.base_api import (
    ConfigManager,
    DataloaderFormats,
    InferenceEngine,
    PtychoDataLoader,
    PtychoModel,
    Trainer,
)
from ptycho_torch.archive import load_model
from ptycho_torch.config_params import DataConfig, ModelConfig, TrainingConfig, as_plain
from ptycho_torch.lightning_utils import find_best_checkpoint
from ptycho_torch.model import PtychoPINN_Lightning


class Collector(pl.Callback):
    """The client's own callback, appended after the Trainer is made; it cannot be pickled by reference."""

    def __init__(self, model):
        self.names = model.loss_name, model.val_loss_name
        self.losses = {name: [] for name in self.names}

    def on_train_epoch_end(self, trainer, pl_module):
        self.losses[self.names[0]].append(float(trainer.callback_metrics[self.names[0]]))

    def on_validation_epoch_end(self, trainer, pl_module):
        assert not trainer.sanity_checking
        self.losses[self.names[1]].append(float(trainer.callback_metrics[self.names[1]]))


@pytest.fixture(scope="module")
def raw():
    return small_scan(80)


@pytest.fixture(scope="module")
def run(raw, tmp_path_factory):
    """A training as ptychodus's child runs it: (its folder, the collected losses, the checkpoint)."""
    folder = tmp_path_factory.mktemp("scans")
    raw.to_file(folder / "train_data.npz")
    (folder / "settings.ini").touch()
    trainer, loader, model = trainer_for(folder, configs())
    collector = Collector(model.model)
    trainer._trainer.callbacks.append(collector)
    trainer.train(orchestration="lightning", experiment_name="")
    return loader.output_dir, collector, find_best_checkpoint(Path(loader.output_dir))


def loaded(checkpoint):
    """A model from a checkpoint, step by step as ptychodus does it."""
    data, model, training, inference = PtychoModel._extract_configs_from_checkpoint(str(checkpoint))
    ptycho_model = PtychoModel(
        model_config=model, data_config=data, training_config=training, inference_config=inference
    )
    ptycho_model.model = PtychoPINN_Lightning.load_from_checkpoint(
        checkpoint, model_config=model, data_config=data, training_config=training, inference_config=inference
    )
    manager = ConfigManager.from_loaded_model(ptycho_model)
    manager.validate_arch_compatibility(ptycho_model)
    return ptycho_model, manager


def reconstruct(checkpoint, raw, **changes):
    model, manager = loaded(checkpoint)
    arrays = {
        "diff_patterns": raw.diff3d, "probe": 5 * raw.probe.astype(complex),
        "positions": np.column_stack([raw.ycoords, raw.xcoords]), **changes,
    }  # fmt: skip
    loader = PtychoDataLoader.from_np(**arrays, config_manager=manager)
    return InferenceEngine(config_manager=manager, ptycho_model=model).predict_and_stitch(loader)


# ---------------------------------------------------------------- training and what it leaves


def test_the_losses_arrive(run):
    _, collector, _ = run
    assert collector.names == ("poisson_train_loss", "poisson_val_loss")
    assert [len(values) for values in collector.losses.values()] == [EPOCHS, EPOCHS]
    assert np.isfinite(list(collector.losses.values())).all()


def test_what_is_left(run):
    folder, _, checkpoint = run
    assert folder.name.startswith("run_") and checkpoint == folder / "checkpoints" / "best-poisson_val.ckpt"
    left = sorted(str(path.relative_to(folder.parent)) for path in folder.parent.rglob("*") if path.is_file())
    names = ("checkpoints/best-poisson_val.ckpt", "checkpoints/last.ckpt", "metrics.csv", "wts.h5.zip")
    assert left == sorted([*(f"{folder.name}/{name}" for name in names), "settings.ini", "train_data.npz"])


def test_the_checkpoint_is_plain(run):
    stored = torch.load(run[2], weights_only=True)
    for name, cls in (("data_config", DataConfig), ("model_config", ModelConfig), ("training_config", TrainingConfig)):
        assert set(stored["hyper_parameters"][name]) == set(as_plain(cls()))
    assert json.loads(json.dumps(stored["hyper_parameters"]["data_config"]))["N"] == 32


def test_the_object_of_a_whole_scan(run, raw, tmp_path):
    # the checkpoint alone, elsewhere
    elsewhere = tmp_path / "a model.ckpt"
    elsewhere.write_bytes(run[2].read_bytes())
    image = reconstruct(elsewhere, raw)
    assert type(image) is np.ndarray and image.dtype == np.complex64 and image.ndim == 2
    np.testing.assert_array_equal(np.asarray(image), reconstruct(run[2], raw))
    found = against_truth(image, raw)
    assert found.phase_correlation > 0.97 and max(map(abs, found.shift_px)) < 0.3


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32, np.float64])
def test_frames_of_any_kind_are_counts(run, raw, dtype):
    """Even where nothing in the numbers says so: halves of counts, a probe without a mode axis."""
    image = reconstruct(run[2], raw, diff_patterns=raw.diff3d.astype(dtype))
    if np.dtype(dtype).kind == "f":
        fainter = reconstruct(run[2], raw, diff_patterns=raw.diff3d.astype(dtype) * 0.437, probe=raw.probe[0])
        assert against_truth(fainter, raw).phase_correlation > 0.97
    np.testing.assert_array_equal(image, reconstruct(run[2], raw))


def test_positions_are_rows_and_columns(run, raw):
    apart = np.column_stack([raw.ycoords, raw.xcoords]) * [1.0, 2.0]
    image = reconstruct(run[2], raw, positions=apart)
    assert image.shape[1] - image.shape[0] > 0.7 * np.ptp(raw.xcoords)


def test_the_archive_beside_the_checkpoint(run, raw):
    module, settings = load_model(run[0])
    model, _ = loaded(run[2])
    for name, value in model.model.state_dict().items():
        torch.testing.assert_close(value, module.state_dict()[name], rtol=0, atol=0)
    assert settings["model"]["N"] == 32 and settings["model"]["gridsize"] == 2


def test_a_scan_without_a_mask_gets_that_of_the_model(run, raw, tmp_path, caplog):
    """ptychodus hands over repaired frames, and says in training only which pixels it has repaired."""
    caplog.set_level(logging.INFO)
    bad = np.zeros((32, 32), bool)
    bad[14:17, 16] = True
    masked = copy.copy(raw).masked(bad)
    masked.to_file(tmp_path / "scan.npz")
    trainer, loader, _ = trainer_for(tmp_path, configs(training={"epochs": 1}))
    trainer.train()
    frames = raw.diff3d.copy()
    frames[:, bad] = 0  # repaired badly
    image = reconstruct(find_best_checkpoint(loader.output_dir), raw, diff_patterns=frames)
    assert "no mask of bad pixels: the one of the trained model is used" in caplog.text
    lit = np.abs(image[20:-20, 20:-20]).mean()
    assert abs(lit / np.abs(reconstruct(run[2], raw)[20:-20, 20:-20]).mean() - 1) < 0.03


def test_labels_and_two_modes(tmp_path):
    scan = small_scan(60)
    scan.objectGuess = scan.object_truth
    scan.probeGuess = np.concatenate([scan.probe, 0.3 * np.roll(scan.probe, 3, axis=1)])
    scan.to_file(tmp_path / "scan.npz")
    manager = configs(model={"mode": "Supervised"}, training={"epochs": 1})
    trainer, loader, model = trainer_for(tmp_path, manager)
    assert model.model.loss_name == "mae_train_loss"
    trainer.train()
    found, loaded_manager = loaded(find_best_checkpoint(loader.output_dir))
    assert loaded_manager.model_config.mode == "Supervised" and loaded_manager.data_config.probe_modes == 2
    assert found.model.probe.shape == (2, 32, 32)


# ---------------------------------------------------------------- data


def test_the_scans_of_a_folder(raw, tmp_path, caplog):
    for name in ("b.npz", "a.npz"):
        raw.to_file(tmp_path / name)
    np.savez(tmp_path / "model.npz", weights=np.ones(3))
    (tmp_path / "run_old").mkdir()
    raw.to_file(tmp_path / "run_old" / "c.npz")
    manager = configs()
    loader = PtychoDataLoader(str(tmp_path), manager, output_dir=str(tmp_path))
    assert [Path(scan.source).name for scan in loader.scans] == ["a.npz", "b.npz"]
    assert manager.data_config.N == 32 and "model.npz holds no frames" in caplog.text
    assert loader.output_dir.parent == tmp_path and not loader.output_dir.exists()
    loader.output_dir.mkdir()
    assert PtychoDataLoader(tmp_path, manager, output_dir=tmp_path).output_dir != loader.output_dir


def test_folders_that_cannot_be_trained_on(raw, tmp_path):
    with pytest.raises(MissingFileError, match="Training data folder not found"):
        PtychoDataLoader(tmp_path / "none", configs())
    with pytest.raises(InputError, match=r"found 0 \*.npz file\(s\).*Export the training data"):
        PtychoDataLoader(tmp_path, configs())
    raw.to_file(tmp_path / "a.npz")
    raw.crop(16).to_file(tmp_path / "b.npz")
    with pytest.raises(InputError, match=r"different sides \(a.npz: 32, b.npz: 16\)"):
        PtychoDataLoader(tmp_path, configs())
    (tmp_path / "b.npz").write_text("text")
    with pytest.raises(InputError, match="b.npz: not a readable NPZ file.*move it away"):
        PtychoDataLoader(tmp_path, configs())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"positions": np.zeros((2, 80))}, r"positions: found shape \(2, 80\), expected \(frames, 2\)"),
        ({"positions": np.zeros((79, 2))}, "79"),
        ({"diff_patterns": np.ones((80, 32, 40))}, "square"),
        ({"probe": np.ones((64, 64), complex)}, "probe of 64 x 64"),
        ({"diff_patterns": np.ones((80, 16, 16)), "probe": np.ones((16, 16))}, "trained on 32 x 32"),
    ],
)
def test_arrays_that_do_not_fit(run, raw, changes, message):
    with pytest.raises(InputError, match=message):
        reconstruct(run[2], raw, **changes)


# ---------------------------------------------------------------- models and trainers


def test_a_model_that_does_not_fit_its_configuration(run):
    model, manager = loaded(run[2])
    manager.update(data_config={"N": 64}, model_config={"stages": 3}, training_config=None)
    with pytest.raises(InputError, match=r"N=64 \(the model: 32\), stages=3 \(the model: 1\)"):
        manager.validate_arch_compatibility(model)
    manager.update(data_config={"N": 32}, model_config={"stages": 1}, training_config={"epochs": 99})
    manager.validate_arch_compatibility(model)


def test_a_fresh_model_is_the_same_each_time(tmp_path):
    manager = configs()
    manager.update(data_config={"N": 32})
    torch.manual_seed(7)
    state = torch.get_rng_state()
    one, two = (PtychoModel._new_model(PtychoPINN_Lightning, manager).model for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)


def test_checkpoints_that_cannot_be_used(run, tmp_path):
    extract = PtychoModel._extract_configs_from_checkpoint
    with pytest.raises(MissingFileError, match="Checkpoint not found"):
        extract(str(tmp_path / "none.ckpt"))
    stored = torch.load(run[2], weights_only=True)
    for content, message in (
        ({**stored, "hyper_parameters": {}}, "found no data_config, model_config, training_config, inference_config"),
        ({key: value for key, value in stored.items() if key != "hyper_parameters"}, "train the model again"),
        ({"weights": 1}, "found no state_dict"),
        ({**stored, "hyper_parameters": {"data_config": DataConfig()}}, "loaded safely.*train the model again"),
    ):
        torch.save(content, tmp_path / "other.ckpt")
        with pytest.raises(InputError, match=message):
            extract(str(tmp_path / "other.ckpt"))
    (tmp_path / "other.ckpt").write_bytes(run[2].read_bytes()[:1000])
    with pytest.raises(InputError, match="loaded safely"):
        extract(str(tmp_path / "other.ckpt"))


def test_what_a_trainer_needs(raw, tmp_path):
    raw.to_file(tmp_path / "scan.npz")
    manager = configs()
    loader = PtychoDataLoader(tmp_path, manager)
    model = PtychoModel._new_model(PtychoPINN_Lightning, manager)
    with pytest.raises(InputError, match="no output_dir"):
        Trainer._from_lightning(model, loader, config_manager=manager)
    with pytest.raises(InputError, match="orchestration: found 'mlflow', expected 'lightning'"):
        Trainer._from_lightning(model, loader, orchestration="mlflow")
    with pytest.raises(ValueError, match="parquet"):
        DataloaderFormats("parquet")


def test_settings_that_do_not_act_are_refused_before_anything_is_written(raw, tmp_path):
    raw.to_file(tmp_path / "scan.npz")
    for changes, message in (
        ({"training": {"enable_staged_finetuning": True}}, "enable_staged_finetuning=True does not act"),
        ({"model": {"probe_reference_coeff": 0.1}}, "probe_reference_coeff=0.1 does not act"),
    ):
        with pytest.raises(InputError, match=message):
            trainer_for(tmp_path, configs(**changes))
    assert [path.name for path in tmp_path.iterdir()] == ["scan.npz"]


def test_names_and_weight_of_the_module():
    assert set(base_api.__all__) == {
        "ConfigManager", "DataloaderFormats", "InferenceEngine", "PtychoDataLoader", "PtychoModel", "Trainer"
    }  # fmt: skip
    code = (
        "import sys, ptycho_torch.config_params, torch;"
        "print('lightning' in sys.modules, 'mlflow' in sys.modules, torch.cuda.is_initialized())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False", "False"]
