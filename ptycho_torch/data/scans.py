"""A scan on its canvas, and what training needs to know of it beside the frames."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho.geometry import Canvas, canvas_for, placements
from ptycho.raw_data import RawData


@dataclass(frozen=True)
class PlacedScan:
    """A scan and where its frames lie on the canvas of all of them.

    Attributes:
        raw: the scan; its frames stay in their own dtype, in memory or on disk.
        canvas: the canvas of the whole scan.
        starts: (F, 2) int64 (row, column).
        fractions: (F, 2) float32.
    """

    raw: RawData
    canvas: Canvas
    starts: Tensor
    fractions: Tensor

    @classmethod
    def of(cls, raw: RawData, canvas: Canvas | None = None) -> PlacedScan:
        """Place every frame of ``raw`` on ``canvas``, or on the smallest one that is centred on the scan."""
        canvas = canvas_for(raw.xcoords, raw.ycoords, raw.N) if canvas is None else canvas
        starts, fractions = placements(raw.xcoords, raw.ycoords, raw.N, canvas)
        return cls(raw, canvas, torch.from_numpy(starts), torch.from_numpy(fractions.astype(np.float32)))

    @property
    def xy(self) -> NDArray[np.float64]:
        """(F, 2) positions (x, y) in object pixels."""
        return np.stack((self.raw.xcoords, self.raw.ycoords), axis=1)

    def counts(self, indices: Tensor) -> Tensor:
        """(n, N, N) float32 counts of some frames, zero frequency at N//2; masked pixels, which may be NaN, are 0."""
        counts = self.raw.counts(indices.numpy())
        if self.raw.bad_pixels is not None:
            counts[:, self.raw.bad_pixels] = 0
        return torch.from_numpy(counts)


@dataclass(frozen=True)
class LitScan:
    """A placed scan with the probe that lights it, ready to be cut into batches.

    Attributes:
        placed: the frames and their places.
        probe: (M, N, N) complex64, scaled to counts.
        guess: (M, N, N) complex64, scaled to counts, what the probe was refined from.
        labels: (H, W) complex64 on the scan's canvas, the known object, or (F, N, N) patches of it; or None.
        groups: (n, C) int64 frames of fixed groups, where positions are known within a group only; else None.
    """

    placed: PlacedScan
    probe: Tensor
    guess: Tensor
    labels: Tensor | None = None
    groups: NDArray[np.int64] | None = None
