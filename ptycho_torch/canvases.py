"""Where the canvases of a scan are kept: in memory, or in files that are mapped into it."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ptycho.errors import InputError


@dataclass(frozen=True)
class Canvases:
    """Makes canvases, in memory or on disk.

    On disk each has a file of its own, which loses its name as soon as it is mapped: it goes with the canvas, or with
    the process, and nothing is ever left. The operating system keeps in memory what it has room for. Room on the disk
    is taken at once, so that it cannot run out while a canvas is written to.

    Attributes:
        folder: where the files are made; None keeps canvases in memory.
    """

    folder: Path | None = None

    def zeros(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        """A canvas of zeros.

        Raises:
            InputError: a canvas on disk that is not for the CPU, or a disk without room for it.
        """
        if self.folder is None:
            return torch.zeros(shape, dtype=dtype, device=device)
        if device.type != "cpu":
            raise InputError(
                f"canvases on disk, device {device.type!r}: found a device with memory of its own, expected the CPU. "
                "Keep them in memory, or compute on the CPU."
            )
        n_bytes = dtype.itemsize * torch.Size(shape).numel()
        try:
            with tempfile.NamedTemporaryFile(dir=self.folder, prefix=".canvas_") as file:
                _take_room(file.fileno(), n_bytes)
                flat = torch.from_file(file.name, shared=True, size=n_bytes // dtype.itemsize, dtype=dtype)
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"{self.folder}: a canvas of {n_bytes / 2**20:,.0f} MiB could not be kept there ({error}). Free room "
                "on that disk, choose another folder, or keep canvases in memory."
            ) from error
        return flat.view(shape)

    def copy(self, canvas: Tensor) -> Tensor:
        """A canvas with the same values."""
        if self.folder is None:
            return canvas.clone()
        return self.zeros(tuple(canvas.shape), canvas.dtype, canvas.device).copy_(canvas)


def _take_room(file: int, n_bytes: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, n_bytes)
    else:
        os.truncate(file, n_bytes)
