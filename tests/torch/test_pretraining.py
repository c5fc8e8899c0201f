"""Training on simulated scans first: what is simulated, what is learned from it, and what becomes of the rest."""

import dataclasses
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from runs import Recorder
from small_scans import against_truth

from ptycho import progress
from ptycho.config.config import ModelConfig, PyTorchExecutionConfig, TrainingConfig
from ptycho.errors import InputError
from ptycho.simulation.recipe import Recipe, simulate
from ptycho_torch.config_stated import payload_of
from ptycho_torch.data.blocks import BlockDataset
from ptycho_torch.data.samplers import BlockRequest
from ptycho_torch.data.scans import LitScan, PlacedScan
from ptycho_torch.workflows import pretraining, training
from ptycho_torch.workflows.pretraining import known_object, simulated_scans
from ptycho_torch.workflows.reconstruct import train_scan
from ptycho_torch.workflows.training import AFTER_PRETRAINING, TrainingJob

SMALL = {"unet_channels": 8, "merge_block": 12, "projection_steps": 12}


def execution(**fields):
    return PyTorchExecutionConfig(accelerator="cpu", **fields)


def configuration(**fields):
    fields = {"nepochs": 0, "calibrate_probe": False, "pretrain_scans": 3, **fields}
    return TrainingConfig(model=ModelConfig(N=64, **SMALL), **fields)


def small_scan(n_frames, seed=0, overlap=0.83, counts=1e5):
    return simulate(
        Recipe(n_frames=n_frames, seed=seed, overlap=overlap, defocus_error=0.0, counts_per_frame=counts)
    ).raw


def lit(raw, **fields):
    probe = torch.from_numpy(raw.probe_truth)
    # the light that has passed the object, as calibration leaves it
    probe = probe * np.sqrt(raw.mean_counts_per_frame() / float(probe.abs().square().sum()))
    return LitScan(PlacedScan.of(raw), probe, probe, **fields)


@pytest.fixture(scope="module")
def sparse():
    """Frames so far apart that the counts alone do not tell the object."""
    return small_scan(40, overlap=0.4)


# ---------------------------------------------------------------------- what is simulated


def test_simulated_scans_have_the_positions_probe_dose_and_mask_of_the_scan(sparse):
    bad = np.zeros((64, 64), dtype=bool)
    bad[20:30, 31] = True
    scan = lit(sparse.masked(bad))
    made = simulated_scans([scan], 3, 0)
    for one in made:
        raw = one.placed.raw
        assert np.ptp(raw.xcoords - sparse.xcoords) < 1e-9 and np.ptp(raw.ycoords - sparse.ycoords) < 1e-9
        assert torch.equal(one.probe, scan.probe) and raw.diff3d.dtype == np.uint16
        assert np.array_equal(raw.bad_pixels, bad) and not raw.diff3d[:, bad].any()
        assert raw.mean_counts_per_frame() == pytest.approx(sparse.mean_counts_per_frame(), rel=0.05)
    assert not np.array_equal(made[0].placed.raw.diff3d, made[1].placed.raw.diff3d)


def test_the_labels_and_the_probe_explain_the_simulated_counts(sparse):
    """Each frame by NumPy: the far field of the probe on the label's patch, against the counts, with Poisson noise."""
    for one in simulated_scans([lit(sparse)], 3, 1):
        raw, probe = one.placed.raw, one.probe.numpy()
        ratio = []
        for number, (top, left) in enumerate(one.placed.starts.tolist()):
            shifts = one.placed.fractions[number].numpy()
            k = np.fft.fftfreq(64)
            ramp = np.exp(-2j * np.pi * (shifts[0] * k[:, None] + shifts[1] * k[None, :]))
            moved = np.fft.ifft2(np.fft.fft2(probe) * ramp)
            waves = moved * one.labels[top : top + 64, left : left + 64].numpy()
            rate = np.square(np.abs(np.fft.fftshift(np.fft.fft2(waves, norm="ortho"), axes=(-2, -1)))).sum(0)
            ratio.append(np.square(raw.diff3d[number] - rate).sum() / rate.sum())
        assert np.mean(ratio) == pytest.approx(1.0, abs=0.05), "variance over mean is that of counts"


