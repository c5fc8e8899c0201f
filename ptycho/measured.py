"""`MeasuredFrames`: the frames of a scan, their mask, and their domain; the base of `RawData`."""

from __future__ import annotations

import logging
import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ptycho.domain import canonical_domain, decide_domain, to_counts
from ptycho.errors import InputError
from ptycho.probe import mode_axis_first
from ptycho.validation import chunks, fault

__all__ = ["ChosenFrames", "MeasuredFrames"]

logger = logging.getLogger(__name__)


class _Mapped(NamedTuple):
    """Where in a file the frames of a memory map are; the map itself would be pickled with all its contents."""

    file: str
    dtype: np.dtype[Any]
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @classmethod
    def of(cls, frames: np.memmap[Any, Any]) -> _Mapped:
        root: Any = frames
        while isinstance(root.base, np.memmap):
            root = root.base
        first = frames.__array_interface__["data"][0] - root.__array_interface__["data"][0]
        return cls(str(root.filename), frames.dtype, root.offset + first, frames.shape, frames.strides)

    def frames(self) -> npt.NDArray[Any]:
        whole = np.memmap(self.file, np.uint8, "r")
        return np.ndarray(self.shape, self.dtype, whole, self.offset, self.strides)


class ChosenFrames:
    """Some frames of a stack (M, N, N), which stays where it is: they are picked when they are asked for.

    Slices and index arrays of the first axis are allowed.

    Attributes:
        shape, dtype, ndim, nbytes: as of an array.
    """

    ndim = 3

    def __init__(self, frames: Any, chosen: npt.NDArray[np.int64]) -> None:
        self._frames, self._chosen = frames, chosen
        self.shape = (len(chosen), *frames.shape[1:])
        self.dtype: np.dtype[Any] = frames.dtype

    @property
    def nbytes(self) -> int:
        """Of the chosen frames."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def __len__(self) -> int:
        return len(self._chosen)

    def cropped(self, rows: slice, columns: slice) -> ChosenFrames:
        """The same frames, of which this part is used."""
        known = self._frames
        cut = known.cropped(rows, columns) if hasattr(known, "cropped") else known[:, rows, columns]
        return ChosenFrames(cut, self._chosen)

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        return np.asarray(self._frames[self._chosen[index]])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.asarray(self[:], dtype=dtype)


class MeasuredFrames:
    """Frames in the dtype in which they were stored, and photon counts made of them when asked.

    The domain is decided once, for the whole scan, on first use (specs/data_contracts.md); what was decided
    goes along to parts of the scan.
    """

    source: str
    xcoords: npt.NDArray[np.float64]
    diff3d: Any  # (M, N, N), an array or a memory map, or None
    bad_pixels: npt.NDArray[np.bool_] | None
    probeGuess: npt.NDArray[Any] | None
    nphotons: float | None
    background_counts: float | None  # per pixel, taken off the counts
    _requested_domain: str
    _decided: tuple[str, str] | None
    _amplitude_scale: float | None
    _mean_counts: float | None

    def __getstate__(self) -> dict[str, Any]:
        """Frames that are mapped from a file stay there."""
        mapped = isinstance(self.diff3d, np.memmap) and self.diff3d.filename is not None
        return {**self.__dict__, "diff3d": _Mapped.of(self.diff3d)} if mapped else dict(self.__dict__)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if isinstance(self.diff3d, _Mapped):
            self.diff3d = self.diff3d.frames()

    def _forget_domain(self, requested: str) -> None:
        self._requested_domain = canonical_domain(requested)
        self._decided = None
        self._amplitude_scale = None
        self._mean_counts = None

    @property
    def n_frames(self) -> int:
        """Number of frames M."""
        return int(self.xcoords.size)

    @property
    def N(self) -> int:
        """Side of a frame in detector pixels."""
        return int(self._frames().shape[-1])

    @property
    def good_pixels(self) -> npt.NDArray[np.bool_]:
        """bool (N, N), True where a detector pixel may be used."""
        return np.ones((self.N, self.N), dtype=bool) if self.bad_pixels is None else ~self.bad_pixels

    @property
    def measurement_domain(self) -> str:
        """'intensity', 'amplitude' or 'normalized_amplitude'; decided on first use, InputError if unclear."""
        return self._decide()[0]

    @property
    def domain_reason(self) -> str:
        """Why that domain was chosen, for people."""
        return self._decide()[1]

    def counts(self, indices: Any = None) -> npt.NDArray[np.float32]:
        """Photon counts, float32 (n, N, N), of all frames or of those given, less the background; bad pixels hold
        anything."""
        frames = self._frames()
        domain = self.measurement_domain
        counts = to_counts(frames[:] if indices is None else frames[indices], domain, self._scale())
        if self.background_counts is not None:
            np.subtract(counts, np.float32(self.background_counts), out=counts)
            np.maximum(counts, 0, out=counts)
        return counts

    def mean_counts_per_frame(self) -> float:
        """Mean over frames of the counts summed over good pixels; computed in chunks, once."""
        if self._mean_counts is None:
            good = self.good_pixels
            total = 0.0
            for part in chunks(self._frames()):
                total += float(self.counts(part)[:, good].sum(dtype=np.float64))
            if not total > 0:
                raise self._fault(
                    "diff3d",
                    "frames without a single count",
                    "photon counts",
                    "Check the file and the bad_pixels mask.",
                )
            self._mean_counts = total / self.n_frames
        return self._mean_counts

    def intensity_scale(self) -> float:
        """sqrt(mean counts per frame) / (N/2): frames of a mean energy of (N/2)**2 times this are sqrt(counts)."""
        return math.sqrt(self.mean_counts_per_frame()) / (self.N / 2)

    def _fault(self, key: str, found: str, expected: str, remedy: str) -> InputError:
        return fault(self.source, key, found, expected, remedy)

    def _frames(self) -> Any:
        if self.diff3d is None:
            raise fault(
                self.source, "diff3d", "no frames", "diffraction frames (M, N, N)", "Load a scan with frames."
            )
        return self.diff3d

    def _decide(self) -> tuple[str, str]:
        if self._decided is None:
            if self._requested_domain != "auto":
                decision = self._requested_domain, "stated by the caller or the file"
            else:
                guess = self.probeGuess
                decision = decide_domain(
                    self._frames(),
                    bad_pixels=self.bad_pixels,
                    probe_ndim=None if guess is None else 3 if mode_axis_first(guess.shape) else 2,
                    source=self.source,
                )
            logger.info("%s: measurement domain %s (%s)", self.source, *decision)
            self._decided = decision
        return self._decided

    def _scale(self) -> float:
        """From stored values to square roots of counts; 1 unless the domain is normalized_amplitude."""
        if self.measurement_domain != "normalized_amplitude":
            return 1.0
        if self._amplitude_scale is None:
            if self.nphotons is None:
                raise self._fault(
                    "nphotons",
                    "no value for frames in the domain normalized_amplitude",
                    "the mean number of photons per frame",
                    "State nphotons, or store it in the file.",
                )
            good = self.good_pixels
            energy = 0.0
            for part in chunks(self._frames()):
                energy += float(to_counts(self.diff3d[part], "amplitude")[:, good].sum(dtype=np.float64))
            if not energy > 0:
                raise self._fault("diff3d", "frames of zeros", "amplitudes", "Check the file.")
            self._amplitude_scale = math.sqrt(self.nphotons * self.n_frames / energy)
        return self._amplitude_scale
