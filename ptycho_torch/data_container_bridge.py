"""`PtychoDataContainerTorch`: grouped frames as tensors, under the names of the reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho.errors import InputError
from ptycho.grouping import neighbour_groups
from ptycho.probe import normalise_probe
from ptycho.raw_data import RawData

_REQUIRED = ("X_full", "coords_relative", "coords_offsets", "nn_indices")
_GROUPED = (
    "X",
    "Y",
    "Y_I",
    "Y_phi",
    "coords_nominal",
    "coords_true",
    "coords_relative",
    "coords",
    "global_offsets",
    "local_offsets",
    "nn_indices",
    "YY_full",
    "norm_Y_I",
)


class DtypeError(InputError, TypeError):
    """An array of a dtype that cannot be used; a TypeError for callers of the reference."""


class PtychoDataContainerTorch:
    """Groups of C = gridsize**2 frames. B groups; axes (group, row, column, channel).

    Attributes:
        X: (B, N, N, C) float32, amplitudes of a mean energy of (N/2)**2 per frame.
        Y, Y_I, Y_phi: (B, N, N, C) true patches, complex64, and their modulus and phase, float32. Without labels
            Y and Y_I are ones and Y_phi zeros (views of one number), as the reference has it.
        has_labels: whether Y says anything.
        coords_relative, coords_nominal, coords_true, coords: (B, 1, 2, C) float32, one tensor, centre of the group
            - position, [x, y], pixels; as given, no sign is changed.
        local_offsets: the same in float64.
        global_offsets: (B, 1, 2, 1) float64, the centres.
        nn_indices: (B, C) int32, numbers of the frames.
        probe: complex64, (N, N), or (modes, N, N) if there are several.
        YY_full: (H, W) complex64, the object guess, or None.
        norm_Y_I: the factor that the labels were multiplied by; 1 where nobody says.
        scan: the scan that the groups were made from, where it is known; else None.
    """

    X: Tensor
    Y: Tensor
    Y_I: Tensor
    Y_phi: Tensor
    coords_nominal: Tensor
    coords_true: Tensor
    coords_relative: Tensor
    coords: Tensor
    global_offsets: Tensor
    local_offsets: Tensor
    nn_indices: Tensor
    YY_full: Tensor | None
    norm_Y_I: Any
    probe: Tensor
    has_labels: bool
    scan: RawData | None

    def __init__(self, grouped_data: Mapping[str, Any], probe: Any) -> None:
        """A container of groups made by generate_grouped_data; tensors share their memory where they can.

        Args:
            grouped_data: X_full, coords_relative, coords_offsets, nn_indices, and if known Y, objectGuess, norm_Y_I.
            probe: (N, N), (N, N, 1) or (modes, N, N).

        Raises:
            InputError: missing keys, shapes that do not fit, Y that is not complex64 (DATA-001).
            DtypeError: X_full is not float32; a TypeError.
        """
        scan = grouped_data.get("scan")
        self.scan = scan if isinstance(scan, RawData) else None
        self.probe = _probe_tensor(probe)
        self.has_labels = grouped_data.get("Y") is not None
        self.__dict__.update(_tensors(grouped_data))

    @classmethod
    def of_scan(cls, raw: RawData, config: Any) -> PtychoDataContainerTorch:
        """A container that keeps the scan as ``scan``; groups are cut when one of their tensors is first read.

        Until then frames stay as they are, in their own dtype, in memory or mapped from the file.

        Args:
            raw: with frames and a probe.
            config: a public TrainingConfig or InferenceConfig. ``n_groups`` None is one group per frame,
                ``subsample_seed`` None is 0.

        Raises:
            InputError: frames of another side than ``config.model.N``, no probe. What cannot be grouped (K < C) is
                an error when a tensor is read.
        """
        if raw.N != config.model.N:
            raise InputError(
                f"{raw.source}: found frames of {raw.N} x {raw.N} pixels, expected N = {config.model.N} of the "
                f"configuration. Set model.N to {raw.N}, or crop the scan."
            )
        container = cls.__new__(cls)
        container.scan = raw
        container.probe = _probe_tensor(raw.probe)
        container.has_labels = raw.Y is not None or raw.objectGuess is not None
        # the configuration may be changed before the groups are made
        container.__dict__["_grouping"] = _grouping(raw, config)
        return container

    def __getattr__(self, name: str) -> Any:
        """Called for what is not there yet: the tensors of a scan, all made at once."""
        raw, grouping = self.__dict__.get("scan"), self.__dict__.get("_grouping")
        if name not in _GROUPED or raw is None or grouping is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        made = _tensors(raw.generate_grouped_data(**grouping))
        # what a caller has set in the meantime stays
        self.__dict__.update({key: value for key, value in made.items() if key not in self.__dict__})
        return made[name]

    def group_indices(self) -> NDArray[np.int32]:
        """(B, C) int32 frames of each group; of a scan's groups nothing else is made."""
        raw, grouping = self.scan, self.__dict__.get("_grouping")
        if raw is None or grouping is None or "nn_indices" in self.__dict__:
            return self.nn_indices.numpy()
        return neighbour_groups(
            raw.xcoords, raw.ycoords, grouping["nsamples"], grouping["K"], grouping["gridsize"] ** 2,
            seed=grouping["seed"], sequential=grouping["sequential_sampling"],
            enable_oversampling=grouping["enable_oversampling"], neighbor_pool_size=grouping["neighbor_pool_size"],
        )  # fmt: skip

    def __len__(self) -> int:
        """The number of groups; it does not make them."""
        if "X" in self.__dict__:
            return int(self.X.shape[0])
        grouping = self.__dict__["_grouping"]
        wanted: int = grouping["nsamples"]
        oversampled = grouping["enable_oversampling"] and grouping["gridsize"] > 1
        return wanted if self.scan is None or oversampled else min(wanted, self.scan.n_frames)

    def __repr__(self) -> str:
        if self.scan is not None:
            return f"{type(self).__name__}({len(self)} groups of {self.scan})"
        return f"{type(self).__name__}({len(self)} groups, X {tuple(self.X.shape)})"


