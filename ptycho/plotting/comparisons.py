"""Pictures of the stages of a reconstruction beside a reference, and of two halves of a scan against each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ptycho.metrics.frc import FIRST_RING
from ptycho.plotting import style
from ptycho.plotting.style import Mask, Real

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ptycho.metrics.comparison import ComparedImages
    from ptycho.metrics.frc import RingCorrelation

__all__ = ["comparison_figure", "halves_figure"]


def comparison_figure(
    images: dict[str, ComparedImages],
    pixel_size_m: float | None = None,
    *,
    titles: dict[str, str] | None = None,
    reference_title: str = "reference",
) -> Figure:
    """The phases of all stages beside the reference, on one colour scale, and the ring correlations.

    images: by name of the stage, registered to one reference. titles: of the stages, default their names.
    """
    first = next(iter(images.values()))
    panels: list[tuple[str, Real, Mask]] = [(reference_title, first.reference_phase, first.region)]
    panels += [((titles or {}).get(name, name), pair.phase, pair.region) for name, pair in images.items()]
    look = style.phase_style(first.reference_phase, first.region)
    height, width = first.reference_phase.shape
    number = len(panels) + 1
    columns = 2 if number == 4 else min(3, number)
    rows = -(-number // columns)
    each = 3.6
    figure = style.new_figure(each * columns + 1.0, rows * (each * min(1.6, max(0.5, height / width)) + 0.3))
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    every = style.thinning((height, width))
    for place, (title, whole, whole_seen) in zip(axes, panels, strict=False):
        values, seen = whole[::every, ::every], whole_seen[::every, ::every]
        # wide phases come unwrapped; a cyclic map shows them within one turn
        shown = np.angle(np.exp(1j * values)) if look[0] == style.CYCLIC_MAP else values
        image = style.show(place, shown, seen, *look)
        place.set_title(title, size=10)
    style.scale_bar(axes[0], -(-width // every), pixel_size_m, every)
    last = axes[min(columns, len(panels)) - 1]  # of the first row
    style.colour_bar(figure, image, None, "phase (rad)", look[0], cax=last.inset_axes((1.03, 0.05, 0.05, 0.9)))
    _ring_curves(axes[len(panels)], {name: pair.frc for name, pair in images.items()})
    axes[len(panels)].set_title("Fourier ring correlation", size=10)
    for place in axes[number:]:
        place.axis("off")
    return figure


def halves_figure(curves: Mapping[str, RingCorrelation], pixel_size_m: float | None = None) -> Figure:
    """Ring correlations of the objects of two halves of a scan, by the title of the stage; a dot where each falls
    below the threshold, and the half period there."""
    figure = style.new_figure(6.3, 4.2)
    axes = figure.add_subplot()
    _ring_curves(axes, {f"{name}: {_half_period(curve, pixel_size_m)}": curve for name, curve in curves.items()})
    for number, curve in enumerate(curves.values()):
        if 0 < curve.crossing < 0.5:
            height = np.interp(curve.crossing, curve.frequency, curve.threshold)
            axes.plot(curve.crossing, height, "o", color=style.LINES[number % len(style.LINES)][0], markersize=6)
    axes.set_ylabel("Fourier ring correlation of the halves")
    return figure


def _half_period(curve: RingCorrelation, pixel_size_m: float | None) -> str:
    """The resolution in words."""
    if curve.crossing <= 0:
        return "no agreement"
    from ptycho.report.content import length_text

    length = "" if pixel_size_m is None else f" ({length_text(curve.resolution_px * pixel_size_m)})"
    return f"{curve.resolution_px:.2f} px{length}"


def _ring_curves(axes: Axes, curves: Mapping[str, RingCorrelation]) -> None:
    for number, (name, curve) in enumerate(curves.items()):
        colour, dashes = style.LINES[number % len(style.LINES)]
        # the first rings hold the mean and the plane, which were taken away
        shown = slice(FIRST_RING, None)
        axes.plot(curve.frequency[shown], curve.correlation[shown], dashes, color=colour, label=name, linewidth=1.5)
    label = "half-bit threshold"
    axes.plot(curve.frequency[shown], curve.threshold[shown], color="#777777", linewidth=0.8, label=label)
    axes.set(xlim=(0, 0.5), ylim=(-0.05, 1.05), xlabel="spatial frequency (cycles / px)")
    axes.legend(fontsize=8, loc="best")
    axes.grid(linewidth=0.3)
