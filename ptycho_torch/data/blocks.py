"""Batches of blocks of neighbouring frames, cut from a scan by index when a batch needs them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ptycho_torch.data.samplers import BlockRequest
from ptycho_torch.data.scans import LitScan
from ptycho_torch.solvers.frames import relative_to_block

STEP_PX = 16
"""Sides of the canvases of a batch are multiples of this. Every size that a convolution has not seen yet is compiled
for anew, which takes as long as a fifth of a step; so there are few sizes."""


class Batch(NamedTuple):
    """A batch of B blocks of K frames. Callers of the reference take the same three parts from its loaders.

    Attributes:
        fields: by name,
            images (B, K, N, N) float32 photon counts, zero frequency at N//2;
            starts (B, K, 2) int64 placement on the blocks' canvases (row, column), fractions (B, K, 2) float32
            sub-pixel remainders, shape (2,) int64 (H, W) of the canvases,
            multiples of `STEP_PX`;
            used (B, K) bool, frames that make the object; scored (B, K) bool, frames whose likelihood counts;
            coords_relative (B, K, 1, 2) float32 (x, y) = centre of the block - position, pixels;
            experiment_id (B,) int64, the number of the scan;
            share () float32, weight of the loss among those of several processes, 1 for one;
            step_frames () int64, scored frames of the step, those of all processes;
            rms_scaling_constant, physics_scaling_constant (B, 1, 1, 1): sqrt(counts) times the first have a mean
            energy of (N/2)^2, and the second is its inverse;
            begun (B, H, W) complex64 and lit (B, H, W) float32, see :class:`Begun`, only where there is one;
            good_pixels (N, N) bool, only where there is a mask;
            label_amp, label_phase (B, K, N, N) float32 at the placement, only where the object is known.
        probe: (M, N, N) complex64, scaled to counts.
        scaling: (B, 1, 1, 1) float32, the same as physics_scaling_constant.
    """

    fields: dict[str, Tensor]
    probe: Tensor
    scaling: Tensor


class Begun(NamedTuple):
    """What the first projections have made of a scan, on its canvas.

    Attributes:
        canvas: (H, W) complex64, the object.
        lit: (H, W) float32, sum over the frames that made it, and over modes, of |P|^2.
    """

    canvas: Tensor
    lit: Tensor


class BlockDataset(Dataset[Batch]):
    """Cuts whole batches: a loader asks for several :class:`BlockRequest` at once, and nothing is collated after.

    Args:
        scans: what the requests' scan numbers count.
        begun: for each scan what the blocks start from, by the fold that is left out of it; or None.
    """

    def __init__(self, scans: Sequence[LitScan], begun: Sequence[dict[int | None, Begun] | None] | None = None) -> None:
        self.scans = list(scans)
        self.begun = [None] * len(self.scans) if begun is None else list(begun)
        self._scales = [float(scan.placed.raw.intensity_scale()) for scan in self.scans]

    def __len__(self) -> int:
        return sum(scan.placed.raw.n_frames for scan in self.scans)

    def __getitem__(self, request: BlockRequest) -> Batch:
        return self.__getitems__([request])

    def __getitems__(self, requests: list[BlockRequest]) -> Batch:
        """The batch of these blocks, which are all of one scan and of one size."""
        number = requests[0].scan
        scan, scale = self.scans[number], self._scales[number]
        placed = scan.placed
        indices, used, scored = (
            torch.from_numpy(np.stack([getattr(request, name) for request in requests]))
            for name in ("indices", "used", "scored")
        )
        n_blocks, size = indices.shape
        flat = indices.reshape(-1)
        counts = placed.counts(flat)
        global_starts = placed.starts[flat].view(n_blocks, size, 2)
        starts, smallest = relative_to_block(global_starts, counts.shape[-1])
        shape = (-(-smallest[0] // STEP_PX) * STEP_PX, -(-smallest[1] // STEP_PX) * STEP_PX)
        fractions = placed.fractions[flat].view(n_blocks, size, 2)
        places = (starts + fractions).flip(-1)
        scaling = torch.full((n_blocks, 1, 1, 1), scale)
        fields = {
            "images": counts.view(n_blocks, size, *counts.shape[1:]),
            "starts": starts,
            "fractions": fractions,
            "shape": torch.tensor(shape),
            "used": used,
            "scored": scored,
            "coords_relative": (places.mean(dim=1, keepdim=True) - places)[:, :, None],
            "rms_scaling_constant": 1 / scaling,
            "physics_scaling_constant": scaling,
            "experiment_id": torch.full((n_blocks,), number),
            "share": torch.tensor(requests[0].share),
            "step_frames": torch.tensor(requests[0].step_frames or int(scored.sum())),
        }
        begun = self.begun[number]
        if begun is not None:
            corners = global_starts.amin(dim=1)
            parts = [begun[request.fold] for request in requests]
            fields["begun"] = _windows([part.canvas for part in parts], corners, shape, 1)
            fields["lit"] = _windows([part.lit for part in parts], corners, shape, 0)
        if placed.raw.bad_pixels is not None:
            fields["good_pixels"] = torch.from_numpy(placed.raw.good_pixels)
        if scan.labels is not None:
            apart = scan.labels.ndim == 3
            labels = scan.labels[indices] if apart else _cut(scan.labels, global_starts, counts.shape[-1])
            fields |= {"label_amp": labels.abs(), "label_phase": labels.angle()}
        return Batch(fields, scan.probe, scaling)


def _windows(canvases: list[Tensor], corners: Tensor, shape: tuple[int, int], beyond: float) -> Tensor:
    """(B, *shape) parts of B canvases from their corners (B, 2) on; ``beyond`` stands where one has ended."""
    found = canvases[0].new_full((len(corners), *shape), beyond)
    for canvas, window, (top, left) in zip(canvases, found, corners.tolist(), strict=True):
        part = canvas[top : top + shape[0], left : left + shape[1]]
        window[: part.shape[0], : part.shape[1]] = part
    return found


def as_it_is(batch: Any) -> Any:
    """What a loader does with a batch that is whole already."""
    return batch


def _cut(canvas: Tensor, starts: Tensor, n: int) -> Tensor:
    """Patches (B, K, n, n) of one canvas."""
    windows = canvas.unfold(0, n, 1).unfold(1, n, 1)
    return windows[starts[..., 0], starts[..., 1]]
