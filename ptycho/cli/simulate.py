"""`ptychopinn simulate`: a scan whose object, probe and positions are known."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ptycho.cli import shared
from ptycho.cli.logs import verbosity_options
from ptycho.cli.options import COUNT, FRACTION, FROM_ZERO, POSITIVE, WHOLE, HeadedCommand, HeadedOption, Numbers

if TYPE_CHECKING:
    from ptycho.simulation.recipe import Recipe, Simulated

__all__ = ["simulate"]

# Names only: the tables themselves need numpy. A test compares them.
OBJECTS = ("dead_leaves", "lines", "siemens_star", "gaussian_random_field", "file")
PROBES = ("zone_plate", "disk", "gaussian", "file")
PATTERNS = ("fermat", "raster", "random")
_HDF5 = (".h5", ".hdf5")


class Setting(click.ParamType):  # type: ignore[type-arg]
    """name=value; the value is a number, numbers with commas between, or text."""

    name = "name=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        if isinstance(value, tuple):
            return value
        name, found, text = value.partition("=")
        if not (found and name.isidentifier() and text):
            self.fail(f"{value!r} is not of the form name=value, as radius=3,30.", param, ctx)
        parts = [_number(part) for part in text.split(",")]
        if any(part is None for part in parts):
            return name, text
        return name, parts[0] if len(parts) == 1 else tuple(parts)


def _number(text: str) -> int | float | None:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return None


def _option(*flags: str, heading: str = "", **more: Any) -> Any:
    return click.option(*flags, cls=HeadedOption, heading=heading, **more)


_RANGE = (float, float)
_SETTING = {"type": Setting(), "multiple": True, "metavar": "NAME=VALUE"}
_OPTIONS = (
    click.option("--output", "-o", type=shared.FILE, required=True, metavar="FILE",
                 help="Scan to write: .npz, which holds the truth too; or .h5 for the truth as a product file, with "
                 "the scan as .npz beside it."),
    click.option("--overwrite", is_flag=True, help="Replace FILE if it is there."),
    click.option("--frames", "n_frames", type=COUNT, default=600, show_default=True, help="Number of frames."),
    click.option("--size", "-N", "N", type=click.IntRange(min=8), default=64, show_default=True,
                 help="Side of a frame in pixels."),
    click.option("--counts", "counts_per_frame", type=POSITIVE, default=1e5, show_default=True,
                 help="Mean photons per frame, on the whole detector."),
    click.option("--seed", type=WHOLE, default=0, show_default=True, help="Of everything random."),
    _option("--object", "object_name", heading="Object", type=click.Choice(OBJECTS), default=OBJECTS[0],
            show_default=True, help="Kind of object."),
    _option("--object-file", heading="Object", type=shared.FILE, metavar="IMAGE",
            help="Picture to make the object of, with --object file: PNG, JPEG, TIFF or a real 2-D .npy."),
    _option("--object-option", "object_options", heading="Object", **_SETTING,
            help="A detail of that kind, as radius=3,30 or n_spokes=36; any number of times."),
    _option("--amplitude", "amplitude_range", heading="Object", type=_RANGE, default=(0.7, 1.0), show_default=True,
            metavar="LOW HIGH", help="Range of the amplitude."),
    _option("--phase", "phase_range", heading="Object", type=_RANGE, default=(0.0, 1.0), show_default=True,
            metavar="LOW HIGH", help="Range of the phase in rad; it may span more than 2 pi."),
    _option("--smooth", heading="Object", type=FROM_ZERO, default=0.0, show_default=True,
            help="Blur of the object: standard deviation in px."),
    _option("--probe", "probe_name", heading="Probe", type=click.Choice(PROBES), default=PROBES[0], show_default=True,
            help="Kind of beam."),
    _option("--probe-file", heading="Probe", type=shared.FILE, metavar="FILE",
            help="Beam to take, with --probe file: .npy or .npz with probe or probeGuess."),
    _option("--probe-option", "probe_options", heading="Probe", **_SETTING,
            help="A detail of that kind, as defocus=60, diameter=20, fwhm=12 or curvature=2; any number of times."),
    _option("--modes", heading="Probe", type=COUNT, metavar="M",
            help="Incoherent modes; each has a quarter of the power of the one before."),
    _option("--mode-powers", heading="Probe", type=Numbers(), metavar="P,P,...",
            help="Their shares of the power instead, as 0.8,0.15,0.05."),
    _option("--defocus-error", heading="Probe", type=float,
            help="Relative error of the defocus in the probe guess, of a zone plate.  [default: 0.1]"),
    _option("--pattern", "scan_name", heading="Scan", type=click.Choice(PATTERNS), default=PATTERNS[0],
            show_default=True, help="Pattern of the positions."),
    _option("--overlap", heading="Scan", type=click.FloatRange(0, 1, max_open=True), default=0.83, show_default=True,
            help="Linear overlap of the closest neighbours: 1 - step / diameter of the beam."),
    _option("--step", heading="Scan", type=POSITIVE, help="Their distance in px instead."),
    _option("--jitter", heading="Scan", type=FROM_ZERO,
            help="Of a raster: random displacement on each axis, up to this share of the step.  [default: 0.2]"),
    _option("--scan-option", "scan_options", heading="Scan", **_SETTING,
            help="A detail of the pattern, as n_columns=20, turn=0.5 or spread=2; any number of times."),
    _option("--position-error", heading="Scan", type=FROM_ZERO, default=0.0, show_default=True,
            help="Error of the positions that the scan states: standard deviation in px."),
    _option("--noise/--no-noise", "poisson", heading="Detector", default=True, show_default=True,
            help="Draw counts, or keep the rates."),
    _option("--dead-pixels", "dead_fraction", heading="Detector", type=FRACTION, default=0.0, show_default=True,
            help="Share of the pixels that do not count; they are in the scan's bad_pixels."),
    _option("--beamstop", "beamstop_diameter", heading="Detector", type=FROM_ZERO, default=0.0, show_default=True,
            help="Diameter in px of a beamstop on the zero frequency, also in bad_pixels."),
    _option("--beamstop-arm", heading="Detector", type=FROM_ZERO, default=0.0, show_default=True,
            help="Width in px of the arm that holds it."),
    _option("--pixel-size", "pixel_size_m", heading="Geometry, for the file", type=POSITIVE,
            help="Side of an object pixel in m."),
    _option("--energy", "photon_energy_ev", heading="Geometry, for the file", type=POSITIVE, help="In eV."),
    _option("--distance", "detector_distance_m", heading="Geometry, for the file", type=POSITIVE,
            help="From sample to detector in m."),
)  # fmt: skip


def _simulate_options(function: Any) -> Any:
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


@click.command(cls=HeadedCommand, short_help="Simulate a scan whose truth is known.")
@_simulate_options
@verbosity_options
def simulate(output: Path, overwrite: bool, **values: Any) -> None:
    """Simulate a scan whose object, probe and positions are known.

    Without options this is the scan of `ptychopinn demo`. The file carries the true object and probe, so that
    what is reconstructed from it is compared with them. Its probe guess is the true one unless the beam is a
    zone plate, whose guess has a wrong defocus.

    \b
    Examples:
      ptychopinn simulate -o scan.npz
      ptychopinn simulate -o dim.npz --object lines --counts 2000 --frames 1000 --seed 7
      ptychopinn simulate -o hard.h5 --probe gaussian --modes 3 --pattern raster --overlap 0.6 \\
          --dead-pixels 0.02 --beamstop 6
    """
    from ptycho.io.product import save_product
    from ptycho.simulation.recipe import simulate as run

    targets = _targets(output, overwrite)
    made = run(_recipe(values))
    made.raw.to_file(targets[0])
    if len(targets) > 1:
        save_product(targets[1], made.truth, comments="The truth of a simulated scan.")
    for line in _told(made, targets):
        click.echo(line)


def _targets(output: Path, overwrite: bool) -> list[Path]:
    """The scan's file, and that of the truth where it has one; OutputError when they cannot be written."""
    from ptycho.errors import OutputError
    from ptycho.io.outputs import check_output_dir

    suffix = output.suffix.lower()
    if suffix not in (".npz", *_HDF5):
        raise OutputError(f"{output}: found the suffix {output.suffix!r}, expected .npz or .h5. Name such a file.")
    targets = [output] if suffix == ".npz" else [output.with_suffix(".npz"), output]
    for target in targets:
        if target.is_dir():
            raise OutputError(f"{target}: found a folder, expected the name of a file. Choose another one.")
        if target.exists() and not overwrite:
            raise OutputError(f"{target}: is there already. Choose another name, or say --overwrite to replace it.")
    check_output_dir(output.parent, overwrite=True)
    return targets


