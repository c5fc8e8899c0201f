"""Every field of the public configurations acts on the object that should feel it, or is refused, or is superseded.

A row of ``ACTS`` sets a field to a value that is not its default and looks at the run that comes of it. What has no
row must be in the tables of :mod:`ptycho_torch.settings`; then the refusal, or the note, is what is looked at.
"""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from small_scans import small_scan

from ptycho.config.config import InferenceConfig, ModelConfig, PyTorchExecutionConfig, TrainingConfig
from ptycho.errors import InputError
from ptycho.probe import probe_mask
from ptycho_torch import calibration, settings
from ptycho_torch.archive import load_model
from ptycho_torch.callbacks import PlateauStop, TimeLimit
from ptycho_torch.config_stated import payload_of
from ptycho_torch.generators.patchwise import Patchwise
from ptycho_torch.workflows import first_projections, recon_log, reconstruct, training
from ptycho_torch.workflows.training import run_training

SMALL = {
    "N": 32, "unet_channels": 4, "merge_block": 10, "stages": 2, "projection_steps": 2, "later_projection_steps": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def raw():
    scan = small_scan(60)
    scan.objectGuess = scan.object_truth
    return scan


@pytest.fixture
def run(raw, monkeypatch, tmp_path):
    """Prepare a training run with these fields, and stop before its first step."""

    def prepare(execution=None, model=None, source=None, **fields):
        seen = SimpleNamespace(trainer={}, calibrations=[], streamed=None)

        class Trainer:
            def __init__(self, **arguments):
                seen.trainer = arguments
                self.callback_metrics = {}

            def fit(self, module, train_dataloaders=None, val_dataloaders=None):
                seen.loader, seen.validation = train_dataloaders, val_dataloaders

        def calibrate(raw, guess, epochs, **more):
            seen.calibrations.append(epochs)
            return 1.5 * guess

        monkeypatch.setattr(pl, "Trainer", Trainer)
        monkeypatch.setattr(calibration, "calibrate_probe", calibrate)
        config = TrainingConfig(ModelConfig(**{**SMALL, **(model or {})}), **{"output_dir": tmp_path, **fields})
        seen.payload = payload_of(config, PyTorchExecutionConfig(**{"accelerator": "cpu", **(execution or {})}))
        found = run_training(seen.payload, raw if source is None else source)
        seen.module, seen.scan, seen.notes = found.module, found.scans[0], found.notes
        seen.callbacks = seen.trainer["callbacks"]
        return seen

    return prepare


def callback(seen, kind):
    return next((c for c in seen.callbacks if isinstance(c, kind)), None)


def optimiser(seen):
    found = seen.module.configure_optimizers()
    return found["optimizer"] if isinstance(found, dict) else found


def schedule(seen):
    return seen.module.configure_optimizers()["lr_scheduler"]["scheduler"]


def rates(seen, epochs=3):
    """Relative learning rates of the first epochs."""
    found = seen.module.configure_optimizers()
    values = []
    for _ in range(epochs):
        values.append(found["optimizer"].param_groups[0]["lr"] / seen.module.training_config.learning_rate)
        found["optimizer"].step()
        found["lr_scheduler"]["scheduler"].step()
    return values


def loss(seen):
    """Of the first batch, with the network as it is when made from seed 0."""
    return float(seen.module.compute_loss(next(iter(seen.loader))))


def first_weight(seen):
    return next(iter(seen.module.generator.parameters())).detach()


def block(seen):
    return next(iter(seen.loader))[0]["images"].shape[1]


TRAINER = {
    "accelerator": ("accelerator", "gpu"), "devices": ("devices", 2), "strategy": ("strategy", "ddp"),
    "deterministic": ("deterministic", False), "precision": ("precision", "bf16-mixed"),
    "gradient_clip_val": ("gradient_clip_val", 0.3), "gradient_clip_algorithm": ("gradient_clip_algorithm", "value"),
    "accum_steps": ("accumulate_grad_batches", 3), "enable_progress_bar": ("enable_progress_bar", True),
    "enable_checkpointing": ("enable_checkpointing", False),
}  # fmt: skip
LOADER = {"num_workers": 2, "pin_memory": True}

EXECUTION = {
    "compile": (True, lambda seen: all(n._compiled_call_impl is not None for n in seen.module.generator.networks())),
    "learning_rate": (0.02, lambda seen: optimiser(seen).param_groups[0]["lr"] == 0.02),
    "scheduler": ("Exponential", lambda seen: isinstance(schedule(seen), torch.optim.lr_scheduler.ExponentialLR)),
    "persistent_workers": ((True, {"num_workers": 1}), lambda seen: seen.loader.persistent_workers is True),
    "prefetch_factor": ((5, {"num_workers": 1}), lambda seen: seen.loader.prefetch_factor == 5),
    "checkpoint_save_top_k": (4, lambda seen: callback(seen, pl.callbacks.ModelCheckpoint).save_top_k == 4),
    "checkpoint_monitor_metric": (
        "train_loss", lambda seen: {callback(seen, k).monitor for k in (
            pl.callbacks.ModelCheckpoint, pl.callbacks.EarlyStopping)} == {"train_loss"}),
    "checkpoint_mode": ("max", lambda seen: callback(seen, pl.callbacks.ModelCheckpoint).mode == "max"),
    "early_stop_patience": (7, lambda seen: callback(seen, pl.callbacks.EarlyStopping).patience == 7),
    "logger_backend": (None, lambda seen: seen.trainer["logger"] is False),
    "recon_log_every_n_epochs": (2, lambda seen: callback(seen, recon_log.ReconstructionLog).every == 2),
    "recon_log_num_patches": (
        (2, {"recon_log_every_n_epochs": 1}), lambda seen: callback(seen, recon_log.ReconstructionLog).patches == 2),
    "recon_log_fixed_indices": (
        ([3, 5], {"recon_log_every_n_epochs": 1}),
        lambda seen: callback(seen, recon_log.ReconstructionLog).indices == (3, 5)),
    "recon_log_stitch": (
        (True, {"recon_log_every_n_epochs": 1}), lambda seen: callback(seen, recon_log.ReconstructionLog).stitch),
    "recon_log_max_stitch_samples": (
        (9, {"recon_log_every_n_epochs": 1}),
        lambda seen: callback(seen, recon_log.ReconstructionLog).most_frames == 9),
    "inference_batch_size": (13, lambda seen: seen.module.inference_config.batch_size == 13),
    **{name: (value, lambda seen, k=key, v=value: seen.trainer[k] == v) for name, (key, value) in TRAINER.items()},
    **{name: (value, lambda seen, k=name, v=value: getattr(seen.loader, k) == v) for name, value in LOADER.items()},
}  # fmt: skip

TRAINING = {
    "batch_size": (40, lambda seen: seen.loader.batch_size == 3),  # 6 blocks of 10, in 2 steps of 4 or evenly 3
    "nepochs": (3, lambda seen: seen.trainer["max_epochs"] == 3),
    "n_groups": (20, lambda seen: len(seen.loader.sampler) == 2),
    "n_images": (20, lambda seen: len(seen.loader.sampler) == 2),
    "n_subsample": (30, lambda seen: seen.scan.placed.raw.n_frames == 30),
    "subsample_seed": (
        (5, {"n_subsample": 30}), lambda seen: not np.array_equal(
            seen.scan.placed.raw.sample_indices, np.sort(np.random.default_rng(0).choice(60, 30, replace=False)))),
    "output_dir": (Path("elsewhere"), lambda seen: Path(seen.trainer["default_root_dir"]) == Path("elsewhere")),
    "sequential_sampling": (True, lambda seen: [r.indices.min() for r in seen.loader.sampler] == sorted(
        r.indices.min() for r in seen.loader.sampler)),
    "torch_loss_mode": ("mae", lambda seen: seen.module.loss_name == "mae_train_loss"),
    "gradient_clip_val": (0.3, lambda seen: seen.trainer["gradient_clip_val"] == 0.3),
    "gradient_clip_algorithm": ("value", lambda seen: seen.trainer["gradient_clip_algorithm"] == "value"),
    "optimizer": ("sgd", lambda seen: isinstance(optimiser(seen), torch.optim.SGD)),
    "momentum": ((0.5, {"optimizer": "sgd"}), lambda seen: optimiser(seen).param_groups[0]["momentum"] == 0.5),
    "weight_decay": (0.1, lambda seen: optimiser(seen).param_groups[0]["weight_decay"] == 0.1),
    "adam_beta1": (0.5, lambda seen: optimiser(seen).param_groups[0]["betas"][0] == 0.5),
    "adam_beta2": (0.7, lambda seen: optimiser(seen).param_groups[0]["betas"][1] == 0.7),
    "scheduler": ("Adaptive", lambda seen: isinstance(schedule(seen), torch.optim.lr_scheduler.ReduceLROnPlateau)),
    "lr_warmup_epochs": (
        (3, {"scheduler": "WarmupCosine"}), lambda seen: rates(seen) == pytest.approx([0.25, 0.5, 0.75])),
    "lr_min_ratio": (
        (0.25, {"scheduler": "Exponential", "nepochs": 3}), lambda seen: rates(seen) == pytest.approx([1, 0.5, 0.25])),
    "plateau_factor": ((0.2, {"scheduler": "Adaptive"}), lambda seen: schedule(seen).factor == 0.2),
    "plateau_patience": ((9, {"scheduler": "Adaptive"}), lambda seen: schedule(seen).patience == 9),
    "plateau_min_lr": ((1e-6, {"scheduler": "Adaptive"}), lambda seen: schedule(seen).min_lrs == [1e-6]),
    "plateau_threshold": ((0.01, {"scheduler": "Adaptive"}), lambda seen: schedule(seen).threshold == 0.01),
    "calibrate_probe": (False, lambda seen: torch.equal(seen.scan.probe, seen.scan.guess) and not seen.calibrations),
    "calibration_epochs": (11, lambda seen: seen.calibrations == [11]),
    "val_fraction": (0.5, lambda seen: len(seen.loader.sampler.members) == 30),
    "max_time_s": (9.0, lambda seen: callback(seen, TimeLimit) is not None),
    "stop_improvement": (0.2, lambda seen: callback(seen, PlateauStop).improvement == 0.2),
    "stop_window": (6, lambda seen: callback(seen, PlateauStop).window == 6),
}  # fmt: skip

# compared with a run that has the defaults: the loss of the first batch
LOSSES = {
    "mae_weight": (0.5, {}), "nll_weight": (0.5, {}), "realspace_weight": (1.0, {"realspace_mae_weight": 1.0}),
    "realspace_mae_weight": (2.0, {"realspace_weight": 1.0}),
}  # fmt: skip

MODEL = {
    "gridsize": (2, lambda seen: seen.payload.pt_data_config.C == 4 and seen.loader.batch_size == 6),
    "model_type": ("supervised", lambda seen: seen.module.model_config.mode == "Supervised"),
    "object_big": (False, lambda seen: block(seen) == 1),
    "merge_block": (15, lambda seen: block(seen) == 15),
    "stages": (3, lambda seen: seen.module.generator.stages == 3),
    "projection_steps": (4, lambda seen: seen.module.generator.begin_steps == 4),
    "later_projection_steps": (3, lambda seen: seen.module.generator.later_steps == 3),
    "unet_channels": (6, lambda seen: seen.module.generator.correctors[0].encoder[0].first.out_channels == 6),
    "probe_mask": (True, lambda seen: dark_outside(seen, None, 1.0)),
    "probe_mask_diameter": ((10.0, {"probe_mask": True}), lambda seen: dark_outside(seen, 10.0, 1.0)),
    "probe_mask_sigma": ((3.0, {"probe_mask": True}), lambda seen: dark_outside(seen, None, 3.0)),
}  # fmt: skip
CNN = {
    "architecture": ("cnn", lambda seen: isinstance(seen.module.generator, Patchwise)),
    "n_filters_scale": (
        1, lambda seen: seen.module.model.autoencoder.encoder.blocks[0].conv1.weight.shape[0] == 32),
    "amp_activation": ("relu", lambda seen: seen.module.model.autoencoder.amp_activation == "relu"),
    "probe_big": (False, lambda seen: sum(p.numel() for p in seen.module.generator.parameters()) < 2_339_892),
}  # fmt: skip

# for entry points, scripts and files, not for the run itself; where they are looked at
CALLER = {
    ModelConfig: {"N": "test_frames_of_another_side_are_refused"},
    TrainingConfig: {
        "model": "all of this file", "train_data_file": "test_workflows_components.py",
        "test_data_file": "test_config_factory.py", "backend": "test_backend_selection.py",
        "init_from": "test_training_starts_from_another_models_network",
        "nphotons": "test_nphotons_scales_frames_of_unknown_scale", "seed": "test_the_seed_gives_the_weights",
        "measurement_domain": "test_training.py", "pretrain_scans": "test_pretraining.py",
    },
    InferenceConfig: {
        "model": "the archive says it", "model_path": "test_training.py", "test_data_file": "test_config_factory.py",
        "output_dir": "tests/cli", "backend": "test_backend_selection.py",
        "n_subsample": "test_a_part_of_the_frames_is_reconstructed",
        "subsample_seed": "test_a_part_of_the_frames_is_reconstructed",
    },
    PyTorchExecutionConfig: {},
}  # fmt: skip
ACTS = {
    ModelConfig: {**MODEL, **CNN}, TrainingConfig: {**TRAINING, **LOSSES}, InferenceConfig: {},
    PyTorchExecutionConfig: EXECUTION,
}  # fmt: skip
CLASSES = list(ACTS)


def dark_outside(seen, diameter, sigma):
    guess, mask = seen.scan.placed.raw.probe[0], probe_mask(32, diameter, sigma)
    ratio = seen.scan.guess[0].numpy() / (guess * np.where(mask > 0.01, mask, np.nan))
    return np.nanstd(np.abs(ratio)) < 1e-3 * np.nanmean(np.abs(ratio)) and abs(seen.scan.guess[0, 0, 0]) < 1e-3


def felt(check, seen):
    """Whether the check holds; where there is not even what it looks at, it does not."""
    try:
        return bool(check(seen))
    except (AttributeError, KeyError, TypeError):
        return False


def stated(row):
    value, *_ = row
    return value if isinstance(value, tuple) else (value, {})


@pytest.mark.parametrize("cls", CLASSES)
def test_every_field_has_its_place(cls):
    fields = {f.name for f in dataclasses.fields(cls)}
    places = (ACTS[cls], CALLER[cls], settings.REFUSED[cls], settings.SUPERSEDED[cls])
    for name in fields:
        assert sum(name in place for place in places) == 1, f"{cls.__name__}.{name}"
    assert set().union(*places) <= fields


@pytest.mark.parametrize("name", EXECUTION)
def test_execution_config(run, name, monkeypatch):
    if name == "accelerator":  # no device of that name is there
        monkeypatch.setattr("ptycho_torch.data.module.BlockDataModule.begin", lambda *_: None)
    value, more = stated(EXECUTION[name])
    default = next(f.default for f in dataclasses.fields(PyTorchExecutionConfig) if f.name == name)
    assert value != default
    # no device of that name is there: the frames are not taken to it
    seen = run({name: value, **more}, calibrate_probe=False)
    assert EXECUTION[name][1](seen)
    assert not felt(EXECUTION[name][1], run({}, calibrate_probe=False)), "the check tells the two apart"


@pytest.mark.parametrize("name", TRAINING)
def test_training_config(run, name):
    value, more = stated(TRAINING[name])
    assert TRAINING[name][1](run(**{name: value, **more}))
    assert not felt(TRAINING[name][1], run(**more)), "the check tells the two apart"


@pytest.mark.parametrize("name", LOSSES)
def test_weights_of_the_loss(run, name):
    value, more = LOSSES[name]
    with_it, without = loss(run(**{name: value, **more})), loss(run())
    assert abs(with_it - without) > 1e-4
    if more:
        double = loss(run(**{name: 2 * value, **more}))
        assert double - without == pytest.approx(2 * (with_it - without), rel=1e-3)


@pytest.mark.parametrize("name", MODEL)
def test_model_config(run, name):
    value, more = stated(MODEL[name])
    assert MODEL[name][1](run(model={name: value, **more}))
    assert not felt(MODEL[name][1], run(model=more)), "the check tells the two apart"


@pytest.fixture(scope="module")
def large():
    """What the published network takes at least: frames of 64 x 64."""
    from ptycho.diffsim import simulate_demo_scan

    return simulate_demo_scan(0, n_frames=12, N=64)


@pytest.mark.parametrize("name", CNN)
def test_options_of_the_published_network(run, large, name):
    value, _ = stated(CNN[name])
    seen = run(model={"N": 64, "unet_channels": 16, "architecture": "cnn", name: value}, source=large)
    assert CNN[name][1](seen) and seen.notes[0].startswith("Frames are taken as"), "nothing is superseded there"


@pytest.mark.parametrize("name", [n for n in CNN if n != "architecture"])
def test_options_of_another_architecture_are_told(run, name):
    assert run(model={name: CNN[name][0]}).notes[0].endswith("it is an option of the architecture 'cnn'.")


@pytest.mark.parametrize(("cls", "name"), [(c, n) for c in CLASSES for n in settings.REFUSED[c]])
def test_what_is_refused(run, cls, name):
    default = next(f.default for f in dataclasses.fields(cls) if f.name == name)
    value = (not default) if isinstance(default, bool) else 1.5
    where = {"model": {name: value}} if cls is ModelConfig else {name: value}
    with pytest.raises(InputError, match=rf"{name}={value!r} does not act in this version: \w+"):
        run(**where)


OTHER = {"debug": True, "pad_eval": True, "pad_object": False, "fno_input_transform": "log1p",
         "generator_output_mode": "amp_phase", "enable_oversampling": True, "probe_trainable": True,
         "intensity_scale_trainable": False, "torch_mae_pred_l2_match_target": True, "probe_scale": 2.0}  # fmt: skip


@pytest.mark.parametrize(("cls", "name"), [(c, n) for c in CLASSES for n in settings.SUPERSEDED[c]])
def test_what_is_superseded_is_told(run, raw, cls, name, monkeypatch):
    value = OTHER.get(name, 7)
    if cls is InferenceConfig:
        monkeypatch.setattr(first_projections, "load_model", lambda path: (None, {}))
        nothing = SimpleNamespace(notes=[], settings={}, timings_s={}, probe=None)
        monkeypatch.setattr(reconstruct, "_inferred", lambda *args: (raw, nothing))
        config = InferenceConfig(ModelConfig(), Path(), Path(), **{name: value})
        notes = reconstruct.infer_scan("m", raw, config, PyTorchExecutionConfig(accelerator="cpu")).notes
    elif cls is PyTorchExecutionConfig:
        notes = run({name: value}).notes
    else:
        notes = run(**({"model": {name: value}} if cls is ModelConfig else {name: value})).notes
    assert any(note.startswith(f"{name}={value!r} has no effect: ") for note in notes), notes


def test_settings_of_checkpoints_without_checkpoints_are_told(run):
    notes = run({"enable_checkpointing": False, "early_stop_patience": 3}).notes
    assert notes[0] == "early_stop_patience=3 has no effect: there are no checkpoints (enable_checkpointing=False)."


def test_a_probe_that_is_refined_in_no_way(run):
    with pytest.raises(InputError, match="probe_trainable=True and calibrate_probe=False"):
        run(probe_trainable=True, calibrate_probe=False)


def test_frames_of_another_side_are_refused(run):
    with pytest.raises(InputError, match=r"frames are 32 x 32 pixels, the configuration says N=64"):
        run(model={"N": 64})


def test_the_seed_gives_the_weights(run):
    a, b, other = first_weight(run()), first_weight(run()), first_weight(run(seed=3))
    assert torch.equal(a, b) and not torch.equal(a, other)


def test_training_starts_from_another_models_network(run, raw, tmp_path):
    config = TrainingConfig(ModelConfig(**SMALL), nepochs=2, calibrate_probe=False)
    reconstruct.train_scan(raw, config, PyTorchExecutionConfig(accelerator="cpu"), output_dir=tmp_path / "first")
    trained = load_model(tmp_path / "first")[0].generator.state_dict()
    seen = run(init_from=tmp_path / "first")
    assert all(torch.equal(value, trained[name]) for name, value in seen.module.generator.state_dict().items())
    assert any(note.startswith("Training started from the network of") for note in seen.notes)
    with pytest.raises(InputError, match=r"init_from='.*first': the network there is another one"):
        run(init_from=tmp_path / "first", model={"unet_channels": 5})


def test_nphotons_scales_frames_of_unknown_scale(run):
    rng = np.random.default_rng(0)
    groups = {"X": rng.random((6, 32, 32, 1)).astype(np.float32), "coords_relative": np.zeros((6, 1, 2, 1))}
    seen = run(source=groups, nphotons=7e4)
    frames = torch.cat([batch[0]["images"] for batch in seen.loader])
    assert frames.sum(dim=(2, 3)).mean().item() == pytest.approx(7e4, rel=1e-4)


def test_a_part_of_the_frames_is_reconstructed(raw, monkeypatch):
    seen = []

    def infer(module, scan, *_):
        seen.append(scan.sample_indices)
        return scan, SimpleNamespace(notes=[], settings={}, timings_s={}, probe=None)

    monkeypatch.setattr(first_projections, "load_model", lambda path: (None, {}))
    monkeypatch.setattr(reconstruct, "_inferred", infer)
    for seed in (1, 1, 2):
        config = InferenceConfig(ModelConfig(), Path(), Path(), n_subsample=9, subsample_seed=seed)
        reconstruct.infer_scan("m", raw, config, PyTorchExecutionConfig(accelerator="cpu"))
    assert all(len(part) == 9 for part in seen)
    assert np.array_equal(seen[0], seen[1]) and not np.array_equal(seen[0], seen[2])


SCHEDULES = {
    "Default": [1, 1, 1, 1], "Exponential": [1, 0.1 ** (1 / 3), 0.1 ** (2 / 3), 0.1],
    "MultiStage": [1, 1, 0.1, 0.1], "Adaptive": [1, 1, 0.5, 0.25], "ReduceLROnPlateau": [1, 1, 0.5, 0.25],
    "WarmupCosine": [0.5, 1, 0.1 + 0.45 * (1 + np.cos(np.pi / 3)), 0.1 + 0.45 * (1 + np.cos(2 * np.pi / 3))],
    "Cosine": [0.5, 1, 0.1 + 0.45 * (1 + np.cos(np.pi / 3)), 0.1 + 0.45 * (1 + np.cos(2 * np.pi / 3))],
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_are_stepped_in_training(raw, monkeypatch, tmp_path, name):
    """The learning rates that four real epochs had; no epoch is good enough to be no plateau."""
    found = []

    class Recorder(training._LossHistory):
        def on_train_epoch_start(self, trainer, pl_module):
            found.append(trainer.optimizers[0].param_groups[0]["lr"])

    monkeypatch.setattr(training, "_LossHistory", Recorder)
    config = TrainingConfig(
        ModelConfig(**SMALL), nepochs=4, calibrate_probe=False, val_fraction=0.0, output_dir=tmp_path, scheduler=name,
        lr_warmup_epochs=int(name in ("WarmupCosine", "Cosine")), plateau_patience=0, plateau_min_lr=0.0,
        plateau_threshold=0.999, stop_improvement=0.0, n_subsample=10,
    )  # fmt: skip
    execution = PyTorchExecutionConfig(accelerator="cpu", learning_rate=1e-4, enable_checkpointing=False)
    run_training(payload_of(config, execution), raw)
    assert [rate / 1e-4 for rate in found] == pytest.approx(SCHEDULES[name])


def test_gradient_norms_are_logged(raw, tmp_path):
    config = TrainingConfig(ModelConfig(**SMALL), nepochs=1, calibrate_probe=False, output_dir=tmp_path)
    payload = payload_of(config, PyTorchExecutionConfig(accelerator="cpu"), {"log_grad_norm": True})
    run_training(payload, raw)
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index("grad_norm")
    values = [float(line.split(",")[column]) for line in lines[1:] if line.split(",")[column]]
    assert len(values) >= 3 and min(values) > 0


def test_the_object_is_pictured_while_it_is_learned(raw, tmp_path):
    config = TrainingConfig(ModelConfig(**SMALL), nepochs=2, calibrate_probe=False, output_dir=tmp_path)
    execution = PyTorchExecutionConfig(
        accelerator="cpu", recon_log_every_n_epochs=2, recon_log_fixed_indices=[3, 40], recon_log_stitch=True,
        recon_log_max_stitch_samples=20,
    )  # fmt: skip
    run_training(payload_of(config, execution), raw)
    pictures = sorted(p.name for p in (tmp_path / "reconstructions").iterdir())
    assert pictures == ["epoch_0002_object.png", "epoch_0002_patches.png"]
    assert all((tmp_path / "reconstructions" / name).stat().st_size > 2000 for name in pictures)


@pytest.mark.slow
def test_compiled_networks_train(raw, tmp_path):
    config = TrainingConfig(ModelConfig(**SMALL), nepochs=1, calibrate_probe=False, output_dir=tmp_path, n_groups=10)
    try:
        torch.compile(lambda x: x + 1)(torch.ones(2))
    except Exception as error:  # no C++ compiler on this machine
        pytest.skip(f"torch.compile does not work here: {error}")
    found = [
        run_training(payload_of(config, PyTorchExecutionConfig(accelerator="cpu", compile=on)), raw).losses["train"][0]
        for on in (True, False)
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-4)
