"""LSQML of ptychi on one scan: `python solve.py DATA.npz SETTINGS.json RESULT.npz`, by the Python of its environment.

DATA.npz: counts (F, N, N), zero frequency at N//2; x_px, y_px (F,) from the middle of the object array; probe
(M, N, N) in photons (sum |P|^2 is the number per frame); object (H, W) complex64, the start, H and W even.
SETTINGS.json: the fields of `peer.PeerSettings`. RESULT.npz: time_s (epochs,), seconds of each epoch; at (snapshots,),
and for each of them object_EPOCH (H, W) and probe_EPOCH (M, N, N) in photons.

Imports nothing of this project, which is not in that environment.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ptychi import api
from ptychi.api.task import PtychographyTask


def task_of(data: dict[str, Any], settings: dict[str, Any]) -> PtychographyTask:
    """The task, its positions held."""
    options = api.LSQMLOptions()
    solver = options.reconstructor_options
    solver.num_epochs, solver.batch_size = settings["epochs"], settings["batch_size"]
    solver.batching_mode = api.BatchingModes(settings["batching"])
    solver.noise_model = api.NoiseModels(settings["noise_model"])
    solver.momentum_acceleration_gain = settings["momentum"]
    solver.rescale_probe_intensity_in_first_epoch = settings["rescale_probe"]
    solver.default_device, solver.random_seed = api.Devices.CPU, settings["seed"]
    options.object_options.optimal_step_size_scaler = settings["step"]
    options.probe_options.optimizable = settings["refine_probe"]
    options.probe_options.optimization_plan.start = settings["probe_from_epoch"]
    options.probe_options.optimal_step_size_scaler = settings["step"]
    options.probe_position_options.optimizable = False
    # its transform has no factor 1/N
    probe = torch.from_numpy(data["probe"] / data["probe"].shape[-1])[None]
    task = PtychographyTask(
        options,
        diffraction_data=torch.from_numpy(data["counts"].astype(np.float32)),
        object_data=torch.from_numpy(data["object"])[None],
        probe_data=probe,
        probe_position_x_px=torch.from_numpy(data["x_px"].astype(np.float32)),
        probe_position_y_px=torch.from_numpy(data["y_px"].astype(np.float32)),
    )
    # its loader draws the order of the frames by a generator of its own, which random_seed does not reach
    task.reconstructor.dataloader.generator.manual_seed(settings["seed"])
    return task


def solve(data: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Run all epochs; what RESULT.npz holds."""
    torch.set_num_threads(settings["threads"])
    with task_of(data, settings) as warm_up:
        warm_up.run(1)
    taken: list[float] = []
    found: dict[str, Any] = {"at": np.array(settings["snapshots"])}
    with task_of(data, settings) as task:
        for epoch in range(1, settings["epochs"] + 1):
            start = time.perf_counter()
            task.run(1)
            taken.append(time.perf_counter() - start)
            if epoch in settings["snapshots"]:
                found[f"object_{epoch}"] = task.get_data_to_cpu("object", as_numpy=True)[0].copy()
                probe = task.get_data_to_cpu("probe", as_numpy=True)[0]
                found[f"probe_{epoch}"] = probe * probe.shape[-1]
    return found | {"time_s": np.array(taken)}


def main() -> None:
    """Read, solve, write."""
    logging.basicConfig(level=logging.WARNING)
    logging.getLogger("ptychi").setLevel(logging.ERROR)
    data_file, settings_file, result_file = (Path(name) for name in sys.argv[1:4])
    with np.load(data_file, allow_pickle=False) as file:
        data = {key: file[key] for key in file.files}
    np.savez(result_file, **solve(data, json.loads(settings_file.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
