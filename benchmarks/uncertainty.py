"""How often the 90 % intervals of the phase hold the truth: `python benchmarks/uncertainty.py`.

Every scan is simulated, a network is trained on it as `ptychopinn train` does, and the intervals of its object, and of
the refined one, are held against the true object. Scans of one set tune the scale of the intervals
(`ptycho_torch.uncertainty.SCALE`); those of the other set, of other seeds, doses and overlaps, test them. Some are
reconstructed by a network that another scan has trained. Figures go into benchmarks/README.md and a JSON file.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine, replace_section, table, write_json
from numpy.typing import NDArray
from scipy import stats

from ptycho.config.config import ModelConfig, PyTorchExecutionConfig, TrainingConfig
from ptycho.metrics.alignment import without_plane
from ptycho.metrics.registration import register
from ptycho.outcome import Outcome
from ptycho.placed import place_outcome, place_truth
from ptycho.raw_data import RawData
from ptycho.simulation.recipe import Recipe, simulate

HERE = Path(__file__).parent
LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
EXECUTION = PyTorchExecutionConfig(accelerator="cpu")


@dataclass(frozen=True)
class Case:
    """A scan to simulate; `trained_on`: number of the case of its set whose network is used, None for its own."""

    label: str
    recipe: Recipe
    trained_on: int | None = None


def case(name: str, counts: float, overlap: float, seed: int, trained_on: int | None = None, **more: Any) -> Case:
    """A case with its label."""
    recipe = Recipe(name, counts_per_frame=counts, overlap=overlap, seed=seed, **more)
    label = f"{name}, {counts:.0e}, {overlap:.0%}".replace("e+0", "e")
    return Case(label + ("" if trained_on is None else ", other network"), recipe, trained_on)


def cases(which: str, frames: int) -> list[Case]:
    """The tuning set or the test set."""
    strong = {"phase_range": (0.0, 2.5), "amplitude_range": (0.5, 1.0)}
    sets = {
        "tuning": [
            case("dead_leaves", 1e5, 0.83, 101, n_frames=frames), case("dead_leaves", 1e3, 0.8, 102, n_frames=frames),
            case("dead_leaves", 1e4, 0.7, 103, n_frames=frames), case("dead_leaves", 1e6, 0.75, 104, n_frames=frames),
            case("lines", 1e4, 0.83, 105, n_frames=frames), case("lines", 1e6, 0.7, 106, n_frames=frames),
            case("gaussian_random_field", 1e5, 0.83, 107, n_frames=frames),
            case("lines", 1e5, 0.8, 108, 0, n_frames=frames),
        ],
        "test": [
            case("dead_leaves", 1e5, 0.83, 201, n_frames=frames), case("dead_leaves", 1e3, 0.83, 202, n_frames=frames),
            case("dead_leaves", 1e4, 0.75, 203, n_frames=frames), case("dead_leaves", 1e6, 0.83, 204, n_frames=frames),
            case("lines", 1e3, 0.75, 205, n_frames=frames), case("lines", 1e5, 0.7, 206, n_frames=frames),
            case("siemens_star", 1e4, 0.83, 207, n_frames=frames), case("siemens_star", 1e6, 0.7, 208, n_frames=frames),
            case("gaussian_random_field", 1e5, 0.75, 209, n_frames=frames),
            case("dead_leaves", 1e5, 0.83, 210, n_frames=frames, **strong),
            case("lines", 1e5, 0.83, 211, 0, n_frames=frames), case("dead_leaves", 1e4, 0.83, 212, 0, n_frames=frames),
        ],
    }  # fmt: skip
    return sets[which]


def phase_errors(outcome: Outcome, raw: RawData) -> NDArray[np.float64]:
    """Phase of the result against the true one, rad, on the canvas, after registration; NaN where not compared."""
    image, truth = place_outcome(outcome, next(reversed(outcome.stages))), place_truth(raw)
    if image.seen is None:
        raise ValueError("the outcome has no probe")
    offset = (truth.center[0] - image.center[0], truth.center[1] - image.center[1])
    pair = register(truth.object, image.object, image.seen, offset=offset, image_valid=truth.seen)
    weight = pair.region.astype(np.float64)
    difference = without_plane(np.angle(pair.image * pair.reference.conj()), weight)
    errors = np.full(image.object.shape, np.nan)
    rows, columns = (slice(first, first + size) for first, size in zip(pair.corner, weight.shape, strict=True))
    errors[rows, columns] = np.where(pair.region, np.angle(np.exp(1j * difference)), np.nan)
    return errors


def coverage(errors: NDArray[np.float64], half_width: NDArray[np.floating]) -> dict[str, Any]:
    """Shares of pixels whose error is within the interval: all, by tercile of its width, by level, and what the scale
    would have to be multiplied with for 90 %. Other levels than 90 % as if errors were normal."""
    ok = np.isfinite(errors) & np.isfinite(half_width)
    ratio, width = np.abs(errors[ok]) / half_width[ok], half_width[ok]
    terciles = np.array_split(ratio[np.argsort(width, kind="stable")], 3)
    at = {level: stats.norm.ppf((1 + level) / 2) / stats.norm.ppf(0.95) for level in LEVELS}
    return {
        "coverage": float(np.mean(ratio <= 1)),
        "terciles": [float(np.mean(part <= 1)) for part in terciles],
        "levels": {f"{level}": float(np.mean(ratio <= at[level])) for level in LEVELS},
        "factor": float(np.quantile(ratio, 0.9)),
        "median_rad": float(np.median(width)),
        "pixels": int(ok.sum()),
    }


def pooled(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The shares of several scans together, each pixel counting once."""
    weights = [row["pixels"] for row in rows]
    mean = lambda values: np.average(values, axis=0, weights=weights).tolist()  # noqa: E731
    return {
        "coverage": mean([row["coverage"] for row in rows]),
        "terciles": mean([row["terciles"] for row in rows]),
        "levels": {f"{level}": mean([row["levels"][f"{level}"] for row in rows]) for level in LEVELS},
        "within": sum(0.85 <= row["coverage"] <= 0.95 for row in rows),
        "terciles_within": sum(all(0.8 <= part <= 0.97 for part in row["terciles"]) for row in rows),
        "scans": len(rows),
        "factor": float(np.exp(np.mean(np.log([row["factor"] for row in rows])))),
    }


