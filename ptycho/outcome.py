"""What a reconstruction backend hands back to its caller."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho.geometry import Canvas
from ptycho.halves import Halves


@dataclass
class Stage:
    """The object after one part of the pipeline, with how well it explains the data.

    Attributes:
        object: (H, W) complex64, object pixels of the canvas; 1 (vacuum) where nothing was measured.
        deviance: mean Poisson deviance per unmasked pixel.
        expected_deviance: what Poisson statistics alone would give for the modelled rates.
        time_s: wall time of this part in seconds.
    """

    object: NDArray[np.complex64]
    deviance: float
    expected_deviance: float
    time_s: float


@dataclass
class Outcome:
    """A finished reconstruction.

    Attributes:
        stages: by name, in the order of the pipeline ("projection", "network"); the last is the result.
        coverage: (H, W) int32, number of frames that see each pixel.
        probe: (modes, N, N) complex64, the probe of the result, in sqrt(counts).
        canvas: where the object lies in the coordinates of the positions.
        xcoords, ycoords: (frames,) float64, pixels.
        timings_s: wall times of the parts and of all.
        losses: per epoch, by name ("train", "val").
        notes: what a reader should know, a sentence each.
        settings: the resolved configuration in plain types.
        frame_deviance: (frames,) float32, mean Poisson deviance per unmasked pixel of each frame against the rates of
            the result, or None where it was not computed.
        detector_residual: (N, N) float32, zero frequency at N//2: mean over the frames of
            (counts - rate) / sqrt(rate + 1) for the result; NaN where a pixel is masked. None as above.
        corrections: what was found wrong with the scan, in plain types ("defocus", "positions").
        given_xy: x and y of the frames as the scan says them, where the result has others; else None.
        phase_interval_90_rad: (H, W) float32, half-width of the interval about the phase of the result that holds the
            true one with 90 % probability; NaN where fewer than two beams light a pixel. None where it was not asked
            for.
        halves: what two halves of the scan, reconstructed apart, say of each stage; None where they were not asked for.
    """

    stages: dict[str, Stage]
    coverage: NDArray[np.int32]
    probe: NDArray[np.complex64]
    canvas: Canvas
    xcoords: NDArray[np.float64]
    ycoords: NDArray[np.float64]
    timings_s: dict[str, float] = field(default_factory=dict)
    losses: dict[str, list[float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    frame_deviance: NDArray[np.float32] | None = None
    detector_residual: NDArray[np.float32] | None = None
    corrections: dict[str, Any] = field(default_factory=dict)
    given_xy: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
    phase_interval_90_rad: NDArray[np.float32] | None = None
    halves: Halves | None = None

    @property
    def result(self) -> Stage:
        """The last stage."""
        return self.stages[next(reversed(self.stages))]
