"""`RawData`: one scan, as measured. Frames keep the dtype in which they were stored.

Frames are (frame, row, column), zero frequency at index N//2 on both axes. A position is the centre of a
frame's patch in object pixels, x along columns, y along rows (specs/coordinates.md). What the frames hold,
counts or amplitudes, is decided once per scan (specs/data_contracts.md) and applied by `counts`.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho.errors import InputError
from ptycho.grouped_data import (
    get_image_patches,
    get_neighbor_indices,
    get_relative_coords,
    grouped_dataset,
    normalize_data,
)
from ptycho.measured import ChosenFrames, MeasuredFrames
from ptycho.probe import GUESS_REMEDY, normalise_probe, probe_power
from ptycho.validation import (
    LEAST_SPAN_PX,
    check_bad_pixels,
    check_frame_values,
    check_frames_shape,
    check_index_vector,
    check_object,
    check_positions,
    metadata_nphotons,
    positive_number,
)

# The helpers of the grouped dictionaries are re-exported: callers of the reference import them from here.
__all__ = ["RawData", "get_image_patches", "get_neighbor_indices", "get_relative_coords", "normalize_data"]

logger = logging.getLogger(__name__)


class RawData(MeasuredFrames):
    """One scan: positions, frames, probe guess, and what else is known about it.

    xcoords, ycoords: float64 (M,), object pixels. xcoords_start, ycoords_start: nominal positions, default
    the same. diff3d: real (M, N, N), kept as given (an array or a memory map), or None for a scan of
    positions only.
    probeGuess: (N, N), (N, N, 1) or (modes, N, N), kept as given; `probe` has it in the package's own shape.
    objectGuess, object_truth: complex (H, W); if there is one, positions are in its pixel coordinates.
    Y: true patches (M, N, N). bad_pixels: bool (N, N), True = bad. measurement_domain: see ptycho.domain.
    nphotons: mean photons per frame, for 'normalized_amplitude'; default from metadata. source: a name for
    messages. pixel_size_m: of the object. background_counts: constant, per pixel, taken off the counts (never below
    zero). Raises InputError for anything unusable.
    """

    def __init__(
        self,
        xcoords: npt.ArrayLike,
        ycoords: npt.ArrayLike,
        xcoords_start: npt.ArrayLike | None = None,
        ycoords_start: npt.ArrayLike | None = None,
        diff3d: Any = None,
        probeGuess: Any = None,
        scan_index: npt.ArrayLike | None = None,
        objectGuess: Any = None,
        Y: Any = None,
        norm_Y_I: Any = None,
        metadata: dict[str, Any] | None = None,
        *,
        bad_pixels: npt.ArrayLike | None = None,
        measurement_domain: str = "auto",
        nphotons: float | None = None,
        source: str | None = None,
        object_truth: Any = None,
        probe_truth: Any = None,
        pixel_size_m: float | None = None,
        photon_energy_ev: float | None = None,
        detector_distance_m: float | None = None,
        background_counts: float | None = None,
    ) -> None:
        self.source = source or "scan"
        self._set_positions(xcoords, ycoords, xcoords_start, ycoords_start, scan_index)
        self._set_frames(diff3d, bad_pixels, measurement_domain)
        self.probeGuess = self._checked_probe(probeGuess, "probeGuess")
        self.probe_truth = self._checked_probe(probe_truth, "probe_truth")
        self.objectGuess = self._checked_object(objectGuess, "objectGuess")
        self.object_truth = self._checked_object(object_truth, "object_truth")
        self.Y = self._checked_patches(Y)
        self.norm_Y_I = norm_Y_I
        self.metadata = metadata
        name = self.source
        self.nphotons = positive_number(nphotons, "nphotons", name) or metadata_nphotons(metadata)
        self.pixel_size_m = positive_number(pixel_size_m, "pixel_size_m", name)
        self.photon_energy_ev = positive_number(photon_energy_ev, "photon_energy_ev", name)
        self.detector_distance_m = positive_number(detector_distance_m, "detector_distance_m", name)
        self.background_counts = positive_number(background_counts, "background_counts", name)
        self.sample_indices: npt.NDArray[np.int64] | None = None
        self.subsample_seed: int | None = None

    # ------------------------------------------------------------------ constructors and files

    @classmethod
    def from_coords_without_pc(
        cls,
        xcoords: npt.ArrayLike,
        ycoords: npt.ArrayLike,
        diff3d: Any,
        probeGuess: Any,
        scan_index: npt.ArrayLike | None = None,
        objectGuess: Any = None,
        **known: Any,
    ) -> RawData:
        """A scan whose nominal positions are its positions; `known` takes the keyword-only arguments."""
        return cls(xcoords, ycoords, xcoords, ycoords, diff3d, probeGuess, scan_index, objectGuess, **known)

    @classmethod
    def from_file(cls, path: str | Path, **stated: Any) -> RawData:
        """Read a scan file; the reader is chosen by ptycho.io.registry.

        stated: what the caller states over the file's own entries: measurement_domain, nphotons, and for
        stacks whose layout is ambiguous layout='frames_first' or 'frames_last'.
        """
        from ptycho.io.registry import read_scan

        return cls(**read_scan(path, **stated))

    def to_file(self, path: str | Path, compressed: bool = False) -> None:
        """Write the scan, atomically and without pickled objects (specs/data_contracts.md): as HDF5 if the name ends
        in .h5 or .hdf5, else as NPZ."""
        if Path(path).suffix.lower() in (".h5", ".hdf5"):
            from ptycho.io.hdf5 import write_scan_hdf5 as write
        else:
            from ptycho.io.npz import write_scan_npz as write
        write(path, self, compressed=compressed)

    # ------------------------------------------------------------------ properties

    @property
    def probe(self) -> npt.NDArray[np.complex64]:
        """The probe guess as complex64 (modes, N, N); InputError if there is none or it is zero."""
        if self.probeGuess is None:
            raise self._fault(
                "probeGuess",
                "no probe",
                "a complex (N, N) or (modes, N, N) array",
                GUESS_REMEDY,
            )
        probe = normalise_probe(self.probeGuess, source=f"{self.source}: probeGuess")
        if probe_power(probe) == 0:
            raise self._fault(
                "probeGuess",
                "a probe of zeros",
                "a probe with some power",
                GUESS_REMEDY,
            )
        return probe

    # ------------------------------------------------------------------ parts of a scan

    def subset(self, indices: Any, *, copy: bool = True) -> RawData:
        """The frames given by an index array, a mask or a slice, in that order; views where NumPy gives
        views.

        `sample_indices` of the result are the frame numbers in the scan that was read from file. copy: False leaves
        the frames where they are, in memory or on disk, and picks them when they are asked for.
        """
        chosen = np.arange(self.n_frames)[indices].reshape(-1)
        if chosen.size == 0:
            raise self._fault("subset", "no frames chosen", "at least one frame", "Choose other frames.")
        pick = indices if isinstance(indices, slice) else chosen
        frames = self.diff3d
        if frames is not None:
            frames = frames[pick] if copy else ChosenFrames(frames, chosen)
        part = self._derived(
            xcoords=self.xcoords[pick],
            ycoords=self.ycoords[pick],
            xcoords_start=self.xcoords_start[pick],
            ycoords_start=self.ycoords_start[pick],
            scan_index=self.scan_index[pick],
            diff3d=frames,
            Y=None if self.Y is None else self.Y[pick],
        )
        part.sample_indices = chosen if self.sample_indices is None else self.sample_indices[chosen]
        return part

    def taken_as(self, measurement_domain: str) -> RawData:
        """The same scan with its domain stated (see ptycho.domain), whatever was decided before."""
        part = self._derived()
        part._forget_domain(measurement_domain)
        return part

    def placed_at(self, xcoords: npt.NDArray[np.float64], ycoords: npt.NDArray[np.float64]) -> RawData:
        """The same frames at other positions, float64 (M,) each, object pixels; the nominal ones stay."""
        return self._derived(
            xcoords=check_positions(xcoords, "xcoords", self.source, self.n_frames),
            ycoords=check_positions(ycoords, "ycoords", self.source, self.n_frames),
        )

    def masked(self, bad_pixels: npt.ArrayLike) -> RawData:
        """The same scan with another detector mask, bool (N, N), True = bad."""
        return self._derived(bad_pixels=check_bad_pixels(bad_pixels, self.N, self.source))

    def crop(self, N_new: int) -> RawData:
        """The scan with frames cut to their central N_new x N_new pixels; the object pixel grows by N /
        N_new.

        The frames' zero frequency stays at index N_new//2, bad_pixels follow. The probe is cropped in centred
        Fourier space with the ortho norm, so that its far field at the pixels that are kept does not change.
        Positions are multiplied by N_new / N. Objects and patches are resampled so that this holds exactly;
        see ptycho.cropping for the half pixels. Cropped frames are copied, so that the full ones can be
        freed; frames on disk stay there.
        """
        from ptycho.cropping import cropped_entries

        if not (isinstance(N_new, (int, np.integer)) and 0 < N_new <= self.N):
            raise self._fault(
                "crop",
                repr(N_new),
                f"a whole number from 1 to {self.N}, the side of the frames",
                "Choose a smaller crop.",
            )
        return self if N_new == self.N else self._derived(**cropped_entries(self, int(N_new)))

    # ------------------------------------------------------------------ groups (legacy dictionaries)

    def generate_grouped_data(
        self,
        N: int,
        K: int = 4,
        nsamples: int = 1,
        dataset_path: Any = None,
        seed: int | None = None,
        sequential_sampling: bool = False,
        gridsize: int | None = None,
        enable_oversampling: bool = False,
        neighbor_pool_size: int | None = None,
    ) -> dict[str, Any]:
        """Groups of gridsize**2 neighbouring frames as the legacy dictionary; see ptycho.grouped_data.

        gridsize None is taken from the legacy dictionary `ptycho.params.cfg`. dataset_path is ignored: no
        cache file is written.
        """
        if gridsize is None:
            from ptycho import params

            gridsize = int(params.get("gridsize", 1))
        if self.N != N:
            raise self._fault(
                "diff3d",
                f"frames of {self.N} x {self.N} pixels",
                f"{N} x {N} (N of the configuration)",
                "Set N to the side of the frames.",
            )
        return grouped_dataset(
            self,
            K=K,
            n_groups=nsamples,
            group_size=gridsize**2,
            seed=seed,
            sequential=sequential_sampling,
            enable_oversampling=enable_oversampling,
            neighbor_pool_size=neighbor_pool_size,
        )

    def _generate_groups_efficiently(
        self, nsamples: int, K: int, C: int, seed: int | None = None
    ) -> npt.NDArray[np.int32]:
        """Legacy name: at most one group per frame, int32 (n, C)."""
        from ptycho.grouping import neighbour_groups

        return neighbour_groups(self.xcoords, self.ycoords, min(nsamples, self.n_frames), K, C, seed=seed)

    def __str__(self) -> str:
        frames = (
            "no frames"
            if self.diff3d is None
            else f"{self.n_frames} frames of {self.N} x {self.N} ({self.diff3d.dtype})"
        )
        span = f"x {np.ptp(self.xcoords):.4g} px, y {np.ptp(self.ycoords):.4g} px"
        return f"RawData({self.source}: {frames}, {span})"

    # ------------------------------------------------------------------ inside

    def _set_positions(self, x: Any, y: Any, x_start: Any, y_start: Any, scan_index: Any) -> None:
        name = self.source
        self.xcoords = check_positions(x, "xcoords", name)
        n = self.xcoords.size
        self.ycoords = check_positions(y, "ycoords", name, n)
        # The nominal positions default to the positions.
        self.xcoords_start = check_positions(x if x_start is None else x_start, "xcoords_start", name, n)
        self.ycoords_start = check_positions(y if y_start is None else y_start, "ycoords_start", name, n)
        index = np.zeros(n, dtype=np.int64) if scan_index is None else scan_index
        self.scan_index = check_index_vector(index, "scan_index", n, name)
        span = max(np.ptp(self.xcoords), np.ptp(self.ycoords))
        if n > 1 and span < LEAST_SPAN_PX:
            logger.warning(
                "%s: all positions lie within %.3g pixels; expected object pixels. Are these metres?",
                name,
                span,
            )

    def _set_frames(self, diff3d: Any, bad_pixels: Any, measurement_domain: str) -> None:
        self.diff3d = diff3d if diff3d is None or hasattr(diff3d, "dtype") else np.asarray(diff3d)
        self.bad_pixels = None
        if self.diff3d is not None:
            check_frames_shape(self.diff3d, self.n_frames, self.source)
            if bad_pixels is not None:
                self.bad_pixels = check_bad_pixels(bad_pixels, self.diff3d.shape[-1], self.source)
            check_frame_values(self.diff3d, self.bad_pixels, self.source)
        self._forget_domain(measurement_domain)

    def _checked_probe(self, probe: Any, key: str) -> npt.NDArray[Any] | None:
        """As given; only its shape and values are checked. A probe of zeros is refused where it is used."""
        if probe is None:
            return None
        side = None if self.diff3d is None else self.N
        normalise_probe(probe, side, f"{self.source}: {key}")
        return np.asarray(probe)

    def _checked_object(self, image: Any, key: str) -> npt.NDArray[Any] | None:
        return None if image is None else check_object(image, key, self.source)

    def _checked_patches(self, Y: Any) -> npt.NDArray[Any] | None:
        if Y is None:
            return None
        patches = np.asarray(Y)
        if patches.ndim < 3 or patches.shape[0] != self.n_frames:
            raise self._fault(
                "Y",
                f"shape {patches.shape}",
                f"({self.n_frames}, N, N)",
                "One true patch per frame.",
            )
        return patches

    def _derived(self, **changes: Any) -> RawData:
        """A copy with some attributes replaced. Values were checked already, and what was decided about the
        whole scan (its domain, its scale) must not be decided anew from a part of it."""
        if self.diff3d is not None:
            try:
                self._scale()
            except InputError as error:  # undecided stays undecided; counts() of the part will tell
                logger.debug("%s: domain left open: %s", self.source, error)
        part = object.__new__(type(self))
        part.__dict__.update(self.__dict__)
        part.__dict__.update(changes)
        part._mean_counts = None
        return part
