"""Grouped data as a container of arrays, under the names of the reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho.carried import GroupedScan, carrying
from ptycho.errors import InputError
from ptycho.probe import normalise_probe

__all__ = ["PtychoDataContainer", "load"]


class PtychoDataContainer:
    """Groups of C frames; axes (group, row, column, channel).

    X: float32 (n, N, N, C), amplitudes of a mean energy of (N/2)**2 per frame; it brings the whole scan along
    (ptycho.carried). Y, Y_I, Y_phi: complex64 and float32 true patches and their parts; ones and zeros without labels.
    coords, coords_nominal, coords_true: (n, 1, 2, C) relative positions, centre of the group - position, [x, y]
    pixels. local_offsets: the same. global_offsets: (n, 1, 2, 1), the centres. nn_indices: (n, C). probe: complex64
    (modes, N, N). norm_Y_I: 1. YY_full: the object guess or None.
    """

    def __init__(self, grouped: dict[str, Any], probe: npt.ArrayLike) -> None:
        needed = ("X_full", "coords_relative", "coords_offsets", "nn_indices")
        missing = [name for name in needed if name not in grouped]
        if missing:
            raise InputError(
                f"Grouped data: found no {', '.join(missing)}, expected what RawData.generate_grouped_data returns."
            )
        frames = np.asarray(grouped["X_full"], dtype=np.float32)
        scan = grouped.get("scan")
        self.X: Any = frames if scan is None else carrying(frames, GroupedScan(scan, grouped["nn_indices"]))
        patches = grouped.get("Y")
        self.Y: Any = np.ones(frames.shape, np.complex64) if patches is None else np.asarray(patches, np.complex64)
        self.Y_I, self.Y_phi = np.abs(self.Y), np.angle(self.Y)
        self.coords = self.coords_nominal = self.coords_true = self.local_offsets = grouped["coords_relative"]
        self.global_offsets = grouped["coords_offsets"]
        self.nn_indices = grouped["nn_indices"]
        self.probe = normalise_probe(probe, frames.shape[1])
        self.norm_Y_I = 1.0
        self.YY_full = grouped.get("objectGuess")

    def __len__(self) -> int:
        return int(self.X.shape[0])


def load(
    cb: Callable[[], Any], probeGuess: npt.ArrayLike, which: str | None = None, create_split: bool = False
) -> PtychoDataContainer:
    """A container of what `cb` returns: a grouped dictionary, or with `create_split` (dictionary, training share).

    which: 'train' takes the first share of the groups of a split, 'test' the rest. InputError for another word, and for
    a dictionary that lacks what a container needs.
    """
    found = cb()
    if not create_split:
        return PtychoDataContainer(found, probeGuess)
    if which not in ("train", "test"):
        raise InputError(f"which: found {which!r}, expected 'train' or 'test' for a split.")
    grouped, share = found
    total = len(grouped["X_full"])
    first = round(share * total)
    chosen = slice(0, first) if which == "train" else slice(first, None)

    def is_grouped(name: str, value: Any) -> bool:
        return isinstance(value, np.ndarray) and name != "objectGuess" and len(value) == total

    part = {name: value[chosen] if is_grouped(name, value) else value for name, value in grouped.items()}
    # a share of the groups is no whole scan any more
    part.pop("scan", None)
    return PtychoDataContainer(part, probeGuess)
