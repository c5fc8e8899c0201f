"""Blocks of neighbouring frames, cut from a scan by index when a batch needs them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from ptycho.geometry import Canvas, canvas_for, placements
from ptycho.grouping import compact_blocks
from ptycho.raw_data import RawData
from ptycho_torch.solvers.frames import relative_to_block


class BlockBatch(NamedTuple):
    """A batch of blocks.

    Attributes:
        counts: (B, K, N, N) float32 photon counts, zero frequency at N//2.
        starts: (B, K, 2) int64 placement on the blocks' canvases (row, column).
        fractions: (B, K, 2) float32 sub-pixel remainders.
        used: (B, K) bool, frames that make the object.
        scored: (B, K) bool, frames whose likelihood counts.
        shape: (2,) int64 (H, W) of the canvases.
    """

    counts: Tensor
    starts: Tensor
    fractions: Tensor
    used: Tensor
    scored: Tensor
    shape: Tensor


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
    def of(cls, raw: RawData, center_xy: tuple[float, float] | None = None) -> PlacedScan:
        """Place every frame of ``raw``; the canvas is centred on ``center_xy`` or on the scan."""
        canvas = canvas_for(raw.xcoords, raw.ycoords, raw.N, center_xy=center_xy)
        starts, fractions = placements(raw.xcoords, raw.ycoords, raw.N, canvas)
        return cls(raw, canvas, torch.from_numpy(starts), torch.from_numpy(fractions.astype(np.float32)))

    def counts(self, indices: Tensor) -> Tensor:
        """(n, N, N) float32 counts of some frames, zero frequency at N//2; masked pixels, which may be NaN, are 0."""
        counts = self.raw.counts(indices.numpy())
        if self.raw.bad_pixels is not None:
            counts[:, self.raw.bad_pixels] = 0
        return torch.from_numpy(counts)


class BlockRequest(NamedTuple):
    """Which frames a batch is made of: indices, used and scored, each (B, K)."""

    indices: NDArray[np.int64]
    used: NDArray[np.bool_]
    scored: NDArray[np.bool_]


class BlockDataset(Dataset[BlockBatch]):
    """Cuts whole batches: an item is a :class:`BlockRequest`, so nothing is collated afterwards."""

    def __init__(self, scan: PlacedScan) -> None:
        self.scan = scan

    def __len__(self) -> int:
        return self.scan.raw.n_frames

    def __getitem__(self, request: BlockRequest) -> BlockBatch:
        n_blocks, size = request.indices.shape
        flat = torch.from_numpy(request.indices.reshape(-1))
        counts = self.scan.counts(flat)
        starts, shape = relative_to_block(self.scan.starts[flat].view(n_blocks, size, 2), counts.shape[-1])
        return BlockBatch(
            counts.view(n_blocks, size, *counts.shape[1:]),
            starts,
            self.scan.fractions[flat].view(n_blocks, size, 2),
            torch.from_numpy(request.used),
            torch.from_numpy(request.scored),
            torch.tensor(shape),
        )


class TrainingBlocks(Sampler[BlockRequest]):
    """Every epoch another random partition of the training frames into compact blocks.

    Args:
        xy: (F, 2) positions of all frames in pixels.
        members: indices of the training frames.
        block_size: frames per block.
        blocks_per_batch: blocks per optimiser step.
        seed: of the partitions.
        max_blocks: blocks per epoch, or None for all, so that every frame is used once.
    """

    def __init__(
        self, xy: NDArray[np.float64], members: NDArray[np.int64], block_size: int, blocks_per_batch: int,
        seed: int, max_blocks: int | None = None,
    ) -> None:  # fmt: skip
        self.xy, self.members = xy, members
        self.block_size, self.blocks_per_batch, self.seed = block_size, blocks_per_batch, seed
        total = -(-len(members) // min(block_size, len(members)))
        self.n_blocks = total if max_blocks is None else min(total, max_blocks)
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the training loop, so that a resumed run draws what an unbroken one would have."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.n_blocks // self.blocks_per_batch)

    def __iter__(self) -> Iterator[BlockRequest]:
        rng = np.random.default_rng([self.seed, self.epoch])
        x, y = self.xy[self.members].T
        blocks, is_new = compact_blocks(x, y, self.block_size, rng=rng)
        for chunk in np.array_split(np.arange(self.n_blocks), len(self)):
            indices = self.members[blocks[chunk]]
            yield BlockRequest(indices, np.ones(indices.shape, dtype=bool), is_new[chunk])


class ValidationBlocks(Sampler[BlockRequest]):
    """Withheld frames, scored on an object made without them.

    Each block is centred on a withheld frame: at the rim of a block an object is known too badly to tell one
    network from another (docs/findings.md, VAL-001). Withheld frames near the centre are scored along.

    Args:
        xy: (F, 2) positions of all frames in pixels.
        withheld: indices of the withheld frames.
        block_size: frames per block.
        max_blocks: blocks at most, so that validation stays cheaper than training.
        seed: of the choice of blocks.
    """

    def __init__(
        self, xy: NDArray[np.float64], withheld: NDArray[np.int64], block_size: int, max_blocks: int, seed: int
    ) -> None:  # fmt: skip
        is_withheld = np.zeros(len(xy), dtype=bool)
        is_withheld[withheld] = True
        centres = np.random.default_rng([seed, 1]).permutation(withheld)
        nearest = cKDTree(xy).query(xy[centres], k=min(block_size, len(xy)))[1].reshape(len(centres), -1)
        n_central = max(1, nearest.shape[1] // 4)
        done = np.zeros(len(xy), dtype=bool)
        self._requests: list[BlockRequest] = []
        for centre, members in zip(centres, nearest, strict=True):
            if done[centre] or len(self._requests) == max_blocks:
                continue
            scored = is_withheld[members] & ~done[members]
            scored[n_central:] = False
            scored |= members == centre
            done[members[scored]] = True
            self._requests.append(BlockRequest(members[None], ~is_withheld[members][None], scored[None]))

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[BlockRequest]:
        return iter(self._requests)


def split_frames(n_frames: int, fraction: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split scan points at random: indices of the training frames and of the withheld ones, both sorted."""
    order = np.random.default_rng([seed, 2]).permutation(n_frames)
    n_withheld = round(fraction * n_frames)
    return np.sort(order[n_withheld:]), np.sort(order[:n_withheld])
