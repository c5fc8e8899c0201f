"""What training makes small: likelihoods with their weights, labels, and terms on the object."""

import numpy as np
import pytest
import torch
from small_scans import small_scan

from ptycho.config.config import ModelConfig, PyTorchExecutionConfig, TrainingConfig
from ptycho.errors import InputError
from ptycho.geometry import coverage_map
from ptycho.raw_data import RawData
from ptycho_torch.calibration import scaled_guess
from ptycho_torch.config_params import ModelConfig as TorchModelConfig
from ptycho_torch.config_params import TrainingConfig as TorchTrainingConfig
from ptycho_torch.data.blocks import BlockDataset
from ptycho_torch.data.labels import labels_for
from ptycho_torch.data.samplers import BlockRequest
from ptycho_torch.data.scans import LitScan, PlacedScan
from ptycho_torch.objective import check_objective, objective
from ptycho_torch.solvers.frames import BlockFrames
from ptycho_torch.workflows.reconstruct import train_scan


def with_guess(raw, **guess):
    return RawData(
        raw.xcoords, raw.ycoords, raw.xcoords, raw.ycoords, raw.diff3d, raw.probe, raw.scan_index,
        object_truth=raw.object_truth, probe_truth=raw.probe_truth, **guess,
    )  # fmt: skip


@pytest.fixture(scope="module")
def raw():
    scan = small_scan(40)
    return with_guess(scan, objectGuess=scan.object_truth)


@pytest.fixture(scope="module")
def batch(raw):
    placed = PlacedScan.of(raw)
    probe = torch.from_numpy(scaled_guess(raw))
    everything = np.ones(6, bool)
    scored = everything.copy()
    scored[4:] = False
    asked = [BlockRequest(np.arange(6), everything, scored), BlockRequest(np.arange(10, 16), everything, everything)]
    return BlockDataset([LitScan(placed, probe, probe, labels_for(placed))]).__getitems__(asked)


@pytest.fixture(scope="module")
def frames(batch):
    fields, probe, _ = batch
    return BlockFrames(fields["images"], probe, fields["starts"], fields["fractions"], tuple(fields["shape"].tolist()))


@pytest.fixture(scope="module")
def canvas(frames):
    torch.manual_seed(0)
    shape = (2, *frames.shape)
    return torch.polar(1 + 0.2 * torch.rand(shape), 0.5 * torch.rand(shape))


def value(canvas, frames, batch, model=None, **training):
    return float(
        objective(canvas, frames, batch[0], TorchModelConfig(**(model or {})), TorchTrainingConfig(**training))
    )


def pixels(canvas, frames, batch):
    """Rates and counts of the scored frames, in float64 NumPy, from the definition."""
    fields, starts = batch[0], batch[0]["starts"]
    rates, counts = [], []
    probes = np.fft.fftshift(np.fft.fft2(frames.probes.numpy()), axes=(-2, -1))
    probes = np.fft.ifft2(np.fft.ifftshift(probes, axes=(-2, -1)))
    for b in range(2):
        for k in range(6):
            if not fields["scored"][b, k]:
                continue
            row, column = starts[b, k].tolist()
            patch = canvas[b, row : row + 32, column : column + 32].numpy()
            wave = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(probes[b, k, 0] * patch), norm="ortho"))
            rates.append(np.abs(wave) ** 2)
            counts.append(fields["images"][b, k].numpy())
    return np.stack(rates).astype(float), np.stack(counts).astype(float)


def test_likelihoods_have_their_weights(canvas, frames, batch):
    rates, counts = (v + 1e-3 for v in pixels(canvas, frames, batch))
    nll = np.mean(rates - counts + counts * np.log(counts / rates))
    mae = np.mean(np.abs(np.sqrt(rates) - np.sqrt(counts)))
    assert value(canvas, frames, batch) == pytest.approx(nll, rel=1e-3)
    both = value(canvas, frames, batch, nll_weight=0.5, mae_weight=0.25)
    assert both == pytest.approx(0.5 * nll + 0.25 * mae, rel=1e-3)
    assert value(canvas, frames, batch, {"loss_function": "MAE"}) == pytest.approx(mae, rel=1e-3)
    assert value(canvas, frames, batch, {"loss_function": "MAE"}, mae_weight=0.3) == pytest.approx(0.3 * mae, rel=1e-3)
    assert value(canvas, frames, batch, nll=False, mae_weight=1.0) == pytest.approx(mae, rel=1e-3)