def measure(which: str, found: list[Case], repeats: int, refine: bool, keep: Any) -> None:
    """Train, reconstruct with intervals, compare; `keep` is called with each row."""
    from ptycho_torch.uncertainty import UncertaintySettings
    from ptycho_torch.workflows.reconstruct import infer_scan, train_scan
    from ptycho_torch.workflows.refinement import RefinementSettings

    settings = UncertaintySettings(repeats=repeats)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number, one in enumerate(found):
            raw = simulate(one.recipe).raw
            model = Path(folder) / str(number if one.trained_on is None else one.trained_on)
            if one.trained_on is None:
                train_scan(raw, TrainingConfig(ModelConfig()), EXECUTION, output_dir=model)
            for name, how in (("network", None), ("refined", RefinementSettings(epochs=30)))[: 2 if refine else 1]:
                outcome = infer_scan(model, raw, execution=EXECUTION, refine=how, uncertainty=settings)
                figures = coverage(phase_errors(outcome, raw), np.asarray(outcome.phase_interval_90_rad))
                time_s = outcome.timings_s["uncertainty"]
                keep({"set": which, "scan": one.label, "result": name, **figures, "time_s": time_s})
            gc.collect()


def row_of(row: dict[str, Any]) -> list[str]:
    """A row of the table."""
    terciles = " / ".join(f"{100 * part:.0f}" for part in row["terciles"])
    return [
        row["scan"], row["result"], f"{100 * row['coverage']:.1f}", terciles, f"{row['median_rad']:.3f}",
        f"{row['factor']:.2f}",
    ]  # fmt: skip


HEADER = ["test scan (object, counts per frame, overlap)", "result", "truth inside (%)",
          "by tercile of width, narrow to wide (%)", "median half-width (rad)", "factor for 90 %"]  # fmt: skip
INTRODUCTION = """## Intervals of the phase

`python benchmarks/uncertainty.py`. How often the 90 % interval of `--uncertainty` ({repeats} repeat) holds the true
phase, on simulated scans ({frames} frames, N = 64) of other seeds than those that the scale was tuned on. Factor: what
that scan's intervals would have to be multiplied with to hold exactly 90 %.
Measured on {processor}, {cores} cores, torch {torch}, {date}; single runs.
"""


def page_text(rows: list[dict[str, Any]], repeats: int, frames: int) -> str:
    """The section of the page: scans of the test set, then what they say together."""
    tested = [row for row in rows if row["set"] == "test"]
    text = INTRODUCTION.format(repeats=repeats, frames=frames, **machine())
    text += f"\n{table(HEADER, [row_of(row) for row in tested])}\n"
    curves = []
    for name in ("network", "refined"):
        own = [row for row in tested if row["result"] == name]
        if not own:
            continue
        together = pooled(own)
        terciles = " / ".join(f"{100 * part:.0f}" for part in together["terciles"])
        text += (
            f"\n{name}: {100 * together['coverage']:.1f} % of all pixels, terciles {terciles} %; "
            f"{together['within']} of {together['scans']} scans within 85 to 95 %, in {together['terciles_within']} "
            "all terciles within 80 to 97 %.\n"
        )
        curves.append([name, *(f"{100 * together['levels'][f'{level}']:.1f}" for level in LEVELS)])
    header = ["nominal (%), all test scans", *(f"{100 * level:.0f}" for level in LEVELS)]
    return f"{text}\n{table(header, curves)}"


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", nargs="+", default=["tuning", "test"], choices=("tuning", "test"))
    parser.add_argument("--frames", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--refine", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--output", type=Path, default=HERE / "uncertainty.json")
    parser.add_argument("--page", type=Path, default=HERE / "README.md")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []

    def keep(row: dict[str, Any]) -> None:
        rows.append(row)
        print(f"{row['set']} | " + " | ".join(row_of(row)), flush=True)
        # after every row: a run that is cut off leaves what it has
        write_json(arguments.output, {"repeats": arguments.repeats, "results": rows})

    for which in arguments.sets:
        measure(which, cases(which, arguments.frames), arguments.repeats, arguments.refine, keep)
        for name in dict.fromkeys(row["result"] for row in rows):
            own = [row for row in rows if row["result"] == name and row["set"] == which]
            print(which, name, pooled(own), flush=True)
    if "test" in arguments.sets:
        replace_section(arguments.page, "uncertainty", page_text(rows, arguments.repeats, arguments.frames))


if __name__ == "__main__":
    main()
