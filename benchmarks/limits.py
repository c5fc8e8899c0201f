"""What takes the time in training and in inference, and how near convolutions and projections come to this machine.

A profile (torch.profiler) of both on a simulated scan, by kinds of operations; the rate of the convolutions beside that
of a matrix product, and that of the projections beside that of Fourier transforms alone, in the same run.
"""

from __future__ import annotations

import argparse
import logging
import math
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from machine import machine, median_time, replace_section, table, write_json
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from ptycho.config.config import ModelConfig, PyTorchExecutionConfig, TrainingConfig
from ptycho.diffsim import simulate_demo_scan
from ptycho.raw_data import RawData
from ptycho_torch.config_stated import payload_of
from ptycho_torch.data.scans import PlacedScan
from ptycho_torch.model import PtychoPINN_Lightning
from ptycho_torch.physics.batches import fastest_batch
from ptycho_torch.reassembly import StreamedFrames
from ptycho_torch.workflows.training import TrainingJob

HERE = Path(__file__).parent
EXECUTION = PyTorchExecutionConfig(accelerator="cpu")
FRAMES = {64: 480, 128: 240}
REPEATS = 5
# the first that fits an operation's name
KINDS = {
    "convolutions, backward": ("convolution_backward",),
    "convolutions, forward": ("convolution",),
    "Fourier transforms": ("_fft_",),
    "cutting patches and adding them back": ("gather", "scatter", "index"),
    "optimiser": ("adam", "Optimizer"),
    "products, sums and roots of arrays": (
        "mul", "add", "sub", "div", "pow", "sum", "sqrt", "rsqrt", "conj", "polar", "abs", "neg", "square", "log",
        "exp", "silu", "tanh", "where", "clamp", "maximum", "amax", "addcdiv", "addcmul", "cos", "sin", "reciprocal",
    ),
    "copies and fills": ("copy_", "fill_", "zero_", "cat", "clone", "pad", "empty", "upsample", "avg_pool", "stack"),
}  # fmt: skip


def kind_of(operation: str) -> str:
    """The row of the table to which an operation of the profile belongs."""
    for kind, parts in KINDS.items():
        if any(part in operation for part in parts):
            return kind
    return "everything else"


