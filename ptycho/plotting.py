"""Pictures of objects, coverage, probes and comparisons as matplotlib figures.

Figures are built with the object interface (no pyplot, no window, no global state) and drawn by Agg, so they
can be made on any host. matplotlib is imported by the functions. Arrays are (row, column), row 0 at the top.
Colour maps are perceptually uniform; phases that wrap get a cyclic one.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ptycho.metrics.alignment import find_slopes, ramp

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ptycho.metrics.comparison import ComparedImages

__all__ = [
    "amplitude_figure",
    "comparison_figure",
    "coverage_figure",
    "flat_phase",
    "patches_figure",
    "phase_figure",
    "probe_figure",
]

Mask = npt.NDArray[np.bool_]
Real = npt.NDArray[np.floating[Any]]
Complex = npt.NDArray[np.complexfloating[Any, Any]]

_DPI = 150
_SIDE = 5.0  # inches, longer side of an image
_WRAPS = 1.6 * math.pi  # a phase that covers more than this is drawn with a cyclic colour map
_UNSEEN = "#d9d9d9"  # light grey, in none of the colour maps' light ends
_AMPLITUDE_MAP, _PHASE_MAP, _CYCLIC_MAP, _COUNT_MAP = "gray", "viridis", "twilight", "cividis"


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _image_figure(shape: tuple[int, ...], beside: float = 1.3) -> tuple[Figure, Axes]:
    """A figure for one image with room for a colour bar, in the shape of the image."""
    scale = _SIDE / max(shape)
    figure = _figure(max(2.2, shape[1] * scale) + beside, max(1.6, shape[0] * scale) + 0.5)
    return figure, figure.add_subplot()


def _cut(values: npt.NDArray[Any], seen: Mask) -> tuple[npt.NDArray[Any], Mask]:
    """Both arrays cut to the bounding box of what was seen (all of them if nothing was)."""
    if not seen.any():
        return values, np.ones_like(seen)
    rows, cols = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    box = slice(rows[0], rows[-1] + 1), slice(cols[0], cols[-1] + 1)
    return values[box], seen[box]


def flat_phase(image: Complex, seen: Mask) -> Real:
    """Phase of an object (rad, within -pi to pi) without the constant and the plane that a reconstruction
    leaves open, both determined over `seen`."""
    weight = seen.astype(np.float64)
    slopes = find_slopes(image, weight)
    level = image * ramp(image.shape, (-slopes[0], -slopes[1]))
    size = np.abs(level)
    middle = np.sum(weight * level / np.where(size > 0, size, 1))
    return np.asarray(np.angle(level * np.conj(middle)))


def _limits(values: Real, seen: Mask) -> tuple[float, float]:
    """Where nearly all values lie; a few bright pixels at the rim must not take the contrast away."""
    low, high = (float(v) for v in np.percentile(values[seen], (0.5, 99.5)))
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _phase_style(values: Real, seen: Mask) -> tuple[str, float, float]:
    low, high = _limits(values, seen)
    return (_CYCLIC_MAP, -math.pi, math.pi) if high - low > _WRAPS else (_PHASE_MAP, low, high)


def _show(axes: Axes, values: Real, seen: Mask, colours: str, low: float, high: float) -> Any:
    shown = np.ma.array(values, mask=~seen)
    axes.set_facecolor(_UNSEEN)
    image = axes.imshow(shown, cmap=colours, vmin=low, vmax=high, interpolation="nearest", origin="upper")
    axes.set_xticks([])
    axes.set_yticks([])
    return image


def _nice_length(length: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is not above `length`."""
    power = 10.0 ** math.floor(math.log10(length))
    return max(step * power for step in (1, 2, 5) if step * power <= length * (1 + 1e-9))


def _scale_bar(axes: Axes, width_px: int, pixel_size_m: float | None) -> None:
    """A bar of about a quarter of the width at the lower left, labelled in px, or in nm or um."""
    from matplotlib.offsetbox import AnchoredOffsetbox, AuxTransformBox, TextArea, VPacker
    from matplotlib.patches import Rectangle

    if pixel_size_m is None:
        length = max(1.0, _nice_length(width_px / 4))
        bar, text = length, f"{length:g} px"
    else:
        length = _nice_length(width_px / 4 * pixel_size_m)
        bar = length / pixel_size_m
        text = f"{length * 1e6:g} $\\mu$m" if length >= 1e-6 else f"{length * 1e9:g} nm"
    box = AuxTransformBox(axes.transData)
    box.add_artist(Rectangle((0, 0), bar, max(1.0, width_px / 90), color="black"))
    packed = VPacker(children=[box, TextArea(text, textprops={"size": 8})], align="center", pad=0, sep=3)
    anchored = AnchoredOffsetbox(loc="lower left", child=packed, pad=0.4, borderpad=0.5)
    anchored.patch.set(alpha=0.85, linewidth=0)
    axes.add_artist(anchored)


def _single(
    values: Real, seen: Mask, style: tuple[str, float, float], label: str, pixel: float | None
) -> Figure:
    figure, axes = _image_figure(values.shape)
    image = _show(axes, values, seen, *style)
    figure.colorbar(image, ax=axes, label=label, shrink=0.9)
    _scale_bar(axes, values.shape[1], pixel)
    return figure


