"""What a GPU changes: the same objects, and how much sooner; `python benchmarks/gpu.py` on a machine that has one.

Each scan is trained on, reconstructed and refined on the CPU and on the GPU; the archive that the CPU wrote is then
applied on both. Objects are held against each other and against the true one; a run before each time is taken warms up.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine, replace_section, table, write_json

from ptycho.config.config import ModelConfig, PyTorchExecutionConfig, TrainingConfig
from ptycho.outcome import Outcome
from ptycho.placed import compare_placed, place_outcome, place_truth
from ptycho.raw_data import RawData
from ptycho.simulation.recipe import Recipe, simulate
from ptycho_torch.workflows.reconstruct import infer_scan, train_scan
from ptycho_torch.workflows.refinement import RefinementSettings, refine_scan

HERE = Path(__file__).parent
SCANS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "600 frames, N = 64": ({"n_frames": 600, "N": 64}, {}),
    "600 frames, N = 64, published network": ({"n_frames": 600, "N": 64}, {"architecture": "cnn"}),
    "600 frames, N = 128": ({"n_frames": 600, "N": 128}, {}),
}
DEVICES = ("cpu", "cuda")
EPOCHS, REFINEMENT_EPOCHS = 4, 20
REFINEMENT = RefinementSettings(epochs=REFINEMENT_EPOCHS, stop_improvement=0.0)


def execution(device: str) -> PyTorchExecutionConfig:
    """Everything else as it is by default."""
    return PyTorchExecutionConfig(accelerator=device)


def agreement(one: Outcome, other: Outcome, stage: str) -> float:
    """Phase correlation of a stage of two outcomes."""
    return float(compare_placed(place_outcome(one, stage), place_outcome(other, stage))[0].phase_correlation)


def difference(one: Outcome, other: Outcome, stage: str) -> float:
    """Greatest difference of a stage of two outcomes where frames lie, over the object's root mean square."""
    lit = one.coverage > 0
    a, b = one.stages[stage].object[lit], other.stages[stage].object[lit]
    return float(np.abs(a - b).max() / np.sqrt(np.mean(np.abs(a) ** 2)))


def timed(work: Any) -> tuple[Any, float]:
    """The second of two runs and its seconds."""
    work()
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def measure(name: str, folder: Path) -> dict[str, Any]:
    """One scan on both devices."""
    recipe, model = SCANS[name]
    truth = simulate(Recipe(seed=1, **recipe))
    raw: RawData = truth.raw
    config = TrainingConfig(ModelConfig(N=raw.N, **model), nepochs=EPOCHS, stop_improvement=0.0)
    found: dict[str, Any] = {"scan": name, "frames": raw.n_frames, "N": raw.N}
    trained, inferred, refined = {}, {}, {}
    for device in DEVICES:
        where = folder / device
        train_scan(raw, TrainingConfig(config.model, nepochs=1), execution(device), output_dir=folder / "warm")
        torch.cuda.reset_peak_memory_stats()
        trained[device] = train_scan(raw, config, execution(device), output_dir=where)
        inferred[device], inference_s = timed(lambda device=device: infer_scan(folder / "cpu", raw, None,
                                                                               execution(device)))  # fmt: skip
        refined[device], refinement_s = timed(lambda device=device: refine_scan(raw, None, REFINEMENT, device=device))
        found[device] = {
            "timings_s": trained[device].timings_s, "inference_s": inference_s, "refinement_s": refinement_s,
            "peak_gpu_mib": torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else 0.0,
            "correlation_with_truth": {
                stage: float(compare_placed(place_outcome(outcome, stage), place_truth(raw))[0].phase_correlation)
                for stage, outcome in (("network", trained[device]), ("refined", refined[device]))
            },
        }  # fmt: skip
    found |= {
        "trained_agree": agreement(*trained.values(), "network"),
        "inferred_agree": agreement(*inferred.values(), "network"),
        "inferred_differ": difference(*inferred.values(), "network"),
        "refined_agree": agreement(*refined.values(), "refined"),
        "refined_differ": difference(*refined.values(), "refined"),
    }
    return found


HEADER = ["scan", "", "training (s)", "inference (s)", "refinement (s)", "network, true object",
          "refined, true object"]  # fmt: skip
AGREEMENT = ["scan", "one archive: greatest difference", "refined: greatest difference", "trained on each: correlation"]
INTRODUCTION = """## On a GPU

`python benchmarks/gpu.py`. Simulated scans, {epochs} epochs of training after calibration and first projections,
inference from an archive, {refinement} epochs of refinement from vacuum; seconds in all, after a run that warms up.
"True object": phase correlation with it. Differences are the greatest of any lit pixel, over the object's root mean
square. Measured on {gpu} beside {processor}, {cores} cores, {threads} threads, torch {torch}, {date}.
"""


def write_page(page: Path, results: list[dict[str, Any]], gpu: str) -> None:
    """Both tables."""
    lines = []
    for result in results:
        for device, title in zip(DEVICES, ("CPU", "GPU"), strict=True):
            part = result[device]
            truth = part["correlation_with_truth"]
            lines.append([
                result["scan"], title, f"{part['timings_s']['total']:.2f}", f"{part['inference_s']:.2f}",
                f"{part['refinement_s']:.2f}", f"{truth['network']:.4f}", f"{truth['refined']:.4f}",
            ])  # fmt: skip
    agree = [
        [result["scan"], f"{result['inferred_differ']:.1e}", f"{result['refined_differ']:.1e}",
         f"{result['trained_agree']:.5f}"]
        for result in results
    ]  # fmt: skip
    introduction = INTRODUCTION.format(epochs=EPOCHS, refinement=REFINEMENT_EPOCHS, gpu=gpu, **machine())
    replace_section(page, "gpu", f"{introduction}\n{table(HEADER, lines)}\n\n{table(AGREEMENT, agree)}")


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scans", nargs="+", default=list(SCANS), choices=list(SCANS))
    parser.add_argument("--output", type=Path, default=HERE / "gpu.json")
    parser.add_argument("--page", type=Path, default=HERE / "README.md")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("no CUDA device was found here, and this compares one with the CPU.")
    warnings.simplefilter("ignore")
    logging.getLogger("ptycho_torch").setLevel(logging.ERROR)
    results = []
    for name in arguments.scans:
        with tempfile.TemporaryDirectory() as folder:
            results.append(measure(name, Path(folder)))
        print(results[-1], flush=True)
        gpu = torch.cuda.get_device_name()
        write_json(arguments.output, {"gpu": gpu, "results": results})
        write_page(arguments.page, results, gpu)


if __name__ == "__main__":
    main()
