"""A scan goes in, an object comes out; and everything on the way."""

import csv
import logging
import zipfile
from types import SimpleNamespace

import lightning.pytorch
import numpy as np
import pytest
import torch
from small_scans import against_truth, small_scan

from ptycho import params
from ptycho.config.config import ModelConfig, PyTorchExecutionConfig, TrainingConfig
from ptycho.diffsim import simulate_demo_scan
from ptycho.errors import InputError, MissingFileError
from ptycho.model_manager import load_archive
from ptycho_torch import callbacks, lightning_utils, model
from ptycho_torch.archive import load_model
from ptycho_torch.config_params import TrainingConfig as TorchTrainingConfig
from ptycho_torch.config_stated import payload_of
from ptycho_torch.model import PtychoPINN_Lightning
from ptycho_torch.optimisers import clip_adaptively, make_optimiser, make_scheduler
from ptycho_torch.workflows.reconstruct import infer_scan, train_scan
from ptycho_torch.workflows.training import TrainingJob, run_training

QUICK = {"unet_channels": 4, "merge_block": 12, "stages": 2, "projection_steps": 4, "later_projection_steps": 2}


def execution(**fields):
    return PyTorchExecutionConfig(accelerator="cpu", **fields)


def configuration(model=None, **fields):
    fields = {"nepochs": 2, "calibration_epochs": 4, "stop_improvement": 0.0, **fields}
    return TrainingConfig(model=ModelConfig(**{**QUICK, **(model or {})}), **fields)


@pytest.fixture(scope="module")
def scan():
    return small_scan(60)


@pytest.fixture(scope="module")
def trained(scan, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    return train_scan(scan, configuration(), execution(), output_dir=folder), folder


def weights(folder):
    return load_archive(folder).models["autoencoder"]


def test_training_reaches_quality(tmp_path):
    raw = small_scan(150, defocus_error=0.1)
    # few projections, so that it is the network that has to find the rest
    model_config = ModelConfig(unet_channels=8, merge_block=16, stages=2, projection_steps=2, later_projection_steps=1)
    config = TrainingConfig(model=model_config, nepochs=12, batch_size=16)
    outcome = train_scan(raw, config, execution(learning_rate=2e-3), output_dir=tmp_path)
    network, projection = (against_truth(outcome.stages[n].object, raw) for n in ("network", "projection"))
    assert network.phase_correlation > 0.97
    assert network.phase_correlation > projection.phase_correlation + 0.01
    assert network.ssim > projection.ssim
    assert np.abs(network.shift_px).max() < 0.2, "the object lies where the positions say"
    assert outcome.losses["train"][-1] < outcome.losses["train"][0]
    assert outcome.stages["network"].deviance < outcome.stages["projection"].deviance


def test_a_run_leaves_just_these_files(trained):
    _, folder = trained
    found = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    assert found == ["checkpoints/best-poisson_val.ckpt", "checkpoints/last.ckpt", "metrics.csv", "wts.h5.zip"]
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["epoch"] for row in rows} == {"0", "1"}
    assert {"poisson_train_loss", "poisson_val_loss"} <= set(rows[0])


def test_the_outcome_is_complete(trained, scan):
    outcome, _ = trained
    assert list(outcome.stages) == ["projection", "network"]
    assert outcome.result is outcome.stages["network"]
    image = outcome.result.object
    assert image.shape == outcome.canvas.shape == outcome.coverage.shape and image.dtype == np.complex64
    assert np.all(image[outcome.coverage == 0] == 1)
    assert np.isfinite(image.view(np.float32)).all()
    assert outcome.probe.shape == (1, 32, 32)
    assert {"calibration", "training", "reconstruction", "total"} <= set(outcome.timings_s)
    assert len(outcome.losses["train"]) == len(outcome.losses["val"]) == 2
    assert params.cfg is not None


