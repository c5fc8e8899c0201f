"""Where learning should win: few counts, few frames. `make bench-dose`, or `python benchmarks/dose.py --help`.

Simulated Fermat scans of dead leaves with the true probe, over the dose and over the share of frames that is kept:
projection alone, the network, the network refined, and LSQML of ptychi at its best epoch. Every figure is against the
true object. What has been measured is kept in the JSON file after each condition, and is not measured again.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import logging
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine, replace_section, table, write_json
from peer import ENVIRONMENT, PeerSettings, make_environment, run_peer
from scipy.spatial.distance import cdist

from ptycho.config.config import ModelConfig, PyTorchExecutionConfig, TrainingConfig
from ptycho.geometry import Canvas
from ptycho.io.reconstruction_files import LoadedObject
from ptycho.outcome import Outcome
from ptycho.placed import PlacedObject, compare_placed, lit_frames, place_outcome, place_truth
from ptycho.raw_data import RawData
from ptycho.simulation.figures import nearest_distances, probe_diameter
from ptycho.simulation.recipe import Recipe, simulate

HERE = Path(__file__).parent
DOSES = (1e3, 2e3, 1e4, 1e5, 1e6)
SHARES = (1.0, 0.5, 0.25, 0.12, 0.06, 0.03)  # of the frames; the last has no overlap left
THINNED_AT = 1e5
SEEDS = (0, 1, 2)
SNAPSHOTS = (5, 10, 20, 30, 50, 75, 100, 150, 200, 300)
REFINED_EPOCHS = 5
_PEER = PeerSettings(epochs=SNAPSHOTS[-1], snapshots=SNAPSHOTS, refine_probe=False, batch_size=64)
# The settings that did best among those tried (docs/findings.md, PEER-001); which of them does depends on the scan.
PEERS = {
    "gaussian": _PEER,
    "poisson": dataclasses.replace(_PEER, noise_model="poisson"),
    "compact": dataclasses.replace(_PEER, batching="compact", momentum=0.5),
}
PRETRAIN_SCANS = 24
OURS = {"plain": ("projection", "network", "refined"), "pretrained": ("pretrained",)}  # measured together
METHODS = ("projection", "network", "pretrained", "refined", "lsqml")
Figures = dict[str, float]


@dataclass(frozen=True)
class Condition:
    """A scan: mean counts per frame, share of the frames that is kept, seed of object and noise."""

    dose: float
    share: float
    seed: int

    @property
    def label(self) -> str:
        return f"{self.dose:.0e} counts, {self.share:.0%} of the frames, seed {self.seed}"


def scan_of(condition: Condition) -> RawData:
    """600 frames (before thinning) of 64 x 64 pixels; the probe guess is the true probe."""
    recipe = Recipe(counts_per_frame=condition.dose, seed=condition.seed, defocus_error=0.0)
    raw = simulate(recipe).raw
    if condition.share == 1:
        return raw
    kept = spread_out(np.stack((raw.xcoords, raw.ycoords), axis=1), round(condition.share * raw.n_frames))
    return raw.subset(kept)


def spread_out(points: np.ndarray, n: int) -> np.ndarray:
    """Sorted indices of ``n`` of the points (M, 2), each in turn the one farthest from those before it."""
    found = [int(np.argmin(cdist(points, points.mean(axis=0, keepdims=True))))]
    distance = cdist(points, points[found])[:, 0]
    while len(found) < n:
        found.append(int(np.argmax(distance)))
        distance = np.minimum(distance, cdist(points, points[found[-1:]])[:, 0])
    return np.sort(found)


def overlap_of(raw: RawData) -> float:
    """1 - median distance of nearest neighbours / diameter of the probe; negative where frames lie apart."""
    step = float(np.median(nearest_distances(raw.xcoords, raw.ycoords)))
    return 1 - step / probe_diameter(raw.probe)


def lit_by(image: PlacedObject, raw: RawData, at_least: int) -> PlacedObject:
    """The object with the pixels that so many frames light as those that are compared."""
    height, width = image.object.shape
    x, y = (float(values.min() + values.max()) / 2 for values in (raw.xcoords, raw.ycoords))
    middle = x - image.center[1] + (width - 1) / 2, y - image.center[0] + (height - 1) / 2
    lit = lit_frames(raw.probe, raw.xcoords, raw.ycoords, Canvas((height, width), middle))
    return dataclasses.replace(image, seen=lit >= at_least)


@dataclass(frozen=True)
class Judge:
    """Compares with the true object where two frames light it, or one of a thinned scan: two light too little."""

    raw: RawData
    at_least: int

    def __call__(self, image: PlacedObject) -> Figures:
        """Phase correlation and SSIM, contrast over that of the truth, number of pixels."""
        pair = (lit_by(one, self.raw, self.at_least) for one in (image, place_truth(self.raw)))
        comparison, _ = compare_placed(*pair)
        return {key: getattr(comparison, key) for key in ("phase_correlation", "ssim", "contrast_ratio", "n_pixels")}


def networked(raw: RawData, model: dict[str, Any], training: dict[str, Any]) -> Outcome:
    """Trained on the scan and applied to it, the probe as it is."""
    from ptycho_torch.workflows.reconstruct import train_scan

    config = TrainingConfig(ModelConfig(**model), calibrate_probe=False, **training)
    with tempfile.TemporaryDirectory() as folder:
        return train_scan(raw, config, PyTorchExecutionConfig(accelerator="cpu"), output_dir=Path(folder))


def refined(raw: RawData, outcome: Outcome, epochs: int = REFINED_EPOCHS) -> Outcome:
    """Refined from the network's object, the probe held."""
    from ptycho_torch.workflows.refinement import RefinementSettings, refine_scan

    start = LoadedObject(
        outcome.stages["network"].object, Path("network"), "reconstruction", "object", outcome.probe,
        xcoords=outcome.xcoords, ycoords=outcome.ycoords, center_xy=outcome.canvas.center_xy,
    )  # fmt: skip
    return refine_scan(raw, start, RefinementSettings(epochs=epochs, refine_probe=False))