def test_equal_seeds_give_equal_scans(sparse):
    first, again, other = (simulated_scans([lit(sparse)], 1, seed)[0].placed.raw.diff3d for seed in (4, 4, 5))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_of_a_large_scan_neighbours_are_simulated(monkeypatch):
    monkeypatch.setattr(pretraining, "MOST_FRAMES", 30)
    raw = small_scan(120)
    for one in simulated_scans([lit(raw)], 3, 0):
        there = one.placed.raw
        assert there.n_frames == 30
        assert np.ptp(there.xcoords) < 0.8 * np.ptp(raw.xcoords) and np.ptp(there.ycoords) < 0.8 * np.ptp(raw.ycoords)


def test_several_scans_are_imitated_in_turn(sparse):
    other = small_scan(25, seed=3, overlap=0.5)
    made = simulated_scans([lit(sparse), lit(other)], 3, 0)
    assert [one.placed.raw.n_frames for one in made] == [40, 25, 40]


def test_frames_that_were_scaled_down_are_refused(sparse):
    """Simulated with so little light they would be empty."""
    scan = lit(sparse)
    probe = scan.probe * (0.01 / float(scan.probe.abs().square().sum())) ** 0.5
    with pytest.raises(InputError, match=r"found 0\.01 per frame, expected photon counts, at least 100"):
        simulated_scans([dataclasses.replace(scan, probe=probe)], 3, 0)


def test_positions_within_groups_are_not_enough(sparse):
    groups = np.arange(40).reshape(10, 4)
    with pytest.raises(InputError, match="pretrain_scans needs the positions of the whole scan"):
        simulated_scans([lit(sparse, groups=groups)], 3, 0)


def test_known_objects_lie_on_the_canvases_of_blocks(sparse):
    (scan,) = simulated_scans([lit(sparse)], 1, 0)
    every = np.ones(6, dtype=bool)
    requests = [BlockRequest(np.arange(at, at + 6), every, every) for at in (0, 12)]
    fields, probe, _ = BlockDataset([scan]).__getitems__(requests)
    probes = probe.expand(2, 6, *probe.shape)
    shape = tuple(fields["shape"].tolist())
    known, light = known_object(fields, probes, fields["starts"], shape)
    for number, request in enumerate(requests):
        expected, total = np.ones(shape, complex), np.zeros(shape)
        corner = scan.placed.starts[request.indices].numpy().min(axis=0)
        for top, left in scan.placed.starts[request.indices].numpy():
            here = np.s_[top - corner[0] :, left - corner[1] :]
            total[here][:64, :64] += np.square(np.abs(probe.numpy())).sum(0)
            expected[here][:64, :64] = scan.labels[top : top + 64, left : left + 64].numpy()
        total /= np.square(np.abs(probe.numpy())).sum(0).max()
        np.testing.assert_allclose(light[number].numpy(), total, atol=1e-5)
        bright = total > 0.1
        np.testing.assert_allclose(known[number].numpy()[bright], expected[bright], atol=1e-3)
        assert np.abs(known[number].numpy()[total == 0] - 1).max(initial=0) < 1e-6


# ---------------------------------------------------------------------- what is learned


@pytest.fixture(scope="module")
def poor():
    """As far apart, and a tenth of the counts: much of the object is left to what the network knows of others."""
    return small_scan(40, overlap=0.4, counts=1e4)


@pytest.fixture(scope="module")
def learned(poor, tmp_path_factory):
    """A network that has seen simulated scans only; what watched it."""
    folder, recorder = tmp_path_factory.mktemp("learned"), Recorder()
    config = TrainingConfig(ModelConfig(), nepochs=0, calibrate_probe=False, pretrain_scans=12)
    with pytest.MonkeyPatch.context() as patch, progress.reporting_to(recorder):
        patch.setattr(pretraining, "STEPS", 400)
        outcome = train_scan(poor, config, execution(), output_dir=folder)
    return outcome, folder, recorder


def test_the_network_knows_more_than_the_projections(learned, poor):
    outcome, _, _ = learned
    network, projection = (against_truth(outcome.stages[name].object, poor) for name in ("network", "projection"))
    assert network.phase_correlation > projection.phase_correlation + 0.01
    assert network.ssim > projection.ssim


