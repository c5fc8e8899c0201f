"""`ptychopinn refine` against LSQML of ptychi on the real scan: `make bench-race`, on an idle machine.

Both start from vacuum and the file's probe guess and have equal batches and threads. Figures against seconds: the phase
correlation with the reference that comes with the scan, and the mean deviance of withheld frames under the object made
without them. Times are of the iterations alone: no imports, no set-up, no figures. Needs SIEMENS_STAR_DIR.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine, replace_section, table, write_json
from peer import ENVIRONMENT, PeerSettings, make_environment, run_peer
from star import Star, deviance_of_outcome, deviance_of_peer, load_star, withheld

from ptycho.outcome import Outcome
from ptycho.placed import place_outcome
from ptycho.raw_data import RawData
from ptycho_torch.workflows.refinement import RefinementSettings, refine_scan

HERE = Path(__file__).parent
EPOCHS = (3, 5, 8, 12, 16, 20, 30, 40, 60, 80)
TARGET = 0.99
Point = dict[str, float]


def run_ours(raw: RawData, epochs: int, batch_size: int) -> Outcome:
    """From vacuum and the scan's own guess."""
    return refine_scan(raw, None, RefinementSettings(epochs=epochs, batch_size=batch_size))


def ours(star: Star, kept: RawData, out: RawData, epochs: list[int], batch_size: int) -> list[Point]:
    """A run of its own for each number of epochs: what a user gets who asks for so many."""
    run_ours(star.raw, 1, batch_size)  # warms up
    points = []
    for number in epochs:
        outcome, without = (run_ours(raw, number, batch_size) for raw in (star.raw, kept))
        points.append(
            {"epochs": number, "time_s": outcome.timings_s["refinement"]}
            | star.agreement(place_outcome(outcome, "refined"))
            | {"heldout_time_s": without.timings_s["refinement"], **deviance_of_outcome(out, without)}
        )
        print("ours", points[-1], flush=True)
    return points


def peers(
    star: Star, kept: RawData, out: RawData, epochs: list[int], settings: PeerSettings, python: Path
) -> list[Point]:
    """Snapshots of one run on all frames, and of one on those that are kept."""
    settings = dataclasses.replace(settings, epochs=max(epochs), snapshots=tuple(epochs))
    whole, without = (run_peer(python, raw, settings) for raw in (star.raw, kept))
    points = []
    for number in epochs:
        points.append(
            {"epochs": number, "time_s": float(whole.times_s[number - 1])}
            | star.agreement(whole.placed(number))
            | {"heldout_time_s": float(without.times_s[number - 1]), **deviance_of_peer(out, without, number)}
        )
        print("LSQML", points[-1], flush=True)
    return points


def time_to(points: list[Point], target: float) -> float | None:
    """Seconds after which the phase correlation first is at `target`, between two points on a straight line."""
    before: Point | None = None
    for point in points:
        if point["phase_correlation"] >= target:
            if before is None:
                return point["time_s"]
            share = (target - before["phase_correlation"]) / (point["phase_correlation"] - before["phase_correlation"])
            return before["time_s"] + share * (point["time_s"] - before["time_s"])
        before = point
    return None


def at_time(points: list[Point], seconds: float) -> float | None:
    """Held-out deviance after some seconds, between two points on a straight line; None outside of the curve."""
    times = [point["heldout_time_s"] for point in points]
    if not times[0] <= seconds <= times[-1]:
        return None
    return float(np.interp(seconds, times, [point["deviance"] for point in points]))


def draw(curves: dict[str, list[Point]], path: Path) -> None:
    """Both figures against seconds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for label, points in curves.items():
        left.plot(*zip(*((p["time_s"], p["phase_correlation"]) for p in points), strict=True), ".-", label=label)
        right.plot(*zip(*((p["heldout_time_s"], p["deviance"]) for p in points), strict=True), ".-", label=label)
    left.axhline(TARGET, color="0.7", lw=0.8)
    left.set(xlabel="s", ylabel="phase correlation with the reference", ylim=(0.9, 1))
    right.set(xlabel="s", ylabel="deviance of withheld frames per pixel", yscale="log")
    left.legend()
    figure.savefig(path, dpi=110)


INTRODUCTION = """## Race: refinement against LSQML