def _grouping(raw: RawData, config: Any) -> dict[str, Any]:
    """Arguments of RawData.generate_grouped_data."""
    n_groups = getattr(config, "n_groups", None)
    return {
        "N": raw.N,
        "K": getattr(config, "neighbor_count", 4),
        "nsamples": raw.n_frames if n_groups is None else n_groups,
        "seed": getattr(config, "subsample_seed", None) or 0,
        "sequential_sampling": getattr(config, "sequential_sampling", False),
        "gridsize": getattr(config.model, "gridsize", 1),
        "enable_oversampling": getattr(config, "enable_oversampling", False),
        "neighbor_pool_size": getattr(config, "neighbor_pool_size", None),
    }


def _tensors(grouped: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of a container that are made of groups."""
    missing = [key for key in _REQUIRED if grouped.get(key) is None]
    if missing:
        raise InputError(
            f"grouped_data: found the keys {', '.join(sorted(grouped)) or 'none'}, missing: {', '.join(missing)}. "
            "Make it by RawData.generate_grouped_data."
        )
    frames = _array(grouped["X_full"])
    if frames.dtype != np.float32:
        raise DtypeError(
            f"X_full: found dtype {frames.dtype}, expected float32 (normalised amplitudes). Cast it, or make it by "
            "RawData.generate_grouped_data."
        )
    if frames.ndim != 4:
        raise InputError(f"X_full: found shape {frames.shape}, expected (groups, N, N, channels).")
    for key in (*_REQUIRED, "Y"):
        value = grouped.get(key)
        if value is not None and np.shape(value)[:1] != frames.shape[:1]:
            raise InputError(
                f"{key}: found shape {np.shape(value)}, expected {frames.shape[0]} groups as X_full has. All arrays "
                "of grouped_data must come from one grouping."
            )
    relative = _tensor(grouped["coords_relative"], np.float32)
    image = grouped.get("objectGuess")
    return {
        "X": _tensor(frames, np.float32),
        **_labels(grouped.get("Y"), frames.shape),
        **dict.fromkeys(("coords_nominal", "coords_true", "coords_relative", "coords"), relative),
        "global_offsets": _tensor(grouped["coords_offsets"], np.float64),
        "local_offsets": _tensor(grouped["coords_relative"], np.float64),
        "nn_indices": _tensor(grouped["nn_indices"], np.int32),
        "YY_full": None if image is None else _tensor(image, np.complex64),
        "norm_Y_I": grouped.get("norm_Y_I", 1.0),
    }


def _labels(patches: Any, shape: tuple[int, ...]) -> dict[str, Tensor]:
    if patches is None:
        return {
            "Y": torch.ones((), dtype=torch.complex64).expand(shape),
            "Y_I": torch.ones(()).expand(shape),
            "Y_phi": torch.zeros(()).expand(shape),
        }
    array = _array(patches)
    if array.dtype != np.complex64:
        raise InputError(
            f"Y: found dtype {array.dtype}, expected complex64 (DATA-001). Real patches lack the phase: store the "
            "complex object; complex128 is cast with astype(numpy.complex64)."
        )
    Y = _tensor(array, np.complex64)
    return {"Y": Y, "Y_I": Y.abs(), "Y_phi": Y.angle()}


def _probe_tensor(probe: Any) -> Tensor:
    modes = normalise_probe(_array(probe), source="probe")
    return torch.from_numpy(modes[0] if len(modes) == 1 else modes)


def _array(value: Any) -> NDArray[Any]:
    return np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value)


def _tensor(value: Any, dtype: Any) -> Tensor:
    """A tensor on the array's own memory if the dtype fits and it may be written to, else on a copy."""
    array = np.ascontiguousarray(_array(value), dtype=dtype)
    return torch.from_numpy(array if array.flags.writeable else array.copy())
