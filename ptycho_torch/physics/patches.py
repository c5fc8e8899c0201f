"""Cutting patches from a canvas and adding them back: a pair of adjoint operators, and the weighted merge."""

from __future__ import annotations

import torch
from torch import Tensor


def patch_index(starts: Tensor, n: int, width: int) -> Tensor:
    """Flat canvas indices of patches.

    Args:
        starts: (..., K, 2) int64, (row, column) of each patch's first pixel.
        n: side of a patch.
        width: number of columns of the canvas.

    Returns:
        (..., K * n * n) int64.
    """
    grid = torch.arange(n, device=starts.device)
    rows = starts[..., 0, None] + grid
    cols = starts[..., 1, None] + grid
    return (rows[..., :, None] * width + cols[..., None, :]).flatten(-3)


def extract(canvas: Tensor, starts: Tensor, n: int) -> Tensor:
    """Cut patches.

    Args:
        canvas: (..., H, W).
        starts: (..., K, 2) int64 first pixel (row, column) of each patch; must lie inside the canvas.
        n: side of a patch.

    Returns:
        (..., K, n, n).

    Raises:
        ValueError: the leading axes differ.
    """
    if starts.shape[:-2] != canvas.shape[:-2]:
        raise ValueError(f"canvases {tuple(canvas.shape)} and starts {tuple(starts.shape)} differ in leading axes")
    if not (torch.is_grad_enabled() and canvas.requires_grad):
        # four times as fast, but slow to differentiate
        windows = canvas.reshape(-1, *canvas.shape[-2:]).unfold(-2, n, 1).unfold(-2, n, 1)
        flat_starts = starts.reshape(len(windows), -1, 2)
        number = torch.arange(len(windows), device=starts.device)[:, None]
        return windows[number, flat_starts[..., 0], flat_starts[..., 1]].reshape(*starts.shape[:-1], n, n)
    index = patch_index(starts, n, canvas.shape[-1])
    flat = torch.gather(canvas.flatten(-2), -1, index)
    return flat.unflatten(-1, (starts.shape[-2], n, n))


def place(patches: Tensor, starts: Tensor, shape: tuple[int, int]) -> Tensor:
    """Add patches to an empty canvas: the adjoint of :func:`extract`.

    Args:
        patches: (..., K, n, n).
        starts: (..., K, 2) int64.
        shape: (H, W) of the canvas.

    Returns:
        (..., H, W), zero where no patch lies.
    """
    n = patches.shape[-1]
    index = patch_index(starts, n, shape[1])
    empty = patches.new_zeros((*patches.shape[:-3], shape[0] * shape[1]))
    return empty.scatter_add(-1, index, patches.flatten(-3)).unflatten(-1, shape)


_LARGE_PATCH = 64  # from here on whole rows are added faster than single pixels, of 128 more than twice as fast


def add_patches(canvas: Tensor, patches: Tensor, starts: Tensor) -> None:
    """Add patches to a canvas in place, at a cost that does not depend on the canvas; for streams, without gradient.

    Args:
        canvas: (H, W), contiguous; changed.
        patches: (K, n, n).
        starts: (K, 2) int64.
    """
    n = patches.shape[-1]
    if canvas.device.type == "cpu" and n >= _LARGE_PATCH:
        for (top, left), patch in zip(starts.tolist(), patches.unbind(), strict=True):
            canvas[top : top + n, left : left + n].add_(patch)
        return
    index = patch_index(starts, n, canvas.shape[-1])
    canvas.view(-1).scatter_add_(-1, index, patches.flatten(-3))


def merge_from_sums(weighted: Tensor, weight: Tensor, floor: Tensor) -> Tensor:
    """(weighted + floor) / (weight + floor): the merged object, vacuum (1) where nothing was seen."""
    return (weighted + floor) / (weight + floor)


ROWS = 64
"""Of a canvas, worked on at a time where a whole one in between would cost memory."""


def merge_in_place(weighted: Tensor, weight: Tensor, floor: Tensor) -> Tensor:
    """``weighted`` (H, W) becomes (weighted + floor) / (weight + floor), and is returned; without gradient.

    A few rows at a time: a canvas divided by a real one would have two more canvases made for the time it takes.
    """
    for rows, lit in zip(weighted.split(ROWS), weight.split(ROWS), strict=True):
        rows.add_(floor).div_(lit + floor)
    return weighted


def moved_in_place(asked: Tensor, canvas: Tensor, weight: Tensor, floor: Tensor, share: float = 1.0) -> Tensor:
    """``asked`` (H, W) becomes canvas + share (asked + floor (1 - canvas)) / (weight + floor), and is returned.

    With a share of 1 that is the merge of what frames ask for and of vacuum; without gradient, a few rows at a time.

    Args:
        asked: by how much the frames ask for another object, times the weight; changed.
        canvas: (H, W) complex, the object before.
        weight: (H, W) real.
        floor: scalar, how much vacuum weighs.
        share: of the way, that is gone.
    """
    for rows, old, lit in zip(asked.split(ROWS), canvas.split(ROWS), weight.split(ROWS), strict=True):
        rows.add_((1 - old) * floor).mul_(share).div_(lit + floor).add_(old)
    return asked


def merge(
    patches: Tensor, weights: Tensor, starts: Tensor, shape: tuple[int, int], relative_floor: float = 1e-6
) -> Tensor:
    """Merge the object patches of overlapping frames on one canvas.

    O = (sum_j w_j O_j + eps) / (sum_j w_j + eps) with eps = ``relative_floor`` * max w.  Merging the
    cuts of one object gives that object back; where no probe falls the result is vacuum, 1.

    Args:
        patches: (..., K, n, n) complex object patches.
        weights: (..., K, n, n) real, >= 0; no gradient flows through them.
        starts: (..., K, 2) int64.
        shape: (H, W).
        relative_floor: see above.

    Returns:
        (..., H, W) complex.
    """
    weights = weights.detach()
    floor = relative_floor * weights.amax()
    weighted = place(patches * weights, starts, shape)
    return merge_from_sums(weighted, place(weights, starts, shape), floor)
