"""Pictures of a probe: its modes, phase as hue."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ptycho.plotting import style
from ptycho.plotting.style import Complex, Real

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["hue_circle", "probe_figure"]

_DARK = 0.1  # of the greatest modulus: below it the phase is mostly noise and is not drawn by itself
# OKLCh (B. Ottosson, 2020): lightness and chroma for which every hue is a colour of a screen, and the hue of phase 0.
# Phases 0 and pi are blue and yellow, which nearly everybody tells apart.
_LIGHTNESS, _CHROMA, _START = 0.75, 0.12, math.radians(265)
_OKLAB_TO_CONES = np.array([[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728],
                            [1, -0.0894841775, -1.2914855480]])  # fmt: skip
_CONES_TO_RGB = np.array([[4.0767416621, -3.3077115913, 0.2309699292], [-1.2684380046, 2.6097574011, -0.3413193965],
                          [-0.0041960863, -0.7034186147, 1.7076147010]])  # fmt: skip


def hue_circle(phase: Real) -> npt.NDArray[np.float64]:
    """sRGB colours (..., 3), 0 to 1, for phases (...) in rad: hues of one lightness, evenly spaced to the eye.

    As all are equally light, brightness is free to tell the modulus.
    """
    hue = np.asarray(phase) + _START
    lab = np.stack([np.full(hue.shape, _LIGHTNESS), _CHROMA * np.cos(hue), _CHROMA * np.sin(hue)], axis=-1)
    linear = np.clip((lab @ _OKLAB_TO_CONES.T) ** 3 @ _CONES_TO_RGB.T, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def _as_hue(field: Complex) -> npt.NDArray[np.float64]:
    """RGB (N, N, 3): phase as hue, modulus as brightness."""
    size = np.abs(field)
    # the brightest colour of the circle is made white's neighbour, so that the beam stands out
    return np.clip(1.15 * hue_circle(np.angle(field)) * (size / max(float(size.max()), 1e-30))[..., None], 0, 1)


def _levelled(field: Complex) -> Complex:
    """A mode turned as real as it can be, mostly positive: a mode's constant phase is free."""
    turned = field * np.exp(-0.5j * np.angle((field**2).sum()))
    return turned if turned.real.sum() >= 0 else -turned


def probe_figure(probe: Complex, pixel_size_m: float | None = None, most: int = 6) -> Figure:
    """Modes of a probe (modes, N, N) side by side, each on its own brightness, with its share of power.

    Above (of a single mode: to the left) phase as hue and modulus as brightness; below, the phase alone with a map
    that can be read without hue.
    """
    power = (np.abs(probe).astype(np.float64) ** 2).sum(axis=(-2, -1))
    share = np.asarray(100 * power / max(float(power.sum()), 1e-30))
    count = min(len(probe), most)
    panels, beside = _panels(count)
    figure = panels[0, 0].figure
    for number, (upper, lower) in enumerate(panels.T):
        field = _levelled(np.nan_to_num(probe[number]))
        upper.imshow(_as_hue(field), interpolation="nearest", origin="upper")
        upper.set_xticks([])
        upper.set_yticks([])
        upper.set_title(f"mode {number + 1}: {share[number]:.1f} % of power", size=9)
        size = np.abs(field)
        image = style.show(lower, np.angle(field), size > _DARK * size.max(), style.CYCLIC_MAP, -math.pi, math.pi)
    style.scale_bar(panels[0, 0], probe.shape[-1], pixel_size_m)
    panels[0, 0].set_ylabel("phase as hue,\nmodulus as brightness", size=9)
    panels[1, 0].set_ylabel(f"phase (modulus above\n{100 * _DARK:.0f} % of its peak)", size=9)
    if len(probe) > count:
        panels[1, -1].set_xlabel(f"not shown: {len(probe) - count} more, {share[count:].sum():.2g} % of power", size=9)
    _wheel(beside[0])
    bar = beside[1].inset_axes((0.05, 0.1, 0.16, 0.8))
    style.colour_bar(figure, image, None, "phase (rad)", style.CYCLIC_MAP, cax=bar)
    return figure


def _panels(count: int) -> tuple[Any, list[Axes]]:
    """Axes (2, count) for the modes, hue above and phase below, and one for the legend of each row.

    A single mode has the two side by side.
    """
    if count == 1:
        figure = style.new_figure(10.0, 4.0)
        hue, wheel, phase, bar = figure.subplots(1, 4, width_ratios=[1.0, 0.4, 1.0, 0.4])
        panels, beside = np.array([[hue], [phase]]), [wheel, bar]
    else:
        each = 2.9 if count <= 3 else 2.1
        figure = style.new_figure(each * (count + 0.5) + 0.6, 2 * each + 0.3)
        grid = figure.subplots(2, count + 1, width_ratios=[1.0] * count + [0.45])
        panels, beside = grid[:, :-1], list(grid[:, -1])
    for axes in beside:
        axes.axis("off")
    return panels, beside


def _wheel(axes: Axes) -> None:
    """The colours of all phases and moduli: angle and radius."""
    y, x = np.mgrid[1:-1:121j, -1:1:121j]
    colours = np.ones((*x.shape, 4))
    colours[..., :3] = _as_hue(np.where(np.hypot(x, y) <= 1, x + 1j * y, 0))
    colours[..., 3] = np.hypot(x, y) <= 1
    axes.imshow(colours, extent=(-1, 1, -1, 1), interpolation="nearest")
    for place, text in (((1.25, 0), "0"), ((0, 1.25), r"$\pi/2$"), ((-1.3, 0), r"$\pi$"), ((0, -1.3), r"$-\pi/2$")):
        axes.text(place[0], place[1], text, ha="center", va="center", size=9)
    axes.set(xlim=(-1.6, 1.6), ylim=(-1.6, 1.6), aspect="equal")
