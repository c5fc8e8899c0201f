"""Arrays that bring along what they were made of, through code that knows them as plain arrays only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho.geometry import Canvas, canvas_over
from ptycho.raw_data import RawData

__all__ = ["CarryingArray", "GroupedScan", "Stitched", "carried", "carrying", "canvas_of_guess"]


class CarryingArray(np.ndarray):  # type: ignore[type-arg]
    """An array with one more attribute, which arithmetic and slices pass on.

    Callers of the legacy functions take arrays from one and hand them, scaled, to the next. Groups of frames alone do
    not say what the whole scan does, so that it has to come along.
    """

    carried: Any = None

    def __array_finalize__(self, source: Any) -> None:
        self.carried = getattr(source, "carried", None)


@dataclass(frozen=True)
class GroupedScan:
    """A whole scan, and which of its frames are in which group. nn_indices: (n, C)."""

    scan: RawData
    nn_indices: npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Stitched:
    """An object that was reconstructed from a whole scan. image: complex64 (H, W), on `canvas`."""

    image: npt.NDArray[np.complex64]
    canvas: Canvas


def carrying(array: npt.ArrayLike, what: Any) -> CarryingArray:
    """`array` (not copied) with `what` attached."""
    result: CarryingArray = np.asarray(array).view(CarryingArray)
    result.carried = what
    return result


def carried(array: Any, kind: type) -> Any:
    """What an array brings along, if it is of that kind; else None."""
    found = getattr(array, "carried", None)
    return found if isinstance(found, kind) else None


def canvas_of_guess(raw: RawData) -> Canvas | None:
    """The canvas of the scan's objectGuess, in whose pixel coordinates the positions are; None without one."""
    if raw.objectGuess is None:
        return None
    height, width = raw.objectGuess.shape
    return canvas_over((height, width), raw.xcoords, raw.ycoords, raw.N)