def test_the_legacy_dictionary_is_filled_first(scan, tmp_path):
    train_scan(scan, configuration(nepochs=1), execution(), output_dir=tmp_path)
    assert params.cfg["N"] == 32 and params.cfg["nepochs"] == 1


def test_the_same_seed_gives_the_same_weights_bit_for_bit(scan, trained, tmp_path):
    _, folder = trained
    train_scan(scan, configuration(), execution(), output_dir=tmp_path / "again")
    train_scan(scan, configuration(seed=1), execution(), output_dir=tmp_path / "other")
    first, again, other = weights(folder), weights(tmp_path / "again"), weights(tmp_path / "other")
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert any(not np.array_equal(first[name], other[name]) for name in first)


def test_a_second_run_in_the_same_folder_owes_nothing_to_the_first(scan, tmp_path):
    train_scan(scan, configuration(), execution(), output_dir=tmp_path / "used")
    train_scan(scan, configuration(seed=1, nepochs=0), execution(), output_dir=tmp_path / "used")
    train_scan(scan, configuration(seed=1, nepochs=0), execution(), output_dir=tmp_path / "new")
    used, new = weights(tmp_path / "used"), weights(tmp_path / "new")
    assert all(np.array_equal(used[name], new[name]) for name in new)


def test_the_callers_switches_of_determinism_are_left_alone(scan, tmp_path, monkeypatch):
    seen = []
    step = PtychoPINN_Lightning.training_step

    def looked_at(*arguments):
        seen.append((torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory))
        return step(*arguments)

    monkeypatch.setattr(PtychoPINN_Lightning, "training_step", looked_at)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    before = torch.are_deterministic_algorithms_enabled()
    train_scan(scan, configuration(nepochs=1), execution(), output_dir=tmp_path)
    assert set(seen) == {(True, False)}
    assert torch.are_deterministic_algorithms_enabled() == before
    assert torch.utils.deterministic.fill_uninitialized_memory


def test_the_callers_random_state_is_left_alone(scan, tmp_path):
    torch.manual_seed(11)
    before = torch.get_rng_state().clone()
    train_scan(scan, configuration(nepochs=1), execution(), output_dir=tmp_path)
    assert torch.equal(before, torch.get_rng_state())


def test_an_archive_reconstructs_what_the_run_did(trained, scan):
    outcome, folder = trained
    again = infer_scan(folder, scan, execution=execution())
    np.testing.assert_array_equal(again.result.object, outcome.result.object)
    assert any("one of the trained model" in note for note in again.notes)
    other = infer_scan(folder / "wts.h5.zip", scan, execution=execution(inference_batch_size=7))
    np.testing.assert_allclose(other.result.object, outcome.result.object, atol=2e-4)


def test_the_scans_own_probe_is_used_when_it_is_another(trained, scan):
    _, folder = trained
    other = small_scan(60, seed=2, defocus_error=0.3)
    outcome = infer_scan(folder, other, execution=execution())
    assert any("own probe is used" in note for note in outcome.notes)
    overlap = abs(np.vdot(outcome.probe, other.probe)) / np.linalg.norm(outcome.probe) / np.linalg.norm(other.probe)
    assert overlap > 0.9999


def test_frames_of_another_size_are_refused(trained):
    raw = small_scan(20).crop(24)
    with pytest.raises(InputError, match=r"24 x 24 pixels.*trained on 32 x 32.*--crop 32"):
        infer_scan(trained[1], raw, execution=execution())


def test_a_part_of_the_frames_is_drawn_by_seed(scan, tmp_path):
    def positions(name, **fields):
        config = configuration(nepochs=0, n_subsample=30, **fields)
        return train_scan(scan, config, execution(), output_dir=tmp_path / name).xcoords

    first, again, other = positions("a"), positions("b"), positions("c", subsample_seed=5)
    assert len(first) == 30 and np.array_equal(first, again) and not np.array_equal(first, other)


