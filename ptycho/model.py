"""The handle that a loaded model presents to callers: predict([diffraction, offsets])."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho.errors import InputError

__all__ = ["DiffractionToObject"]


class DiffractionToObject:
    """A trained model as a function from groups of frames to patches of the object.

    module: of a backend, with `forward_predict` and `intensity_scale`; kept as attribute `module`.
    """

    def __init__(self, module: Any) -> None:
        self.module = module

    def predict(self, inputs: Sequence[Any]) -> npt.NDArray[np.complex64]:
        """Patches of the object, complex64 (groups, N, N, C).

        inputs: [X, local_offsets]. X (groups, N, N, C): square roots of counts, that is the normalised amplitudes of a
        container times `intensity_scale`. local_offsets (groups, 1, 2, C): centre of the group - position, [x, y],
        pixels. InputError for shapes that do not fit.
        """
        import torch

        diffraction, offsets = (np.asarray(part, dtype=np.float32) for part in inputs)
        if diffraction.ndim != 4 or offsets.shape != (diffraction.shape[0], 1, 2, diffraction.shape[3]):
            raise InputError(
                f"predict: found X of shape {diffraction.shape} and offsets of shape {offsets.shape}, expected "
                "(groups, N, N, C) and (groups, 1, 2, C)."
            )
        patches = self.module.forward_predict(
            torch.from_numpy(np.ascontiguousarray(diffraction.transpose(0, 3, 1, 2))),
            torch.from_numpy(np.ascontiguousarray(offsets.transpose(0, 3, 1, 2))),
            None,
            1.0 / self.module.intensity_scale,
        )
        result: npt.NDArray[np.complex64] = patches.cpu().numpy().transpose(0, 2, 3, 1)
        return np.ascontiguousarray(result)