def _recipe(values: dict[str, Any]) -> Recipe:
    """What the options say. InputError for options that contradict each other."""
    from ptycho.errors import InputError
    from ptycho.simulation.recipe import Recipe

    parts = {part: dict(values.pop(f"{part}_options")) for part in ("object", "probe", "scan")}
    for part in ("object", "probe"):
        file = values.pop(f"{part}_file")
        if (file is not None) != (values[f"{part}_name"] == "file"):
            found = f"--{part}-file with --{part} {values[f'{part}_name']}" if file else f"--{part} file without a file"
            raise InputError(f"{found}: expected both or neither. Say --{part} file --{part}-file FILE.")
        if file is not None:
            parts[part]["path"] = str(file)
    jitter = values.pop("jitter")
    if jitter is not None:
        if values["scan_name"] != "raster":
            raise InputError(
                f"--jitter: found the pattern {values['scan_name']}, expected raster, whose points it moves. For "
                "errors of the stated positions say --position-error."
            )
        parts["scan"]["jitter"] = jitter
    values.update({f"{part}_parameters": parameters for part, parameters in parts.items()})
    return Recipe(**values)


def _told(made: Simulated, targets: list[Path]) -> Iterable[str]:
    """What was made, in words."""
    import numpy as np

    from ptycho.simulation.figures import nearest_distances, probe_diameter

    raw = made.raw
    counts, good = raw.mean_counts_per_frame(), int(raw.good_pixels.sum())
    dtype = "" if raw.diff3d is None else f", {raw.diff3d.dtype}"
    yield f"{raw.n_frames} frames of {raw.N} x {raw.N} pixels{dtype}"
    yield f"counts: {counts:.4g} per frame, {counts / good:.4g} per pixel"
    if raw.n_frames > 1 and raw.probe_truth is not None:
        spacing = float(np.median(nearest_distances(made.xcoords, made.ycoords)))
        diameter = probe_diameter(raw.probe_truth)
        yield (
            f"positions: nearest neighbours {spacing:.2f} px apart (median), beam {diameter:.1f} px across (90 % of "
            f"its power): linear overlap {max(0.0, 1 - spacing / diameter):.0%}"
        )
    if raw.object_truth is not None and raw.probe_truth is not None:
        height, width = raw.object_truth.shape
        yield f"object: {height} x {width} pixels; probe: {len(raw.probe_truth)} mode(s)"
    if raw.bad_pixels is not None:
        yield f"masked pixels: {int(raw.bad_pixels.sum())} of {raw.bad_pixels.size}"
    yield f"scan, with the true object and probe: {targets[0]}"
    if len(targets) > 1:
        yield f"truth as a product file: {targets[1]}"
