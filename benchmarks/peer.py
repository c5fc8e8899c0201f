"""The iterative peer: LSQML of ptychi, in an environment of its own, on the scans of this project.

`python benchmarks/peer.py` makes the environment. The other benchmarks call `run_peer`, which hands a scan over in
files. torchvision, which ptychi imports and its LSQML does not use, is a stand-in there (lsqml/stub).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import venv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ptycho.geometry import Canvas, canvas_for
from ptycho.io.reconstruction_files import LoadedObject
from ptycho.placed import PlacedObject, place_loaded
from ptycho.probe import scale_probe_to_counts
from ptycho.raw_data import RawData

HERE = Path(__file__).parent
ENVIRONMENT = HERE.parent / ".venv-peer"
REQUIREMENTS = ("torch==2.13.0", "ptychi==2.2.*")
MARGIN_PX = 4  # it asks for some pixels beyond the frames


@dataclass(frozen=True)
class PeerSettings:
    """How LSQML iterates.

    epochs, batch_size: as in any solver. snapshots: epochs after which object and probe are kept; the last one always.
    refine_probe: False holds the probe. probe_from_epoch: held until then. batching: "random", "uniform" or "compact".
    momentum: gain of its acceleration (of the probe alone, but for compact batches), 0 for none. noise_model:
    "gaussian" or "poisson". step: share of the least-squares steps. rescale_probe: spend the first epoch on the
    brightness of the probe; it comes scaled to the counts. threads, seed: of the process, of the order of frames.
    """

    epochs: int = 50
    batch_size: int = 64
    snapshots: tuple[int, ...] = ()
    refine_probe: bool = True
    probe_from_epoch: int = 0
    batching: str = "random"
    momentum: float = 0.0
    noise_model: str = "gaussian"
    step: float = 0.9
    rescale_probe: bool = False
    threads: int = 1
    seed: int = 0


@dataclass(frozen=True)
class PeerRun:
    """What LSQML made of a scan.

    times_s: (epochs,) seconds from the start of the first epoch to the end of each; imports, set-up and the copies of
    the snapshots are not in it. objects: by epoch, complex64 (H, W) on `canvas`. probes: by epoch, (M, N, N) in
    photons. xcoords, ycoords: of the scan.
    """

    times_s: NDArray[np.float64]
    objects: dict[int, NDArray[np.complex64]]
    probes: dict[int, NDArray[np.complex64]]
    canvas: Canvas
    xcoords: NDArray[np.float64]
    ycoords: NDArray[np.float64]

    def placed(self, epoch: int) -> PlacedObject:
        """The object after an epoch, ready to be compared."""
        return place_loaded(self.loaded(epoch))

    def loaded(self, epoch: int) -> LoadedObject:
        """The object after an epoch as if it came from a file."""
        return LoadedObject(
            self.objects[epoch], Path(f"lsqml_{epoch}"), "reconstruction", "object", self.probes[epoch],
            xcoords=self.xcoords, ycoords=self.ycoords, center_xy=self.canvas.center_xy,
        )  # fmt: skip


def python_of(folder: Path) -> Path:
    """The interpreter of an environment."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def make_environment(folder: Path = ENVIRONMENT) -> Path:
    """An environment with ptychi in `folder`, made if it is not there; its interpreter."""
    python, stamp = python_of(folder), folder / ".installed"
    wanted = " ".join(REQUIREMENTS)
    if stamp.exists() and stamp.read_text(encoding="ascii") == wanted:
        return python
    if not python.exists():
        venv.create(folder, with_pip=True)
    for requirement in REQUIREMENTS:  # torch first and alone: nothing replaces that build then
        subprocess.run([python, "-m", "pip", "install", "--quiet", requirement, REQUIREMENTS[0]], check=True)
    stamp.write_text(wanted, encoding="ascii")
    return python


def even_canvas(raw: RawData) -> Canvas:
    """A canvas with even sides, whose middle is then the origin of the peer's positions."""
    smallest = canvas_for(raw.xcoords, raw.ycoords, raw.N)
    height, width = (side + MARGIN_PX + side % 2 for side in smallest.shape)
    return Canvas((height, width), smallest.center_xy)


def run_peer(python: Path, raw: RawData, settings: PeerSettings) -> PeerRun:
    """LSQML from vacuum and the scan's probe guess, scaled to its counts, in a process of its own."""
    if raw.bad_pixels is not None and raw.bad_pixels.any():
        raise ValueError(f"{raw.source}: found masked pixels, expected none; the mask is not handed to the peer.")
    snapshots = sorted({*settings.snapshots, settings.epochs})
    settings = dataclasses.replace(settings, snapshots=tuple(at for at in snapshots if at <= settings.epochs))
    canvas = even_canvas(raw)
    cx, cy = canvas.center_xy
    entries = {
        "counts": raw.counts(np.arange(raw.n_frames)),
        "x_px": raw.xcoords - cx,
        "y_px": raw.ycoords - cy,
        "probe": scale_probe_to_counts(raw.probe, raw.mean_counts_per_frame(), raw.good_pixels).astype(np.complex64),
        "object": np.ones(canvas.shape, np.complex64),
    }
    with tempfile.TemporaryDirectory() as folder:
        data, stated, result = (Path(folder) / name for name in ("data.npz", "settings.json", "result.npz"))
        np.savez(data, **entries)
        stated.write_text(json.dumps(dataclasses.asdict(settings)), encoding="utf-8")
        threads = str(settings.threads)
        paths = os.pathsep.join([str(HERE / "lsqml" / "stub")])
        environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        environment["CUDA_VISIBLE_DEVICES"] = ""
        command = [str(python), str(HERE / "lsqml" / "solve.py"), str(data), str(stated), str(result)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"the peer ended with {done.returncode}:\n{done.stderr[-3000:]}")
        with np.load(result) as file:
            objects = {int(at): file[f"object_{at}"] for at in file["at"]}
            probes = {int(at): file[f"probe_{at}"].astype(np.complex64) for at in file["at"]}
            times = np.cumsum(file["time_s"])
    return PeerRun(times, objects, probes, canvas, raw.xcoords, raw.ycoords)


def main() -> None:
    """Make the environment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--environment", type=Path, default=ENVIRONMENT)
    python = make_environment(parser.parse_args().environment)
    shown = [str(python), "-c", "from importlib.metadata import version as v; print('ptychi', v('ptychi'))"]
    sys.exit(subprocess.run(shown, check=False).returncode)


if __name__ == "__main__":
    main()
