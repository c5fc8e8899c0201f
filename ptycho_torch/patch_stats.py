"""Figures and pictures of object patches, to see at a glance whether a network's output is alive."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho.errors import InputError
from ptycho.io.atomic import atomic_path

FOLDER = "analysis"
STATS_NAME, GRID_NAME = "torch_patch_stats.json", "torch_patch_grid.png"
MOST_PICTURES = 8


Patches = NDArray[np.complexfloating[Any, Any]]


def write_patch_stats(patches: Patches, output_dir: str | Path, limit: int | None = None) -> None:
    """Write ``analysis/torch_patch_stats.json`` and ``analysis/torch_patch_grid.png`` below an output folder.

    The first is a list with one entry per group of patches; all its figures are of the amplitude |patch|, which has
    no unit and is 1 in vacuum:

    - index: of the group;
    - shape: [C, N, N] of the group;
    - global_mean, global_std: over all its pixels;
    - var_zero_mean: variance around the mean of each patch by itself, averaged over the C patches; zero for patches
      that are constants, whatever their levels.

    The second shows amplitude and phase of the first patches.

    Args:
        patches: (n, C, N, N).
        output_dir: the folder of a run; ``analysis`` is made in it.
        limit: so many groups at most; None takes all.

    Raises:
        InputError: no patches, or an array of another form.
    """
    if patches.ndim != 4 or patches.size == 0:
        raise InputError(f"patches: found shape {patches.shape}, expected (n, C, N, N) with at least one patch.")
    if limit is not None and limit < 1:
        raise InputError(f"patch_stats_limit must be positive, found {limit}.")
    chosen = patches[:limit]
    folder = Path(output_dir) / FOLDER
    entries = [_figures(index, group) for index, group in enumerate(chosen)]
    with atomic_path(folder / STATS_NAME) as temporary:
        temporary.write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
    _draw(chosen, folder / GRID_NAME)


def _figures(index: int, group: Patches) -> dict[str, Any]:
    amplitude = np.abs(group).astype(np.float64)
    return {
        "index": index,
        "shape": list(group.shape),
        "global_mean": _number(amplitude.mean()),
        "global_std": _number(amplitude.std()),
        "var_zero_mean": _number(amplitude.var(axis=(-2, -1)).mean()),
    }


def _number(value: np.floating[Any]) -> float | None:
    """None for what JSON has no word for."""
    return float(value) if np.isfinite(value) else None


def _draw(chosen: Patches, file: Path) -> None:
    from ptycho import plotting

    channels = chosen.shape[1]
    flat = chosen.reshape(-1, *chosen.shape[2:])[:MOST_PICTURES]
    titles = [f"{i // channels}" + (f", {i % channels}" if channels > 1 else "") for i in range(len(flat))]
    with atomic_path(file) as temporary:
        plotting.patches_figure(np.nan_to_num(flat), titles).savefig(temporary)