def test_too_few_frames_are_refused(scan, tmp_path):
    with pytest.raises(InputError, match="found 1 frame"):
        train_scan(scan.subset([0]), configuration(), execution(), output_dir=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_masked_pixels_take_no_part(scan, tmp_path):
    frames = scan.diff3d.astype(np.float32)
    bad = np.zeros((32, 32), bool)
    bad[::7, ::5] = True
    frames[:, bad] = np.nan
    masked = type(scan)(
        scan.xcoords, scan.ycoords, scan.xcoords, scan.ycoords, frames, scan.probeGuess, scan.scan_index,
        bad_pixels=bad, measurement_domain="intensity",
    )  # fmt: skip
    outcome = train_scan(masked, configuration(), execution(), output_dir=tmp_path)
    assert np.isfinite(outcome.losses["train"]).all()
    assert np.isfinite(outcome.result.object.view(np.float32)).all()
    assert against_truth(outcome.result.object, scan).phase_correlation > 0.8


def test_two_probe_modes(scan, tmp_path):
    guess = np.concatenate((scan.probe, 0.3 * np.roll(scan.probe, 4, axis=-1)))
    mixed = type(scan)(
        scan.xcoords, scan.ycoords, scan.xcoords, scan.ycoords, scan.diff3d, guess, scan.scan_index,
        measurement_domain="intensity",
    )  # fmt: skip
    outcome = train_scan(mixed, configuration(nepochs=1), execution(), output_dir=tmp_path)
    assert outcome.probe.shape == (2, 32, 32)
    assert infer_scan(tmp_path, mixed, execution=execution()).probe.shape == (2, 32, 32)


@pytest.mark.parametrize(
    "changed",
    [{"positions_provided": False}, {"model": {"gaussian_smoothing_sigma": 1.0}}],
)
def test_settings_that_would_not_act_are_refused(scan, tmp_path, changed):
    name = next(iter(changed.get("model", changed)))
    with pytest.raises(InputError, match=rf"{name}=.*does not act"):
        train_scan(scan, configuration(**changed), execution(), output_dir=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_later_projections_without_a_later_stage_are_refused(scan, tmp_path):
    config = configuration(model={"stages": 1, "later_projection_steps": 3})
    with pytest.raises(InputError, match=r"later_projection_steps=3: acts from the second stage on, found stages=1"):
        train_scan(scan, config, execution(), output_dir=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_superseded_settings_are_reported(scan, tmp_path):
    outcome = train_scan(scan, configuration(model={"probe_scale": 2.0}, nepochs=1), execution(), output_dir=tmp_path)
    assert any(note.startswith("probe_scale=2.0 has no effect") for note in outcome.notes)


def test_a_domain_that_contradicts_the_scan_is_refused(scan, tmp_path):
    with pytest.raises(InputError, match=r"read as intensity.*measurement_domain='amplitude'"):
        train_scan(scan, configuration(measurement_domain="amplitude"), execution(), output_dir=tmp_path)


def test_scans_to_validate_with_are_taken_as_stated_too(scan, tmp_path):
    """Frames that do not tell what they are, where the configuration does; and frames that were read otherwise."""
    roots = np.sqrt(scan.diff3d).astype(np.float32)
    silent = type(scan)(scan.xcoords, scan.ycoords, scan.xcoords, scan.ycoords, roots, scan.probeGuess, scan.scan_index)
    config = configuration(model={"N": 32}, measurement_domain="amplitude", calibrate_probe=False, nepochs=1)
    payload = payload_of(config, execution(), output_dir=tmp_path)
    run = run_training(payload, silent, silent)
    assert np.isfinite(run.losses["val"]).all()
    with pytest.raises(InputError, match=r"read as intensity.*measurement_domain='amplitude'"):
        run_training(payload, silent, scan)


def test_a_scan_smaller_than_a_group_is_refused_before_it_is_trained_on(tmp_path):
    scan = simulate_demo_scan(0, n_frames=20, N=64)
    config = configuration(model={"architecture": "cnn", "gridsize": 3}, n_subsample=8)
    with pytest.raises(InputError, match=r"found 8 frame\(s\), expected at least 9"):
        train_scan(scan, config, execution(), output_dir=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_inference_tells_of_settings_whose_job_is_done_otherwise(trained, scan):
    notes = infer_scan(trained[1], scan, execution=execution(middle_trim=8)).notes
    assert notes[0].startswith("middle_trim=8 has no effect")


def test_an_unknown_architecture_or_scheduler_is_refused(scan, tmp_path):
    with pytest.raises(InputError, match="architecture 'resnet' is not available"):
        train_scan(scan, configuration(model={"architecture": "resnet"}), execution(), output_dir=tmp_path)
    with pytest.raises(InputError, match="State it once"):
        train_scan(
            scan, configuration(scheduler="Exponential"), execution(scheduler="WarmupCosine"), output_dir=tmp_path
        )


def test_mae_loss_trains_under_its_own_name(scan, tmp_path):
    train_scan(scan, configuration(torch_loss_mode="mae"), execution(), output_dir=tmp_path)
    assert "mae_train_loss" in (tmp_path / "metrics.csv").read_text().splitlines()[0]


class StepLosses(lightning.pytorch.Callback):
    """The loss of each step and its number of frames; may stop training after a step."""

    def __init__(self, stops_after=None):
        self.stops_after, self.steps, self.logged = stops_after, [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.steps.append((float(outputs["loss"]), int(batch[0]["scored"].sum())))
        trainer.should_stop = trainer.should_stop or len(self.steps) == self.stops_after

    def on_train_epoch_end(self, trainer, pl_module):
        self.logged.append({name: float(value) for name, value in trainer.callback_metrics.items()})


@pytest.mark.parametrize(("every", "stops_after"), [(1, None), (4, None), (4, 7), (100, None), (100, 1)])
def test_the_logged_loss_is_the_mean_over_the_scored_frames(scan, tmp_path, monkeypatch, every, stops_after):
    """However seldom it is entered, and in an epoch that is broken off too."""
    monkeypatch.setattr(model, "LOG_EVERY", every)
    payload = payload_of(
        configuration({"N": 32, "merge_block": 6}, nepochs=2, batch_size=6), execution(), output_dir=tmp_path
    )
    job, seen = TrainingJob(payload, tmp_path, False), StepLosses(stops_after)
    job.trainer.callbacks.append(seen)
    losses = job.run(scan).losses["train"]
    n = len(seen.steps) if stops_after else len(seen.steps) // 2
    assert n == (stops_after or 10)
    epochs = [seen.steps[:n]] if stops_after else [seen.steps[:n], seen.steps[n:]]
    means = [sum(loss * frames for loss, frames in steps) / sum(frames for _, frames in steps) for steps in epochs]
    assert losses == pytest.approx(means, rel=1e-5)
    for name in ("poisson_train_loss", "train_loss"):
        assert [values[name] for values in seen.logged] == pytest.approx(means, rel=1e-5)


def test_the_trainer_gets_what_was_asked(scan, tmp_path, monkeypatch):
    seen = {}
    real = lightning.pytorch.Trainer

    def spy(**arguments):
        seen.update(arguments)
        trainer = real(**arguments)
        seen["trainer"] = trainer
        return trainer

    monkeypatch.setattr(lightning.pytorch, "Trainer", spy)
    asked = execution(
        accum_steps=2, gradient_clip_val=0.5, gradient_clip_algorithm="value", deterministic=False,
        precision="bf16-mixed", logger_backend=None,
    )  # fmt: skip
    train_scan(scan, configuration(nepochs=1, batch_size=12), asked, output_dir=tmp_path)
    assert seen["accumulate_grad_batches"] == 2 and seen["gradient_clip_val"] == 0.5
    assert seen["gradient_clip_algorithm"] == "value" and seen["precision"] == "bf16-mixed"
    assert seen["logger"] is False and not (tmp_path / "metrics.csv").exists()
    assert seen["trainer"].global_step == 3, "five batches in pairs"


def test_max_time_ends_training(scan, tmp_path):
    outcome = train_scan(scan, configuration(nepochs=5000, max_time_s=3.0), execution(), output_dir=tmp_path)
    assert outcome.timings_s["training"] < 20
    assert (tmp_path / "wts.h5.zip").is_file()


def test_the_newest_checkpoint_is_that_of_the_last_epoch(tmp_path, monkeypatch):
    """Not every epoch is written, but the last one is."""
    clock, written = [0.0], []
    trainer = SimpleNamespace(
        save_checkpoint=lambda path: written.append((clock[0], path.name)),
        strategy=SimpleNamespace(reduce_boolean_decision=lambda due, all: due),
    )
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: clock[0])
    callback = callbacks.LastCheckpoint(tmp_path, every_s=5.0)
    for clock[0] in (1.0, 3.0, 5.9, 6.0, 7.0):
        callback.on_train_epoch_end(trainer, None)
    callback.on_train_end(trainer, None)
    callback.on_train_end(trainer, None)
    assert written == [(1.0, "last.ckpt"), (6.0, "last.ckpt"), (7.0, "last.ckpt")]


def test_training_stops_on_a_plateau(scan, tmp_path):
    config = configuration(nepochs=40, stop_improvement=0.9, stop_window=2)
    assert len(train_scan(scan, config, execution(), output_dir=tmp_path).losses["train"]) == 3


def test_a_collapse_is_told(scan, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(model, "FLAT", 1e9)
    with caplog.at_level(logging.WARNING, logger="ptycho_torch.model"):
        outcome = train_scan(scan, configuration(), execution(), output_dir=tmp_path)
    assert "collapsed to a constant" in caplog.text
    assert any("collapsed" in note for note in outcome.notes)


def test_checkpoints_are_self_contained(trained):
    _, folder = trained
    best = lightning_utils.find_best_checkpoint(folder)
    stored = torch.load(best, weights_only=True)["hyper_parameters"]
    assert set(stored) == {"model_config", "data_config", "training_config", "inference_config"}
    loaded = PtychoPINN_Lightning.load_from_checkpoint(best)
    assert loaded.data_config.N == 32 and loaded.probe.abs().max() > 0
    for name, value in load_model(folder)[0].state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name])


def test_no_checkpoint_no_best(tmp_path):
    assert lightning_utils.find_best_checkpoint(tmp_path) is None


@pytest.mark.parametrize(
    ("scheduler", "rates"),
    [
        ("Exponential", [1.0, 0.1 ** (1 / 3), 0.1 ** (2 / 3)]),
        ("WarmupCosine", [0.5, 1.0, 0.1 + 0.9 * 0.75]),
        ("MultiStage", [1.0, 1.0, 0.1]),
    ],
)
def test_schedules_follow_their_formula(scheduler, rates):
    config = TorchTrainingConfig(
        scheduler=scheduler, epochs=4, learning_rate=1.0, lr_warmup_epochs=int(scheduler == "WarmupCosine")
    )
    optimiser = make_optimiser([torch.nn.Parameter(torch.zeros(1))], config)
    schedule = make_scheduler(optimiser, config, "loss")["scheduler"]
    found = []
    for _ in range(3):
        found.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    assert found == pytest.approx(rates)


def test_adaptive_clipping_limits_each_unit_by_its_weights():
    rng = np.random.default_rng(0)
    weight = torch.nn.Parameter(torch.from_numpy(rng.normal(size=(3, 4, 2))))
    gradient = rng.normal(size=(3, 4, 2)) * np.array([1e-3, 1.0, 50.0])[:, None, None]
    weight.grad = torch.from_numpy(gradient.copy())
    clip_adaptively([weight, torch.nn.Parameter(torch.zeros(2))], 0.2)
    for unit in range(3):
        limit = 0.2 * max(np.sqrt((weight.detach().numpy()[unit] ** 2).sum()), 1e-3)
        norm = np.sqrt((gradient[unit] ** 2).sum())
        np.testing.assert_allclose(weight.grad.numpy()[unit], gradient[unit] * min(1.0, limit / norm), rtol=1e-12)


def test_adaptive_clipping_acts_in_training(scan, tmp_path):
    def head_after(name, nepochs, **fields):
        config = configuration(nepochs=nepochs, optimizer="sgd", momentum=0.0)
        train_scan(scan, config, execution(learning_rate=1.0, **fields), output_dir=tmp_path / name)
        return weights(tmp_path / name)["correctors.0.head.weight"]

    start = head_after("start", 0)
    free = np.abs(head_after("free", 1) - start).max()
    clipped = np.abs(head_after("clipped", 1, gradient_clip_val=1e-3, gradient_clip_algorithm="agc") - start).max()
    assert 0 < clipped <= 5 * 1e-6 < free, "five steps of at most 1e-3 times the least norm of a unit, 1e-3"


@pytest.mark.parametrize("backend", ["tensorboard", "mlflow"])
def test_a_logger_whose_package_is_missing_says_how_to_get_it(backend, tmp_path, monkeypatch):
    def absent(*args, **kwargs):
        raise ModuleNotFoundError("No module named 'it'")

    monkeypatch.setattr(lightning_utils.pl_loggers, "TensorBoardLogger", absent)
    monkeypatch.setattr(lightning_utils.pl_loggers, "MLFlowLogger", absent)
    with pytest.raises(InputError, match=rf"pip install {backend}, or choose 'csv'"):
        lightning_utils.make_logger(execution(logger_backend=backend), tmp_path)


def test_a_damaged_archive_is_refused(trained, tmp_path):
    whole = (trained[1] / "wts.h5.zip").read_bytes()
    rng = np.random.default_rng(0)
    file = tmp_path / "wts.h5.zip"
    with zipfile.ZipFile(trained[1] / "wts.h5.zip") as source:
        spans = [(info.header_offset + 30 + len(info.filename), info.compress_size) for info in source.infolist()]
    for _ in range(200):
        start, size = spans[rng.integers(len(spans))]
        at = start + int(rng.integers(size))
        file.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << int(rng.integers(8)))]) + whole[at + 1 :])
        with pytest.raises(InputError, match=r"wts\.h5\.zip"):
            load_archive(file)
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="not a readable zip"):
        load_archive(file)


