"""The result of a reconstruction, as it is written to files."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ptycho.geometry import Canvas

__all__ = ["Reconstruction"]


@dataclass
class Reconstruction:
    """A complex object on its canvas, with the probe and the positions that belong to it.

    object: complex64 (H, W), 1 (vacuum) where no frame reached. coverage: (H, W), how many frames saw each
    pixel.
    probe: complex64 (modes, N, N). xcoords, ycoords: float64 (M,), object pixels. center_xy: object
    coordinates (x, y) of the array point ((W-1)/2, (H-1)/2). pixel_size_m: side of an object pixel, None if
    unknown.
    losses: float64 (E,), one per epoch, or None. xcoords_start, ycoords_start: positions as the scan says them, where
    xcoords and ycoords were refined; else None. phase_interval_90_rad: float32 (H, W), half-width of the 90 %
    interval of the phase, NaN where there is none; or None.
    """

    object: npt.NDArray[np.complex64] = field(repr=False)
    coverage: npt.NDArray[np.generic] = field(repr=False)
    probe: npt.NDArray[np.complex64] = field(repr=False)
    xcoords: npt.NDArray[np.float64] = field(repr=False)
    ycoords: npt.NDArray[np.float64] = field(repr=False)
    center_xy: tuple[float, float]
    pixel_size_m: float | None = None
    photon_energy_ev: float | None = None
    detector_distance_m: float | None = None
    losses: npt.NDArray[np.float64] | None = field(default=None, repr=False)
    name: str = "reconstruction"
    xcoords_start: npt.NDArray[np.float64] | None = field(default=None, repr=False)
    ycoords_start: npt.NDArray[np.float64] | None = field(default=None, repr=False)
    phase_interval_90_rad: npt.NDArray[np.float32] | None = field(default=None, repr=False)

    @property
    def canvas(self) -> Canvas:
        """Where the object array lies in object coordinates."""
        return Canvas((int(self.object.shape[0]), int(self.object.shape[1])), self.center_xy)