def test_the_real_space_term_compares_with_the_object(raw, canvas, frames, batch):
    plain = value(canvas, frames, batch)
    more = value(canvas, frames, batch, realspace_weight=2.0, realspace_mae_weight=3.0)
    fields = batch[0]
    weights = (frames.probes.abs() ** 2).sum(2).numpy() * fields["scored"][..., None, None].numpy()
    top = low = 0.0
    for b in range(2):
        for k in range(6):
            row, column = fields["starts"][b, k].tolist()
            patch = canvas[b, row : row + 32, column : column + 32].numpy()
            label = fields["label_amp"][b, k].numpy() * np.exp(1j * fields["label_phase"][b, k].numpy())
            overlap = np.sum(weights[b, k] * label * patch.conj())
            turned = patch * overlap / max(abs(overlap), 1e-30)
            top += np.sum(weights[b, k] * np.abs(turned - label))
            low += weights[b, k].sum()
    assert more - plain == pytest.approx(6 * top / low, rel=1e-3)


def test_the_true_object_is_free_of_the_real_space_and_the_labelled_loss(frames, batch, raw):
    placed = PlacedScan.of(raw)
    labels = labels_for(placed)
    starts = placed.starts[torch.stack((torch.arange(6), torch.arange(10, 16)))]
    first = (starts - batch[0]["starts"])[:, 0]
    height, width = frames.shape
    padded = torch.nn.functional.pad(torch.view_as_real(labels).permute(2, 0, 1), (0, width, 0, height), value=1.0)
    padded = torch.view_as_complex(padded.permute(1, 2, 0).contiguous())
    truth = torch.stack([padded[r : r + height, c : c + width] for r, c in first.tolist()])
    turned = truth * np.exp(0.7j)
    plain = value(turned, frames, batch)
    both = {"realspace_weight": 1.0, "realspace_mae_weight": 1.0}
    assert value(turned, frames, batch, **both) == pytest.approx(plain, abs=1e-4)
    assert value(turned, frames, batch, {"mode": "Supervised", "loss_function": "MAE"}) < 1e-4
    wrong = truth * (1 + 0.1j * torch.rand(truth.shape))
    assert value(wrong, frames, batch, {"mode": "Supervised", "loss_function": "MAE"}) > 0.01


@pytest.mark.parametrize(
    ("model", "smooth", "rough"),
    [({"amp_loss": "Total_Variation"}, 0.0, "amplitude"), ({"amp_loss": "Mean_Deviation"}, 0.0, "amplitude"),
     ({"phase_loss": "Total_Variation"}, 0.0, "phase"), ({"phase_loss": "Mean_Deviation"}, 0.0, "phase"),
     ({"amplitude_variance_loss": True, "amplitude_variance_coeff": 1.0}, 0.0, "amplitude")],
)  # fmt: skip
def test_terms_on_the_object(frames, batch, model, smooth, rough):
    flat = torch.polar(torch.full((2, *frames.shape), 1.1), torch.full((2, *frames.shape), 0.4))
    torch.manual_seed(1)
    noise = torch.rand(flat.shape)
    restless = torch.polar(1 + noise, torch.full_like(noise, 0.4)) if rough == "amplitude" else torch.polar(
        torch.ones_like(noise), noise
    )  # fmt: skip
    assert value(flat, frames, batch, model) == pytest.approx(value(flat, frames, batch) + smooth, abs=1e-4)
    assert value(restless, frames, batch, model) > value(restless, frames, batch) + 0.01
    name = next(iter(model)).split("_")[0]
    if name in ("amp", "phase"):
        double = value(restless, frames, batch, {**model, f"{name}_loss_coeff": 2.0})
        once = value(restless, frames, batch, model) - value(restless, frames, batch)
        assert double - value(restless, frames, batch) == pytest.approx(2 * once, rel=1e-3)


@pytest.mark.parametrize(
    ("model", "training", "words"),
    [({}, {"nll_weight": 0.0}, "nothing to train by"), ({}, {"nll": False}, "nothing to train by"),
     ({}, {"realspace_weight": 1.0}, "realspace_mae_weight=0.0"),
     ({}, {"realspace_mae_weight": 1.0}, "realspace_weight=0.0"),
     ({"loss_function": "MAE"}, {"nll_weight": 0.5}, "nll_weight=0.5"),
     ({"loss_function": "Gauss"}, {}, "found 'Gauss'"), ({"amp_loss": "L2"}, {}, "amp_loss: found 'L2'")],
)  # fmt: skip
def test_weights_that_say_nothing_are_refused(model, training, words):
    with pytest.raises(InputError, match=words):
        check_objective(TorchModelConfig(**model), TorchTrainingConfig(**training))


