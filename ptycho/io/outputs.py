"""What a run writes into its output folder: the object, pictures, figures, and a report.

Everything a run writes lies in that one folder (specs/data_contracts.md). Files appear whole or not at all.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import platform
from collections.abc import Iterable
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ptycho import progress
from ptycho.errors import InputError
from ptycho.io.atomic import atomic_path
from ptycho.io.output_folder import check_output_dir, clear_results
from ptycho.io.product import save_product
from ptycho.io.reconstruction_files import save_reconstruction_npz
from ptycho.placed import PlacedObject, compare_placed, lit_frames, place_outcome, place_truth
from ptycho.reconstruction import Reconstruction

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ptycho.metrics.comparison import ComparedImages
    from ptycho.metrics.frc import RingCorrelation
    from ptycho.outcome import Outcome, Stage
    from ptycho.raw_data import RawData

__all__ = [
    "MODEL_FILES",
    "RESULT_FILES",
    "check_output_dir",
    "clear_results",
    "write_outputs",
]

logger = logging.getLogger(__name__)

MODEL_FILES = ("wts.h5.zip", "checkpoints", "metrics.csv", "hparams.yaml")
_PICTURES = (
    "amplitude.png",
    "phase.png",
    "coverage.png",
    "probe.png",
    "interval.png",
    "halves.png",
    "stages.png",
    "comparison.png",
    "positions.png",
    "residual.png",
    "losses.png",
)
RESULT_FILES = ("reconstruction.npz", "reconstruction.h5", *_PICTURES, "metrics.json", "report.html")
_PACKAGES = ("ptychopinn", "numpy", "scipy", "h5py", "torch", "lightning")
# Present in metrics.json for every stage; null when there was nothing to compare with.
_FIGURES = ("phase_correlation", "ssim", "psnr", "frc_crossing", "frc_resolution_px", "amplitude_correlation")


def write_outputs(
    out_dir: str | Path,
    outcome: Outcome,
    raw: RawData,
    reference: PlacedObject | None = None,
    *,
    half: int | None = None,
) -> dict[str, Any]:
    """Write reconstruction.npz and .h5, the pictures, report.html and metrics.json; return what metrics.json holds.

    reference: what to compare with; default the true object when the scan carries it. half: compare only the
    central square of 2*half pixels. A comparison that is not possible (nothing overlaps, say) becomes a note:
    the reconstruction is written all the same. OutputError when a file cannot be written.
    """
    out = Path(out_dir)
    notes = list(outcome.notes)
    rec = _reconstruction(outcome, raw)
    save_reconstruction_npz(out / "reconstruction.npz", rec)
    save_product(out / "reconstruction.h5", rec, comments=" ".join(notes))
    if reference is None and raw.object_truth is not None:
        reference = place_truth(raw)
    figures, images = _compared(outcome, raw.pixel_size_m, reference, half, notes)
    metrics = _finite(
        {
            **figures,
            "compared_with": None if reference is None else reference.label,
            "half": half,
            **({} if outcome.halves is None else {"halves": outcome.halves.to_dict()}),
            "times_s": outcome.timings_s,
            "losses": outcome.losses,
            "corrections": outcome.corrections,
            "notes": notes,
            "settings": outcome.settings,
            "versions": _versions(),
        }
    )
    _write_pictures(out, outcome, rec)
    if images and reference is not None:
        _write_comparison(out, images, figures, reference)
    _write_report(out, metrics, outcome, rec, raw, _pictures_of(outcome, bool(images)))
    with atomic_path(out / "metrics.json") as temporary:
        temporary.write_text(json.dumps(metrics, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return metrics


def _compared(
    outcome: Outcome, pixel_size_m: float | None, reference: PlacedObject | None, half: int | None, notes: list[str]
) -> tuple[dict[str, dict[str, Any]], dict[str, ComparedImages]]:  # fmt: skip
    """The figures of each stage, and the registered images behind them as far as there are any."""
    figures: dict[str, dict[str, Any]] = {}
    images: dict[str, ComparedImages] = {}
    with progress.task("Comparing with the reference", len(outcome.stages), "stage") as step:
        for name, stage in outcome.stages.items():
            figures[name] = dict.fromkeys(_FIGURES)
            if reference is not None:
                try:
                    placed = place_outcome(outcome, name, pixel_size_m)
                    comparison, images[name] = compare_placed(placed, reference, half)
                    figures[name].update(comparison.to_dict())
                except InputError as error:
                    note = f"The {name} could not be compared with {reference.label}: {error}"
                    logger.warning("%s", note)
                    notes.append(note)
            figures[name].update(_own_figures(stage))
            if outcome.halves is not None and name in outcome.halves.stages:
                figures[name].update(outcome.halves.stages[name].to_dict(pixel_size_m))
            step()
    if outcome.phase_interval_90_rad is not None:
        figures[name]["phase_interval_90_rad"] = float(np.nanmedian(outcome.phase_interval_90_rad))
    return figures, images


def _reconstruction(outcome: Outcome, raw: RawData) -> Reconstruction:
    losses = outcome.losses.get("train")
    given_x, given_y = outcome.given_xy or (None, None)
    return Reconstruction(
        object=outcome.result.object,
        coverage=outcome.coverage,
        probe=outcome.probe,
        xcoords=outcome.xcoords,
        ycoords=outcome.ycoords,
        center_xy=outcome.canvas.center_xy,
        pixel_size_m=raw.pixel_size_m,
        photon_energy_ev=raw.photon_energy_ev,
        detector_distance_m=raw.detector_distance_m,
        losses=np.asarray(losses, dtype=np.float64) if losses else None,
        name=Path(str(raw.source or "reconstruction")).stem,
        xcoords_start=given_x,
        ycoords_start=given_y,
        phase_interval_90_rad=outcome.phase_interval_90_rad,
    )


def _own_figures(stage: Stage) -> dict[str, Any]:
    """What is known of a stage without a reference."""
    return {
        "deviance": stage.deviance,
        "expected_deviance": stage.expected_deviance,
        "time_s": stage.time_s,
    }


def _pictures_of(outcome: Outcome, compared: bool) -> list[str]:
    """The names of the pictures that a run has."""
    made = {
        "interval.png": outcome.phase_interval_90_rad is not None,
        "halves.png": bool(_ring_curves(outcome)),
        "stages.png": len(outcome.stages) > 1,
        "comparison.png": compared,
        "positions.png": outcome.frame_deviance is not None,
        "residual.png": outcome.detector_residual is not None,
        "losses.png": any(outcome.losses.values()),
    }
    return [name for name in _PICTURES if made.get(name, True)]


def _write_pictures(out: Path, outcome: Outcome, rec: Reconstruction) -> None:
    """All pictures but that of the comparison."""
    from ptycho import plotting
    from ptycho.report.content import stage_title

    frames = lit_frames(rec.probe, rec.xcoords, rec.ycoords, rec.canvas)
    # a reconstruction that ran away holds NaN; then the picture shows where
    seen = (frames > 0) & np.isfinite(rec.object)
    images = {stage_title(name): stage.object for name, stage in outcome.stages.items()}
    image, pixel = rec.object, rec.pixel_size_m
    deviance, residual = outcome.frame_deviance, outcome.detector_residual
    draw = {
        "amplitude.png": lambda: plotting.amplitude_figure(image, seen, pixel),
        "phase.png": lambda: plotting.phase_figure(image, seen, pixel),
        "coverage.png": lambda: plotting.coverage_figure(frames, pixel),
        "probe.png": lambda: plotting.probe_figure(rec.probe, pixel),
        "interval.png": lambda: plotting.interval_figure(np.asarray(outcome.phase_interval_90_rad), pixel),
        "halves.png": lambda: plotting.halves_figure(_ring_curves(outcome), pixel),
        "stages.png": lambda: plotting.stages_figure(images, seen, pixel),
        "positions.png": lambda: plotting.positions_figure(rec.xcoords, rec.ycoords, np.asarray(deviance), pixel),
        "residual.png": lambda: plotting.residual_figure(np.asarray(residual)),
        "losses.png": lambda: plotting.losses_figure(outcome.losses),
    }
    names = _pictures_of(outcome, compared=False)
    with progress.task("Drawing the pictures", len(names), "picture") as step:
        for name in names:
            _save(out / name, draw[name]())
            step()


def _ring_curves(outcome: Outcome) -> dict[str, RingCorrelation]:
    """Ring correlations of the halves of the scan by the title of the stage, as far as there are any."""
    from ptycho.report.content import stage_title

    stages = {} if outcome.halves is None else outcome.halves.stages
    return {stage_title(name): figures.frc for name, figures in stages.items() if figures.frc is not None}


def _write_comparison(
    out: Path, images: dict[str, ComparedImages], figures: dict[str, dict[str, Any]], reference: PlacedObject
) -> None:
    from ptycho import plotting
    from ptycho.report.content import stage_title

    titled = {stage_title(name): pair for name, pair in images.items()}
    correlations = (figures[name]["phase_correlation"] for name in images)
    titles = {name: f"{name}: correlation {value:.3f}" for name, value in zip(titled, correlations, strict=True)}
    figure = plotting.comparison_figure(titled, reference.pixel_size_m, titles=titles, reference_title=reference.label)
    _save(out / "comparison.png", figure)


def _save(path: Path, figure: Figure) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, bbox_inches="tight", pad_inches=0.05)  # nothing is cut off, nothing is blank


def _write_report(
    out: Path, metrics: dict[str, Any], outcome: Outcome, rec: Reconstruction, raw: RawData, pictures: Iterable[str]
) -> None:
    """report.html, with those of the pictures that lie in the folder."""
    from ptycho.report import Content, render_report

    counts = None
    with contextlib.suppress(InputError):  # no frames, or nobody knows what they hold
        counts = raw.mean_counts_per_frame()
    content = Content(
        name=rec.name,
        source=Path(str(raw.source or "")).name,
        created=datetime.now().astimezone(),
        stages=tuple(outcome.stages),
        metrics=metrics,
        pictures={name: (out / name).read_bytes() for name in pictures if (out / name).is_file()},
        n_frames=len(rec.xcoords),
        side=rec.probe.shape[-1],
        masked=None if raw.bad_pixels is None else int(raw.bad_pixels.sum()),
        counts=counts,
        n_modes=len(rec.probe),
        shape=rec.canvas.shape,
        pixel_size_m=rec.pixel_size_m,
        photon_energy_ev=rec.photon_energy_ev,
        detector_distance_m=rec.detector_distance_m,
    )
    with atomic_path(out / "report.html") as temporary:
        temporary.write_text(render_report(content), encoding="utf-8")


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _finite(value: Any) -> Any:
    """Plain JSON types; a number that JSON does not know (NaN, infinity) becomes null."""
    if isinstance(value, dict):
        return {str(key): _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    if isinstance(value, np.ndarray):
        return _finite(value.tolist())
    if isinstance(value, np.generic):
        return _finite(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)
