"""Grouping, stitching, reading, memory and start-up: `make bench`, or `python benchmarks/parts.py NAME` for one.

What is to grow linearly is measured at several sizes, and the exponent is given.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine, median_time, replace_section, table, write_json

from ptycho.diffsim import make_scan, simulate_demo_scan
from ptycho.raw_data import RawData

HERE = Path(__file__).parent
Rows = list[dict[str, Any]]


def exponent(sizes: list[int], times: list[float]) -> float:
    """Of the power law through times over sizes."""
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])


class AnonymousMemory:
    """Greatest anonymous memory of this process while it is watched (RssAnon, Linux), in MiB."""

    def __enter__(self) -> AnonymousMemory:
        self.before = self.peak = self._now()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.01):
            self.peak = max(self.peak, self._now())

    @staticmethod
    def _now() -> float:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")) / 1024


def grouping(repeats: int) -> Rows:
    """Groups of four for positions on a Fermat spiral."""
    from ptycho.grouping import neighbour_groups

    rows: Rows = []
    for n in (10_000, 100_000, 1_000_000):
        x, y = make_scan("fermat", n, 5.0)
        with AnonymousMemory() as memory:
            taken = median_time(lambda x=x, y=y, n=n: neighbour_groups(x, y, n, 4, 4, seed=0), repeats)
        rows.append({"positions": n, "time_s": taken, "peak_MiB": memory.peak})
    rows[-1]["exponent"] = exponent([row["positions"] for row in rows], [row["time_s"] for row in rows])
    return rows


def stitching(repeats: int) -> Rows:
    """Patches of 64 x 64 onto a canvas, weighted, as inference does: in batches of 256."""
    import torch

    from ptycho.geometry import canvas_for, placements
    from ptycho_torch.physics.patches import add_patches, merge_from_sums

    side, batch = 64, 256
    patches = torch.polar(torch.ones(batch, side, side), torch.rand(batch, side, side))
    weights = torch.rand(batch, side, side)
    rows: Rows = []
    for n in (10_000, 100_000, 1_000_000):
        x, y = make_scan("fermat", n, 5.0)
        canvas = canvas_for(x, y, side)
        starts = torch.from_numpy(placements(x, y, side, canvas)[0])

        def stitch(starts: Any = starts, shape: Any = canvas.shape) -> None:
            total, weight = torch.zeros(shape, dtype=torch.complex64), torch.zeros(shape)
            for part in starts.split(batch):
                some = weights[: len(part)]
                add_patches(total, patches[: len(part)] * some, part)
                add_patches(weight, some, part)
            merge_from_sums(total, weight, torch.tensor(1e-6))

        taken = median_time(stitch, repeats if n < 1_000_000 else 1)
        rows.append({"patches": n, "canvas_px": canvas.shape[0], "time_s": taken, "patches_per_s": n / taken})
    rows[-1]["exponent"] = exponent([row["patches"] for row in rows], [row["time_s"] for row in rows])
    return rows


def loading(repeats: int) -> Rows:
    """Blocks of 24 frames at random places, as counts, from each kind of file; and what opening it takes."""
    raw = simulate_demo_scan(0, n_frames=2000, N=64)
    places = np.random.default_rng(0).integers(0, 2000 - 24, 100)
    rows: Rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, compressed in (("scan.npz", False), ("small.npz", True), ("scan.h5", False), ("small.h5", True)):
            file = Path(folder) / name
            raw.to_file(file, compressed)
            read = RawData.from_file(file)

            def blocks(scan: RawData = read) -> None:
                for first in places:
                    scan.counts(np.arange(first, first + 24))

            rows.append({
                "file": file.suffix[1:] + (", compressed" if compressed else ""), "MiB": file.stat().st_size / 2**20,
                "open_s": median_time(lambda file=file: RawData.from_file(file), repeats),
                "frames_per_s": 24 * len(places) / median_time(blocks, repeats),
            })  # fmt: skip
    return rows


def large_scan(file: Path, n: int) -> None:
    """A scan of n frames of 64 x 64 in uncompressed HDF5, by repeating simulated frames: memory is asked for only."""
    import h5py

    raw = simulate_demo_scan(0, n_frames=500, N=64)
    x, y = make_scan("fermat", n, 5.0)
    with h5py.File(file, "w") as stored:
        stored["xcoords"], stored["ycoords"], stored["probeGuess"] = x, y, raw.probeGuess
        frames = stored.create_dataset("diff3d", (n, 64, 64), np.uint16)
        for first in range(0, n, 500):
            frames[first : first + 500] = raw.diff3d[: min(500, n - first)]


def inferred_memory(file: str, kept: str) -> None:
    """In a process of its own: open a scan and reconstruct it by an untrained network; say how much memory it took.

    kept: where canvases are, "in memory" or "on disk", that of the file.
    """
    import torch

    from ptycho.config.config import PyTorchExecutionConfig
    from ptycho_torch.canvases import Canvases
    from ptycho_torch.config_params import ModelConfig
    from ptycho_torch.model import PtychoPINN_Lightning
    from ptycho_torch.workflows.reconstruct import infer_with

    module = PtychoPINN_Lightning(ModelConfig(stages=1, projection_steps=1))
    module.eval()
    start = time.perf_counter()
    with AnonymousMemory() as memory:
        raw = RawData.from_file(file)
        canvases = Canvases(Path(file).parent if kept == "on disk" else None)
        outcome = infer_with(module, raw, PyTorchExecutionConfig(accelerator="cpu"), canvases=canvases)
    canvas = outcome.result.object.nbytes / 2**20
    taken = time.perf_counter() - start
    print(json.dumps({"canvases": kept, "frames": raw.n_frames, "time_s": taken, "before_MiB": memory.before,
                      "peak_MiB": memory.peak, "canvas_MiB": canvas, "threads": torch.get_num_threads()}))  # fmt: skip


def memory(_: int) -> Rows:
    """Inference from an HDF5 file, figures of both stages included."""
    rows: Rows = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "large.h5"
        for n in (10_000, 100_000):
            large_scan(file, n)
            for kept in ("in memory", "on disk"):
                code = f"import parts; parts.inferred_memory({str(file)!r}, {kept!r})"
                done = subprocess.run(
                    [sys.executable, "-c", code], cwd=HERE, capture_output=True, text=True, check=True, env=os.environ
                )
                rows.append(json.loads(done.stdout.splitlines()[-1]))
    return sorted(rows, key=lambda row: str(row["canvases"]))


def startup(repeats: int) -> Rows:
    """From the prompt to the end of the command."""
    command = str(Path(sys.executable).parent / "ptychopinn")
    jobs = {"import ptycho": [sys.executable, "-c", "import ptycho"], "ptychopinn --help": [command, "--help"]}
    star = os.environ.get("SIEMENS_STAR_DIR")
    if star:
        jobs["ptychopinn inspect, real scan"] = [command, "inspect", f"{star}/scan.npz"]
    empty = median_time(lambda: subprocess.run([sys.executable, "-c", ""], check=True), repeats)
    rows: Rows = [{"what": "python, nothing", "time_s": empty}]
    for name, words in jobs.items():
        taken = median_time(lambda words=words: subprocess.run(words, capture_output=True, check=True), repeats)
        rows.append({"what": name, "time_s": taken})
    return rows


PARTS: dict[str, Callable[[int], Rows]] = {
    "grouping": grouping, "stitching": stitching, "loading": loading, "memory": memory, "startup": startup,
}  # fmt: skip


def shown(value: Any) -> str:
    """A figure as a table has it."""
    return f"{value:.3g}" if isinstance(value, float) and value < 1000 else f"{value:,.0f}" if isinstance(
        value, (int, float)) else str(value)  # fmt: skip


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(PARTS)}; all of them")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output-dir", type=Path, default=HERE)
    parser.add_argument("--page", type=Path, default=HERE / "README.md")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - set(PARTS))
    if unknown:
        parser.error(f"found {', '.join(unknown)}, expected some of {', '.join(PARTS)}")
    known = machine()
    for name in arguments.names or PARTS:
        rows = PARTS[name](arguments.repeats)
        header = list(dict.fromkeys(key for row in rows for key in row))
        text = table(header, [[shown(row[key]) if key in row else "" for key in header] for row in rows])
        print(f"{name}\n{text}\n", flush=True)
        write_json(arguments.output_dir / f"{name}.json", {"repeats": arguments.repeats, "results": rows})
        about = f"## {name.capitalize()}\n\n{PARTS[name].__doc__}\n`python benchmarks/parts.py {name}`, "
        about += f"{known['processor']}, {known['cores']} cores, torch {known['torch']}, {known['date']}.\n"
        replace_section(arguments.page, name, f"{about}\n{text}")


if __name__ == "__main__":
    main()
