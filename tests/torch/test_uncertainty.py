"""Intervals of the phase: repeats in simulation, what they are compared with, and what a run hands over."""

import dataclasses

import numpy as np
import pytest
import torch
from runs import made_up_outcome
from runs import small_scan as made_up_scan
from small_scans import small_scan

from ptycho.config.config import ModelConfig, PyTorchExecutionConfig, TrainingConfig
from ptycho.raw_data import RawData
from ptycho_torch.data.repeats import RepeatedScan
from ptycho_torch.uncertainty import (
    SCALE,
    UncertaintySettings,
    excess_noise,
    local_rms,
    phase_difference,
    trusted,
    with_intervals,
)
from ptycho_torch.workflows.reconstruct import infer_scan, train_scan
from ptycho_torch.workflows.refinement import RefinementSettings

CPU = PyTorchExecutionConfig(accelerator="cpu")


@pytest.fixture(scope="module")
def raw():
    return small_scan(60)


def repeat_of(raw, level=3.0, **more):
    """A repeat whose rates grow from frame to frame."""
    return RepeatedScan.of(raw, lambda at: level * (1 + at[:, None, None]).expand(-1, raw.N, raw.N), **more)


def test_a_repeat_is_drawn_once_and_for_all(raw, monkeypatch):
    kept = repeat_of(raw)
    whole = kept.counts()
    np.testing.assert_array_equal(kept.counts(np.array([7, 2])), whole[[7, 2]])
    monkeypatch.setattr("ptycho_torch.data.repeats._KEPT_BYTES", 0)
    again = repeat_of(raw)
    np.testing.assert_array_equal(again.counts(np.array([2, 9])), whole[[2, 9]])
    assert not again._kept, "counts of a large scan are not kept"
    assert (repeat_of(raw, seed=(1,)).counts() != whole).mean() > 0.5
    assert kept.mean_counts_per_frame() == pytest.approx(whole.sum(axis=(1, 2), dtype=np.float64).mean())
    # all else is that of the scan, which keeps its own counts
    np.testing.assert_array_equal(kept.xcoords, raw.xcoords)
    assert kept.mean_counts_per_frame() != raw.mean_counts_per_frame()


@pytest.mark.parametrize("bytes_kept", [0, 2**28])
def test_a_part_of_a_repeat_has_the_counts_of_its_frames(raw, monkeypatch, bytes_kept):
    monkeypatch.setattr("ptycho_torch.data.repeats._KEPT_BYTES", bytes_kept)
    whole = repeat_of(raw)
    part = whole.subset(np.array([31, 7, 40]), copy=False)
    np.testing.assert_array_equal(part.counts(), whole.counts(np.array([31, 7, 40])))
    np.testing.assert_array_equal(part.subset(slice(1, 3)).counts(np.array([1])), whole.counts(np.array([40])))
    assert part.mean_counts_per_frame() == pytest.approx(part.counts().sum(axis=(1, 2), dtype=np.float64).mean())


@pytest.mark.parametrize("excess", [0.04, 1.0, 2.5])
def test_simulated_counts_have_the_mean_and_the_variance_that_are_asked_for(raw, excess):
    counts = repeat_of(raw, excess=excess).counts(np.array([0, 4]))
    for found, mean in zip(counts, (3.0, 15.0), strict=True):
        assert found.mean() == pytest.approx(mean, rel=0.06)
        assert found.var() == pytest.approx(excess * mean, rel=0.15)


def test_constant_and_plane_of_a_phase_are_no_error():
    rng = np.random.default_rng(0)
    rows, cols = np.indices((30, 40))
    seen = np.hypot(rows - 15, cols - 20) < 13
    truth = np.exp(1j * rng.normal(0, 2, seen.shape))
    grain = np.where(seen, 0.05 * rng.standard_normal(seen.shape), 0)
    # the oracle: least squares by NumPy, over the same pixels
    design = np.stack([np.ones(seen.sum()), rows[seen], cols[seen]], axis=1)
    expected = grain[seen] - design @ np.linalg.lstsq(design, grain[seen], rcond=None)[0]
    image = truth * np.exp(1j * (grain + 2.9 + 0.03 * rows - 0.02 * cols))
    found = phase_difference(image, truth, seen)
    np.testing.assert_allclose(found[seen], expected, atol=1e-9)
    assert not found[~seen].any()


