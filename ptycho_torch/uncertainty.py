"""How far each pixel of the phase can be trusted: 90 % intervals from repeats of the scan in simulation.

The error of a reconstruction is noise and bias, and where there are enough counts mostly bias: what varies slowly over
the object has not converged, edges are smoothed.  Frames that disagree on a pixel tell of the noise alone
(docs/findings.md, INTERVAL-001).  A parametric bootstrap tells of both: the result is taken for the truth, the scan is
measured once more in simulation (the same probe, positions and dose), reconstructed in the same way, and its error,
which is then known, stands for that of the result (B. Efron and R. J. Tibshirani, An Introduction to the Bootstrap,
1993, chapter 6).  The result is smoother than the truth and easier to find, so that this error is too small by a
factor, which was tuned on simulated scans: `benchmarks/uncertainty.py` tunes it, and shows on other scans how often the
intervals hold the truth.

What neither can see is not in it: wrong positions, a probe that changes from frame to frame, an object that is not
thin, as far as they do not show in the misfit.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from ptycho import progress
from ptycho.config.validation import check_whole_number
from ptycho.metrics.alignment import without_plane
from ptycho.metrics.deviance import bunch_size, expected_deviance
from ptycho.outcome import Outcome
from ptycho.placed import lit_frames
from ptycho.raw_data import RawData
from ptycho_torch.data.repeats import RepeatedScan
from ptycho_torch.data.scans import PlacedScan
from ptycho_torch.reassembly import StreamedFrames
from ptycho_torch.solvers.gauge import centroid, whole

logger = logging.getLogger(__name__)

FloatMap = NDArray[np.float64]
BoolMap = NDArray[np.bool_]
ComplexMap = NDArray[np.complexfloating]

MIN_FRAMES = 2
"""A pixel that fewer beams light has no interval."""

SMOOTHING_PX = 8.0
"""Standard deviation of the Gaussian over which the squared error of a repeat is averaged."""

SCALE = {"network": 1.62, "refined": 1.69}
"""Stage of the result -> half-width of the 90 % interval over the local rms error of the repeats."""

JUDGED_BY = {"network": ("projection", "network"), "refined": ("refined",)}
"""Stage of the result -> stages of a repeat of which the greater error counts. What the network takes away from a
repeat is noise; of the real scan, whose object is not as smooth, it takes more."""

LEAST_OF_PHOTONS = 0.7
"""Of the expected deviance: photon counts whose noise the result follows in part leave no less."""

MUCH_NOISE = 1.5
"""Variance over mean of the counts from which on a reader is told."""

MOST_NOISE = 0.01
"""Share of the counts of a frame that may be one bunch: a misfit that asks for more is no noise."""

RATES_OF_FRAMES = 64
"""So many frames tell which rates there are."""


@dataclass(frozen=True)
class UncertaintySettings:
    """How to find the intervals.

    Attributes:
        repeats: how often the scan is repeated in simulation and reconstructed, >= 1.
        seed: of the simulated counts.
    """

    repeats: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        """InputError for values that say nothing."""
        check_whole_number("repeats", self.repeats, 1)
        check_whole_number("seed", self.seed, 0)


def phase_difference(image: ComplexMap, truth: ComplexMap, seen: BoolMap) -> FloatMap:
    """Phase of ``image`` against ``truth`` without constant and plane, both fitted over ``seen``; 0 elsewhere.

    Args:
        image, truth: (H, W) complex, on one canvas.
        seen: (H, W) bool.

    Returns:
        (H, W) float64, rad, within -pi to pi.
    """
    turn = np.where(seen, image * np.conj(truth), 0)
    levelled = without_plane(np.angle(turn * np.conj(turn.sum() or 1)), seen.astype(np.float64))
    return np.asarray(np.where(seen, np.angle(np.exp(1j * levelled)), 0.0))


def local_rms(squares: FloatMap, seen: BoolMap, sigma_px: float = SMOOTHING_PX) -> FloatMap:
    """Root of the mean of ``squares`` (H, W) around each pixel, with Gaussian weight, over what was ``seen`` alone."""
    total = ndimage.gaussian_filter(np.where(seen, squares, 0.0), sigma_px)
    weight = ndimage.gaussian_filter(seen.astype(np.float64), sigma_px)
    return np.asarray(np.sqrt(np.maximum(total, 0) / np.maximum(weight, 1e-12)))


def trusted(outcome: Outcome) -> BoolMap:
    """(H, W) bool, the pixels that at least two beams light."""
    return np.asarray(lit_frames(outcome.probe, outcome.xcoords, outcome.ycoords, outcome.canvas) >= MIN_FRAMES)


def excess_noise(outcome: Outcome, rates: NDArray[np.floating]) -> float:
    """Variance over mean of the counts: misfit that no stage explains is taken for more noise, and frames that are not
    in photons have noise of their own unit.

    Args:
        outcome: with the deviance of each stage.
        rates: (n,) counts that the result makes expect in some pixels, in units of the frames.

    Returns:
        The size of the bunches in which counts would have to come (:func:`ptycho.metrics.deviance.bunch_size`): 1 for
        photon counts, also where the result has followed a part of their noise.
    """
    stages = [stage for stage in outcome.stages.values() if stage.expected_deviance > 0]
    unexplained = min((stage.deviance / stage.expected_deviance for stage in stages), default=1.0)
    if LEAST_OF_PHOTONS <= unexplained <= 1.0 or not unexplained > 0:
        return 1.0
    return bunch_size(unexplained * expected_deviance(rates), rates)


def _rates_of_some(frames: StreamedFrames, canvas: Tensor, good: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The rates of the good pixels of some frames, evenly spread over the scan."""
    n_frames = frames.scan.raw.n_frames
    chosen = torch.linspace(0, n_frames - 1, min(n_frames, RATES_OF_FRAMES)).round().long()
    return np.concatenate([
        frames.rates(canvas, at).cpu().numpy().astype(np.float64)[:, good] for at in chosen.split(frames.batch_size)
    ])  # fmt: skip


