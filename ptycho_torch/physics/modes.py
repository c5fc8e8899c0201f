"""Incoherent modes of a wave, and products that leave no more memory behind than they must."""

from __future__ import annotations

import torch
from torch import Tensor


def mode_intensity(field: Tensor) -> Tensor:
    """Sum over modes of |field|^2: (..., M, N, N) complex to (..., N, N) real, differentiable at zero."""
    return sum_modes(field.real.square() + field.imag.square())


def sum_modes(field: Tensor) -> Tensor:
    """(..., M, N, N) to (..., N, N); a single mode is not copied."""
    return field.squeeze(-3) if field.shape[-3] == 1 else field.sum(dim=-3)


def multiplied(own: Tensor, factor: Tensor) -> Tensor:
    """``own * factor``, in the memory of ``own``, which only the caller may know, where no gradient needs it as it was.

    New memory of the size of a batch costs more than the product: it comes from the operating system, page by page.
    """
    if torch.is_grad_enabled() and (own.requires_grad or factor.requires_grad):
        return own * factor
    return own.mul_(factor)
