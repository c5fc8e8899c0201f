"""What stands below each picture of a report, and what it says to those who cannot see it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ptycho.report.content import Content

__all__ = ["Section", "Shown", "sections"]


@dataclass(frozen=True)
class Shown:
    """A picture with its words. wide: it takes the whole width of the page."""

    file: str
    title: str
    caption: str
    alt: str
    wide: bool = False


@dataclass(frozen=True)
class Section:
    """Pictures under one heading."""

    heading: str
    pictures: tuple[Shown, ...]


# Stage -> shares of the pixels of single simulated scans that held the truth (benchmarks/README.md, intervals)
_HELD = {"network": "81 to 99 %", "refined": "83 to 94 %"}


def _held(content: Content) -> str:
    held = _HELD.get(content.stages[-1]) if content.stages else None
    return "" if held is None else f"Of single simulated scans, {held} of the pixels were inside."


def _object(content: Content) -> tuple[Shown, ...]:
    rows, columns = content.shape
    return (
        Shown("phase.png", "Phase",
              "Phase of the object, without the constant and the plane that a reconstruction leaves open. Grey or "
              "hatched: not lit by any frame. A phase that wraps has a cyclic colour map.",
              f"Map of the phase of the reconstructed object, from an array of {columns} by {rows} pixels."),
        Shown("amplitude.png", "Amplitude",
              "Amplitude of the object, relative: the probe has the mean counts of the frames, so that the mean of the "
              "squared amplitude under the beam is about 1. Half a percent of the pixels lies beyond either end of the "
              "scale.",
              f"Map of the amplitude of the reconstructed object, from an array of {columns} by {rows} pixels."),
        Shown("interval.png", "How far the phase can be trusted",
              "Half-width of an interval about the phase of each pixel that is to hold the true phase with 90 % "
              "probability, constant and plane apart. Found by measuring the result once more in simulation and "
              "reconstructing that. Differences between pixels that are much larger than both their values are real. "
              f"{_held(content)} Errors of the positions, or of anything else that is not modelled, come on top.",
              "Map of the half-width of the 90 % interval of the phase."),
        Shown("halves.png", "Two halves of the scan",
              "Fourier ring correlation of two objects that were reconstructed apart, each from half of the frames; of "
              "two neighbours each half has one. Where a curve falls below the half-bit threshold (van Heel and "
              "Schatz, 2005) the average of both objects, which stands for the result, has half a bit of information "
              f"per Fourier sample. {_shared(content)} What both halves get wrong in the same way does not show here.",
              "Curves of the Fourier ring correlation of the objects of two halves of the scan, with the half-bit "
              "threshold."),
        Shown("stages.png", "What the network adds" if "network" in content.stages else "From stage to stage",
              "Amplitude and phase after each stage, on common scales.",
              "Amplitude and phase of the object after each stage of the reconstruction, side by side.", True),
        Shown("comparison.png", "Beside the reference",
              f"Phases after registration to {_reference(content)}, on one scale, and the Fourier ring correlation "
              "with it: 1 where a spatial frequency agrees, below the threshold where it is not resolved.",
              f"Phase of {_reference(content)} beside those of the stages, and curves of their Fourier ring "
              "correlation.", True),
    )  # fmt: skip


def _shared(content: Content) -> str:
    return str((content.metrics.get("halves") or {}).get("shared", ""))


def _reference(content: Content) -> str:
    compared = str(content.metrics.get("compared_with"))
    return f"the {compared}" if " " in compared else compared


def _scan(content: Content) -> tuple[Shown, ...]:
    expected = content.result.get("expected_deviance")
    noise = "" if expected is None else f" Photon noise alone leaves about {expected:.3f}."
    places = ("Left", "right") if content.n_modes == 1 else ("Above", "below")
    return (
        Shown("probe.png", "Probe",
              "Modes of the probe in the plane of the object, each scaled to its own peak, with its share of the "
              f"power. {places[0]}, hue is the phase and brightness the modulus; {places[1]}, the phase alone, for "
              "reading it without hue.",
              f"The {content.n_modes} mode(s) of the probe as images, phase as hue, with a colour wheel.", True),
        Shown("coverage.png", "Coverage",
              "Number of frames whose beam (intensity above a tenth of its peak) lights each pixel. Below two, no "
              "overlap holds the object.",
              "Map of the number of frames that light each pixel of the object."),
        Shown("positions.png", "Positions and residual",
              "One dot per frame, coloured by its deviance: the mean over its unmasked pixels of 2 (rate - counts + "
              f"counts log(counts / rate)), with the rates of the result.{noise} Single bright dots are bad frames; "
              "where many lie together, something is not modelled there: fine detail, drift, another probe.",
              f"Positions of the {content.n_frames} frames, coloured by the deviance of each."),
    )  # fmt: skip


def _fit(content: Content) -> tuple[Shown, ...]:
    noise = 1 / math.sqrt(max(1, content.n_frames))
    losses = content.metrics.get("losses") or {}
    withheld = "val" in losses
    refined = " Below: the misfit of the amplitudes in the refinement, relative to the counts."
    refined = refined if "refinement" in losses else ""
    masked = " Hatched: masked." if content.masked else ""
    return (
        Shown("residual.png", "Residual on the detector",
              "Mean over the frames of (counts - rate) / sqrt(rate + 1) for each detector pixel. Red: more was "
              f"measured than modelled. Noise alone leaves about \N{PLUS-MINUS SIGN}{noise:.2g} where there is light; "
              f"rings and blobs beyond that are not modelled (probe, background, bad pixels).{masked}",
              "Map of the mean normalised residual over the detector."),
        Shown("losses.png", "Losses",
              "Loss after each epoch, on the frames that were trained on and on those withheld. Where the second "
              f"rises while the first falls, noise is learned.{refined}"
              if withheld
              else "Loss after each epoch; in a refinement, the misfit of the amplitudes relative to the counts.",
              "The training loss over the epochs" + (", and that of withheld frames." if withheld else ".")),
    )  # fmt: skip


_SECTIONS: tuple[tuple[str, Callable[[Content], tuple[Shown, ...]]], ...] = (
    ("The object", _object),
    ("Probe and scan", _scan),
    ("How the data are explained", _fit),
)


def sections(content: Content) -> list[Section]:
    """The pictures that there are, under their headings."""
    found = [
        Section(heading, tuple(shown for shown in make(content) if shown.file in content.pictures))
        for heading, make in _SECTIONS
    ]
    return [section for section in found if section.pictures]
