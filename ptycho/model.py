"""The handle that a loaded model presents to callers: predict([diffraction, offsets])."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho.carried import GroupedScan, Stitched, canvas_of_guess, carried, carrying
from ptycho.errors import InputError
from ptycho.geometry import Canvas, canvas_for, placements
from ptycho.raw_data import RawData

__all__ = ["DiffractionToObject"]

Complex = npt.NDArray[np.complex64]


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
        shapes that do not fit, and for frames of another size than the model's.
        """
        grouped = carried(inputs[0], GroupedScan)
        diffraction, offsets = (np.asarray(part, dtype=np.float32) for part in inputs)
        if diffraction.ndim != 4 or offsets.shape != (diffraction.shape[0], 1, 2, diffraction.shape[3]):
            raise InputError(
                f"predict: found X of shape {diffraction.shape} and offsets of shape {offsets.shape}, expected "
                "(groups, N, N, C) and (groups, 1, 2, C)."
            )
        if grouped is None or self._reconstruct is None:
            return self._by_groups(diffraction, offsets)
        raw = grouped.scan
        canvas = canvas_of_guess(raw) or canvas_for(raw.xcoords, raw.ycoords, raw.N)
        image = self._reconstruct(self.module, raw, canvas)
        return carrying(_cut(image, canvas, grouped), Stitched(image, canvas))

    def _by_groups(self, diffraction: npt.NDArray[np.float32], offsets: npt.NDArray[np.float32]) -> Complex:
        import torch

        patches = self.module.forward_predict(
            torch.from_numpy(np.ascontiguousarray(diffraction.transpose(0, 3, 1, 2))),
            torch.from_numpy(np.ascontiguousarray(offsets.transpose(0, 3, 1, 2))),
            None,
            1.0 / self.module.intensity_scale,
        )
        result: Complex = patches.cpu().numpy().transpose(0, 2, 3, 1)
        return np.ascontiguousarray(result)


def _cut(image: Complex, canvas: Canvas, grouped: GroupedScan) -> Complex:
    """Patches (groups, N, N, C) of an object, on whole pixels."""
    groups, raw = np.asarray(grouped.nn_indices), grouped.scan
    flat = groups.reshape(-1)
    starts, _ = placements(raw.xcoords[flat], raw.ycoords[flat], raw.N, canvas)
    windows = np.lib.stride_tricks.sliding_window_view(image, (raw.N, raw.N))
    patches = windows[starts[:, 0], starts[:, 1]].reshape(*groups.shape, raw.N, raw.N)
    return np.ascontiguousarray(patches.transpose(0, 2, 3, 1))
