"""How good each architecture is, and what it adds to projection alone: `make bench-quality`.

Trains every architecture on simulated lines and dead leaves and, if SIEMENS_STAR_DIR is set, on the real scan, at
N = 64 and 128, and writes the figures into benchmarks/README.md and a JSON file. Each row has the figure without the
network beside it. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import replace_section, table, write_json

from ptycho.config.config import ModelConfig, PyTorchExecutionConfig, TrainingConfig
from ptycho.diffsim import simulate_demo_scan
from ptycho.errors import InputError
from ptycho.io.reconstruction_files import load_any
from ptycho.placed import PlacedObject, compare_placed, place_loaded, place_outcome, place_truth
from ptycho.raw_data import RawData

HERE = Path(__file__).parent
SIMULATED = ("lines", "dead_leaves")
SIDES = (64, 128)
FRAMES = {64: 600, 128: 400}
COUNTS_PER_PIXEL = 25  # about 1e5 counts per frame of 64 x 64


@dataclass(frozen=True)
class Method:
    """A row of the table: an architecture with settings, and how long it may train."""

    label: str
    model: dict[str, Any]
    max_time_s: float


def methods(limit_s: float) -> list[Method]:
    """What is compared; the published network gets all the time that there is."""
    unet, default = {"architecture": "projection_unet"}, ModelConfig()
    steps, ten = default.projection_steps, {"projection_steps": 10, "later_projection_steps": 10}
    return [
        Method("projection_unet, 1 stage of 1 step", {**unet, "projection_steps": 1}, limit_s),
        Method(f"projection_unet, 1 stage of {steps} (default)", unet, limit_s),
        Method(f"projection_unet, {steps} + 0", {**unet, "stages": 2}, limit_s),
        Method("projection_unet, 10 + 10", {**unet, "stages": 2, **ten}, limit_s),
        Method("cnn", {"architecture": "cnn"}, limit_s),
    ]


@dataclass(frozen=True)
class Case:
    """A scan with what its object is compared with."""

    label: str
    raw: RawData
    reference: PlacedObject
    half: int | None


def cases(star: Path | None, sides: tuple[int, ...]) -> list[Case]:
    """The simulated scans, and the real one where it is there."""
    found = []
    for side in sides:
        for name in SIMULATED:
            raw = simulate_demo_scan(
                1, n_frames=FRAMES[side], N=side, counts_per_frame=COUNTS_PER_PIXEL * side**2, object_name=name
            )
            found.append(Case(f"{name}, N = {side}", raw, place_truth(raw), None))
        if star is not None:
            raw = RawData.from_file(star / "scan.npz").crop(side)
            reference = place_loaded(load_any(star / f"lsqml_200_n{side}.npz"))
            found.append(Case(f"Siemens star, N = {side}", raw, reference, 62 * side // 64))
    return found


def measure(case: Case, method: Method) -> dict[str, Any]:
    """Train and reconstruct; the figures of both stages."""
    from ptycho_torch.workflows.reconstruct import train_scan

    config = TrainingConfig(ModelConfig(**method.model), max_time_s=method.max_time_s)
    if method.model["architecture"] == "cnn":
        # it learns for much longer than the plateau rule would wait
        config.nepochs, config.stop_improvement = 1000, 0.0
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outcome = train_scan(case.raw, config, PyTorchExecutionConfig(accelerator="cpu"), output_dir=Path(folder))
    figures: dict[str, Any] = {"scan": case.label, "method": method.label, "times_s": outcome.timings_s}
    figures["epochs"] = len(outcome.losses.get("train", []))
    for name, stage in outcome.stages.items():
        comparison, _ = compare_placed(place_outcome(outcome, name), case.reference, case.half)
        own = {"deviance": stage.deviance, "expected_deviance": stage.expected_deviance}
        figures[name] = comparison.to_dict() | own
    gc.collect()
    return figures


def rows_of(results: list[dict[str, Any]]) -> list[list[str]]:
    """Rows of the table, scan by scan."""
    rows = []
    for result in results:
        network, alone = result["network"], result["projection"]
        times = result["times_s"]
        rows.append([
            result["scan"], result["method"],
            f"{network['phase_correlation']:.3f} ({alone['phase_correlation']:.3f})",
            f"{network['ssim']:.3f} ({alone['ssim']:.3f})",
            f"{network['frc_crossing']:.2f} ({alone['frc_crossing']:.2f})",
            f"{network['deviance']:.2f} ({alone['deviance']:.2f}; {network['expected_deviance']:.2f})",
            f"{network['contrast_ratio']:.2f}",
            f"{times['calibration'] + times['training']:.0f}", f"{result['epochs']}",
        ])  # fmt: skip
    return rows


HEADER = ["scan", "method", "phase correlation", "SSIM", "FRC crossing (1/px)", "deviance per pixel", "contrast",
          "time (s)", "epochs"]  # fmt: skip
INTRODUCTION = """## Quality

`make bench-quality`. In brackets: the same scan without the network (as many projections as the method's stages take;
for the cnn 20). Deviance: in brackets without the network, and what photon noise alone would give. FRC crossing:
half-bit threshold, 0.5 is the Nyquist frequency. Contrast: of the phase, over that of the reference; near 0 would be a
collapse. Time: calibration and training, at most {limit:.0f} s for training. References: the true object; for the star
the iterative (LSQML) one that comes with the data.
Measured on {processor}, {cores} cores, {threads} threads, torch {torch}, {date}; single runs.
"""


def write_page(page: Path, results: list[dict[str, Any]], limit_s: float) -> None:
    """Put the table into the page."""
    from machine import machine

    introduction = INTRODUCTION.format(limit=limit_s, **machine())
    replace_section(page, "quality", f"{introduction}\n{table(HEADER, rows_of(results))}")


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--max-time", type=float, default=120.0, help="seconds of training per row at most")
    parser.add_argument("--sides", type=int, nargs="+", default=list(SIDES), choices=SIDES)
    parser.add_argument("--only", default="", help="rows whose scan and method contain this text")
    parser.add_argument("--output", type=Path, default=HERE / "quality.json")
    parser.add_argument("--page", type=Path, default=HERE / "README.md")
    arguments = parser.parse_args()
    star = os.environ.get("SIEMENS_STAR_DIR")
    results = []
    for case in cases(Path(star) if star else None, tuple(arguments.sides)):
        for method in methods(arguments.max_time):
            if arguments.only not in f"{case.label} {method.label}":
                continue
            try:
                results.append(measure(case, method))
            except InputError as error:
                print(f"{case.label}, {method.label}: {error}", flush=True)
                continue
            print(" | ".join(rows_of(results[-1:])[0]), flush=True)
            # after every row: a run that is cut off leaves what it has
            write_json(arguments.output, {"max_time_s": arguments.max_time, "results": results})
            write_page(arguments.page, json.loads(json.dumps(results)), arguments.max_time)


if __name__ == "__main__":
    main()
