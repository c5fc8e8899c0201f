"""The output folder of a run: what lies in it, whether it may be used, and writing the results.

Everything a run writes lies in that one folder (specs/data_contracts.md). Files appear whole or not at all.
"""

from __future__ import annotations

import json
import logging
import math
import platform
import shutil
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ptycho.errors import InputError, OutputError
from ptycho.io.atomic import atomic_path
from ptycho.io.product import save_product
from ptycho.io.reconstruction_files import save_reconstruction_npz
from ptycho.placed import PlacedObject, compare_placed, lit_frames, place_outcome, place_truth
from ptycho.reconstruction import Reconstruction

if TYPE_CHECKING:
    from ptycho.metrics.comparison import ComparedImages
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
RESULT_FILES = (
    "reconstruction.npz",
    "reconstruction.h5",
    "amplitude.png",
    "phase.png",
    "coverage.png",
    "probe.png",
    "comparison.png",
    "metrics.json",
)
_PACKAGES = ("ptychopinn", "numpy", "scipy", "h5py", "torch", "lightning")
# Present in metrics.json for every stage; null when there was nothing to compare with.
_FIGURES = ("phase_correlation", "ssim", "psnr", "frc_crossing", "frc_resolution_px", "amplitude_correlation")


# ---------------------------------------------------------------------- the folder


def check_output_dir(
    folder: str | Path,
    *,
    overwrite: bool = False,
    replaces: Sequence[str] = (),
    inputs: Iterable[Path] = (),
) -> Path:
    """Say before any work whether results can be written there; nothing is left behind.

    replaces: names in the folder that the run will write. inputs: files it reads. OutputError when the folder
    is a file, cannot be made or written, holds something and `overwrite` is False, or when an input would be
    replaced.
    """
    out = Path(folder)
    if out.exists() and not out.is_dir():
        raise OutputError(f"Output folder {out}: found a file, expected a folder. Choose another name.")
    try:
        names = sorted(entry.name for entry in out.iterdir()) if out.exists() else []
    except OSError as error:
        raise _not_writable(out, error) from error
    if names and not overwrite:
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        raise OutputError(
            f"Output folder {out}: found {len(names)} entries ({shown}), expected an empty or a new folder. "
            "Choose another one, or say --overwrite to replace the results in it."
        )
    for source in inputs:
        if any(source.resolve().is_relative_to((out / name).resolve()) for name in replaces):
            raise OutputError(
                f"Output folder {out}: {source} is read by this run and would be replaced by it. Choose "
                "another output folder."
            )
    _try_writing(out)
    return out


def _try_writing(out: Path) -> None:
    """Make the folder and a file in it, and take both away again. Asking for permissions is not enough: a
    read-only file system refuses all the same."""
    missing = [folder for folder in (out, *out.parents) if not folder.exists()]
    made: list[Path] = []
    try:
        for folder in reversed(missing):
            folder.mkdir()
            made.append(folder)
        with atomic_path(out / ".writable") as trial:
            trial.touch()
        (out / ".writable").unlink()
    except OSError as error:
        raise _not_writable(out, error) from error
    finally:
        for folder in reversed(made):
            folder.rmdir()


def _not_writable(out: Path, error: OSError) -> OutputError:
    # An OutputError carries its text alone, any other OSError a number and the reason.
    reason = error.strerror or str(error)
    return OutputError(f"Output folder {out} cannot be used: {reason}. Choose a folder that is writable.")


def clear_results(out: Path, names: Sequence[str]) -> None:
    """Make the folder, and remove what an earlier run wrote there under these names; other files stay."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        for path in (out / name for name in names):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    except OSError as error:
        raise _not_writable(out, error) from error


# ---------------------------------------------------------------------- the results


def write_outputs(
    out_dir: str | Path,
    outcome: Outcome,
    raw: RawData,
    reference: PlacedObject | None = None,
    *,
    half: int | None = None,
) -> dict[str, Any]:
    """Write reconstruction.npz and .h5, the pictures and metrics.json; return what metrics.json holds.

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
    figures: dict[str, dict[str, Any]] = {}
    images: dict[str, ComparedImages] = {}
    for name, stage in outcome.stages.items():
        figures[name] = dict.fromkeys(_FIGURES)
        if reference is not None:
            try:
                comparison, images[name] = compare_placed(
                    place_outcome(outcome, name, raw.pixel_size_m), reference, half
                )
                figures[name].update(comparison.to_dict())
            except InputError as error:
                note = f"The {name} could not be compared with {reference.label}: {error}"
                logger.warning("%s", note)
                notes.append(note)
        figures[name].update(_own_figures(stage))
    metrics = _finite(
        {
            **figures,
            "compared_with": None if reference is None else reference.label,
            "half": half,
            "times_s": outcome.timings_s,
            "losses": outcome.losses,
            "notes": notes,
            "settings": outcome.settings,
            "versions": _versions(),
        }
    )
    _write_pictures(out, rec)
    if images and reference is not None:
        _write_comparison(out, images, figures, reference)
    with atomic_path(out / "metrics.json") as temporary:
        temporary.write_text(json.dumps(metrics, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return metrics


def _reconstruction(outcome: Outcome, raw: RawData) -> Reconstruction:
    losses = outcome.losses.get("train")
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
    )


def _own_figures(stage: Stage) -> dict[str, Any]:
    """What is known of a stage without a reference."""
    return {
        "deviance": stage.deviance,
        "expected_deviance": stage.expected_deviance,
        "time_s": stage.time_s,
    }


def _write_pictures(out: Path, rec: Reconstruction) -> None:
    from ptycho import plotting

    frames = lit_frames(rec.probe, rec.xcoords, rec.ycoords, rec.canvas)
    pixel = rec.pixel_size_m
    pictures = {
        "amplitude.png": plotting.amplitude_figure(rec.object, frames > 0, pixel),
        "phase.png": plotting.phase_figure(rec.object, frames > 0, pixel),
        "coverage.png": plotting.coverage_figure(frames, pixel),
        "probe.png": plotting.probe_figure(rec.probe, pixel),
    }
    for name, figure in pictures.items():
        with atomic_path(out / name) as temporary:
            figure.savefig(temporary)


def _write_comparison(
    out: Path, images: dict[str, ComparedImages], figures: dict[str, dict[str, Any]], reference: PlacedObject
) -> None:
    from ptycho import plotting

    titles = {name: f"{name}: correlation {figures[name]['phase_correlation']:.3f}" for name in images}
    figure = plotting.comparison_figure(
        images, reference.pixel_size_m, titles=titles, reference_title=reference.label
    )
    with atomic_path(out / "comparison.png") as temporary:
        figure.savefig(temporary)


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
