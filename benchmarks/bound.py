"""How far two independent iterative solutions of the real scan agree: `make bench-bound`. Needs SIEMENS_STAR_DIR.

No figure against one iterative reference can be expected to mean more than that. Solutions differ in the solver, its
settings, its start, or in the photons: each photon goes to one of two halves by the toss of a coin.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine, replace_section, table, write_json
from peer import ENVIRONMENT, PeerSettings, make_environment, run_peer
from star import Star, halves_of_counts, load_star, with_changes

from ptycho.placed import PlacedObject, place_outcome
from ptycho.raw_data import RawData
from ptycho_torch.workflows.refinement import RefinementSettings, refine_scan

HERE = Path(__file__).parent
EPOCHS = 200  # as the reference that comes with the scan


@dataclass(frozen=True)
class Solution:
    """A way to solve a scan. make: from the scan to the placed object."""

    label: str
    make: Callable[[], PlacedObject]


def solutions(star: Star, python: Path, threads: int, epochs: int) -> list[Solution]:
    """What is compared: the first of each solver, and one thing changed at a time."""
    first, second = halves_of_counts(star.raw)
    with_probe = with_changes(star.raw, probe=star.reference_probe)

    def lsqml(raw: RawData = star.raw, **changes: Any) -> PlacedObject:
        stated = PeerSettings(threads=threads, **{"epochs": epochs, **changes})
        return run_peer(python, raw, stated).placed(stated.epochs)

    def ours(raw: RawData = star.raw, **changes: Any) -> PlacedObject:
        asked = RefinementSettings(**{"epochs": epochs, "batch_size": 64, **changes})
        return place_outcome(refine_scan(raw, None, asked), "refined")

    return [
        Solution("LSQML, batches of 64", lsqml),
        Solution("LSQML, another order of the frames", lambda: lsqml(seed=1)),
        Solution("LSQML, batches of 32", lambda: lsqml(batch_size=32)),
        Solution("LSQML, half as many epochs", lambda: lsqml(epochs=epochs // 2)),
        Solution("LSQML, Poisson noise model", lambda: lsqml(noise_model="poisson")),
        Solution("LSQML, from the refined probe", lambda: lsqml(with_probe)),
        Solution("ours, batches of 64", ours),
        Solution("ours, another order of the frames", lambda: ours(seed=1)),
        Solution("ours, batches of 129", lambda: ours(batch_size=129)),
        Solution("ours, half as many epochs", lambda: ours(epochs=epochs // 2)),
        Solution("ours, from the refined probe", lambda: ours(with_probe)),
        Solution("LSQML, one half of the counts", lambda: lsqml(first)),
        Solution("LSQML, the other half", lambda: lsqml(second)),
        Solution("ours, one half of the counts", lambda: ours(first)),
        Solution("ours, the other half", lambda: ours(second)),
    ]


def kept_in(folder: Path, label: str, make: Callable[[], PlacedObject]) -> PlacedObject:
    """The solution from `folder` if an interrupted run has left it there, else made and left there."""
    name = "".join(letter if letter.isalnum() else "_" for letter in label)
    file = folder / f"{name}.npz"
    if not file.exists():
        started = time.perf_counter()
        made = make()
        folder.mkdir(parents=True, exist_ok=True)
        entries = {"object": made.object, "center": np.array(made.center), "extent": np.array(made.extent)}
        np.savez(file, seen=np.ones(made.object.shape, bool) if made.seen is None else made.seen, **entries)
        print(f"{label}: {time.perf_counter() - started:.0f} s", flush=True)
    with np.load(file) as found:
        row, column = found["center"].tolist()
        n, rows, columns = found["extent"].tolist()
        return PlacedObject(found["object"], (row, column), found["seen"], label, extent=(int(n), rows, columns))


PAIRS = (
    ("LSQML: another order of the frames", "LSQML, batches of 64", "LSQML, another order of the frames"),
    ("LSQML: batches of 64 and of 32", "LSQML, batches of 64", "LSQML, batches of 32"),
    ("LSQML: all and half the epochs", "LSQML, batches of 64", "LSQML, half as many epochs"),
    ("LSQML: Gaussian and Poisson noise model", "LSQML, batches of 64", "LSQML, Poisson noise model"),
    ("LSQML: from the file's and from the refined probe", "LSQML, batches of 64", "LSQML, from the refined probe"),
    ("ours: another order of the frames", "ours, batches of 64", "ours, another order of the frames"),
    ("ours: batches of 64 and of 129", "ours, batches of 64", "ours, batches of 129"),
    ("ours: all and half the epochs", "ours, batches of 64", "ours, half as many epochs"),
    ("ours: from the file's and from the refined probe", "ours, batches of 64", "ours, from the refined probe"),
    ("ours and LSQML", "ours, batches of 64", "LSQML, batches of 64"),
    ("ours and LSQML, both from the refined probe", "ours, from the refined probe", "LSQML, from the refined probe"),
    ("LSQML: two halves of the counts", "LSQML, one half of the counts", "LSQML, the other half"),
    ("ours: two halves of the counts", "ours, one half of the counts", "ours, the other half"),
    ("ours and LSQML: two halves of the counts", "ours, one half of the counts", "LSQML, the other half"),
)


def measure(star: Star, made: dict[str, PlacedObject], side: int) -> dict[str, Any]:
    """Agreement of each solution with the reference, and of the pairs with each other."""
    alone = {label: star.agreement(image) for label, image in made.items()}
    pairs = {name: star.agreement(made[one], made[two]) for name, one, two in PAIRS if one in made and two in made}
    return {"side": side, "with_reference": alone, "pairs": pairs}


INTRODUCTION = """## What iterative solutions of the real scan agree on

