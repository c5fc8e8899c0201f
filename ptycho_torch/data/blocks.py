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


class Batch(NamedTuple):
    """A batch of B blocks of K frames. Callers of the reference take the same three parts from its loaders.

    Attributes:
        fields: by name,
            images (B, K, N, N) float32 photon counts, zero frequency at N//2;
            starts (B, K, 2) int64 placement on the blocks' canvases (row, column), fractions (B, K, 2) float32
            sub-pixel remainders, shape (2,) int64 (H, W) of the canvases;
            used (B, K) bool, frames that make the object; scored (B, K) bool, frames whose likelihood counts;
            coords_relative (B, K, 1, 2) float32 (x, y) = centre of the block - position, pixels;
            experiment_id (B,) int64, the number of the scan;
            share () float32, weight of the loss among those of several processes, 1 for one;
            rms_scaling_constant, physics_scaling_constant (B, 1, 1, 1): sqrt(counts) times the first have a mean
            energy of (N/2)^2, and the second is its inverse;
            good_pixels (N, N) bool, only where there is a mask;
            label_amp, label_phase (B, K, N, N) float32 at the placement, only where the object is known.
        probe: (M, N, N) complex64, scaled to counts.
        scaling: (B, 1, 1, 1) float32, the same as physics_scaling_constant.
    """

    fields: dict[str, Tensor]
    probe: Tensor
    scaling: Tensor


class BlockDataset(Dataset[Batch]):
    """Cuts whole batches: a loader asks for several :class:`BlockRequest` at once, and nothing is collated after.

    Args:
        scans: what the requests' scan numbers count.
    """

    def __init__(self, scans: Sequence[LitScan]) -> None:
        self.scans = list(scans)
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
        starts, shape = relative_to_block(global_starts, counts.shape[-1])
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
        }
        if placed.raw.bad_pixels is not None:
            fields["good_pixels"] = torch.from_numpy(placed.raw.good_pixels)
        if scan.labels is not None:
            apart = scan.labels.ndim == 3
            labels = scan.labels[indices] if apart else _cut(scan.labels, global_starts, counts.shape[-1])
            fields |= {"label_amp": labels.abs(), "label_phase": labels.angle()}
        return Batch(fields, scan.probe, scaling)


def as_it_is(batch: Any) -> Any:
    """What a loader does with a batch that is whole already."""
    return batch


def _cut(canvas: Tensor, starts: Tensor, n: int) -> Tensor:
    """Patches (B, K, n, n) of one canvas."""
    windows = canvas.unfold(0, n, 1).unfold(1, n, 1)
    return windows[starts[..., 0], starts[..., 1]]
