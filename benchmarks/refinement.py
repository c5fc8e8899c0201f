"""What the corrections of `refine` are worth: `python benchmarks/refinement.py`.

Simulated scans with a probe guess 20 % out of focus, and others whose positions are wrong by 1 px (Gaussian, standard
deviation along each axis), refined from vacuum with and without the correction; the figures go into
benchmarks/README.md and a JSON file.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine, replace_section, table, write_json

from ptycho.placed import compare_placed, place_outcome, place_truth
from ptycho.simulation.recipe import Recipe, Simulated, simulate

HERE = Path(__file__).parent

SCANS: dict[str, dict[str, Any]] = {
    "demo scan (600 frames, overlap 83 %)": {},
    "300 frames, overlap 70 %": {"n_frames": 300, "overlap": 0.7},
    "demo scan of a Siemens star": {"object_name": "siemens_star"},
}
ERRORS: dict[str, dict[str, Any]] = {
    "focus +20 %": {"defocus_error": 0.2},
    "focus -20 %": {"defocus_error": -0.2},
    "positions 1 px": {"defocus_error": 0.0, "position_error": 1.0},
}
METHODS: dict[str, dict[str, dict[str, Any]]] = {
    "focus": {
        "probe held": {"refine_probe": False},
        "probe refined": {},
        "--defocus, probe held": {"refine_probe": False, "correct_defocus": True},
        "--defocus, probe refined": {"correct_defocus": True},
    },
    "positions": {"positions held": {}, "--positions": {"refine_positions": True}},
}
SEEDS = (0, 1)


def position_error_px(x: np.ndarray, y: np.ndarray, truth: Simulated) -> float:
    """Root mean square per axis, without the common shift."""
    left = np.stack((x - truth.xcoords, y - truth.ycoords))
    return float(np.sqrt(np.mean((left - left.mean(axis=1, keepdims=True)) ** 2)))


def measure(scan: str, error: str, method: str, settings: dict[str, Any], seed: int, epochs: int) -> dict[str, Any]:
    """Refine one scan in one way, from vacuum."""
    from ptycho_torch.workflows.refinement import RefinementSettings, refine_scan

    recipe = Recipe(seed=seed, **SCANS[scan], **ERRORS[error])
    truth = simulate(recipe)
    outcome = refine_scan(truth.raw, None, RefinementSettings(epochs=epochs, **settings))
    comparison, _ = compare_placed(place_outcome(outcome, "refined"), place_truth(truth.raw))
    return {
        "scan": scan, "error": error, "method": method, "seed": seed, "recipe": dataclasses.asdict(recipe),
        "epochs": len(outcome.losses["train"]), "times_s": outcome.timings_s, "corrections": outcome.corrections,
        "deviance": outcome.result.deviance, "expected_deviance": outcome.result.expected_deviance,
        "position_error_px": position_error_px(outcome.xcoords, outcome.ycoords, truth), **comparison.to_dict(),
    }  # fmt: skip


HEADER = ["scan", "wrong", "method", "phase correlation", "SSIM", "deviance per pixel (expected)", "focus moved (px^2)",
          "positions wrong by (px)", "epochs"]  # fmt: skip


def rows_of(results: list[dict[str, Any]]) -> list[list[str]]:
    """One row for each way of refining a scan, both seeds in it."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for result in results:
        groups.setdefault((result["scan"], result["error"], result["method"]), []).append(result)
    rows = []
    for names, parts in groups.items():

        def both(text: str, *keys: str, parts: list[dict[str, Any]] = parts) -> str:
            return ", ".join(text.format(*(part[key] for key in keys)) for part in parts)

        moves = [part["corrections"]["defocus"]["distance_px2"] for part in parts if "defocus" in part["corrections"]]
        rows.append([
            *names, both("{:.3f}", "phase_correlation"), both("{:.3f}", "ssim"),
            both("{:.3f} ({:.3f})", "deviance", "expected_deviance"), ", ".join(f"{move:+.1f}" for move in moves),
            both("{:.2f}", "position_error_px"), both("{}", "epochs"),
        ])  # fmt: skip
    return rows


INTRODUCTION = """## What corrections are worth

`python benchmarks/refinement.py`. From vacuum, at most {epochs} epochs, N = 64, 1e5 counts per frame, no network; two
seeds each. Focus: the guess is the beam 20 % too far from (+) or too near to (-) its focus, 7.6 px^2 of 38; the move
that would be right is -7.6 or +7.6. Positions: Gaussian errors of 1 px standard deviation along each axis, the true
probe as guess.
Measured on {processor}, {cores} cores, {threads} threads, torch {torch}, {date}.
"""


def write_page(page: Path, results: list[dict[str, Any]], epochs: int) -> None:
    """Put the table into the page."""
    introduction = INTRODUCTION.format(epochs=epochs, **machine())
    replace_section(page, "corrections", f"{introduction}\n{table(HEADER, rows_of(results))}")


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--only", default="", help="rows whose scan, error and method contain this text")
    parser.add_argument("--output", type=Path, default=HERE / "refinement.json")
    parser.add_argument("--page", type=Path, default=HERE / "README.md")
    arguments = parser.parse_args()
    results: list[dict[str, Any]] = []
    for scan in SCANS:
        for error in ERRORS:
            for method, settings in METHODS[error.split()[0]].items():
                if arguments.only not in f"{scan} {error} {method}":
                    continue
                results += [measure(scan, error, method, settings, seed, arguments.epochs) for seed in SEEDS]
                print(" | ".join(rows_of(results[-len(SEEDS) :])[0]), flush=True)
                # after every row: a run that is cut off leaves what it has
                write_json(arguments.output, {"epochs": arguments.epochs, "results": results})
                write_page(arguments.page, json.loads(json.dumps(results)), arguments.epochs)


if __name__ == "__main__":
    main()
