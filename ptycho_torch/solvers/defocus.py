"""The distance along the axis by which a probe guess is wrong, found by how well it explains frames.

The misfit after a few epochs of refining the object alone is smooth in that distance, with one valley about as wide as
the beam's change of shape (docs/findings.md, FOCUS-001). So the valley is walked into in steps of the probe's focal
depth, and its bottom found by Brent's method.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

from scipy.optimize import minimize_scalar

logger = logging.getLogger(__name__)

TOLERANCE = 0.1
"""How well the bottom is located, in units of the first step."""

MOST_TRIALS = 12
"""Between the two sides of the valley; walking into it takes a few more."""

GROWTH = 1.6
"""Of the steps on the way."""


@dataclass(frozen=True)
class Defocus:
    """Result of :func:`find_defocus`.

    Attributes:
        distance_px2: where the misfit is least, wavelength * distance / pixel^2 from the guess, positive downstream.
        tried: (distance, misfit) of every trial, by distance.
        at_edge: True if the misfit still fell where the search had to end.
    """

    distance_px2: float
    tried: list[tuple[float, float]]
    at_edge: bool


def find_defocus(misfit_at: Callable[[float], float], step_px2: float, limit_px2: float) -> Defocus:
    """Minimise a misfit over the distance, from 0.

    Args:
        misfit_at: relative misfit of frames for a probe that far away; smooth, one valley around 0 or beside it.
        step_px2: of the first step to either side, about the focal depth of the probe.
        limit_px2: farther than that is not tried.

    Returns:
        See :class:`Defocus`.
    """
    known: dict[float, float] = {}

    def tried(distance: float) -> float:
        distance = float(distance)
        if distance not in known:
            found = misfit_at(distance)
            # a trial that broke down is the worst of all
            known[distance] = found if math.isfinite(found) else math.inf
            logger.debug("Defocus %.4g px^2: misfit %.5g", distance, known[distance])
        return known[distance]

    step = min(step_px2, limit_px2)
    valley = _valley(tried, step, limit_px2)
    if valley is not None:
        minimize_scalar(
            tried, bounds=valley, method="bounded", options={"xatol": TOLERANCE * step, "maxiter": MOST_TRIALS}
        )
    best = min(known, key=known.__getitem__)
    return Defocus(best, sorted(known.items()), valley is None)


def _valley(misfit_at: Callable[[float], float], step: float, limit: float) -> tuple[float, float] | None:
    """Two distances with a better one between them; None if the misfit falls up to the limit."""
    middle, ahead = 0.0, step if misfit_at(step) < misfit_at(-step) else -step
    behind = -ahead
    while misfit_at(ahead) < misfit_at(middle):
        if abs(ahead) >= limit:
            return None
        behind, middle = middle, ahead
        ahead = max(-limit, min(limit, middle + GROWTH * (middle - behind)))
    return min(behind, ahead), max(behind, ahead)
