"""Poisson deviance of counts against rates, and what it should be."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special

from ptycho.errors import InputError

RATE_FLOOR = 1e-8  # counts per pixel; a rate of exactly 0 would make any count infinitely unlikely
TABLE_HIGH = 1e3
"""Rate up to which the expected deviance is tabulated; beyond it the asymptotic series is as good."""
_TABLE_LOW = 1e-8


def deviance_per_pixel(rate: ArrayLike, counts: ArrayLike) -> NDArray[np.float64]:
    """2 * (rate - counts + counts * log(counts / rate)) for each element, float64; 0 * log(0) is 0.

    rate, counts: arrays of one shape, in counts.  Rates are raised to RATE_FLOOR.
    """
    lam = np.maximum(np.asarray(rate, dtype=np.float64), RATE_FLOOR)
    k = np.asarray(counts, dtype=np.float64)
    return 2 * (lam - k + special.xlogy(k, k / lam))


def poisson_deviance(rate: ArrayLike, counts: ArrayLike, good_pixels: ArrayLike | None = None) -> float:
    """Mean deviance over pixels, the likelihood residual of specs: compare with `expected_deviance(rate)`.

    rate, counts: (..., N, N) in counts.  good_pixels: bool, broadcast to that shape; False pixels are left
    out. InputError for shapes that do not fit, or when no pixel is left.
    """
    lam, k, good = _checked(rate, counts, good_pixels)
    return float(deviance_per_pixel(lam[good], k[good]).mean())


def _checked(
    rate: ArrayLike, counts: ArrayLike, good_pixels: ArrayLike | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    lam, k = np.asarray(rate, dtype=np.float64), np.asarray(counts)
    if lam.shape != k.shape:
        raise InputError(f"deviance: rates have shape {lam.shape}, counts {k.shape}; expected the same")
    try:
        good = np.broadcast_to(
            True if good_pixels is None else np.asarray(good_pixels, dtype=bool), lam.shape
        )
    except ValueError as error:
        raise InputError(
            f"deviance: good_pixels has shape {np.asarray(good_pixels).shape}, which does not fit {lam.shape}"
        ) from error
    if not good.any():
        raise InputError("deviance: no good pixel is left; check the mask (True means good here)")
    if not np.all(np.isfinite(lam[good])) or np.any(lam[good] < 0):
        raise InputError("deviance: rates contain negative, NaN or infinite values; expected counts >= 0")
    return lam, k, good


def expected_deviance(rate: ArrayLike, good_pixels: ArrayLike | None = None) -> float:
    """Mean over pixels of the deviance that Poisson counts of exactly these rates have on average.

    1 where rates are high, 0.47 at 0.1 counts, 0.09 at 0.01.  Exact (summed, interpolated to 1e-5) up to 1000
    counts, beyond that the asymptotic series.  Same shapes and errors as `poisson_deviance`.
    """
    lam, _, good = _checked(rate, np.asarray(rate), good_pixels)
    return float(expected_deviance_per_pixel(lam[good]).mean())


def expected_deviance_per_pixel(rate: ArrayLike) -> NDArray[np.float64]:
    """Expectation of the deviance for each rate, float64 of the shape of `rate`."""
    lam = np.maximum(np.asarray(rate, dtype=np.float64), RATE_FLOOR)
    grid, table = expected_deviance_table()
    inside = np.interp(np.log(np.minimum(lam, TABLE_HIGH)), grid, table)
    return np.where(lam > TABLE_HIGH, 1 + 1 / (6 * lam) + 1 / (6 * lam**2), inside)


def bunch_size(deviance: float, rate: ArrayLike) -> float:
    """The g for which counts that come in bunches of g, g * Poisson(rate / g), would have this mean deviance.

    1 for photon counts; the number of units in which a detector shows one photon, for frames that are not in photons.
    Where photon noise does not explain the misfit, the size of the bunches that would.

    Args:
        deviance: mean over pixels, > 0, in units of the frames.
        rate: expected counts of some pixels, in units of the frames, of any shape.

    Returns:
        g, between 1e-9 and 1e9: the deviance of a bunch of g is g times that of one photon at the rate / g.
    """
    lam = np.maximum(np.asarray(rate, dtype=np.float64).ravel(), RATE_FLOOR)
    number, edges = np.histogram(np.log(lam), bins=1000)
    middles, share = np.exp((edges[1:] + edges[:-1]) / 2), number / number.sum()

    def too_much(log_g: float) -> float:
        g = float(np.exp(log_g))
        return float(np.sum(share * g * expected_deviance_per_pixel(middles / g))) - deviance

    low, high = np.log(1e-9), np.log(1e9)
    if too_much(low) >= 0 or too_much(high) <= 0:
        return float(np.exp(low if too_much(low) >= 0 else high))
    return float(np.exp(optimize.brentq(too_much, low, high, xtol=1e-3)))


@lru_cache(maxsize=1)
def expected_deviance_table() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(log rate, expected deviance) from 1e-8 to 1000 counts in even steps: the sum over the counts with weight."""
    grid = np.linspace(np.log(_TABLE_LOW), np.log(TABLE_HIGH), 3001)
    return grid, np.array([_summed(float(lam)) for lam in np.exp(grid)])


def _summed(lam: float) -> float:
    """E[deviance] = 2 * sum_k p(k) (lam - k + k log(k / lam)) over mean +- 12 standard deviations (+ 30)."""
    spread = 12 * np.sqrt(lam)
    k = np.arange(max(0, int(lam - spread)), int(lam + spread + 30), dtype=np.float64)
    probability = np.exp(special.xlogy(k, lam) - lam - special.gammaln(k + 1))
    return float(np.sum(probability * 2 * (lam - k + special.xlogy(k, k / lam))))
