"""Pictures of the page of common mistakes: one simulated scan, reconstructed rightly and with each mistake.

Run it from the root of the repository; it takes a few minutes and writes its PNGs beside itself:

    python docs/pictures/make_pictures.py [name ...]

It prints what each reconstruction scores against the truth; the page quotes these figures.
"""

# ruff: noqa: T201 (a script: it prints)
from __future__ import annotations

import dataclasses
import io
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho.config.config import ModelConfig, TrainingConfig
from ptycho.diffsim import make_object, make_probe, make_scan, object_shape_for, on_object, probe_diameter
from ptycho.diffsim import simulate_scan as simulate
from ptycho.errors import PtychoError
from ptycho.outcome import Outcome
from ptycho.placed import compare_placed, lit_frames, place_outcome, place_truth
from ptycho.plotting import flat_phase
from ptycho.raw_data import RawData
from ptycho.simulation.probes import ZonePlate

HERE = Path(__file__).resolve().parent
N, FRAMES, COUNTS, EPOCHS = 64, 240, 1e5, 10
PIXEL_M = 30e-9
SHOWN = 132  # side in pixels of the central square that is shown
OPTICS = ZonePlate()
CURVATURE = np.pi * 13.0**2 / OPTICS.defocus  # phase of this beam 13 px from its middle


