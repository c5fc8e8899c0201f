"""What the pictures have in common: sizes, colour maps, limits, scale bars."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Mask = npt.NDArray[np.bool_]
Real = npt.NDArray[np.floating[Any]]
Complex = npt.NDArray[np.complexfloating[Any, Any]]

DPI = 150
SIDE = 5.0  # inches, longer side of an image
MOST_PX = 1024  # of an image along one side; a picture has about 750
WRAPS = 1.6 * math.pi  # a phase that covers more than this is drawn with a cyclic colour map
UNSEEN = "#d9d9d9"  # light grey, in none of the sequential colour maps' light ends
AMPLITUDE_MAP, PHASE_MAP, CYCLIC_MAP, COUNT_MAP, SIGNED_MAP = "gray", "viridis", "twilight", "cividis", "RdBu_r"
# Blue, orange and black differ for everybody, and so do the dashes.
LINES = (("#0072b2", "-"), ("#d55e00", "--"), ("#000000", "-."), ("#009e73", ":"))


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of that many inches, drawn by Agg."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def image_figure(shape: Sequence[float], beside: float = 1.3) -> tuple[Figure, Axes]:
    """A figure for one image with room for a colour bar, in the shape of the image."""
    scale = SIDE / max(shape)
    figure = new_figure(max(2.2, shape[1] * scale) + beside, max(1.6, shape[0] * scale) + 0.5)
    return figure, figure.add_subplot()


def thinning(shape: Sequence[int]) -> int:
    """Every which row and column of an image is drawn: a picture has fewer pixels than a large canvas, and drawing
    takes ten times the memory of what is drawn."""
    return max(1, -(-max(shape) // MOST_PX))


def cut(values: npt.NDArray[Any], seen: Mask) -> tuple[npt.NDArray[Any], Mask, int]:
    """Both arrays cut to the bounding box of what was seen (all of them if nothing was), and how they are thinned."""
    box = slice(0, seen.shape[0]), slice(0, seen.shape[1])
    if seen.any():
        rows, cols = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
        box = slice(rows[0], rows[-1] + 1), slice(cols[0], cols[-1] + 1)
    else:
        seen = np.ones_like(seen)
    every = thinning(seen[box].shape)
    return values[box][::every, ::every], seen[box][::every, ::every], every


def limits(values: Real, seen: Mask, outside: float = 0.5) -> tuple[float, float]:
    """Where nearly all values lie; a few bright pixels at the rim must not take the contrast away.

    outside: percent of the values left out at either end.
    """
    inside = values[seen & np.isfinite(values)]
    if inside.size == 0:
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(inside, (outside, 100 - outside)))
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def phase_style(values: Real, seen: Mask) -> tuple[str, float, float]:
    """Colour map and limits for a phase (rad)."""
    low, high = limits(values, seen)
    return (CYCLIC_MAP, -math.pi, math.pi) if high - low > WRAPS else (PHASE_MAP, low, high)


def show(axes: Axes, values: Real, seen: Mask, colours: str, low: float, high: float) -> Any:
    """Draw an image without ticks; returns what a colour bar needs. Where nothing was seen it is grey, or hatched where
    grey could be taken for one of the colours."""
    shown = np.ma.array(values, mask=~(seen & np.isfinite(values)))
    if colours in (CYCLIC_MAP, SIGNED_MAP):
        axes.patch.set(facecolor="white", edgecolor="#b0b0b0", hatch="//////", linewidth=0)
    else:
        axes.set_facecolor(UNSEEN)
    image = axes.imshow(shown, cmap=colours, vmin=low, vmax=high, interpolation="nearest", origin="upper")
    axes.set_xticks([])
    axes.set_yticks([])
    return image


def colour_bar(figure: Figure, image: Any, axes: Any, label: str, colours: str, **more: Any) -> None:
    """A colour bar; that of a cyclic map is ticked at the quarter turns."""
    bar = figure.colorbar(image, ax=axes, label=label, **more)
    if colours == CYCLIC_MAP:
        bar.set_ticks([-math.pi, -math.pi / 2, 0, math.pi / 2, math.pi])
        bar.ax.set_yticklabels([r"$-\pi$", r"$-\pi/2$", "0", r"$\pi/2$", r"$\pi$"])


def nice_length(length: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is not above `length`."""
    power = 10.0 ** math.floor(math.log10(length))
    return max(step * power for step in (1, 2, 5) if step * power <= length * (1 + 1e-9))


def scale_bar(axes: Axes, width_px: int, pixel_size_m: float | None, every: int = 1) -> None:
    """A bar of about a quarter of the width at the lower left, labelled in px, or in nm or um.

    width_px: of what is drawn, of which each pixel stands for `every` along a side.
    """
    from matplotlib.offsetbox import AnchoredOffsetbox, AuxTransformBox, TextArea, VPacker
    from matplotlib.patches import Rectangle

    if pixel_size_m is None:
        length = max(1.0, nice_length(width_px * every / 4))
        bar, text = length / every, f"{length:g} px"
    else:
        length = nice_length(width_px * every / 4 * pixel_size_m)
        bar = length / (pixel_size_m * every)
        text = f"{length * 1e6:g} $\\mu$m" if length >= 1e-6 else f"{length * 1e9:g} nm"
    box = AuxTransformBox(axes.transData)
    box.add_artist(Rectangle((0, 0), bar, width_px / 90, color="black"))
    packed = VPacker(children=[box, TextArea(text, textprops={"size": 8})], align="center", pad=0, sep=3)
    anchored = AnchoredOffsetbox(loc="lower left", child=packed, pad=0.4, borderpad=0.5)
    anchored.patch.set(alpha=0.85, linewidth=0)
    axes.add_artist(anchored)
