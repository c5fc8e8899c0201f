"""Which frames make a batch: partitions of a scan into blocks of neighbours, and the split for validation."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch.utils.data import Sampler

from ptycho.grouping import compact_blocks


class BlockRequest(NamedTuple):
    """Which frames a block is made of: indices, used and scored, each (K,), and the number of their scan.

    share: weight of the loss of the batch that the block is in, so that the mean over all processes is the mean over
    the scored frames of the whole step. fold: the frames of which the object is made without, or None.
    step_frames: scored frames of the whole step, of all processes; 0 where the block's own process takes it alone.
    """

    indices: NDArray[np.int64]
    used: NDArray[np.bool_]
    scored: NDArray[np.bool_]
    scan: int = 0
    share: float = 1.0
    fold: int | None = None
    step_frames: int = 0


class TrainingBlocks(Sampler[BlockRequest]):
    """Every epoch another random partition of the training frames into compact blocks.

    Args:
        xy: (F, 2) positions of all frames in pixels.
        members: indices of the training frames.
        block_size: frames per block.
        seed: of the partitions.
        max_blocks: blocks per epoch, or None for all, so that every frame is used once.
        centres: (F,) bool, frames that are scored; the others only help to make the object. None for all.
        sequential: the first frames of the file, in the same blocks and the same order in every epoch.

    Attributes:
        folds: (F,) the part of the frames to which each belongs, or None. With them a block is scored on the frames of
            one part, which make no object then, another one from epoch to epoch.
    """

    def __init__(
        self, xy: NDArray[np.float64], members: NDArray[np.int64], block_size: int, seed: int,
        max_blocks: int | None = None, *, centres: NDArray[np.bool_] | None = None, sequential: bool = False,
    ) -> None:  # fmt: skip
        size = min(block_size, len(members))
        if sequential and max_blocks is not None:
            members = members[: max_blocks * size]
        self.xy, self.members = xy, members
        self.block_size, self.seed = block_size, seed
        total = -(-len(members) // size)
        self.n_blocks = total if max_blocks is None else min(total, max_blocks)
        self._centres, self._sequential = centres, sequential
        self.folds: NDArray[np.int64] | None = None
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the training loop, so that a resumed run draws what an unbroken one would have."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.n_blocks

    def __iter__(self) -> Iterator[BlockRequest]:
        rng = np.random.default_rng([self.seed, 0 if self._sequential else self.epoch])
        x, y = self.xy[self.members].T
        blocks, is_new = compact_blocks(x, y, self.block_size, rng=rng)
        if self._sequential:
            order = np.argsort(blocks.min(axis=1), kind="stable")
            blocks, is_new = blocks[order], is_new[order]
        for number, (block, new) in enumerate(zip(blocks[: self.n_blocks], is_new, strict=False)):
            indices = self.members[block]
            scored = new if self._centres is None else new & self._centres[indices]
            used, fold = np.ones(indices.shape, dtype=bool), None
            if self.folds is not None and scored.any():
                there = np.unique(self.folds[indices[scored]])
                fold = int(there[(self.epoch + number) % len(there)])
                withheld = self.folds[indices] == fold
                used, scored = ~withheld, scored & withheld
            yield BlockRequest(indices, used, scored, fold=fold)


class GroupBlocks(Sampler[BlockRequest]):
    """Groups as somebody else made them, in another order every epoch.

    Args:
        groups: (n, C) frames of each group.
        seed: of the order; None keeps the order as it is.
    """

    def __init__(self, groups: NDArray[np.int64], seed: int | None) -> None:
        self.groups, self.seed = groups, seed
        self.n_blocks = len(groups)
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the training loop."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.n_blocks

    def __iter__(self) -> Iterator[BlockRequest]:
        order = np.arange(self.n_blocks)
        if self.seed is not None:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(order)
        everything = np.ones(self.groups.shape[1], dtype=bool)
        for at in order:
            yield BlockRequest(self.groups[at], everything, everything)


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
            self._requests.append(BlockRequest(members, ~is_withheld[members], scored))

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[BlockRequest]:
        return iter(self._requests)


def place_among_processes() -> tuple[int, int]:
    """Number of this process, and how many train together."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def own_share(step: list[BlockRequest], rank: int, world: int) -> list[BlockRequest]:
    """The blocks of a step that are the work of one of several processes.

    Each process has something to do in every step: where there are too few blocks, one that is not scored.
    """
    if world == 1:
        return step
    mine = step[rank::world] or [step[0]._replace(scored=np.zeros_like(step[0].scored))]
    scored = sum(int(request.scored.sum()) for request in step)
    share = world * sum(int(request.scored.sum()) for request in mine) / max(1, scored)
    return [request._replace(share=share, step_frames=scored) for request in mine]


class MixedBatches(Sampler[list[BlockRequest]]):
    """Batches of several scans, each batch from one scan, the scans in random order; or of one scan.

    Where several processes train together, all go through the same steps, each with its own share of the blocks.

    Args:
        parts: (sampler of a scan's blocks, blocks per step) of each scan.
        seed: of the order; None takes one scan after the other.
    """

    def __init__(self, parts: Sequence[tuple[Sampler[BlockRequest], int]], seed: int | None) -> None:
        self.parts, self.seed = list(parts), seed
        self.epoch = 0
        # a training loop looks for set_epoch on the sampler of a batch sampler
        self.sampler = self

    def set_epoch(self, epoch: int) -> None:
        """Called by the training loop, and passed on."""
        self.epoch = epoch
        for sampler, _ in self.parts:
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(epoch)

    def _steps(self) -> list[int]:
        return [-(-len(sampler) // size) for sampler, size in self.parts]  # type: ignore[arg-type]

    def __len__(self) -> int:
        return sum(self._steps())

    def __iter__(self) -> Iterator[list[BlockRequest]]:
        turns = np.repeat(np.arange(len(self.parts)), self._steps())
        if self.seed is not None:
            turns = np.random.default_rng([self.seed, 3, self.epoch]).permutation(turns)
        streams = [iter(sampler) for sampler, _ in self.parts]
        for scan in turns.tolist():
            chosen = itertools.islice(streams[scan], self.parts[scan][1])
            step = [request._replace(scan=scan) for request in chosen]
            yield own_share(step, *place_among_processes())


def split_frames(n_frames: int, fraction: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split scan points at random: indices of the training frames and of the withheld ones, both sorted."""
    order = np.random.default_rng([seed, 2]).permutation(n_frames)
    n_withheld = round(fraction * n_frames)
    return np.sort(order[n_withheld:]), np.sort(order[:n_withheld])


def within_bounds(
    xy: NDArray[np.float64], x_bounds: tuple[float, float], y_bounds: tuple[float, float]
) -> NDArray[np.bool_]:
    """(F,) bool: frames whose position lies within these shares of the scan's range, in x and in y.

    The frame nearest to the middle of the bounds always does, so that there is something to train on.
    """
    low, span = xy.min(axis=0), np.maximum(np.ptp(xy, axis=0), 1e-9)
    share = (xy - low) / span
    bounds = np.array((x_bounds, y_bounds), dtype=float)
    inside = np.all((share >= bounds[:, 0]) & (share <= bounds[:, 1]), axis=1)
    inside[np.argmin(np.sum((share - bounds.mean(axis=1)) ** 2, axis=1))] = True
    return np.asarray(inside, dtype=bool)
