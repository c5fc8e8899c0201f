"""Parts of a scan that lie side by side: each of them sees nearly all that all frames see."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho.grouping import compact_blocks
from ptycho_torch.physics.batches import frames_that_can_be_kept


def spread_folds(xy: NDArray[np.float64], members: NDArray[np.int64], n: int, seed: int) -> NDArray[np.int64]:
    """(F,) which of n parts each of the members belongs to, neighbours to different ones; -1 for other frames."""
    rng = np.random.default_rng([seed, 2])
    x, y = xy[members].T
    folds = np.full(len(xy), -1, dtype=np.int64)
    blocks, is_new = compact_blocks(x, y, n, rng=rng)
    for block, new in zip(blocks, is_new, strict=True):
        folds[members[block[new]]] = rng.permutation(n)[: int(new.sum())]
    return folds


def spread_parts(xy: NDArray[np.float64], members: NDArray[np.int64], n: int, seed: int = 0) -> list[Tensor]:
    """The parts of :func:`spread_folds` that have frames: ascending frame indices (n,) int64 each."""
    folds = spread_folds(xy, members, min(n, len(members)), seed)
    order = np.argsort(folds, kind="stable")
    order = order[np.searchsorted(folds[order], 0) :]  # frames that are no members stand first
    return [torch.from_numpy(part) for part in np.split(order, np.flatnonzero(np.diff(folds[order])) + 1) if len(part)]


def frames_per_step(n_frames: int, N: int, modes: int) -> int:
    """Frames of a step of a refinement: a quarter of all, between 16 and 256, as far as memory lets."""
    return min(max(16, min(256, -(-n_frames // 4))), frames_that_can_be_kept(N, modes))


def steps_of(xy: NDArray[np.float64], batch_size: int, seed: int = 0) -> list[Tensor]:
    """The frames of each step of a refinement: all that lie at (F, 2) ``xy``, in parts of about ``batch_size``."""
    return spread_parts(xy, np.arange(len(xy)), -(-len(xy) // batch_size), seed)
