"""The handle that a loaded model presents to callers: predict([diffraction, offsets])."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho.carried import GroupedScan, Stitched, canvas_of_guess, carried, carrying
from ptycho.errors import InputError
from ptycho.geometry import Canvas, canvas_for, placements
from ptycho.raw_data import RawData

__all__ = ["DiffractionToObject"]

logger = logging.getLogger(__name__)

Complex = npt.NDArray[np.complex64]

_GROUPS = 256  # at a time


class DiffractionToObject:
    """A trained model as a function from groups of frames to patches of the object.

    module: of a backend, with `forward_predict` and `intensity_scale`; kept as attribute `module`. reconstruct: of that
    backend, (module, scan, canvas) -> object; None predicts groups by themselves in any case.
    """

    def __init__(
        self, module: Any, reconstruct: Callable[[Any, RawData, Canvas | None], Complex] | None = None
    ) -> None:
        self.module = module
        self._reconstruct = reconstruct

    def predict(self, inputs: Sequence[Any]) -> Complex:
        """Patches of the object, complex64 (groups, N, N, C).

        inputs: [X, local_offsets]. X (groups, N, N, C): square roots of counts, that is the normalised amplitudes of a
        container times `intensity_scale`. local_offsets (groups, 1, 2, C): centre of the group - position, [x, y],
        pixels. Where X brings the whole scan along (ptycho.loader.load), every frame of that is used, whatever groups
        X holds, and the object comes along with the result, for ptycho.tf_helper.reassemble_position. InputError for
        shapes that do not fit, frames of another size than the model's, and groups of another gridsize.
        """
        grouped = carried(inputs[0], GroupedScan)
        diffraction, offsets = (np.asarray(part, dtype=np.float32) for part in inputs)
        if diffraction.ndim != 4 or offsets.shape != (diffraction.shape[0], 1, 2, diffraction.shape[3]):
            raise InputError(
                f"predict: found X of shape {diffraction.shape} and offsets of shape {offsets.shape}, expected "
                "(groups, N, N, C) and (groups, 1, 2, C)."
            )
        reconstruct = self._reconstruct
        if grouped is None or reconstruct is None or len(grouped.nn_indices) != len(diffraction):
            return self._by_groups(diffraction, offsets)
        self._check_group(diffraction.shape[3])
        raw = grouped.scan
        logger.info(
            "All %d frames are used, each once; the number of groups (%d; in ptychodus: NumSamples) and of neighbours "
            "that they were drawn from (NumNearestNeighbors) have no effect.", raw.n_frames, len(diffraction),
        )  # fmt: skip
        canvas = canvas_of_guess(raw) or canvas_for(raw.xcoords, raw.ycoords, raw.N)
        image = _on_canvas(lambda part: reconstruct(self.module, raw, part), canvas, raw)
        return carrying(_cut(image, canvas, grouped), Stitched(image, canvas))

    def _check_group(self, C: int) -> None:
        trained_with = getattr(getattr(self.module, "data_config", None), "C", C)
        if trained_with != C:
            found, expected = math.isqrt(C), math.isqrt(trained_with)
            raise InputError(
                f"predict: found groups of gridsize={found}, the model was trained with gridsize={expected}. Set "
                f"gridsize (in ptychodus: GridSize) to {expected}, or train a model with {found}."
            )

    def _by_groups(self, diffraction: npt.NDArray[np.float32], offsets: npt.NDArray[np.float32]) -> Complex:
        import torch

        scale = float(self.module.intensity_scale)
        if not scale > 0:
            raise InputError("predict: the model was never trained: it has no photon scale. Load a trained one.")
        result = np.empty(diffraction.shape, np.complex64)
        for first in range(0, len(diffraction), _GROUPS):
            part = slice(first, first + _GROUPS)
            patches = self.module.forward_predict(
                torch.from_numpy(np.ascontiguousarray(diffraction[part].transpose(0, 3, 1, 2))),
                torch.from_numpy(np.ascontiguousarray(offsets[part].transpose(0, 3, 1, 2))),
                None,
                1.0 / scale,
            )
            result[part] = patches.cpu().numpy().transpose(0, 2, 3, 1)
        return result


def _on_canvas(reconstruct: Callable[[Canvas], Complex], canvas: Canvas, raw: RawData) -> Complex:
    """The object on a canvas that may be far larger than the scan: computed where frames lie, 1 elsewhere."""
    starts, _ = placements(raw.xcoords, raw.ycoords, raw.N, canvas)
    (top, left), (bottom, right) = starts.min(axis=0).tolist(), (starts.max(axis=0) + raw.N).tolist()
    x, y = canvas.origin_xy
    center = (x + left + (right - left - 1) / 2, y + top + (bottom - top - 1) / 2)
    image = np.ones(canvas.shape, dtype=np.complex64)
    image[top:bottom, left:right] = reconstruct(Canvas((bottom - top, right - left), center))
    return image


def _cut(image: Complex, canvas: Canvas, grouped: GroupedScan) -> Complex:
    """Patches (groups, N, N, C) of an object, on whole pixels."""
    groups, raw = np.asarray(grouped.nn_indices), grouped.scan
    flat = groups.reshape(-1)
    starts, _ = placements(raw.xcoords[flat], raw.ycoords[flat], raw.N, canvas)
    windows = np.lib.stride_tricks.sliding_window_view(image, (raw.N, raw.N))
    patches = windows[starts[:, 0], starts[:, 1]].reshape(*groups.shape, raw.N, raw.N)
    return np.ascontiguousarray(patches.transpose(0, 2, 3, 1))