def by_us(raw: RawData, figures_of: Judge) -> dict[str, Any]:
    """Figures of projection, network, and the network refined."""
    outcome = networked(raw, {}, {})
    found: dict[str, Any] = {"projection": figures_of(place_outcome(outcome, "projection"))}
    found["network"] = figures_of(place_outcome(outcome, "network")) | _training_of(outcome)
    found["refined"] = figures_of(place_outcome(refined(raw, outcome), "refined"))
    return found


def by_us_pretrained(raw: RawData, figures_of: Judge) -> dict[str, Any]:
    """Figures of a network that has seen simulated scans of other objects first."""
    outcome = networked(raw, {}, {"pretrain_scans": PRETRAIN_SCANS})
    return {"pretrained": figures_of(place_outcome(outcome, "network")) | _training_of(outcome)}


def _training_of(outcome: Outcome) -> dict[str, float]:
    return {"epochs": len(outcome.losses.get("train", [])), "time_s": outcome.timings_s["training"]}


def by_peer(
    python: Path, raw: RawData, figures_of: Judge, settings: dict[str, PeerSettings], known_curves: dict[str, Any]
) -> dict[str, Any]:
    """Figures of LSQML at each snapshot with each of the settings, and the best of all by SSIM."""
    curves = dict(known_curves)
    for name, stated in settings.items():
        if name not in curves:
            run = run_peer(python, raw, stated)
            curves[name] = {str(epoch): figures_of(run.placed(epoch)) for epoch in run.objects}
    ranked = [(figures["ssim"], name, epoch) for name, curve in curves.items() for epoch, figures in curve.items()]
    if not ranked:
        return {}
    _, name, epoch = max(ranked)
    return {"lsqml": {**curves[name][epoch], "epochs": int(epoch), "settings": name}, "lsqml_by_epoch": curves}