def test_the_local_mean_takes_what_was_seen_only():
    """Against a sum over pixels, written out."""
    rng = np.random.default_rng(1)
    squares, seen = rng.random((24, 24)), rng.random((24, 24)) > 0.3
    found = local_rms(squares, seen, 2.0)
    for row, col in ((12, 12), (10, 14)):
        total = weight = 0.0
        for r in range(24):
            for c in range(24):
                share = np.exp(-((r - row) ** 2 + (c - col) ** 2) / 8.0)
                if seen[r, c] and max(abs(r - row), abs(c - col)) <= 8:
                    total, weight = total + share * squares[r, c], weight + share
        assert found[row, col] == pytest.approx(np.sqrt(total / weight), rel=1e-6)


@pytest.mark.parametrize("repeats", [1, 3])
def test_an_interval_is_the_error_of_the_repeats_times_a_constant(repeats):
    """A reconstruction that errs by a known noise, more on the right half than on the left."""
    raw = made_up_scan()
    outcome = made_up_outcome(raw)
    spread = np.where(np.arange(outcome.canvas.shape[1]) < outcome.canvas.shape[1] / 2, 0.02, 0.2)
    rng, seen = np.random.default_rng(2), trusted(outcome)
    asked = []

    def again(scan):
        asked.append(scan.counts())
        turn = np.exp(1j * (0.3 + spread * rng.standard_normal(outcome.canvas.shape)))
        worse = dataclasses.replace(outcome.result, object=(outcome.result.object * turn).astype(np.complex64))
        # of the two stages the one that errs more counts, here the projection's
        return dataclasses.replace(outcome, stages={"projection": worse, "network": outcome.result})

    found = with_intervals(raw, outcome, again, UncertaintySettings(repeats=repeats))
    assert outcome.phase_interval_90_rad is None
    half_width = found.phase_interval_90_rad
    assert half_width.dtype == np.float32 and half_width.shape == outcome.canvas.shape
    np.testing.assert_array_equal(np.isfinite(half_width), seen)
    far = np.abs(np.arange(seen.shape[1]) - seen.shape[1] / 2) > 20
    for side in (spread < 0.1, spread > 0.1):
        pixels = half_width[:, far & side][seen[:, far & side]]
        level = spread[far & side][0]
        assert np.median(pixels) == pytest.approx(SCALE["network"] * level, rel=0.25)
    # each repeat is another draw of the rates of the result
    assert len(asked) == repeats and all((one != asked[0]).any() for one in asked[1:])
    assert asked[0].mean() == pytest.approx(raw.counts().mean(), rel=0.5)
    assert found.settings["uncertainty"] == {"repeats": repeats, "seed": 0}
    assert found.timings_s["uncertainty"] > 0


