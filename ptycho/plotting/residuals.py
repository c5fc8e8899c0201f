"""Pictures of what is left over: deviance along the scan, residual on the detector, losses of the epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ptycho.plotting import style
from ptycho.plotting.style import Real

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["losses_figure", "positions_figure", "residual_figure"]

_LOSS_NAMES = {"train": "training frames", "val": "withheld frames (validation)"}
REFINEMENT = "refinement"
_MANY = 2000  # dots: more of them need no rim


def positions_figure(
    xcoords: npt.NDArray[np.float64], ycoords: npt.NDArray[np.float64], deviance: Real,
    pixel_size_m: float | None = None,
) -> Figure:  # fmt: skip
    """The positions of the frames, coloured by the deviance per pixel of each.

    xcoords, ycoords: (M,) object pixels; drawn from the middle of the scan, in px or in um. deviance: (M,).
    """
    unit, name = (1.0, "px") if pixel_size_m is None else (pixel_size_m * 1e6, r"$\mu$m")
    x, y = ((v - (v.min() + v.max()) / 2) * unit for v in (xcoords, ycoords))
    width, height = (max(float(np.ptp(v)), 1e-12) for v in (x, y))
    margin = 0.06 * max(width, height)
    width, height = (max(v, 0.3 * max(width, height)) + 2 * margin for v in (width, height))
    figure, axes = style.image_figure((height, width), beside=1.9)
    inches = style.SIDE / max(width, height)
    # dots about as large as the distance between them
    apart = 72 * inches * np.sqrt(width * height / len(x))
    low, high = style.limits(deviance, np.ones(len(x), dtype=bool), 1.0)
    dots = axes.scatter(
        x, y, c=deviance, s=min(80.0, max(1.5, (0.75 * apart) ** 2)), cmap=style.PHASE_MAP, vmin=low, vmax=high,
        edgecolors="black", linewidths=0.2 if len(x) <= _MANY else 0.0,
    )  # fmt: skip
    axes.set(xlim=(-width / 2, width / 2), ylim=(height / 2, -height / 2), aspect="equal")
    axes.set(xlabel=f"x from the middle of the scan ({name})", ylabel=f"y, downwards ({name})")
    axes.set_facecolor("#f4f4f4")
    figure.colorbar(dots, ax=axes, label="deviance per pixel of the frame", shrink=0.9, extend="both")
    return figure


def residual_figure(residual: Real) -> Figure:
    """Normalised residual of the counts on the detector, (N, N), averaged over the frames; grey where it is NaN."""
    known = np.isfinite(residual)
    high = max(float(np.percentile(np.abs(residual[known]), 99.5)) if known.any() else 0.0, 1e-3)
    figure, axes = style.image_figure(residual.shape, beside=1.5)
    image = style.show(axes, residual, known, style.SIGNED_MAP, -high, high)
    label = "(counts - rate) / sqrt(rate + 1), mean over frames"
    figure.colorbar(image, ax=axes, label=label, shrink=0.9, extend="both")
    style.scale_bar(axes, residual.shape[1], None)
    return figure


def losses_figure(losses: Mapping[str, Sequence[float | None]]) -> Figure:
    """Losses of the epochs by name ("train", "val"), and the misfit of a "refinement" in a panel below."""
    training = {name: values for name, values in losses.items() if name != REFINEMENT}
    panels = [(part, label) for part, label in (
        (training, "loss"), ({REFINEMENT: losses.get(REFINEMENT, [])}, "relative misfit of the amplitudes"),
    ) if any(part.values())]  # fmt: skip
    figure = style.new_figure(6.3, 4.2 if len(panels) < 2 else 3.0 * len(panels))
    for number, (part, label) in enumerate(panels):
        _draw_curves(figure.add_subplot(len(panels), 1, number + 1), part, label)
    return figure


def _draw_curves(axes: Axes, losses: Mapping[str, Sequence[float | None]], label: str) -> None:
    """Curves over epochs; logarithmic where they fall by much."""
    from matplotlib.ticker import MaxNLocator

    known: list[float] = []
    for number, (name, values) in enumerate(losses.items()):
        curve = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
        colour, dashes = style.LINES[number % len(style.LINES)]
        epochs = np.arange(1, len(curve) + 1)
        marker = "o" if len(curve) <= 30 else ""
        axes.plot(epochs, curve, dashes, color=colour, marker=marker, markersize=3.5, linewidth=1.5,
                  label=_LOSS_NAMES.get(name, name))  # fmt: skip
        known += curve[np.isfinite(curve)].tolist()
    if known and min(known) > 0 and max(known) > 5 * min(known):
        axes.set_yscale("log")
    axes.set(xlabel="epoch", ylabel=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(which="both", linewidth=0.3)
    if len(losses) > 1:
        axes.legend(fontsize=9)