def test_what_was_done_is_said(learned):
    outcome, folder, recorder = learned
    assert any(
        note.startswith("Before the scan, the network was trained on 12 simulated scans") for note in outcome.notes
    )
    assert outcome.settings["pretrain_scans"] == 12
    steps, scans = recorder.named("Training on simulated scans")[0], recorder.named("Simulating scans")[0]
    assert steps["done"] == steps["total"] == 400 and steps["ended"]
    assert scans["done"] == scans["total"] == 12
    assert sorted(p.name for p in folder.rglob("*") if p.is_file()) == ["wts.h5.zip"]


@pytest.fixture
def few_steps(monkeypatch):
    monkeypatch.setattr(pretraining, "STEPS", 5)


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("architecture", ["cnn", "projection_unet"])
def test_every_architecture_learns(sparse, tmp_path, architecture):
    config = dataclasses.replace(configuration(), model=ModelConfig(architecture=architecture, n_filters_scale=1))
    job = TrainingJob(payload_of(config, execution(), output_dir=tmp_path), tmp_path, False)
    before = [p.clone() for p in job.module.parameters()]
    job.run(sparse)
    assert any(not torch.equal(a, b) for a, b in zip(before, job.module.parameters(), strict=True))


@pytest.mark.usefixtures("few_steps")
def test_the_scan_is_learned_at_a_lower_rate_afterwards(sparse, tmp_path):
    job = TrainingJob(
        payload_of(configuration(nepochs=1), execution(learning_rate=1e-3), output_dir=tmp_path), tmp_path, True
    )
    job.run(sparse)
    assert job.trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-3 * AFTER_PRETRAINING)


@pytest.mark.parametrize("devices", [1, 2])
def test_the_network_before_the_first_epoch_may_be_the_best(sparse, tmp_path, monkeypatch, devices):
    # enough to be better than no network, which is what some of the ruined ones amount to
    monkeypatch.setattr(pretraining, "STEPS", 40)
    config = configuration(nepochs=2, val_fraction=0.2)
    ruin = execution(learning_rate=100.0, devices=devices, strategy="auto" if devices == 1 else "ddp")
    job = TrainingJob(payload_of(config, ruin, output_dir=tmp_path), tmp_path, True)
    run = job.run(sparse)
    (score,) = job.history.start.values()
    assert all(not loss < score for loss in run.losses["val"]), "two epochs at this rate ruin it"
    assert all(torch.equal(value, job._start[name]) for name, value in run.module.state_dict().items())


@pytest.mark.usefixtures("few_steps")
def test_an_epoch_that_is_better_is_taken(tmp_path):
    payload = payload_of(configuration(nepochs=4, val_fraction=0.2), execution(), output_dir=tmp_path)
    job = TrainingJob(payload, tmp_path, True)
    run = job.run(small_scan(100))
    (score,) = job.history.start.values()
    assert min(run.losses["val"]) < score
    assert any(not torch.equal(value, job._start[name]) for name, value in run.module.state_dict().items())


def test_half_of_the_time_is_for_the_scan(sparse, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(training, "pretrain", lambda *args: asked.append(args[-1]) or "a note")
    for limit in (4000.0, None):
        config = configuration(max_time_s=limit)
        before = time.monotonic()
        job = TrainingJob(payload_of(config, execution(), output_dir=tmp_path), tmp_path, False)
        after = time.monotonic()
        job.run(sparse)
        assert limit is None or before + limit / 2 <= asked[-1] <= after + limit / 2
    assert asked[-1] is None


def test_no_step_is_taken_after_the_time_is_up(sparse, tmp_path):
    recorder, payload = Recorder(), payload_of(configuration(), execution(), output_dir=tmp_path)
    job = TrainingJob(payload, tmp_path, False)
    with progress.reporting_to(recorder):
        pretraining.pretrain(job.module, payload, [lit(sparse)], tmp_path, time.monotonic())
    assert recorder.named("Training on simulated scans")[0]["done"] == 1, "one step is always taken"


def test_a_module_of_another_kind_is_refused(sparse, tmp_path):
    payload = payload_of(configuration(), execution(), output_dir=tmp_path)
    with pytest.raises(InputError, match="found a module of another kind"):
        pretraining.pretrain(SimpleNamespace(), payload, [lit(sparse)], tmp_path)
