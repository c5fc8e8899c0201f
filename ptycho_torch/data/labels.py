"""The known object of a scan on the scan's canvas, for training with labels."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho.errors import InputError
from ptycho.raw_data import RawData
from ptycho_torch.data.scans import PlacedScan
from ptycho_torch.physics.fourier import fourier_shift
from ptycho_torch.physics.patches import place

EMPTY = 1e-6
"""An object whose values spread less than this says nothing."""
_CHUNK = 256
_MARGIN = 32


def labels_for(placed: PlacedScan) -> Tensor:
    """The object that the scan says it has seen, (H, W) complex64 on its canvas.

    From the true patches ``Y`` if there are any, else cut from ``objectGuess`` (positions are in its pixel
    coordinates); 1 where neither says anything.

    Raises:
        InputError: there is no such object, or it is empty: the same everywhere (DATA-SUP-001).
    """
    raw = placed.raw
    if raw.Y is not None:
        labels = _from_patches(placed, np.asarray(raw.Y).reshape(raw.n_frames, *np.shape(raw.Y)[1:3]))
    elif raw.objectGuess is not None:
        labels = _from_object(placed, raw.objectGuess)
    else:
        raise _no_labels(raw, "neither objectGuess nor Y")
    if float(labels.std()) < EMPTY:
        raise _no_labels(raw, "an objectGuess that is the same everywhere, as an empty guess is")
    return labels


def _no_labels(raw: RawData, found: str) -> InputError:
    return InputError(
        f"{raw.source}: DATA-SUP-001: training with labels needs the object; found {found}, expected an object with "
        "structure in objectGuess, or true patches in Y. Reconstruct the object first and store it there, or train "
        "without labels (model_type 'pinn')."
    )


def _from_object(placed: PlacedScan, image: NDArray[np.complex64]) -> Tensor:
    """The object on the canvas's own pixels: a fraction of a pixel away, band-limited like the probe's shifts."""
    height, width = placed.canvas.shape
    x, y = placed.canvas.origin_xy
    top, left = round(y), round(x)
    side = max(height, width) + 2 * _MARGIN
    # vacuum beyond the object; a Fourier shift wraps round, so the rim is cut off afterwards
    padded = np.zeros((side, side), dtype=np.complex64)
    rows = np.arange(side) + top - _MARGIN
    columns = np.arange(side) + left - _MARGIN
    inside = np.ix_((rows >= 0) & (rows < image.shape[0]), (columns >= 0) & (columns < image.shape[1]))
    padded[inside] = image[rows[inside[0].ravel()][:, None], columns[inside[1].ravel()][None, :]] - 1
    moved = fourier_shift(torch.from_numpy(padded), torch.tensor([top - y, left - x], dtype=torch.float32))
    return 1 + moved[_MARGIN : _MARGIN + height, _MARGIN : _MARGIN + width]


def _from_patches(placed: PlacedScan, patches: NDArray[np.complex64]) -> Tensor:
    """The mean of the patches, each moved onto the canvas's own pixels."""
    shape = placed.canvas.shape
    total = torch.zeros(shape, dtype=torch.complex64)
    count = torch.zeros(shape)
    for at in torch.arange(len(patches)).split(_CHUNK):
        moved = fourier_shift(torch.from_numpy(patches[at.numpy()].astype(np.complex64)), placed.fractions[at])
        total += place(moved, placed.starts[at], shape)
        count += place(torch.ones_like(moved.real), placed.starts[at], shape)
    return torch.where(count > 0, total / count.clamp(min=1), torch.ones((), dtype=total.dtype))
