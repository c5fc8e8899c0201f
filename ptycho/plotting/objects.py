"""Pictures of an object: amplitude, phase, coverage, and what became of it from stage to stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ptycho.metrics.alignment import find_slopes, ramp
from ptycho.plotting import style
from ptycho.plotting.style import Complex, Mask, Real

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "amplitude_figure",
    "coverage_figure",
    "flat_phase",
    "interval_figure",
    "patches_figure",
    "phase_figure",
    "stages_figure",
]


def flat_phase(image: Complex, seen: Mask) -> Real:
    """Phase of an object (rad, within -pi to pi) without the constant and the plane that a reconstruction
    leaves open, both determined over `seen`."""
    weight = seen.astype(np.float64)
    slopes = find_slopes(image, weight)
    level = image * ramp(image.shape, (-slopes[0], -slopes[1]))
    size = np.abs(level)
    middle = np.sum(weight * level / np.where(size > 0, size, 1))
    return np.asarray(np.angle(level * np.conj(middle)))


def _single(
    values: Real, seen: Mask, every: int, look: tuple[str, float, float], label: str, pixel: float | None
) -> Figure:  # fmt: skip
    figure, axes = style.image_figure(values.shape)
    image = style.show(axes, values, seen, *look)
    style.colour_bar(figure, image, axes, label, look[0], shrink=0.9)
    style.scale_bar(axes, values.shape[1], pixel, every)
    return figure


def _cut_object(image: Complex, seen: Mask) -> tuple[Complex, Mask, int]:
    """As `style.cut`; 0 stands for NaN, which a reconstruction that ran away holds."""
    part, inside, every = style.cut(image, seen)
    return np.nan_to_num(part), inside, every


def amplitude_figure(image: Complex, seen: Mask, pixel_size_m: float | None = None) -> Figure:
    """|object|, cut to what was seen; grey beyond it. image: (H, W). seen: bool (H, W)."""
    part, inside, every = _cut_object(image, seen)
    values = np.abs(part)
    look = (style.AMPLITUDE_MAP, *style.limits(values, inside))
    return _single(values, inside, every, look, "amplitude", pixel_size_m)


def phase_figure(image: Complex, seen: Mask, pixel_size_m: float | None = None) -> Figure:
    """Phase of an object without its plane, cut to what was seen."""
    part, inside, every = _cut_object(image, seen)
    values = flat_phase(part, inside)
    return _single(values, inside, every, style.phase_style(values, inside), "phase (rad)", pixel_size_m)


def interval_figure(half_width: Real, pixel_size_m: float | None = None) -> Figure:
    """Half-width (rad) of the 90 % interval of the phase, (H, W); grey where it is NaN."""
    values, inside, every = style.cut(half_width, np.isfinite(half_width))
    look = (style.COUNT_MAP, 0.0, max(1e-6, style.limits(np.where(inside, values, 0.0), inside)[1]))
    return _single(values, inside, every, look, "half-width of the 90 % interval (rad)", pixel_size_m)


def coverage_figure(frames: npt.NDArray[np.integer[Any]], pixel_size_m: float | None = None) -> Figure:
    """Number of frames whose beam lights each pixel."""
    values, inside, every = style.cut(frames, frames > 0)
    look = (style.COUNT_MAP, 0.0, max(1.0, float(values.max())))
    return _single(values.astype(np.float64), inside, every, look, "frames that light the pixel", pixel_size_m)


def stages_figure(stages: Mapping[str, Complex], seen: Mask, pixel_size_m: float | None = None) -> Figure:
    """Amplitude (above) and phase (below) of the object after each stage, one column each, on common scales.

    stages: (H, W) objects by title. seen: bool (H, W). The scales are those of the last one.
    """
    parts = [_cut_object(image, seen)[0] for image in stages.values()]
    _, inside, every = style.cut(seen, seen)
    rows = [np.abs(part) for part in parts], [flat_phase(part, inside) for part in parts]
    looks = (style.AMPLITUDE_MAP, *style.limits(rows[0][-1], inside)), style.phase_style(rows[1][-1], inside)
    height, width = inside.shape
    each = 3.4
    tall = each * min(1.6, max(0.3, height / width))
    figure = style.new_figure(each * len(parts) + 1.2, 2 * tall + 0.6)
    axes = figure.subplots(2, len(parts), squeeze=False)
    for row, (images, look, label) in enumerate(zip(rows, looks, ("amplitude", "phase (rad)"), strict=True)):
        for column, values in enumerate(images):
            drawn = style.show(axes[row, column], values, inside, *look)
        style.colour_bar(figure, drawn, list(axes[row]), label, look[0], shrink=0.8, pad=0.01)
    for column, title in enumerate(stages):
        axes[0, column].set_title(title, size=10)
    style.scale_bar(axes[0, 0], width, pixel_size_m, every)
    return figure


def patches_figure(patches: Complex, titles: list[str]) -> Figure:
    """Amplitude (above) and phase (below) of some patches (n, N, N), one column each."""
    figure = style.new_figure(max(3.0, 1.6 * len(patches)), 3.6)
    axes = figure.subplots(2, len(patches), squeeze=False)
    everywhere = np.ones(patches.shape[-2:], dtype=bool)
    for column, (patch, title) in enumerate(zip(patches, titles, strict=True)):
        values = np.abs(patch), np.angle(patch * np.conj(patch.sum() or 1))
        amplitude_look = (style.AMPLITUDE_MAP, *style.limits(values[0], everywhere))
        style.show(axes[0, column], values[0], everywhere, *amplitude_look)
        style.show(axes[1, column], values[1], everywhere, *style.phase_style(values[1], everywhere))
        axes[0, column].set_title(title, fontsize=8)
    axes[0, 0].set_ylabel("amplitude")
    axes[1, 0].set_ylabel("phase")
    return figure
