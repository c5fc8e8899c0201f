"""Patches of groups of frames, and one object from them, for callers that think in patches."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho.config.config import PyTorchExecutionConfig
from ptycho.errors import InputError
from ptycho.geometry import canvas_for, placements
from ptycho.probe import normalise_probe
from ptycho_torch.calibration import same_guess
from ptycho_torch.data.containers import entry, known_scan
from ptycho_torch.data.scans import PlacedScan
from ptycho_torch.model import PtychoPINN_Lightning
from ptycho_torch.physics.fourier import fourier_shift
from ptycho_torch.physics.patches import extract, merge
from ptycho_torch.workflows.reconstruct import infer_with

logger = logging.getLogger(__name__)

Complex = NDArray[np.complex64]


def streams(model: Any, container: Any) -> bool:
    """True if the model can reconstruct the container's whole scan as a stream, instead of group by group."""
    return isinstance(model, PtychoPINN_Lightning) and known_scan(container) is not None


def streamed(model: PtychoPINN_Lightning, container: Any, execution: PyTorchExecutionConfig) -> tuple[Complex, Complex]:
    """The object of the container's scan, (H, W), and its patches for the container's groups, (groups, C, N, N).

    The patches are cut on whole pixels, at most half a pixel from their positions.
    """
    raw = known_scan(container)
    if raw is None:
        raise InputError("the container has no scan, only groups of frames.")
    outcome = infer_with(model, raw, execution)
    for note in outcome.notes:  # which probe was taken, say; callers get arrays only
        logger.info("%s", note)
    image = outcome.result.object
    groups = torch.as_tensor(np.asarray(group_indices(container))).long()
    starts = PlacedScan.of(raw).starts[groups.reshape(-1)]
    patches = extract(torch.from_numpy(image), starts, raw.N).numpy()
    return image, patches.reshape(*groups.shape, raw.N, raw.N)


def group_indices(container: Any) -> NDArray[np.integer[Any]]:
    """(groups, C) frames of a container's groups; of one that is made lazily, without making the rest of it."""
    lazy = getattr(container, "group_indices", None)
    found: NDArray[np.integer[Any]] = lazy() if callable(lazy) else np.asarray(entry(container, "nn_indices"))
    return found


def _light_for(model: Any, probe: Any, device: str) -> Tensor | None:
    """The probe to predict with: a refined one in place of the guess that it was refined from."""
    if probe is None:
        return None
    guess = normalise_probe(np.asarray(probe))
    if isinstance(model, PtychoPINN_Lightning):
        guess = guess * model.probe_mask_map.cpu().numpy()
        if same_guess(guess, model.probe_guess.cpu().numpy()):
            return model.probe.to(device)
    return torch.from_numpy(guess).to(device)


@torch.no_grad()
def predicted(model: Any, batches: Iterable[Any], frames: Any, probe: Any, device: str) -> Complex:
    """Patches (groups, C, N, N) by ``model.forward_predict``.

    Args:
        model: moved to ``device`` and put into evaluation mode.
        batches: pairs (X, positions), channels last, as :func:`.components._build_inference_dataloader` makes them.
        frames: all of ``X``, whose mean energy decides the input's scale.
        probe: (N, N) or (modes, N, N), or None.
        device: torch's name of it.

    Raises:
        InputError: the model has no ``forward_predict``.
    """
    if not hasattr(model, "forward_predict"):
        raise InputError(
            f"{type(model).__name__} has no forward_predict(X, positions, probe, input_scale_factor), by which patches "
            "are predicted. Use a trained model of this package, or give yours that method."
        )
    model.to(device)
    model.eval()
    light = _light_for(model, probe, device)
    X = np.asarray(frames)
    energy = float(np.square(X, dtype=np.float64).sum(axis=(1, 2)).mean())
    factor = X.shape[1] / 2 / max(energy, 1e-30) ** 0.5
    found = []
    for x, positions in batches:
        images, places = _channels_first(x, positions)
        scale = torch.full((len(images), 1, 1, 1), factor, device=device)
        found.append(model.forward_predict(images.to(device), places.to(device), light, scale).cpu())
    patches: Complex = torch.cat(found).numpy().astype(np.complex64, copy=False)
    return patches


def _channels_first(x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """(B, C, N, N) and (B, C, 1, 2) from (B, N, N[, C]) and (B, 1, 2, C) or (B, 2)."""
    images = x[:, None] if x.ndim == 3 else x.permute(0, 3, 1, 2)
    places = positions[:, None, None] if positions.ndim == 2 else positions.permute(0, 3, 1, 2)
    return images.contiguous(), places.contiguous()


def positions_of(container: Any) -> NDArray[np.float64]:
    """(groups * C, 2) positions (x, y) of the frames of a container, in pixels."""
    relative = np.asarray(entry(container, "coords_relative"), dtype=np.float64)
    centres = entry(container, "global_offsets")
    absolute = -relative if centres is None else np.asarray(centres, dtype=np.float64) - relative
    return absolute[:, 0].transpose(0, 2, 1).reshape(-1, 2)


def merged(container: Any, patches: Complex) -> Complex:
    """One object, (H, W), from patches (groups, C, N, N) at their positions, weighted by the probe's intensity.

    The canvas is the smallest that holds them, centred on the middle of their positions; 1 where none lies.
    """
    x, y = positions_of(container).T
    n = patches.shape[-1]
    canvas = canvas_for(x, y, n)
    starts, fractions = placements(x, y, n, canvas)
    stack = torch.from_numpy(patches.reshape(-1, n, n))
    moved = 1 + fourier_shift(stack - 1, torch.from_numpy(fractions.astype(np.float32)))
    probe = entry(container, "probe")
    weight = np.ones((n, n)) if probe is None else (np.abs(normalise_probe(np.asarray(probe))) ** 2).sum(axis=0)
    weights = torch.from_numpy(weight.astype(np.float32)).expand(moved.shape)
    result: Complex = merge(moved, weights, torch.from_numpy(starts), canvas.shape).numpy()
    return result