def letters(shape: tuple[int, int]) -> NDArray[np.complex64]:
    """An object whose orientation can be read: letters over leaves."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height, width = shape
    figure = Figure(figsize=(width / 100, height / 100), dpi=100)
    canvas = FigureCanvasAgg(figure)
    style = {"ha": "center", "va": "center", "family": "DejaVu Sans", "weight": "bold", "linespacing": 0.9}
    figure.text(0.5, 0.5, "P t\nR 4", size=38, **style)
    canvas.draw()
    ink = 1 - np.asarray(canvas.buffer_rgba())[:height, :width, 0] / 255.0
    leaves = make_object("dead_leaves", shape, 5)
    return ((1 - 0.2 * ink) * np.exp(0.9j * ink) * np.exp(0.5j * np.angle(leaves))).astype(np.complex64)


def right_scan(spacing: float = 0.17, n_frames: int = FRAMES, defocus_error: float = 0.1) -> RawData:
    """The scan without a mistake: its guess of the probe is 10 % out of focus."""
    probe = make_probe("zone_plate", N, optics=OPTICS)
    guess = make_probe("zone_plate", N, optics=OPTICS.with_defocus_error(defocus_error))
    x, y = make_scan("fermat", n_frames, spacing * probe_diameter(probe))
    shape = object_shape_for(x, y, N)
    return simulate(letters(shape), probe, *on_object(x, y, shape), COUNTS, seed=1, probe_guess=guess)


def changed(raw: RawData, **new: Any) -> RawData:
    """A scan with some of its arrays replaced, the truth kept for the comparison."""
    x, y = new.pop("xcoords", raw.xcoords), new.pop("ycoords", raw.ycoords)
    entries = {"diff3d": raw.diff3d, "probeGuess": raw.probeGuess, "measurement_domain": "intensity", **new}
    return RawData(x, y, **entries)


def reconstructed(raw: RawData, calibration: int = 20) -> Outcome | None:
    """What `ptychopinn train` makes of it; None when it is refused. calibration: epochs of the probe, 0 for none."""
    from ptycho_torch.workflows.reconstruct import train_scan

    config = TrainingConfig(
        model=ModelConfig(N=raw.N), nepochs=EPOCHS, calibrate_probe=calibration > 0, calibration_epochs=calibration
    )
    with tempfile.TemporaryDirectory() as folder:
        try:
            return train_scan(raw, config, output_dir=Path(folder))
        except PtychoError as error:
            print(f"    refused: {error}")
            return None


# ---------------------------------------------------------------------- the mistakes


@dataclasses.dataclass(frozen=True)
class Panel:
    """One image of a picture. make: the scan, from the right one. calibration: epochs that refine its probe."""

    title: str
    make: Callable[[RawData], RawData]
    calibration: int = 20


def metres(raw: RawData) -> RawData:
    return changed(raw, xcoords=raw.xcoords * PIXEL_M, ycoords=raw.ycoords * PIXEL_M)


def scaled(factor: float) -> Callable[[RawData], RawData]:
    return lambda raw: changed(raw, xcoords=raw.xcoords * factor, ycoords=raw.ycoords * factor)


def amplitudes(raw: RawData) -> RawData:
    return changed(raw, diff3d=np.sqrt(raw.diff3d.astype(np.float32)))


def exchanged(raw: RawData) -> RawData:
    return changed(raw, xcoords=raw.ycoords, ycoords=raw.xcoords)


def flipped(raw: RawData) -> RawData:
    return changed(raw, xcoords=-raw.xcoords)


def turned(raw: RawData) -> RawData:
    return changed(raw, xcoords=-raw.xcoords, ycoords=-raw.ycoords)


def defocused(raw: RawData) -> RawData:
    return changed(raw, probeGuess=make_probe("zone_plate", N, optics=OPTICS.with_defocus_error(0.5)))


def disk(curvature: float) -> Callable[[RawData], RawData]:
    """A guess of the right width, 26 px, with that phase at its edge (rad)."""
    return lambda raw: changed(raw, probeGuess=make_probe("disk", N, diameter=26.0, curvature=curvature))


def moved_probe(raw: RawData) -> RawData:
    return changed(raw, probeGuess=np.roll(raw.probeGuess, (14, 14), axis=(-2, -1)))


def sparse(spacing: float) -> Callable[[RawData], RawData]:
    def make(raw: RawData) -> RawData:
        area = len(raw.xcoords) * 0.17**2
        return right_scan(spacing, max(9, round(area / spacing**2)))

    return make


def corner(raw: RawData) -> RawData:
    return changed(raw, diff3d=np.fft.ifftshift(raw.diff3d, axes=(-2, -1)))


def off_centre(raw: RawData) -> RawData:
    return changed(raw, diff3d=np.roll(raw.diff3d, (6, 6), axis=(-2, -1)))


def hot(raw: RawData) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    bad = np.zeros((N, N), dtype=bool)
    bad.flat[np.random.default_rng(2).choice(N * N, N * N // 50, replace=False)] = True
    frames = raw.diff3d.copy()
    frames[:, bad] = np.where(np.arange(bad.sum()) % 3 == 0, 65535, 0)
    return frames, bad


def hot_pixels(raw: RawData) -> RawData:
    return changed(raw, diff3d=hot(raw)[0])


def masked_pixels(raw: RawData) -> RawData:
    frames, bad = hot(raw)
    return changed(raw, diff3d=frames, bad_pixels=bad)


def saturated(level: int) -> Callable[[RawData], RawData]:
    return lambda raw: changed(raw, diff3d=np.minimum(raw.diff3d, level))


def saturated_masked(level: int) -> Callable[[RawData], RawData]:
    def make(raw: RawData) -> RawData:
        full = (raw.diff3d >= level).any(axis=0)
        print(f"    {full.mean():.1%} of the pixels reach {level} counts, of {raw.diff3d.max()} at most")
        return changed(raw, diff3d=np.minimum(raw.diff3d, level), bad_pixels=full)

    return make


def one_off(raw: RawData) -> RawData:
    return changed(raw, xcoords=np.roll(raw.xcoords, 1), ycoords=np.roll(raw.ycoords, 1))


PICTURES: dict[str, list[Panel]] = {
    "units_metres": [Panel("positions 20 % too large", scaled(1.2)), Panel("positions in metres", metres)],
    "units_amplitudes": [Panel("amplitudes taken as counts", amplitudes)],
    "orientation": [Panel("x and y exchanged", exchanged), Panel("x flipped", flipped),
                    Panel("both flipped", turned)],
    "probe_focus": [Panel("50 % out of focus", defocused, calibration=0),
                    Panel("refined, 20 epochs", defocused),
                    Panel("refined, 200 epochs", defocused, calibration=200)],
    "probe_disk": [Panel("flat disk", disk(0.0)), Panel("disk, wrong curvature", disk(-CURVATURE)),
                   Panel("disk, right curvature", disk(CURVATURE))],
    "probe_moved": [Panel("guess 14 px off", moved_probe)],
    "overlap": [Panel("overlap 60 %", sparse(0.4)), Panel("overlap 30 %", sparse(0.7)),
                Panel("overlap 0", sparse(1.0))],
    "zero_frequency": [Panel("6 px off the centre", off_centre), Panel("in the corner", corner)],
    "bad_pixels": [Panel("2 % dead or hot", hot_pixels), Panel("the same, masked", masked_pixels)],
    "saturated": [Panel("cut off at 120 counts", saturated(120)), Panel("the same, masked", saturated_masked(120)),
                  Panel("cut off at 20 counts", saturated(20))],
    "one_frame_off": [Panel("positions one frame late", one_off)],
}  # fmt: skip


# ---------------------------------------------------------------------- drawing


def middle_of(outcome: Outcome) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Phase of the result without its plane, and where two beams have been, in the middle SHOWN x SHOWN pixels."""
    image = outcome.result.object
    frames = lit_frames(outcome.probe, outcome.xcoords, outcome.ycoords, outcome.canvas)
    phase = flat_phase(image, frames >= 2 if (frames >= 2).any() else frames >= 1)
    return centred(phase, np.nan), centred(frames, 0) >= 1