def amplitude_figure(image: Complex, seen: Mask, pixel_size_m: float | None = None) -> Figure:
    """|object|, cut to what was seen; grey beyond it. image: (H, W). seen: bool (H, W)."""
    values, inside = _cut(np.abs(image), seen)
    return _single(values, inside, (_AMPLITUDE_MAP, *_limits(values, inside)), "amplitude", pixel_size_m)


def phase_figure(image: Complex, seen: Mask, pixel_size_m: float | None = None) -> Figure:
    """Phase of an object without its plane, cut to what was seen."""
    part, inside = _cut(image, seen)
    values = flat_phase(part, inside)
    return _single(values, inside, _phase_style(values, inside), "phase (rad)", pixel_size_m)


def coverage_figure(frames: npt.NDArray[np.integer[Any]], pixel_size_m: float | None = None) -> Figure:
    """Number of frames whose beam lights each pixel."""
    values, inside = _cut(frames.astype(np.float64), frames > 0)
    high = max(1.0, float(values.max()))
    return _single(values, inside, (_COUNT_MAP, 0.0, high), "frames that light the pixel", pixel_size_m)


def patches_figure(patches: Complex, titles: list[str]) -> Figure:
    """Amplitude (above) and phase (below) of some patches (n, N, N), one column each."""
    figure = _figure(max(3.0, 1.6 * len(patches)), 3.6)
    axes = figure.subplots(2, len(patches), squeeze=False)
    everywhere = np.ones(patches.shape[-2:], dtype=bool)
    for column, (patch, title) in enumerate(zip(patches, titles, strict=True)):
        values = np.abs(patch), np.angle(patch * np.conj(patch.sum() or 1))
        _show(axes[0, column], values[0], everywhere, _AMPLITUDE_MAP, *_limits(values[0], everywhere))
        _show(axes[1, column], values[1], everywhere, *_phase_style(values[1], everywhere))
        axes[0, column].set_title(title, fontsize=8)
    axes[0, 0].set_ylabel("amplitude")
    axes[1, 0].set_ylabel("phase")
    return figure


def _phase_as_hue(field: Complex) -> npt.NDArray[np.float64]:
    """RGB (N, N, 3): phase as hue, modulus as brightness."""
    from matplotlib import colormaps

    turn = np.angle(field) / (2 * np.pi) + 0.5
    bright = np.abs(field) / max(float(np.abs(field).max()), 1e-30)
    return np.asarray(colormaps["hsv"](turn)[..., :3] * bright[..., None])


def probe_figure(probe: Complex, pixel_size_m: float | None = None, most: int = 6) -> Figure:
    """Modes of a probe (modes, N, N) side by side, each on its own brightness, with its share of power."""
    power = (np.abs(probe).astype(np.float64) ** 2).sum(axis=(-2, -1))
    share = np.asarray(100 * power / max(float(power.sum()), 1e-30))
    count = min(len(probe), most)
    figure = _figure(3.0 * count + 1.0, 3.4)
    panels = figure.subplots(1, count, squeeze=False)[0]
    for number, axes in enumerate(panels):
        # The phase of the probe's mean is as free as that of the object: take it away, for steady colours.
        field = probe[number] * np.exp(-1j * np.angle(probe[number].sum()))
        axes.imshow(_phase_as_hue(field), interpolation="nearest", origin="upper")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_title(f"probe mode {number + 1}: {share[number]:.1f} % of power", size=9)
    _scale_bar(panels[0], probe.shape[-1], pixel_size_m)
    _hue_bar(figure, panels)
    return figure


def _hue_bar(figure: Figure, panels: Any) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    scale = ScalarMappable(Normalize(-math.pi, math.pi), "hsv")
    bar = figure.colorbar(
        scale, ax=list(panels), label="phase (rad)", ticks=[-math.pi, 0, math.pi], shrink=0.9
    )
    bar.ax.set_yticklabels([r"$-\pi$", "0", r"$\pi$"])


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
    style = _phase_style(first.reference_phase, first.region)
    height, width = first.reference_phase.shape
    each = 3.4
    figure = _figure(each * len(panels) + 4.6, each * min(1.6, height / width) + 0.6)
    axes = figure.subplots(1, len(panels) + 1, squeeze=False, width_ratios=[1.0] * len(panels) + [1.0])[0]
    for place, (title, values, seen) in zip(axes, panels, strict=False):
        image = _show(place, values, seen, *style)
        place.set_title(title, size=10)
    _scale_bar(axes[0], width, pixel_size_m)
    figure.colorbar(image, ax=list(axes[:-1]), label="phase (rad)", shrink=0.8, pad=0.01)
    _ring_curves(axes[-1], images)
    return figure


def _ring_curves(axes: Axes, images: dict[str, ComparedImages]) -> None:
    # Colour and dashes both tell the curves apart.
    styles = ("-", "--", "-.", ":")
    for number, (name, pair) in enumerate(images.items()):
        curve = pair.frc
        axes.plot(curve.frequency, curve.correlation, styles[number % len(styles)], label=name, linewidth=1.5)
    axes.plot(curve.frequency, curve.threshold, color="black", linewidth=0.8, label="half-bit threshold")
    axes.set(xlim=(0, 0.5), ylim=(-0.05, 1.05), xlabel="spatial frequency (cycles / px)")
    axes.set_title("Fourier ring correlation", size=10)
    axes.legend(fontsize=8, loc="lower left")
    axes.grid(linewidth=0.3)