def conditions(doses: list[float], shares: list[float], seeds: list[int]) -> list[Condition]:
    """All of the dose with all frames, and all shares at one dose; seed by seed."""
    found = [Condition(dose, 1.0, seed) for seed in seeds for dose in doses]
    found += [Condition(THINNED_AT, share, seed) for seed in seeds for share in shares]
    return list(dict.fromkeys(found))


def known(file: Path) -> list[dict[str, Any]]:
    """What an earlier run has left."""
    return list(json.loads(file.read_text(encoding="utf-8"))["results"]) if file.exists() else []


def cell(rows: list[dict[str, Any]], method: str) -> str:
    """Correlation / SSIM, means over the seeds, and the range of the SSIM."""
    found = [row[method] for row in rows if method in row]
    if not found:
        return ""
    ssim = [figures["ssim"] for figures in found]
    mean = f"{np.mean([figures['phase_correlation'] for figures in found]):.3f} / {np.mean(ssim):.3f}"
    epochs = ", ".join(
        " ".join(str(figures[key]) for key in ("settings", "epochs") if key in figures)
        for figures in found if "epochs" in figures
    )  # fmt: skip
    spread = f" ({min(ssim):.3f} to {max(ssim):.3f})" if len(ssim) > 1 else ""
    fewer = f" [{len(found)} seed(s)]" if len(found) < len(rows) else ""
    return f"{mean}{spread}{f'; {epochs}' if epochs else ''}{fewer}"


def rows_of(results: list[dict[str, Any]], key: str, name: Callable[[list[dict[str, Any]]], str]) -> list[list[str]]:
    """A row for each value of `key`, its seeds together."""
    values = sorted({row[key] for row in results}, reverse=key == "share")
    groups = [[row for row in results if row[key] == value] for value in values]
    return [
        [name(rows), str(len(rows)), *(cell(rows, method) for method in METHODS), _measured(rows)] for rows in groups
    ]


def _measured(rows: list[dict[str, Any]]) -> str:
    """When our figures were: the methods change, and those of LSQML, which take longest, are kept."""
    return " to ".join(sorted({row.get("measured", "before INIT-002") for row in rows}, reverse=True))


HEADER = [
    "seeds", "projection", "network; epochs", "pre-trained; epochs", "network refined", "LSQML's best; its epochs",
    "ours measured",
]  # fmt: skip
INTRODUCTION = """## Few counts, few frames

`make bench-dose`. Simulated Fermat scans of dead leaves, 600 frames of 64 x 64 pixels, overlap 83 %, the true probe
given and held. Each figure: phase correlation / phase SSIM against the true object, mean over the seeds, in brackets
the range of the SSIM. Projection: as many projections as the network's stages take, without the network.
Pre-trained: the network with `--pretrain-scans {pretrain}`, which has seen simulated scans of other dead leaves, lines
and smooth fields first (docs/findings.md, PRETRAIN-001). Refined:
{epochs} epochs from the network's object. LSQML: ptychi {ptychi}, batches of {batch_size} frames,
the best of {snapshots} epochs and of three settings (random batches with the Gaussian and with the Poisson
noise model; compact ones with a gain of momentum of 0.5; at 2e3 counts the Poisson one, of which the first seed had
0.535, the Gaussian 0.370) by its SSIM against the truth, which no user has.
Written on {processor}, {cores} cores, torch {torch}, {date}; figures of ours from before INIT-002
(docs/findings.md) were measured with networks of two stages that started worse, and while slow phases were not carried
further.
"""


