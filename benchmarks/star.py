"""The real scan (SIEMENS_STAR_DIR) and what the benchmarks do with it: its reference, its halves, withheld frames."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from peer import PeerRun

from ptycho.errors import InputError
from ptycho.geometry import Canvas
from ptycho.io.reconstruction_files import load_any
from ptycho.outcome import Outcome
from ptycho.placed import PlacedObject, compare_placed, place_loaded
from ptycho.raw_data import RawData
from ptycho_torch.data.scans import PlacedScan
from ptycho_torch.reassembly import StreamedFrames


@dataclass(frozen=True)
class Star:
    """The scan cut to `side`, the iterative reference that comes with it, and the square that is compared."""

    raw: RawData
    reference: PlacedObject
    reference_probe: NDArray[np.complex64]
    half: int

    def agreement(self, image: PlacedObject, other: PlacedObject | None = None) -> dict[str, float]:
        """Phase correlation and SSIM with the reference, or with another reconstruction."""
        found, _ = compare_placed(image, self.reference if other is None else other, self.half)
        return {"phase_correlation": found.phase_correlation, "ssim": found.ssim}


def load_star(side: int) -> Star:
    """The scan from the folder that SIEMENS_STAR_DIR names; InputError where it names none."""
    folder = os.environ.get("SIEMENS_STAR_DIR")
    if not folder:
        raise InputError("SIEMENS_STAR_DIR: found nothing, expected the folder of the real scan. Set it.")
    loaded = load_any(Path(folder) / f"lsqml_200_n{side}.npz")
    if loaded.probe is None:
        raise InputError(f"{loaded.path}: found no probe, expected the one of the reference.")
    raw = RawData.from_file(Path(folder) / "scan.npz").crop(side)
    return Star(raw, place_loaded(loaded), loaded.probe, 62 * side // 64)


def with_changes(
    raw: RawData, counts: NDArray[np.generic] | None = None, probe: NDArray[np.complexfloating] | None = None
) -> RawData:
    """The scan with other counts (F, N, N), or with another probe guess (M, N, N)."""
    return RawData(
        raw.xcoords, raw.ycoords,
        diff3d=raw.counts(np.arange(raw.n_frames)).astype(np.uint16) if counts is None else counts,
        probeGuess=raw.probe if probe is None else probe,
        measurement_domain="intensity", pixel_size_m=raw.pixel_size_m, source=raw.source,
    )  # fmt: skip


def halves_of_counts(raw: RawData, seed: int = 0) -> tuple[RawData, RawData]:
    """Two scans of half the dose with independent noise: every photon goes to one of them by the toss of a coin."""
    counts = raw.counts(np.arange(raw.n_frames)).astype(np.int64)
    first = np.random.default_rng(seed).binomial(counts, 0.5)
    return with_changes(raw, first.astype(np.uint16)), with_changes(raw, (counts - first).astype(np.uint16))


def withheld(raw: RawData, share: float, seed: int = 0) -> tuple[RawData, RawData]:
    """The scan without a random share of its frames, and those frames."""
    order = np.random.default_rng(seed).permutation(raw.n_frames)
    n = round(share * raw.n_frames)
    return raw.subset(np.sort(order[n:])), raw.subset(np.sort(order[:n]))


def deviance_of(
    frames: RawData, image: NDArray[np.complex64], canvas: Canvas, probe: NDArray[np.complex64]
) -> dict[str, float]:
    """Mean Poisson deviance per pixel of frames under an object on its canvas and a probe (M, N, N) in photons."""
    placed = PlacedScan.of(frames, canvas)
    streamed = StreamedFrames(placed, torch.from_numpy(probe.copy()), torch.from_numpy(frames.good_pixels.copy()))
    misfit = streamed.deviance(torch.from_numpy(image.copy())[None])
    return {"deviance": misfit.deviance, "expected_deviance": misfit.expected}


def deviance_of_outcome(frames: RawData, outcome: Outcome) -> dict[str, float]:
    """The same for the result of a run of ours."""
    return deviance_of(frames, outcome.result.object, outcome.canvas, outcome.probe)


def deviance_of_peer(frames: RawData, run: PeerRun, epoch: int) -> dict[str, float]:
    """The same for the peer after an epoch."""
    return deviance_of(frames, run.objects[epoch], run.canvas, run.probes[epoch])
