"""How well expected counts explain measured ones.

The Poisson terms drop what does not depend on the rate and are written as half the deviance, so that
a perfect description of noise-free data gives exactly zero.
"""

from __future__ import annotations

import torch
from torch import Tensor

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
