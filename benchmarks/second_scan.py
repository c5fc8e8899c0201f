"""A new scan with a probe that is known: `python benchmarks/second_scan.py`, on an idle machine.

A network is trained on one simulated scan, whose probe guess is 10 % out of focus; another specimen is then scanned
with the same beam. `infer --refine` starts from the network's object and the probe that training has calibrated;
`refine` starts from vacuum and the guess. Both are run with more and more epochs, and the times are taken at which the
phase correlation with the true object first is 99 % of what it is after many epochs from the network's object. The
network's start is measured as it is by default, after passes by parts of the frames until the object has settled, and
with numbers of them (`infer --projections`).
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from machine import machine, replace_section, table, write_json
from race import Point, time_to

from ptycho.config.config import ModelConfig, PyTorchExecutionConfig, TrainingConfig
from ptycho.outcome import Outcome
from ptycho.placed import compare_placed, place_outcome, place_truth
from ptycho.raw_data import RawData
from ptycho.simulation.recipe import Recipe, simulate
from ptycho_torch.workflows.reconstruct import infer_scan, train_scan
from ptycho_torch.workflows.refinement import RefinementSettings, refine_scan

HERE = Path(__file__).parent
EPOCHS = (1, 2, 3, 4, 5, 6, 8, 12)
CONVERGED_EPOCHS = 100
SHARE = 0.99
PROJECTIONS = (None, 6)  # before the network; None: until the object has settled
SHORT_S, REPEATS = 1.0, 5  # what takes less is measured so often, and has the median time
EXECUTION = PyTorchExecutionConfig(accelerator="cpu")
OBJECTS = {"dead leaves": "dead_leaves", "lines": "lines", "Siemens star": "siemens_star"}


def figures(outcome: Outcome, raw: RawData, stage: str = "refined") -> Point:
    """A stage against the true object, and how long projection, network and, for its own stage, refinement took."""
    found, _ = compare_placed(place_outcome(outcome, stage), place_truth(raw))
    refining_s = outcome.timings_s["refinement"] if stage == "refined" else 0.0
    time_s = outcome.timings_s.get("reconstruction", 0.0) + refining_s
    return {"time_s": time_s, "phase_correlation": found.phase_correlation, "ssim": found.ssim}


def with_network(model: Path, raw: RawData, epochs: int, projections: int | None = None) -> Point:
    """`infer --projections --refine --refine-epochs`; for 0 epochs the network's object, as it is before."""
    refine = RefinementSettings(epochs=max(1, epochs))
    found = infer_scan(model, raw, execution=EXECUTION, refine=refine, projections=projections)
    return {"epochs": epochs, **figures(found, raw, "refined" if epochs else "network")}


def from_vacuum(raw: RawData, epochs: int) -> Point:
    """`refine --epochs` without a start."""
    return {"epochs": epochs, **figures(refine_scan(raw, None, RefinementSettings(epochs=epochs)), raw)}


def steadied(run: Callable[[], Point]) -> Point:
    """A point, with the median time of several runs where it is short."""
    first = run()
    if first["time_s"] >= SHORT_S:
        return first
    times = [first["time_s"], *(run()["time_s"] for _ in range(REPEATS - 1))]
    return {**first, "time_s": statistics.median(times)}


def measure(name: str, model: Path, epochs: list[int], seed: int) -> dict[str, Any]:
    """The curves of a scan, and when they reach the target: one from vacuum, one for each number of projections."""
    raw = simulate(Recipe(OBJECTS[name], seed=seed)).raw
    with_network(model, raw, 1), from_vacuum(raw, 1)  # warm up
    converged = with_network(model, raw, CONVERGED_EPOCHS)
    target = SHARE * converged["phase_correlation"]
    vacuum = [steadied(lambda number=number: from_vacuum(raw, number)) for number in epochs]
    starts = []
    for projections in PROJECTIONS:
        curve = [
            steadied(lambda number=number, few=projections: with_network(model, raw, number, few))
            for number in (0, *epochs)
        ]
        starts.append({"projections": projections, "curve": curve, "time_s": time_to(curve, target)})
    return {
        "scan": name, "seed": seed, "target": target, "converged": converged, "network": starts,
        "vacuum": {"curve": vacuum, "time_s": time_to(vacuum, target)},
    }  # fmt: skip


def rows_of(found: dict[str, Any]) -> list[list[str]]:
    """The rows of a scan."""
    return [_row(found, start) for start in found["network"]]


def _row(found: dict[str, Any], start: dict[str, Any]) -> list[str]:
    own, other = start["time_s"], found["vacuum"]["time_s"]
    best = max(found["vacuum"]["curve"], key=lambda point: point["phase_correlation"])
    return [
        found["scan"], f"{found['converged']['phase_correlation']:.4f}", f"{found['target']:.4f}",
        str(start["projections"] or "until settled"),
        f"{start['curve'][0]['phase_correlation']:.4f} ({start['curve'][0]['time_s']:.2f})",
        f"{start['curve'][-1]['phase_correlation']:.4f} / {start['curve'][-1]['ssim']:.3f}",
        "not reached" if own is None else f"{own:.2f}",
        f"not reached: {best['phase_correlation']:.4f} in {best['time_s']:.1f}" if other is None else f"{other:.2f}",
        "" if own is None or other is None else f"{own / other:.2f}",
    ]  # fmt: skip


HEADER = [
    "new scan", "converged", "target", "projections", "network alone (s)", "after the last number of epochs / SSIM",
    "infer --refine (s)", "from vacuum (s)", "ratio",
]  # fmt: skip
INTRODUCTION = """## A second scan

`python benchmarks/second_scan.py`. The network was trained on a scan of dead leaves; each new scan has another seed,
the same beam, and the same probe guess, 10 % out of focus (600 frames, N = 64, 1e5 counts per frame). Converged: phase
correlation with the true object {converged} epochs after the network. Times until {share:.0%} of that is reached:
projections, network and refinement, without imports and reading. Projections: passes by parts of the frames, until the
object has settled as by default, or so many (`infer --projections`).
Measured on {processor}, {cores} cores, {threads} thread(s), torch {torch}, {date}; of runs shorter than {short_s:.0f} s
medians of {repeats}.
"""


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--scans", nargs="+", default=list(OBJECTS), choices=list(OBJECTS))
    parser.add_argument("--epochs", type=int, nargs="+", default=list(EPOCHS))
    parser.add_argument("--output", type=Path, default=HERE / "second_scan.json")
    parser.add_argument("--page", type=Path, default=HERE / "README.md")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    warnings.simplefilter("ignore")
    logging.getLogger("ptycho_torch").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        train_scan(simulate(Recipe(seed=0)).raw, TrainingConfig(ModelConfig()), EXECUTION, output_dir=Path(folder))
        results = []
        for seed, name in enumerate(asked.scans, 1):
            found = measure(name, Path(folder), asked.epochs, seed)
            results.append(found)
            print("\n".join(" | ".join(row) for row in rows_of(found)), flush=True)
    write_json(asked.output, {"threads": asked.threads, "results": results})
    introduction = INTRODUCTION.format(
        **machine() | {"threads": asked.threads}, converged=CONVERGED_EPOCHS, share=SHARE,
        short_s=SHORT_S, repeats=REPEATS,
    )
    rows = [row for found in results for row in rows_of(found)]
    replace_section(asked.page, "second-scan", f"{introduction}\n{table(HEADER, rows)}")


if __name__ == "__main__":
    main()