def centred(values: NDArray[Any], outside: float) -> NDArray[Any]:
    """The middle SHOWN x SHOWN pixels, filled up where there are fewer."""
    shown = np.full((SHOWN, SHOWN), outside, dtype=np.float64)
    take = [min(SHOWN, side) for side in values.shape]
    source = tuple(slice((side - t) // 2, (side - t) // 2 + t) for side, t in zip(values.shape, take, strict=True))
    there = tuple(slice((SHOWN - t) // 2, (SHOWN - t) // 2 + t) for t in take)
    shown[there] = values[source]
    return shown


def picture(name: str, columns: list[tuple[str, Outcome | None]]) -> None:
    """Write the phases side by side, on the scale of the first."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    figure = Figure(figsize=(1.95 * len(columns), 2.15), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    scale = None
    for axes, (title, outcome) in zip(figure.subplots(1, len(columns), squeeze=False)[0], columns, strict=True):
        axes.set_title(title, size=8)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_facecolor("#d9d9d9")
        if outcome is None:
            axes.set_box_aspect(1)
            axes.text(0.5, 0.5, "refused", ha="center", va="center", size=9, transform=axes.transAxes)
            continue
        phase, seen = middle_of(outcome)
        if scale is None:
            scale = np.percentile(phase[seen], (1, 99))
        shown = np.ma.array(phase, mask=~seen)
        axes.imshow(shown, cmap="viridis", vmin=scale[0], vmax=scale[1], interpolation="nearest")
    data = io.BytesIO()
    figure.savefig(data, format="png")
    image = Image.open(data).convert("RGB").quantize(64, dither=Image.Dither.NONE)
    image.save(HERE / f"{name}.png", optimize=True)
    print(f"{name}.png: {(HERE / f'{name}.png').stat().st_size / 1000:.0f} kB", flush=True)


def score(title: str, raw: RawData, outcome: Outcome | None, truth: RawData) -> None:
    """Print how the result compares with the truth, and how well it explains the frames."""
    if outcome is None:
        return
    stage = outcome.result
    truth = raw if raw.object_truth is not None else truth
    try:
        found, _ = compare_placed(place_outcome(outcome, next(reversed(outcome.stages))), place_truth(truth), None)
        figures = f"phase correlation {found.phase_correlation:.3f}"
    except (PtychoError, TypeError) as error:
        figures = f"no comparison ({error})"
    print(f"    {title}: {figures}, deviance {stage.deviance:.3g} (expected {stage.expected_deviance:.3g})", flush=True)


def main(names: list[str]) -> None:
    """Make the pictures of these names, or all."""
    logging.getLogger("lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    raw = right_scan()
    right = reconstructed(raw)
    score("right", raw, right, raw)
    for name in names or PICTURES:
        columns: list[tuple[str, Outcome | None]] = [("right", right)]
        for panel in PICTURES[name]:
            wrong = panel.make(raw)
            outcome = reconstructed(wrong, panel.calibration)
            score(panel.title, wrong, outcome, raw)
            columns.append((panel.title, outcome))
        picture(name, columns)


if __name__ == "__main__":
    main(sys.argv[1:])