def write_page(page: Path, results: list[dict[str, Any]]) -> None:
    """Put the tables into the page."""
    stated = {"batch_size": _PEER.batch_size, "snapshots": ", ".join(str(at) for at in SNAPSHOTS)}
    counted = {"epochs": REFINED_EPOCHS, "pretrain": PRETRAIN_SCANS}
    parts = [INTRODUCTION.format(**machine(), **stated, **counted, ptychi="2.2")]
    doses = [row for row in results if row["share"] == 1]
    thinned = [row for row in results if row["dose"] == THINNED_AT]
    parts.append(table(["counts per frame", *HEADER], rows_of(doses, "dose", lambda rows: f"{rows[0]['dose']:.0e}")))

    def kept(rows: list[dict[str, Any]]) -> str:
        return f"{rows[0]['share']:.0%} ({rows[0]['frames']}; overlap {rows[0]['overlap']:.0%})"

    parts.append(
        f"\nAt {THINNED_AT:.0e} counts per frame, over the frames that are kept, evenly spread. Compared wherever at "
        "least one of them lights, above where two do:\n"
    )
    parts.append(table(["frames kept", *HEADER], rows_of(thinned, "share", kept)))
    replace_section(page, "dose", "\n".join(parts))


def measure(
    condition: Condition, python: Path, settings: dict[str, PeerSettings], before: dict[str, Any], groups: list[str]
) -> dict[str, Any]:
    """Figures of what is asked for on one scan, with those from before."""
    raw = scan_of(condition)
    judge = Judge(raw, 2 if condition.share == 1 else 1)
    about = {**dataclasses.asdict(condition), "frames": raw.n_frames, "overlap": overlap_of(raw)}
    ours = by_us(raw, judge) if "plain" in groups else {}
    ours |= by_us_pretrained(raw, judge) if "pretrained" in groups else {}
    if ours:
        about["measured"] = date.today().isoformat()
    return before | about | ours | by_peer(python, raw, judge, settings, before.get("lsqml_by_epoch", {}))


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dose", type=float, nargs="*", default=list(DOSES), help="counts per frame, all frames kept")
    parser.add_argument("--share", type=float, nargs="*", default=list(SHARES), help=f"kept, at {THINNED_AT:.0e}")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--again", action="store_true", help="measure ours anew, keep what was measured of LSQML")
    parser.add_argument("--ours", nargs="*", default=list(OURS), choices=list(OURS), help="none: only LSQML")
    parser.add_argument("--lsqml", nargs="*", default=list(PEERS), choices=list(PEERS), help="its settings")
    parser.add_argument("--peer", type=Path, default=ENVIRONMENT, help="folder of the peer's environment")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=HERE / "dose.json")
    parser.add_argument("--page", type=Path, default=HERE / "README.md")
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")
    logging.getLogger("ptycho_torch").setLevel(logging.ERROR)
    python = make_environment(arguments.peer)
    settings = {name: dataclasses.replace(PEERS[name], threads=arguments.threads) for name in arguments.lsqml}
    results = known(arguments.output)
    for condition in conditions(arguments.dose, arguments.share, arguments.seeds):
        same = [row for row in results if dataclasses.asdict(condition).items() <= row.items()]
        before = same[0] if same else {}
        groups = [name for name in arguments.ours if arguments.again or not before.keys() >= set(OURS[name])]
        if not groups and settings.keys() <= before.get("lsqml_by_epoch", {}).keys():
            continue
        started = time.perf_counter()
        found = measure(condition, python, settings, before, groups)
        results = [row for row in results if row not in same] + [found]
        shown = ", ".join(f"{method} {cell(results[-1:], method)}" for method in METHODS)
        print(f"{condition.label}: {shown} ({time.perf_counter() - started:.0f} s)", flush=True)
        write_json(
            arguments.output,
            {"lsqml": {name: dataclasses.asdict(stated) for name, stated in PEERS.items()}, "results": results},
        )
        write_page(arguments.page, json.loads(json.dumps(results)))
        gc.collect()


if __name__ == "__main__":
    main()
