"""Groups of neighbouring frames: indices only, the frames stay where they are.

Every function draws from its own random generator; the same seed gives the same groups.
"""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho.errors import InputError
from ptycho.geometry import checked_positions

__all__ = ["neighbour_groups", "compact_blocks"]

logger = logging.getLogger(__name__)

IntArray = npt.NDArray[np.int64]

_QUERY_CHUNK = 100_000
_REDRAWS = 20


def _points(xcoords: npt.ArrayLike, ycoords: npt.ArrayLike) -> npt.NDArray[np.float64]:
    x, y = checked_positions(xcoords, ycoords)
    return np.column_stack([x, y])


def neighbour_groups(
    xcoords: npt.ArrayLike,
    ycoords: npt.ArrayLike,
    n_groups: int,
    n_neighbours: int,
    group_size: int,
    *,
    seed: int | None,
    sequential: bool = False,
    enable_oversampling: bool = False,
    neighbor_pool_size: int | None = None,
) -> npt.NDArray[np.int32]:
    """Groups of `group_size` (C) frames that lie close together: int32 (n, C), no frame twice in a group.

    Column 0 is the group's own frame, drawn without replacement (all frames in order when n_groups is the
    number of frames; the first n_groups frames when `sequential`, whose result does not depend on the seed).
    The others are drawn at random from its `n_neighbours` (K) nearest frames. With C == 1 there are no
    neighbours, and more groups than frames are cut to the number of frames. With C > 1, more groups than
    frames ("K choose C oversampling") must be asked for by enable_oversampling; then neighbours come from the
    `neighbor_pool_size` (default K) nearest, each frame is used as evenly as possible and combinations are
    repeated only when there are no others left.

    Raises InputError (a ValueError) when K < C, when there are fewer than C frames, and for oversampling not
    asked for or with a pool smaller than C (OVERSAMPLING-001).
    """
    points = _points(xcoords, ycoords)
    n = len(points)
    if n_groups < 1 or group_size < 1:
        raise InputError(
            f"Grouping: found {n_groups} groups of {group_size} frames, expected at least one of each."
        )
    pool = neighbor_pool_size or n_neighbours
    oversampling = n_groups > n and group_size > 1
    if oversampling:
        _check_oversampling(n_groups, n, pool, group_size, enable_oversampling)
    if n_neighbours < group_size:
        raise InputError(
            f"Grouping: K={n_neighbours} must be >= C={group_size} (gridsize**2), the number of frames in a "
            "group. "
            "Raise neighbor_count (in ptychodus: NumNearestNeighbors) or lower gridsize (GridSize)."
        )
    if n < group_size:
        raise InputError(
            f"Grouping: found {n} frames, expected at least {group_size} for groups of {group_size}."
        )
    rng = np.random.default_rng(0 if sequential else seed)
    if oversampling:
        return _oversampled(points, n_groups, pool, group_size, rng, sequential)
    if n_groups > n:
        logger.warning(
            "Grouping: %d groups of one frame asked for, %d frames there: one group per frame.", n_groups, n
        )
        n_groups = n
    if sequential or n_groups == n:
        own = np.arange(n_groups)
    else:
        own = rng.choice(n, n_groups, replace=False)
    return _with_neighbours(points, own, n_neighbours, group_size, rng)


def _check_oversampling(n_groups: int, n: int, pool: int, group_size: int, enabled: bool) -> None:
    if not enabled:
        raise InputError(
            f"OVERSAMPLING-001: {n_groups} groups from {n} frames need K choose C oversampling, which must "
            "be asked for: "
            f"set enable_oversampling=True (and neighbor_pool_size >= {group_size}), or n_groups <= {n}."
        )
    if pool < group_size:
        raise InputError(
            f"OVERSAMPLING-001: found neighbor_pool_size {pool} for groups of C={group_size}; "
            "neighbor_pool_size >= C is needed. Raise neighbor_pool_size or neighbor_count."
        )


def _tree(points: npt.NDArray[np.float64]) -> Any:
    from scipy.spatial import cKDTree  # imported late: it takes longer than everything else in this module

    return cKDTree(points)


def _nearest(tree: Any, own: IntArray, k: int) -> npt.NDArray[np.int32]:
    """The k nearest other frames of each frame in `own`, int32 (len(own), k)."""
    found = np.empty((len(own), k), dtype=np.int32)
    for first in range(0, len(own), _QUERY_CHUNK):
        chosen = own[first : first + _QUERY_CHUNK]
        _, near = tree.query(tree.data[chosen], k=k + 1)
        near = near.reshape(len(chosen), k + 1)
        # The frame itself is usually first, but not among frames at one and the same position; there it may
        # even be missing, and then the farthest is dropped in its place.
        itself = near == chosen[:, None]
        itself[~itself.any(axis=1), -1] = True
        found[first : first + len(chosen)] = near[~itself].reshape(len(chosen), k)
    return found