def shares(work: Callable[[], object]) -> dict[str, float]:
    """Share of each kind of operation in the time of the processor, each without what it calls."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        work()
    found = dict.fromkeys([*KINDS, "everything else"], 0.0)
    for event in profiler.key_averages():
        found[kind_of(event.key)] += event.self_cpu_time_total
    total = sum(found.values())
    return {kind: value / total for kind, value in found.items()}


def matmul_rate() -> float:
    """Floating-point operations per second of a product of two large matrices, single precision.

    The better of torch's two libraries for it: the second one is what computes convolutions.
    """
    side = 3072
    a, b = torch.randn(2, side, side)
    pixels = a.reshape(1, 48, 64, side).permute(0, 3, 1, 2)  # a 1 x 1 convolution is a matrix product
    kernels = b.reshape(side, side, 1, 1).contiguous(memory_format=torch.channels_last)
    convolution = torch.nn.functional.conv2d
    with torch.no_grad():
        taken = min(median_time(lambda: a @ b, REPEATS), median_time(lambda: convolution(pixels, kernels), REPEATS))
    return 2 * side**3 / taken


def fourier_rate(side: int) -> float:
    """Two-dimensional transforms per second, in batches as a projection has them."""
    waves = torch.randn(fastest_batch(side, 1, "cpu"), side, side, dtype=torch.complex64)
    return len(waves) / (median_time(lambda: [torch.fft.fft2(waves, norm="ortho") for _ in range(50)], REPEATS) / 50)


def network_rates(module: PtychoPINN_Lightning, shape: tuple[int, ...]) -> dict[str, float]:
    """Floating-point operations per second of the network on features (B, C, H, W): as it trains, as it infers."""
    network = module.generator.networks()[0]
    features = torch.randn(shape).contiguous(memory_format=torch.channels_last)

    def training() -> None:
        network(features).square().sum().backward()

    @torch.no_grad()
    def inference() -> None:
        network(features)

    found = {}
    for name, work in (("training", training), ("inference", inference)):
        with FlopCounterMode(display=False) as counter:
            work()
        found[name] = counter.get_total_flops() / median_time(work, 4 * REPEATS)
    return found


def projections(raw: RawData, probe: torch.Tensor) -> float:
    """Frames projected per second, the frames in memory."""
    frames = StreamedFrames(PlacedScan.of(raw), probe, torch.from_numpy(raw.good_pixels))
    with torch.no_grad():
        return 3 * raw.n_frames / median_time(lambda: frames.project(frames.vacuum(), 3), REPEATS)


def measure(side: int) -> dict[str, Any]:
    """All figures at this side of a frame."""
    raw = simulate_demo_scan(0, n_frames=FRAMES[side], N=side, counts_per_frame=25 * side**2)
    config = TrainingConfig(
        ModelConfig(N=side), nepochs=3, stop_improvement=0.0, val_fraction=0.0, calibrate_probe=False
    )
    with tempfile.TemporaryDirectory() as folder:
        job = TrainingJob(payload_of(config, EXECUTION, output_dir=Path(folder)), Path(folder), False)
        training = shares(lambda: job.run(raw))
    module = job.module.eval()
    scan = PlacedScan.of(raw)
    good = torch.from_numpy(raw.good_pixels)
    with torch.no_grad():
        inference = shares(lambda: module.generator(StreamedFrames(scan, module.probe, good)))
    height, width = scan.canvas.shape
    return {
        "N": side, "training": training, "inference": inference,
        "matmul_flops": matmul_rate(), "network_flops": network_rates(module, (1, 5, height, width)),
        "transforms_per_s": fourier_rate(side), "projections_per_s": projections(raw, module.probe),
    }  # fmt: skip


def lines_of(found: dict[str, Any]) -> tuple[list[list[str]], list[str]]:
    """Rows of the profile, and a row of rates."""
    profile_rows = [
        [f"{found['N']}", kind, f"{100 * found['training'][kind]:.0f} %", f"{100 * found['inference'][kind]:.0f} %"]
        for kind in found["training"]
    ]
    peak, network = found["matmul_flops"], found["network_flops"]
    # a projection is two transforms of each frame
    of_transforms = 2 * found["projections_per_s"] / found["transforms_per_s"]
    operations = 5 * found["N"] ** 2 * math.log2(found["N"] ** 2)
    rates = [
        f"{found['N']}", f"{peak / 1e9:.0f}", f"{network['training'] / peak:.2f}", f"{network['inference'] / peak:.2f}",
        f"{found['transforms_per_s']:.0f} ({found['transforms_per_s'] * operations / 1e9:.1f} Gflop/s)",
        f"{found['projections_per_s']:.0f}", f"{of_transforms:.2f}",
    ]  # fmt: skip
    return profile_rows, rates


INTRODUCTION = """## Where the time goes, and what bounds it

`python benchmarks/limits.py`. Default settings, three epochs of training, and inference, under torch.profiler: share of
the processor's time of each kind of operation. Below: the network's rate over that of a product of two matrices of
3072 x 3072 (single precision, the faster of two libraries), and what the Fourier transforms of a projection (the wave
goes to the detector and comes back) would take alone, over what the projection takes.
Measured on {processor}, {cores} cores, {threads} threads, torch {torch}, {date}.
"""


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 128], choices=sorted(FRAMES))
    parser.add_argument("--output", type=Path, default=HERE / "limits.json")
    parser.add_argument("--page", type=Path, default=HERE / "README.md")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("ptycho_torch").setLevel(logging.ERROR)
    results = [measure(side) for side in arguments.sides]
    # one machine has one peak: the best that was seen of it
    peak = max(found["matmul_flops"] for found in results)
    results = [found | {"matmul_flops": peak} for found in results]
    write_json(arguments.output, {"results": results})
    write_page(arguments.page, results)


def write_page(page: Path, results: list[dict[str, Any]]) -> None:
    """The tables of the page."""
    made = [lines_of(found) for found in results]
    profiles = table(["N", "operation", "training", "inference"], [row for rows, _ in made for row in rows])
    rates = table(
        ["N", "matrix product (Gflop/s)", "network, training / that", "network, inference / that",
         "transforms per second", "projections per second", "transforms' share of it"],
        [row for _, row in made],
    )  # fmt: skip
    replace_section(page, "limits", f"{INTRODUCTION.format(**machine())}\n{profiles}\n\n{rates}")


if __name__ == "__main__":
    main()