`make bench-race`. Siemens star, N = {side}, from vacuum and the file's probe guess, batches of {batch_size} frames,
{threads} thread(s): `ptychopinn refine`, and LSQML of ptychi {ptychi} ({batching} batches, {noise_model} noise model,
gain of momentum {momentum:g}). Correlation: of the phase, with the reference that comes with the scan. Held-out
deviance: of {share:.0%} of the frames under an object and probe made without them. Time of the iterations alone.
To {target}: {ours} for ours, {peer} for LSQML.

![both curves]({figure})

Measured on {processor}, {cores} cores, torch {torch}, {date}; single runs.
"""
HEADER = ["epochs", "ours: s", "correlation / SSIM", "held-out deviance (s)", "LSQML's at that time", "LSQML: s",
          "correlation / SSIM", "held-out deviance (s)"]  # fmt: skip


def rows_of(mine: list[Point], theirs: list[Point]) -> list[list[str]]:
    """A row for each number of epochs."""
    rows = []
    for a, b in zip(mine, theirs, strict=True):
        then = at_time(theirs, a["heldout_time_s"])
        sides = [
            [f"{p['time_s']:.1f}", f"{p['phase_correlation']:.4f} / {p['ssim']:.3f}",
             f"{p['deviance']:.2f} ({p['heldout_time_s']:.1f})"] for p in (a, b)
        ]  # fmt: skip
        rows.append([f"{a['epochs']:.0f}", *sides[0], "" if then is None else f"{then:.2f}", *sides[1]])
    return rows


def write_page(page: Path, about: dict[str, Any], mine: list[Point], theirs: list[Point]) -> None:
    """Put the table into the page, a section for each side and size of batch."""
    reached = {}
    for key, points in (("ours", mine), ("peer", theirs)):
        seconds = time_to(points, TARGET)
        reached[key] = "not reached" if seconds is None else f"{seconds:.1f} s"
    introduction = INTRODUCTION.format(**machine() | about | reached | {"target": TARGET, "ptychi": "2.2"})
    name = f"race-{about['side']}-{about['batch_size']}"
    replace_section(page, name, f"{introduction}\n{table(HEADER, rows_of(mine, theirs))}")


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=64, choices=(64, 128))
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--epochs", type=int, nargs="+", default=list(EPOCHS))
    parser.add_argument("--share", type=float, default=0.1, help="of the frames, withheld for the deviance")
    parser.add_argument("--peer", type=Path, default=ENVIRONMENT, help="folder of the peer's environment")
    parser.add_argument("--batching", default=PeerSettings.batching, choices=("random", "uniform", "compact"))
    parser.add_argument("--momentum", type=float, default=PeerSettings.momentum, help="of the peer")
    parser.add_argument("--output", type=Path, help="default: race_SIDE_BATCH.json beside this file")
    parser.add_argument("--page", type=Path, default=HERE / "README.md")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("ptycho_torch").setLevel(logging.ERROR)
    python = make_environment(asked.peer)
    output = asked.output or HERE / f"race_{asked.side}_{asked.batch}.json"
    star = load_star(asked.side)
    kept, out = withheld(star.raw, asked.share)
    settings = PeerSettings(
        batch_size=asked.batch, threads=asked.threads, batching=asked.batching, momentum=asked.momentum
    )
    theirs = peers(star, kept, out, asked.epochs, settings, python)
    torch.set_num_threads(asked.threads)
    mine = ours(star, kept, out, asked.epochs, asked.batch)
    figure = output.with_suffix(".png")
    draw({"ptychopinn refine": mine, "LSQML (ptychi)": theirs}, figure)
    about = dataclasses.asdict(settings) | {"side": asked.side, "share": asked.share, "figure": figure.name}
    reached = {"ours_to_target_s": time_to(mine, TARGET), "lsqml_to_target_s": time_to(theirs, TARGET)}
    write_json(output, {"settings": about, **reached, "ours": mine, "lsqml": theirs})
    write_page(asked.page, about, mine, theirs)


if __name__ == "__main__":
    main()