def test_a_repeat_that_lies_a_pixel_aside_is_no_error():
    """Its refined probe and object lie elsewhere together: nothing in the counts tells."""
    raw = made_up_scan()
    outcome = made_up_outcome(raw)
    rng = np.random.default_rng(5)
    image = np.exp(1j * rng.uniform(0, 1, outcome.canvas.shape)).astype(np.complex64)
    light = np.exp(-np.square(np.indices((raw.N, raw.N)) - raw.N // 2).sum(0) / 40.0).astype(np.complex64)[None]
    refined = dataclasses.replace(outcome.result, object=image)
    outcome = dataclasses.replace(outcome, stages={"refined": refined}, probe=light)

    def again(scan):
        aside = dataclasses.replace(refined, object=np.roll(image, (1, -2), (0, 1)))
        return dataclasses.replace(outcome, stages={"refined": aside}, probe=np.roll(light, (1, -2), (-2, -1)))

    found = with_intervals(raw, outcome, again, UncertaintySettings())
    assert np.nanmax(found.phase_interval_90_rad) < 1e-3


@pytest.fixture(scope="module")
def trained(tmp_path_factory, raw):
    folder = tmp_path_factory.mktemp("intervals")
    model = ModelConfig(unet_channels=4, merge_block=12, stages=2, projection_steps=4, later_projection_steps=2)
    config = TrainingConfig(model=model, nepochs=2, calibration_epochs=4, stop_improvement=0.0)
    return folder, train_scan(raw, config, CPU, output_dir=folder, uncertainty=UncertaintySettings())


def test_training_and_inference_give_the_same_intervals(trained, raw):
    folder, outcome = trained
    again, without = (infer_scan(folder, raw, execution=CPU, uncertainty=how) for how in (UncertaintySettings(), None))
    assert without.phase_interval_90_rad is None
    np.testing.assert_allclose(again.phase_interval_90_rad, outcome.phase_interval_90_rad, rtol=1e-3)
    known = outcome.phase_interval_90_rad[trusted(outcome)]
    assert (known > 0).all() and 1e-3 < np.median(known) < 1
    # the result is the same with and without them
    np.testing.assert_array_equal(again.result.object, without.result.object)


def test_fewer_counts_make_wider_intervals_after_a_refinement(trained):
    widths = []
    for counts in (1e3, 1e5):
        scan = small_scan(60, counts=counts)
        outcome = infer_scan(
            trained[0], scan, execution=CPU, refine=RefinementSettings(epochs=8), uncertainty=UncertaintySettings()
        )
        assert list(outcome.stages)[-1] == "refined"
        widths.append(np.nanmedian(outcome.phase_interval_90_rad))
    assert widths[0] > 2 * widths[1]


def test_rates_of_a_repeat_are_those_of_the_object(trained, raw):
    """Counts summed over many repeats come to the modelled rates of a frame."""
    from ptycho_torch.data.scans import PlacedScan
    from ptycho_torch.reassembly import StreamedFrames

    _, outcome = trained
    placed = PlacedScan.of(raw, outcome.canvas)
    frames = StreamedFrames(placed, torch.from_numpy(outcome.probe), torch.ones(raw.N, raw.N, dtype=torch.bool))
    canvas = torch.from_numpy(outcome.result.object)[None]
    draws = [
        RepeatedScan.of(raw, lambda at: frames.rates(canvas, at), seed=(n,)).counts(np.array([5]))[0]
        for n in range(60)
    ]
    row, col = placed.starts[5].tolist()
    fraction = placed.fractions[5].numpy()
    frequencies = np.fft.fftfreq(raw.N)
    ramp = np.exp(-2j * np.pi * (frequencies[:, None] * fraction[0] + frequencies[None, :] * fraction[1]))
    patch = outcome.result.object[row : row + raw.N, col : col + raw.N]
    wave = np.fft.ifft2(np.fft.fft2(outcome.probe[0]) * ramp) * patch
    expected = np.fft.fftshift(np.abs(np.fft.fft2(wave, norm="ortho")) ** 2)
    strong = expected > 20
    np.testing.assert_allclose(np.mean(draws, axis=0)[strong], expected[strong], rtol=0.2)


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [(((1.7, 1.0), (1.2, 1.0)), 1.2), (((0.8, 1.0),), 1.0), ((), 1.0), (((0.02, 1.0), (0.03, 1.0)), 0.02)],
)
def test_only_misfit_that_no_stage_explains_is_noise(pairs, expected):
    """Where there are many counts, a deviance is the variance over the mean."""
    outcome = made_up_outcome(made_up_scan())
    some = outcome.result
    outcome.stages = {
        str(n): dataclasses.replace(some, deviance=found, expected_deviance=noise)
        for n, (found, noise) in enumerate(pairs)
    }
    assert excess_noise(outcome, np.geomspace(1e4, 1e6, 500)) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("gain", [30.0, 0.01])
def test_the_unit_of_the_frames_does_not_change_the_intervals(trained, raw, gain):
    """A detector that shows so many units for a photon, or a scan that was divided by a number."""
    scaled = RawData(
        diff3d=(raw.diff3d * gain).astype(np.float32), xcoords=raw.xcoords, ycoords=raw.ycoords,
        probeGuess=raw.probeGuess, measurement_domain="intensity",
    )  # fmt: skip
    how = {"execution": CPU, "refine": RefinementSettings(epochs=8), "uncertainty": UncertaintySettings()}
    widths = []
    for scan in (raw, scaled):
        outcome = infer_scan(trained[0], scan, **how)
        widths.append(np.nanmedian(outcome.phase_interval_90_rad))
    assert widths[1] == pytest.approx(widths[0], rel=0.25)
    assert any("the counts scatter" in note for note in outcome.notes)
