"""How well expected counts explain measured ones.

The Poisson terms drop what does not depend on the rate and are written as half the deviance, so that
a perfect description of noise-free data gives exactly zero.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ptycho.metrics import deviance as exact

RATE_FLOOR = 1e-3
"""Counts added to every rate: a rate of zero would forbid a single stray photon."""


def _masked_mean(values: Tensor, good_pixels: Tensor | None) -> Tensor:
    if good_pixels is None:
        return values.mean()
    good = good_pixels.expand_as(values)
    return torch.where(good, values, values.new_zeros(())).sum() / good.sum().clamp(min=1)


def _known(counts: Tensor, good_pixels: Tensor | None) -> Tensor:
    """Zero where the mask says that nothing is known: a NaN there would spoil the gradient of a masked term."""
    return counts if good_pixels is None else torch.where(good_pixels, counts, counts.new_zeros(()))


def poisson_nll(rate: Tensor, counts: Tensor, good_pixels: Tensor | None = None, floor: float = RATE_FLOOR) -> Tensor:
    """Mean over pixels of (rate - k) + k log(k / rate): half the Poisson deviance.

    Args:
        rate: (..., N, N) expected counts, >= 0.
        counts: same shape, measured counts, >= 0.
        good_pixels: bool, broadcast to that shape, True where a pixel counts; None for all.
        floor: counts added to rate and data alike, so that equal inputs give zero.

    Returns:
        Scalar.
    """
    expected = rate + floor
    observed = _known(counts, good_pixels) + floor
    return _masked_mean(expected - observed + observed * torch.log(observed / expected), good_pixels)


def amplitude_mae(rate: Tensor, counts: Tensor, good_pixels: Tensor | None = None, floor: float = RATE_FLOOR) -> Tensor:
    """Mean absolute difference of square roots, sqrt(rate + floor) against sqrt(counts + floor)."""
    difference = torch.sqrt(rate + floor) - torch.sqrt(_known(counts, good_pixels) + floor)
    return _masked_mean(difference.abs(), good_pixels)


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