def _with_neighbours(
    points: npt.NDArray[np.float64], own: IntArray, pool: int, group_size: int, rng: np.random.Generator
) -> npt.NDArray[np.int32]:
    """Each frame of `own` and group_size - 1 distinct ones of its `pool` nearest, at random: int32 (n, C)."""
    groups = np.empty((len(own), group_size), dtype=np.int32)
    groups[:, 0] = own
    if group_size > 1:
        tree = _tree(points)
        k = min(pool, len(points) - 1)
        for first in range(0, len(own), _QUERY_CHUNK):
            part = slice(first, min(first + _QUERY_CHUNK, len(own)))
            groups[part, 1:] = _random_columns(_nearest(tree, own[part], k), group_size - 1, rng)
    return groups


def _random_columns(
    table: npt.NDArray[np.int32], count: int, rng: np.random.Generator
) -> npt.NDArray[np.int32]:
    """`count` different entries of each row, at random: the columns of the smallest of as many random
    numbers.
    """
    order = np.argsort(rng.random(table.shape, dtype=np.float32), axis=1)[:, :count]
    return np.take_along_axis(table, order, axis=1)


def _oversampled(
    points: npt.NDArray[np.float64],
    n_groups: int,
    pool: int,
    group_size: int,
    rng: np.random.Generator,
    sequential: bool,
) -> npt.NDArray[np.int32]:
    """n_groups groups, more than there are frames, as different from each other as redrawing makes them."""
    n = len(points)
    k = min(pool, n - 1)
    near = _nearest(_tree(points), np.arange(n), k)
    rounds = math.ceil(n_groups / n)
    order = [np.arange(n) if sequential else rng.permutation(n) for _ in range(rounds)]
    own = np.concatenate(order)[:n_groups]
    groups = np.empty((n_groups, group_size), dtype=np.int32)
    groups[:, 0] = own
    redraw = np.arange(n_groups)
    for _ in range(_REDRAWS):
        groups[redraw, 1:] = _random_columns(near[own[redraw]], group_size - 1, rng)
        _, first = np.unique(np.sort(groups, axis=1), axis=0, return_index=True)
        repeated = np.ones(n_groups, dtype=bool)
        repeated[first] = False
        redraw = np.flatnonzero(repeated)
        if redraw.size == 0:
            return groups
    logger.warning(
        "Grouping: %d of %d oversampled groups repeat another one; raise neighbor_pool_size.",
        redraw.size,
        n_groups,
    )
    return groups


def compact_blocks(
    xcoords: npt.ArrayLike, ycoords: npt.ArrayLike, block_size: int, *, rng: np.random.Generator
) -> tuple[IntArray, npt.NDArray[np.bool_]]:
    """A random partition of all frames into spatially compact blocks.

    The frames are bisected again and again, across the longer of two perpendicular directions drawn at
    random, at a place drawn at random, always into whole numbers of blocks; so every block has exactly
    block_size frames but one, which is topped up with its nearest frames. Returns blocks, int64 (n_blocks, B)
    with B = min(block_size, number of frames) and n_blocks = ceil(frames / B), in random order; and is_new,
    bool of that shape, False for the frames used to top up: each frame is new exactly once. No block holds a
    frame twice.
    """
    points = _points(xcoords, ycoords)
    if block_size < 1:
        raise InputError(f"Blocks: found block_size {block_size}, expected at least 1.")
    size = min(block_size, len(points))
    full: list[IntArray] = []
    rest: IntArray | None = None
    stack = [np.arange(len(points))]
    while stack:
        members = stack.pop()
        if len(members) <= size:
            if len(members) == size:
                full.append(members)
            else:
                rest = members
            continue
        stack.extend(_bisect(points, members, size, rng))
    is_new = np.ones((len(full) + (rest is not None), size), dtype=bool)
    if rest is not None:
        full.append(_topped_up(points, rest, size))
        is_new[-1, len(rest) :] = False
    order = rng.permutation(len(full))
    return np.stack(full)[order], is_new[order]


def _bisect(
    points: npt.NDArray[np.float64], members: IntArray, size: int, rng: np.random.Generator
) -> tuple[IntArray, IntArray]:
    """Split frames into two compact parts, the first a whole number of blocks."""
    angle, place, mirror = rng.random(3)
    cos, sin = math.cos(math.pi * angle), math.sin(math.pi * angle)
    own = points[members]
    along = own[:, 0] * cos + own[:, 1] * sin
    across = own[:, 1] * cos - own[:, 0] * sin
    key = along if np.ptp(along) >= np.ptp(across) else across
    blocks = math.ceil(len(members) / size)
    first = min(max(round(blocks * (0.35 + 0.3 * place)), 1), blocks - 1) * size
    # The odd block may end up on either side, so that it is not always at the same edge of the scan.
    order = np.argpartition(-key if mirror < 0.5 else key, first)
    return members[order[:first]], members[order[first:]]


def _topped_up(points: npt.NDArray[np.float64], members: IntArray, size: int) -> IntArray:
    """The frames and the nearest others around their centre, `size` in all."""
    distance = np.sum((points - points[members].mean(axis=0)) ** 2, axis=1)
    distance[members] = np.inf
    missing = size - len(members)
    nearest = np.argpartition(distance, missing - 1)[:missing]
    return np.concatenate([members, nearest])