`make bench-bound`. Siemens star, {epochs} epochs from vacuum and the file's probe guess; phase correlation / SSIM over
the central square that all figures of this scan use. No agreement with one reference can be expected to mean more.
LSQML: ptychi {ptychi}. Halves: each photon goes to one of two scans by the toss of a coin; with correlation r between
the halves, noise alone lets two scans of the full dose agree at 2r/(1+r).
Measured on {processor}, {cores} cores, torch {torch}, {date}.
"""


def text_of(figures: dict[str, float] | None) -> str:
    return "" if figures is None else f"{figures['phase_correlation']:.4f} / {figures['ssim']:.3f}"


def write_page(page: Path, results: list[dict[str, Any]], epochs: int) -> None:
    """Put both tables into the page, a column for each side of the frames."""
    header = [f"N = {result['side']}" for result in results]
    parts = [INTRODUCTION.format(**machine(), epochs=epochs, ptychi="2.2")]
    for key, title in (("pairs", "two solutions"), ("with_reference", "with the reference that comes with the scan")):
        labels = list(dict.fromkeys(label for result in results for label in result[key]))
        rows = [[label, *(text_of(result[key].get(label)) for result in results)] for label in labels]
        parts.append(table([title, *header], rows) + "\n")
    replace_section(page, "bound", "\n".join(parts).rstrip())


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 128], choices=(64, 128))
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peer", type=Path, default=ENVIRONMENT, help="folder of the peer's environment")
    parser.add_argument("--objects", type=Path, default=HERE.parent / "bench_output" / "bound",
                        help="where solutions are kept; those found there are not made again")  # fmt: skip
    parser.add_argument("--output", type=Path, default=HERE / "bound.json")
    parser.add_argument("--page", type=Path, default=HERE / "README.md")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("ptycho_torch").setLevel(logging.ERROR)
    torch.set_num_threads(asked.threads)
    python = make_environment(asked.peer)
    results: dict[int, dict[str, Any]] = {}
    for side in asked.sides:
        star, made = load_star(side), {}
        for solution in solutions(star, python, asked.threads, asked.epochs):
            folder = asked.objects / f"n{side}_{asked.epochs}"
            made[solution.label] = kept_in(folder, solution.label, solution.make)
            results[side] = measure(star, made, side)
            # after every solution: a run that is cut off leaves what it has
            write_json(asked.output, {"epochs": asked.epochs, "results": list(results.values())})
            write_page(asked.page, json.loads(json.dumps(list(results.values()))), asked.epochs)


if __name__ == "__main__":
    main()