def test_archives_that_cannot_be_ours(tmp_path):
    with pytest.raises(MissingFileError, match="Model archive not found"):
        load_model(tmp_path)
    pickled = tmp_path / "old.zip"
    with zipfile.ZipFile(pickled, "w") as target:
        target.writestr("manifest.dill", b"cos\nsystem\n")
    with pytest.raises(InputError, match="pickled kind"):
        load_model(pickled)
    foreign = tmp_path / "foreign.zip"
    with zipfile.ZipFile(foreign, "w") as target:
        target.writestr("readme.txt", b"hello")
    with pytest.raises(InputError, match="Is it a model archive"):
        load_model(foreign)


def test_another_backend_is_refused(trained, tmp_path):
    from ptycho.model_manager import save_archive

    archive = load_archive(trained[1])
    save_archive(tmp_path / "a.zip", archive.models, archive.config, "tensorflow")
    with pytest.raises(InputError, match="made by backend 'tensorflow'"):
        load_model(tmp_path / "a.zip")


def test_a_missing_weight_is_refused(trained, tmp_path):
    from ptycho.model_manager import save_archive

    archive = load_archive(trained[1])
    archive.models["autoencoder"].popitem()
    save_archive(tmp_path / "a.zip", archive.models, archive.config, "pytorch")
    with pytest.raises(InputError, match="do not fit"):
        load_model(tmp_path / "a.zip")