class TestLabels:
    def test_they_are_the_object_at_the_placement(self, raw):
        """Positions are in the pixel coordinates of the guess, and the canvas lies anywhere between its pixels."""
        rows, columns = np.indices((140, 150), dtype=float)

        def bump(y, x):
            return 1 + 0.5j * np.exp(-((y - 70.3) ** 2 + (x - 74.1) ** 2) / (2 * 6.0**2))

        moved = RawData(
            raw.xcoords + 20.37, raw.ycoords + 18.81, diff3d=raw.diff3d, probeGuess=raw.probe,
            objectGuess=bump(rows, columns).astype(np.complex64),
        )  # fmt: skip
        placed = PlacedScan.of(moved)
        labels = labels_for(placed).numpy()
        x, y = placed.canvas.origin_xy
        truth = bump(y + np.arange(labels.shape[0])[:, None], x + np.arange(labels.shape[1])[None, :])
        assert x % 1 > 0.05 and y % 1 > 0.05 and np.abs(truth - 1).max() > 0.3
        np.testing.assert_allclose(labels, truth, atol=1e-4)

    def test_true_patches_are_put_together(self, raw):
        """Patches of a band-limited object, cut at the exact positions, give that object."""
        def wave(y, x):
            return 1 + 0.3j * np.sin(2 * np.pi * 3 * y / 32) * np.cos(2 * np.pi * 2 * x / 32)

        grid = np.arange(32) - 15.5
        patches = np.stack([
            wave(y + grid[:, None], x + grid[None, :]) for x, y in zip(raw.xcoords, raw.ycoords, strict=True)
        ])  # fmt: skip
        scan = with_guess(raw, Y=patches.astype(np.complex64))
        placed = PlacedScan.of(scan)
        labels = labels_for(placed).numpy()
        x, y = placed.canvas.origin_xy
        truth = wave(y + np.arange(labels.shape[0])[:, None], x + np.arange(labels.shape[1])[None, :])
        seen = labels != 1
        np.testing.assert_allclose(labels[seen], truth[seen], atol=1e-4)

    @pytest.mark.parametrize(
        ("guess", "words"),
        [({}, "neither objectGuess nor Y"), ({"objectGuess": np.ones((90, 90), np.complex64)}, "the same everywhere")],
    )
    def test_nothing_to_learn_from(self, raw, guess, words):
        with pytest.raises(InputError, match=rf"DATA-SUP-001.*{words}.*model_type 'pinn'"):
            labels_for(PlacedScan.of(with_guess(raw, **guess)))


QUICK = {"unet_channels": 4, "merge_block": 10, "stages": 2, "projection_steps": 3, "later_projection_steps": 2}


def train(raw, tmp_path, model=None, **fields):
    config = TrainingConfig(
        ModelConfig(**{**QUICK, **(model or {})}),
        **{"nepochs": 6, "calibrate_probe": False, "stop_improvement": 0.0, "batch_size": 10, **fields},
    )  # fmt: skip
    execution = PyTorchExecutionConfig(accelerator="cpu", learning_rate=3e-3)
    return train_scan(raw, config, execution, output_dir=tmp_path)


def mean_difference(image, raw):
    """Mean |O - truth| where two frames have been, after the best global phase."""
    placed = PlacedScan.of(raw)
    seen = coverage_map(placed.starts.numpy(), raw.N, placed.canvas.shape) >= 2
    truth = labels_for(placed).numpy()
    turn = np.vdot(image[seen], truth[seen])
    return float(np.abs(image[seen] * turn / abs(turn) - truth[seen]).mean())


def test_supervised_training_learns_the_object(raw, tmp_path):
    outcome = train(raw, tmp_path, {"model_type": "supervised", "unet_channels": 8, "projection_steps": 10}, nepochs=24)
    assert outcome.losses["train"][-1] < 0.8 * outcome.losses["train"][0]
    assert outcome.losses["val"][-1] < 0.9 * outcome.losses["val"][0]
    assert "mae_train_loss" in (tmp_path / "metrics.csv").read_text()
    network, projection = (mean_difference(outcome.stages[n].object, raw) for n in ("network", "projection"))
    assert network < 0.95 * projection


def test_supervised_training_without_labels_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(InputError, match="DATA-SUP-001"):
        train(small_scan(40), tmp_path / "none", {"model_type": "supervised"})
    assert not (tmp_path / "none").exists()