def _whole_pixels_between(probe: ComplexMap, other: ComplexMap) -> tuple[int, int]:
    """By how much (row, column) to roll ``probe`` (M, N, N), and the object with it, to lay it on ``other``.

    A refined probe is held to the guess to within half a pixel, and so may two lie a pixel apart.
    """
    one, two = (centroid(torch.from_numpy(np.square(np.abs(light)).sum(0))) for light in (probe, other))
    return whole(two - one)


def _told_of_noise(excess: float) -> list[str]:
    """A note where counts do not scatter as photons do."""
    if LEAST_OF_PHOTONS <= excess <= MUCH_NOISE:
        return []
    note = (
        f"Intervals of the phase: the counts scatter {excess:.3g} times as much as photons do (variance over mean), by "
        "the misfit that no stage explains, and were simulated so. "
    )
    note += (
        "Frames that are not in photons do that, and so does what the model does not know: a probe that changes, wrong "
        "positions." if excess > 1 else "The frames are not in photons."
    )  # fmt: skip
    logger.info("%s", note)
    return [note]


@torch.no_grad()
def with_intervals(
    raw: RawData, outcome: Outcome, again: Callable[[RawData], Outcome], settings: UncertaintySettings, *,
    device: str | torch.device = "cpu",
) -> Outcome:  # fmt: skip
    """A reconstruction with the 90 % interval of its phase; the outcome that is given is left as it is.

    Args:
        raw: the scan as it was reconstructed.
        outcome: of it.
        again: the same reconstruction of another scan that has the positions of this one, on the same canvas.
        settings: see :class:`UncertaintySettings`.
        device: where the simulated rates are computed.
    """
    started = time.perf_counter()
    result = outcome.result
    frames = StreamedFrames(
        PlacedScan.of(raw, outcome.canvas), torch.from_numpy(outcome.probe.copy()).to(device),
        torch.from_numpy(raw.good_pixels.copy()).to(device),
    )  # fmt: skip
    canvas = torch.from_numpy(result.object.copy())[None].to(device)
    seen = trusted(outcome)
    name = next(reversed(outcome.stages))
    rates = _rates_of_some(frames, canvas, raw.good_pixels)
    excess = min(excess_noise(outcome, rates), max(1.0, MOST_NOISE * raw.mean_counts_per_frame()))
    squares = {stage: np.zeros(result.object.shape) for stage in JUDGED_BY[name]}
    with progress.task("Repeating the scan in simulation", settings.repeats, "repeat") as step:
        for number in range(settings.repeats):
            repeat = RepeatedScan.of(
                raw, lambda at: frames.rates(canvas, at), excess=excess, seed=(settings.seed, number)
            )
            found = again(repeat)
            move_px = _whole_pixels_between(found.probe, outcome.probe)
            for stage, total in squares.items():
                image = np.roll(found.stages[stage].object, move_px if stage == "refined" else 0, (0, 1))
                total += phase_difference(image, result.object, seen) ** 2 / settings.repeats
            step()
    error = np.max([local_rms(total, seen) for total in squares.values()], axis=0)
    half_width = np.where(seen, SCALE[name] * error, np.nan).astype(np.float32)
    return dataclasses.replace(
        outcome,
        phase_interval_90_rad=half_width,
        timings_s={**outcome.timings_s, "uncertainty": time.perf_counter() - started},
        settings={**outcome.settings, "uncertainty": dataclasses.asdict(settings)},
        notes=[*outcome.notes, *_told_of_noise(excess)],
    )
