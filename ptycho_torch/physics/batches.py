"""How many frames are worked on at a time: as many as the memory holds, and fewer where that is faster."""

from __future__ import annotations

import torch

_STREAM_BYTES = 2**30
_WAVE_BYTES = 2**20
_MOST_FRAMES = 256


def frames_that_fit(N: int, modes: int) -> int:
    """Frames of N x N pixels that can be worked on at a time: about ten complex waves each, 1 GiB in all."""
    return max(1, _STREAM_BYTES // (10 * 8 * N * N * modes))


def frames_that_can_be_kept(N: int, modes: int) -> int:
    """Frames of which probes and object patch, (M + 1, N, N) complex, take 1 GiB in all."""
    return max(1, _STREAM_BYTES // (8 * N * N * (modes + 1)))


def fastest_batch(N: int, modes: int, device: torch.device | str) -> int:
    """Frames of N x N pixels at a time in a stream: on a CPU as many as its caches hold, elsewhere as many as fit,
    at most 256: what a network makes of each is larger than the frame.

    On a CPU one complex wave of the batch takes 1 MiB, and the ten that are worked on at a time stay near the cores
    (docs/performance.md).
    """
    fitting = min(_MOST_FRAMES, frames_that_fit(N, modes))
    return min(fitting, max(4, _WAVE_BYTES // (8 * N * N * modes))) if torch.device(device).type == "cpu" else fitting
