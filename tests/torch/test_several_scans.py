"""One model of several scans, and training that is stopped from outside."""

import os
import signal
import threading
import time

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from small_scans import against_truth, small_scan

from ptycho.config.config import ModelConfig, PyTorchExecutionConfig, TrainingConfig
from ptycho.errors import InputError
from ptycho_torch import lightning_utils
from ptycho_torch.calibration import scaled_guess
from ptycho_torch.data.blocks import BlockDataset
from ptycho_torch.data.samplers import MixedBatches, TrainingBlocks
from ptycho_torch.data.scans import LitScan, PlacedScan
from ptycho_torch.workflows.reconstruct import infer_scan, train_scan, train_scans

QUICK = {"unet_channels": 4, "merge_block": 12, "stages": 2, "projection_steps": 6, "later_projection_steps": 3}


def configuration(**fields):
    quick = {"nepochs": 2, "calibration_epochs": 5, "stop_improvement": 0, **fields}
    return TrainingConfig(ModelConfig(**QUICK), **quick)


def execution():
    return PyTorchExecutionConfig(accelerator="cpu")


@pytest.fixture(scope="module")
def scans():
    """Two objects under two probes, the second scan ten times brighter and with fewer frames."""
    return [small_scan(70, seed=0), small_scan(40, seed=1, defocus_error=0.2, counts=1e6)]


def lit(raw):
    probe = torch.from_numpy(scaled_guess(raw))
    return LitScan(PlacedScan.of(raw), probe, probe)


def test_a_batch_is_of_one_scan_and_lit_by_its_probe(scans):
    both = [lit(raw) for raw in scans]
    parts = [(TrainingBlocks(s.placed.xy, np.arange(s.placed.raw.n_frames), 10, seed=0), 2) for s in both]
    batches = MixedBatches(parts, seed=3)
    dataset = BlockDataset(both)
    order = list(batches)
    assert len(batches) == len(order) == 4 + 2
    numbers = [{r.scan for r in requests} for requests in order]
    assert all(len(n) == 1 for n in numbers) and {min(n) for n in numbers} == {0, 1}
    for number, scan in enumerate(both):
        seen = np.concatenate([r.indices[r.scored] for requests in order for r in requests if r.scan == number])
        assert sorted(seen) == list(range(scan.placed.raw.n_frames)), "every frame once"
    for requests in order:
        fields, probe, scaling = dataset.__getitems__(requests)
        scan = both[requests[0].scan]
        assert torch.equal(probe, scan.probe) and set(fields["experiment_id"].tolist()) == {requests[0].scan}
        np.testing.assert_array_equal(fields["images"][0].numpy(), scan.placed.raw.diff3d[requests[0].indices])
        assert scaling.flatten()[0].item() == pytest.approx(scan.placed.raw.intensity_scale(), rel=1e-5)
    batches.set_epoch(1)
    assert [r.scan for q in batches for r in q] != [r.scan for q in order for r in q] or any(
        not np.array_equal(a.indices, b.indices) for q, p in zip(batches, order, strict=True)
        for a, b in zip(q, p, strict=True)
    )  # fmt: skip


def test_one_model_reconstructs_each_of_them(scans, tmp_path):
    outcomes = train_scans(scans, configuration(nepochs=4), execution(), output_dir=tmp_path)
    assert len(outcomes) == 2
    for outcome, raw in zip(outcomes, scans, strict=True):
        assert outcome.result.object.shape == outcome.canvas.shape and len(outcome.xcoords) == raw.n_frames
        assert against_truth(outcome.result.object, raw).phase_correlation > 0.85
        power = np.sum(np.abs(outcome.probe) ** 2)
        assert power == pytest.approx(raw.mean_counts_per_frame(), rel=0.02), "each probe in its own counts"
    again = infer_scan(tmp_path, scans[0], execution=execution())
    np.testing.assert_array_equal(again.result.object, outcomes[0].result.object)


def test_one_guess_is_calibrated_once(scans, tmp_path, monkeypatch):
    from ptycho_torch import calibration

    real, calls = calibration.calibrate_probe, []
    monkeypatch.setattr(calibration, "calibrate_probe", lambda *a, **k: calls.append(1) or real(*a, **k))
    same = small_scan(30, seed=5)
    train_scans([scans[0], same], configuration(nepochs=0), execution(), output_dir=tmp_path / "a")
    assert len(calls) == 1
    train_scans(scans, configuration(nepochs=0), execution(), output_dir=tmp_path / "b")
    assert len(calls) == 3


def test_one_mask_acts_once_on_the_probe_of_every_scan(scans, tmp_path):
    """Two scans of one guess in the same light: the second one's probe is the first one's."""
    config = configuration(nepochs=0)
    config.model.probe_mask, config.model.probe_mask_diameter = True, 12.0
    one, other = train_scans([scans[0], small_scan(30, seed=5)], config, execution(), output_dir=tmp_path)
    scale = np.sqrt(np.sum(np.abs(one.probe) ** 2) / np.sum(np.abs(other.probe) ** 2))
    np.testing.assert_allclose(scale * other.probe, one.probe, atol=1e-4 * np.abs(one.probe).max())


def test_different_sides_are_refused(scans, tmp_path):
    with pytest.raises(InputError, match=r"different sides.*32 x 32.*24 x 24"):
        train_scans([scans[0], scans[1].crop(24)], configuration(), execution(), output_dir=tmp_path)


class Interrupter(pl.Callback):
    """Sends Ctrl-C in the first epoch."""

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 2:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)


def test_an_interrupt_ends_training_and_keeps_the_model(scans, tmp_path, monkeypatch, caplog):
    real = pl.Trainer
    monkeypatch.setattr(pl, "Trainer", lambda **a: real(**{**a, "callbacks": [*a["callbacks"], Interrupter()]}))
    before = signal.getsignal(signal.SIGINT)
    outcome = train_scan(scans[0], configuration(nepochs=50, batch_size=12), execution(), output_dir=tmp_path)
    assert len(outcome.losses["train"]) <= 1 and (tmp_path / "wts.h5.zip").is_file()
    assert "keeps the best model" in caplog.text and signal.getsignal(signal.SIGINT) is before


@pytest.fixture
def interruptible():
    """Ctrl-C interrupts, also where the shell has started the tests in the background and has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_second_interrupt_is_an_interrupt(interruptible):
    trainer = type("T", (), {"should_stop": False})()
    with pytest.raises(KeyboardInterrupt), lightning_utils.stopped_by_interrupt(trainer):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)
        assert trainer.should_stop
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)


def test_in_another_thread_nothing_is_installed():
    seen = []

    def work():
        with lightning_utils.stopped_by_interrupt(object()):
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    before = signal.getsignal(signal.SIGINT)
    thread.start()
    thread.join()
    assert seen == [before]
