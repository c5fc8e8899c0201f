"""The known object of a scan on the scan's canvas, for training with labels."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import fft, ndimage
from torch import Tensor

from ptycho.errors import InputError
from ptycho.raw_data import RawData
from ptycho_torch.data.scans import PlacedScan
from ptycho_torch.physics.fourier import fourier_shift
from ptycho_torch.physics.patches import add_patches

EMPTY = 1e-6
"""An object whose values spread less than this says nothing."""
_CHUNK = 256
_MARGIN = 32


def labels_for(placed: PlacedScan, apart: bool = False) -> Tensor:
    """The object that the scan says it has seen, (H, W) complex64 on its canvas.

    From the true patches ``Y`` if there are any, else cut from ``objectGuess`` (positions are in its pixel
    coordinates); 1 where neither says anything.

    Args:
        placed: the scan.
        apart: positions are known within groups only, so that there is no common canvas: the labels are then the
            patches (F, N, N) of each frame, on whole pixels.

    Raises:
        InputError: there is no such object, or it is empty: the same everywhere (DATA-SUP-001).
    """
    raw = placed.raw
    if raw.Y is not None:
        patches = np.asarray(raw.Y).reshape(raw.n_frames, *np.shape(raw.Y)[1:3])
        labels = _moved(placed, patches, torch.arange(raw.n_frames)) if apart else _from_patches(placed, patches)
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
        "without labels: model_type 'pinn' (in ptychodus: PINN or Unsupervised), real-space weights 0."
    )


def _from_object(placed: PlacedScan, image: NDArray[np.complex64]) -> Tensor:
    """The object on the canvas's own pixels: a fraction of a pixel away, band-limited like the probe's shifts."""
    height, width = placed.canvas.shape
    x, y = placed.canvas.origin_xy
    top, left = round(y), round(x)
    # vacuum beyond the object; a Fourier shift wraps round, so the rim is cut off afterwards
    rows = np.arange(height + 2 * _MARGIN) + top - _MARGIN
    columns = np.arange(width + 2 * _MARGIN) + left - _MARGIN
    padded = np.zeros((len(rows), len(columns)), dtype=np.complex64)
    inside = (rows >= 0) & (rows < image.shape[0]), (columns >= 0) & (columns < image.shape[1])
    padded[np.ix_(*inside)] = image[np.ix_(rows[inside[0]], columns[inside[1]])] - 1
    moved = 1 + fft.ifft2(ndimage.fourier_shift(fft.fft2(padded), (top - y, left - x)))
    return torch.from_numpy(moved[_MARGIN : _MARGIN + height, _MARGIN : _MARGIN + width].astype(np.complex64))


def _moved(placed: PlacedScan, patches: NDArray[np.complex64], at: Tensor) -> Tensor:
    """Patches, cut at exact positions, on the whole pixels of their placement."""
    exact = torch.from_numpy(patches[at.numpy()].astype(np.complex64))
    return 1 + fourier_shift(exact - 1, placed.fractions[at])


def _from_patches(placed: PlacedScan, patches: NDArray[np.complex64]) -> Tensor:
    """The mean of the patches, each moved onto the canvas's own pixels."""
    shape = placed.canvas.shape
    total = torch.zeros(shape, dtype=torch.complex64)
    count = torch.zeros(shape)
    for at in torch.arange(len(patches)).split(_CHUNK):
        moved = _moved(placed, patches, at)
        add_patches(total, moved, placed.starts[at])
        add_patches(count, torch.ones_like(moved.real), placed.starts[at])
    return torch.where(count > 0, total / count.clamp(min=1), torch.ones((), dtype=total.dtype))
