"""What a report tells, before it is put into words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

__all__ = ["Content", "length_text", "stage_title"]

_STAGE_TITLES = {
    "projection": "without the network",
    "network": "with the network",
    "start": "at the start",
    "refined": "after refinement",
}


def stage_title(name: str) -> str:
    """What readers know a stage by."""
    return _STAGE_TITLES.get(name, name)


def length_text(length_m: float) -> str:
    """A length in the unit that suits it: 12.3 nm, 4.56 um."""
    for factor, unit in ((1e9, "nm"), (1e6, "\N{MICRO SIGN}m"), (1e3, "mm")):
        if length_m * factor < 999.5:
            return f"{length_m * factor:.3g} {unit}"
    return f"{length_m:.3g} m"


@dataclass(frozen=True)
class Content:
    """What a report is made from.

    Attributes:
        name: of the scan.
        source: the file it came from, as far as known.
        created: when the run ended.
        stages: names of the stages, the result last; each has its figures in `metrics`.
        metrics: what metrics.json holds.
        pictures: PNG files by name ("phase.png").
        n_frames, side: number of frames, and detector pixels along a side of one.
        masked: number of masked detector pixels; None if unknown.
        counts: mean counts per frame; None if unknown.
        n_modes: of the probe.
        shape: (rows, columns) of the object in pixels.
        pixel_size_m, photon_energy_ev, detector_distance_m: None if unknown.
    """

    name: str
    source: str
    created: datetime
    stages: tuple[str, ...]
    metrics: Mapping[str, Any]
    pictures: Mapping[str, bytes] = field(repr=False)
    n_frames: int
    side: int
    n_modes: int
    shape: tuple[int, int]
    masked: int | None = None
    counts: float | None = None
    pixel_size_m: float | None = None
    photon_energy_ev: float | None = None
    detector_distance_m: float | None = None

    @property
    def result(self) -> Mapping[str, Any]:
        """The figures of the last stage."""
        return self.metrics[self.stages[-1]] if self.stages else {}

    def scan_rows(self) -> list[tuple[str, str]]:
        """The scan in a few lines: what, and how much."""
        rows, columns = self.shape
        found = [("File", self.source)] if self.source else []
        found += [("Frames", f"{self.n_frames:,} of {self.side} \N{MULTIPLICATION SIGN} {self.side} pixels")]
        if self.masked:
            found.append(("Masked detector pixels", f"{self.masked:,} ({100 * self.masked / self.side**2:.2g} %)"))
        if self.counts is not None:
            number = f"{self.counts:,.0f}" if 100 <= self.counts < 1e6 else f"{self.counts:.3g}"
            found.append(("Counts per frame", f"{number} (mean)"))
        size = f"{columns} \N{MULTIPLICATION SIGN} {rows} px (width, height)"
        if self.pixel_size_m is None:
            found.append(("Object pixel", "size not known; lengths are in pixels"))
        else:
            found.append(("Object pixel", length_text(self.pixel_size_m)))
            width, height = (length_text(n * self.pixel_size_m) for n in (columns, rows))
            size = f"{width} \N{MULTIPLICATION SIGN} {height}, {size}"
        found.append(("Object array", size))
        if self.photon_energy_ev is not None:
            found.append(("Photon energy", f"{self.photon_energy_ev / 1e3:.4g} keV"))
        if self.detector_distance_m is not None:
            found.append(("Detector distance", f"{self.detector_distance_m:.4g} m"))
        found.append(("Probe", f"{self.n_modes} mode{'s' if self.n_modes != 1 else ''}"))
        return found
