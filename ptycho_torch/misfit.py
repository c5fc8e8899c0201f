"""How well the rates of an object explain the counts of a scan: the deviance, in single precision and on any device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho.metrics import deviance as exact


@dataclass(frozen=True)
class Misfit:
    """How well the rates of an object explain the counts of a scan.

    Attributes:
        deviance: mean Poisson deviance per unmasked pixel of all frames.
        expected: what Poisson statistics alone would give for those rates.
        by_frame: (F,) float32, the deviance of each frame alone.
        on_detector: (N, N) float32, zero frequency at N//2: mean over the frames of (counts - rate) / sqrt(rate + 1);
            NaN where masked.
    """

    deviance: float
    expected: float
    by_frame: NDArray[np.float32]
    on_detector: NDArray[np.float32]


def deviance_per_pixel(rate: Tensor, counts: Tensor) -> Tensor:
    """2 (rate - k + k log(k / rate)) of each pixel, as :func:`ptycho.metrics.deviance.deviance_per_pixel` has it.

    Written in the relative departure of the counts, which keeps single precision exact where both are large and alike.

    Args:
        rate: (..., N, N) expected counts, >= 0.
        counts: same shape, measured counts, >= 0.

    Returns:
        Of the same shape.
    """
    expected = rate.clamp(min=exact.RATE_FLOOR)
    ratio = counts / expected
    departure = (counts - expected) / expected
    # the logarithm of no count is infinite, times zero; with the bound it is any number, times zero
    return 2 * expected * (ratio * torch.log1p(departure.clamp(min=-1 + 1e-6)) - departure)


def expected_deviance_per_pixel(rate: Tensor) -> Tensor:
    """Mean of :func:`deviance_per_pixel` over Poisson counts of these rates, as ``ptycho.metrics.deviance`` has it.

    Args:
        rate: real, of any shape, counts >= 0.

    Returns:
        Of the same shape.
    """
    grid, values = exact.expected_deviance_table()
    table = torch.as_tensor(values, dtype=rate.dtype, device=rate.device)
    known = rate.clamp(min=exact.RATE_FLOOR)
    at = (known.clamp(max=exact.TABLE_HIGH).log() - float(grid[0])) / float(grid[1] - grid[0])
    below = at.nan_to_num(0.0).long().clamp(max=len(table) - 2)
    inside = torch.lerp(table[below], table[below + 1], at - below)
    return torch.where(known > exact.TABLE_HIGH, 1 + (1 + 1 / known) / (6 * known), inside)
