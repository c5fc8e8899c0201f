"""Projection towards the measured counts, averaged over overlapping frames.

One step brings, for every frame that shares the canvas, the modelled far-field amplitude to what the
counts make likelier (:func:`ptycho_torch.physics.backprojection.approach_counts`), and merges the
resulting waves by least squares (averaged projections, or parallel ePIE: A. Maiden and J. Rodenburg,
Ultramicroscopy 109, 1256 (2009); P. Thibault et al., Ultramicroscopy 109, 338 (2009)).  What a step
adds to the two sums of the merge can be accumulated over any number of calls, so a canvas of any
number of frames is solved in a stream.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ptycho_torch.physics.backprojection import POISSON_WEIGHT, approach_counts
from ptycho_torch.physics.illumination import exit_waves, merge_weights
from ptycho_torch.physics.modes import multiplied, sum_modes
from ptycho_torch.physics.patches import extract, merge_from_sums, place


def vacuum(leading: tuple[int, ...], shape: tuple[int, int], like: Tensor) -> Tensor:
    """A canvas of ones, (*leading, H, W), complex, on the device and in the precision of ``like``."""
    return torch.ones((*leading, *shape), dtype=like.dtype, device=like.device)


def momentum(step: int) -> float:
    """Weight of the extrapolation after step 0, 1, ...: k / (k + 3), Nesterov's schedule.

    Averaged projections are gradient steps on the amplitude misfit, and slow for what varies slowly over
    the object; extrapolating makes 16 steps worth about 40 (docs/findings.md, ACCEL-001).
    """
    return step / (step + 3)


def projected(
    patches: Tensor, amplitudes: Tensor, probes: Tensor, good_pixels: Tensor | None = None,
    weight: float = POISSON_WEIGHT, departure: bool = False,
) -> Tensor:  # fmt: skip
    """What each frame adds to the numerator of the merge after one projection: sum over modes of conj(P) psi'.

    Args:
        patches: (..., K, N, N) complex, the object seen by each frame.
        amplitudes: (..., K, N, N) real, square roots of counts, zero frequency first.
        probes: (..., K, M, N, N) complex, shifted by the frames' sub-pixel parts.
        good_pixels: (N, N) bool, zero frequency first, or None.
        weight: see :func:`ptycho_torch.physics.backprojection.approach_counts`.
        departure: True for conj(P) (psi' - psi), what the projection changes.

    Returns:
        (..., K, N, N) complex.
    """
    waves = exit_waves(probes, patches)
    revised = approach_counts(waves, amplitudes, good_pixels, weight, departure)
    return sum_modes(multiplied(revised, probes.conj()))


def project(
    canvas: Tensor, amplitudes: Tensor, probes: Tensor, starts: Tensor, floor: Tensor, steps: int,
    good_pixels: Tensor | None = None, held: Tensor | None = None, made: int = 0, staying: float = POISSON_WEIGHT,
) -> Tensor:  # fmt: skip
    """Apply ``steps`` accelerated averaged projections to the object on a canvas.

    Args:
        canvas: (..., H, W) complex.
        amplitudes, probes, good_pixels: see :func:`projected`.
        starts: (..., K, 2) int64.
        floor: scalar, the merge's regularisation in units of |P|^2; pulls the unlit to vacuum.
        steps: number of projections; 0 returns ``canvas`` itself.
        held: (..., H, W) real, what frames that are not here light; they are taken to agree with the canvas as it is.
        made: steps that were made before: the weight of the extrapolation goes on from there.
        staying: the weight of :func:`projected`.

    Returns:
        (..., H, W) complex.
    """
    if steps == 0:
        return canvas
    shape = (canvas.shape[-2], canvas.shape[-1])
    weight = place(merge_weights(probes), starts, shape)
    weight = weight if held is None else weight + held
    ahead = canvas
    for step in range(steps):
        patches = extract(ahead, starts, amplitudes.shape[-1])
        total = place(projected(patches, amplitudes, probes, good_pixels, staying), starts, shape)
        merged = merge_from_sums(total if held is None else total + held * ahead, weight, floor)
        ahead = merged + momentum(made + step) * (merged - canvas)
        canvas = merged
    return canvas
