"""Joint refinement of object and probe from diffraction frames.

Mini-batches in random order; for each, the departure of the exit waves from the measured amplitudes is
turned into preconditioned directions for object and probe, and one 2x2 least-squares problem gives the
step along both (M. Odstrcil, A. Menzel, M. Guizar-Sicairos, Opt. Express 26, 3108 (2018)); momentum
carries the directions from batch to batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ptycho_torch.physics.backprojection import replace_amplitude
from ptycho_torch.physics.illumination import exit_waves, merge_weights, shift_probe, unshift_probe_sum
from ptycho_torch.physics.patches import add_patches, extract, place
from ptycho_torch.solvers.gauge import ProbeGauge

AmplitudeSource = Callable[[Tensor], Tensor]
"""Frame indices (n,) int64 to square roots of counts (n, N, N), zero frequency first."""


@dataclass(frozen=True)
class RefinementOptions:
    """How to iterate.

    Attributes:
        epochs: passes over all frames.
        batch_size: frames per step; None takes a quarter of the frames, between 16 and 256.
        step: fraction of the least-squares step that is taken.
        momentum: share of the previous step that is kept, in [0, 1).
        probe_from_epoch: the probe is held for so many epochs.
        refine_probe: False keeps the probe as it is.
        relative_floor: regularisation of the preconditioners, in units of their maximum.
    """

    epochs: int = 15
    batch_size: int | None = None
    step: float = 0.5
    momentum: float = 0.8
    probe_from_epoch: int = 1
    refine_probe: bool = True
    relative_floor: float = 0.1

    def frames_per_step(self, n_frames: int) -> int:
        """The batch size for a scan of ``n_frames``."""
        return max(16, min(256, -(-n_frames // 4))) if self.batch_size is None else self.batch_size


@dataclass
class Refined:
    """Result of :func:`refine`.

    Attributes:
        canvas: (H, W) complex object.
        probe: (M, N, N) complex.
        errors: per epoch, sum |psi' - psi|^2 over sum of counts: the relative misfit of the amplitudes.
    """

    canvas: Tensor
    probe: Tensor
    errors: list[float] = field(default_factory=list)


def _direction_object(probes: Tensor, misfit: Tensor, starts: Tensor, shape: tuple[int, int], floor: float) -> Tensor:
    """Least-squares object update on the canvas from the misfit of the exit waves, (H, W)."""
    weight = place(merge_weights(probes), starts, shape)
    gradient = place((probes.conj() * misfit).sum(-3), starts, shape)
    return gradient / (weight + floor * weight.amax())


def _direction_probe(patches: Tensor, misfit: Tensor, fractions: Tensor, floor: float) -> Tensor:
    """Least-squares probe update common to all frames of the batch, (M, N, N)."""
    weight = patches.abs().square().sum(0)
    gradient = unshift_probe_sum(patches.conj()[:, None] * misfit, fractions)
    return gradient / (weight + floor * weight.amax())


def _joint_steps(misfit: Tensor, by_object: Tensor, by_probe: Tensor | None) -> tuple[Tensor, Tensor]:
    """Steps (a, b) that minimise |misfit - a by_object - b by_probe|^2, real and shared by the batch."""
    object_norm = by_object.abs().square().sum()
    object_fit = (by_object.conj() * misfit).sum().real
    if by_probe is None:
        return object_fit / (object_norm + 1e-30), torch.zeros_like(object_fit)
    probe_norm = by_probe.abs().square().sum()
    cross = (by_object.conj() * by_probe).sum().real
    probe_fit = (by_probe.conj() * misfit).sum().real
    # a small multiple of the diagonal keeps the pair solvable when both directions are alike
    a, d = 1.001 * object_norm + 1e-30, 1.001 * probe_norm + 1e-30
    determinant = a * d - cross.square()
    return (d * object_fit - cross * probe_fit) / determinant, (a * probe_fit - cross * object_fit) / determinant


def _illumination(probe: Tensor, starts: Tensor, fractions: Tensor, shape: tuple[int, int]) -> Tensor:
    """(H, W) real: sum over frames and modes of |P|^2."""
    weight = torch.zeros(shape, dtype=probe.real.dtype, device=probe.device)
    for at in torch.arange(len(starts), device=starts.device).split(256):
        add_patches(weight, merge_weights(shift_probe(probe, fractions[at])), starts[at])
    return weight


@torch.no_grad()
def refine(
    amplitudes_of: AmplitudeSource, starts: Tensor, fractions: Tensor, canvas: Tensor, probe: Tensor,
    options: RefinementOptions, *, good_pixels: Tensor | None = None, seed: int = 0,
    on_epoch: Callable[[int, float], None] | None = None,
) -> Refined:  # fmt: skip
    """Refine object and probe together.

    Args:
        amplitudes_of: gives the amplitudes of a batch of frames, so that frames may stay on disk.
        starts: (F, 2) int64 placement of all frames on the canvas (row, column).
        fractions: (F, 2) real sub-pixel remainders.
        canvas: (H, W) complex start, ones for vacuum.
        probe: (M, N, N) complex guess, scaled to counts; its power and centroid are kept.
        options: see :class:`RefinementOptions`.
        good_pixels: (N, N) bool, zero frequency first, or None.
        seed: of the order of frames.
        on_epoch: called with the number of finished epochs and the relative misfit.

    Returns:
        See :class:`Refined`.
    """
    gauge = ProbeGauge.of(probe)
    n_frames, n, shape = starts.shape[0], probe.shape[-1], (canvas.shape[0], canvas.shape[1])
    random = torch.Generator().manual_seed(seed)
    object_velocity, probe_velocity = torch.zeros_like(canvas), torch.zeros_like(probe)
    result = Refined(canvas, probe)
    n_steps = -(-n_frames // options.frames_per_step(n_frames))
    for epoch in range(options.epochs):
        misfit_sum = measured_sum = 0.0
        for batch in torch.randperm(n_frames, generator=random).tensor_split(n_steps):
            at = batch.to(starts.device)
            amplitudes = amplitudes_of(batch)
            if good_pixels is not None:
                amplitudes = torch.where(good_pixels, amplitudes, amplitudes.new_zeros(()))
            probes = shift_probe(probe, fractions[at])
            patches = extract(canvas, starts[at], n)
            waves = exit_waves(probes, patches)
            misfit = replace_amplitude(waves, amplitudes, good_pixels) - waves
            object_step = _direction_object(probes, misfit, starts[at], shape, options.relative_floor)
            by_object = probes * extract(object_step, starts[at], n)[:, None]
            probe_step, by_probe = None, None
            if options.refine_probe and epoch >= options.probe_from_epoch:
                probe_step = _direction_probe(patches, misfit, fractions[at], options.relative_floor)
                by_probe = shift_probe(probe_step, fractions[at]) * patches[:, None]
            a, b = _joint_steps(misfit, by_object, by_probe)
            object_velocity = options.momentum * object_velocity + options.step * a * object_step
            canvas = canvas + object_velocity
            if probe_step is not None:
                probe_velocity = options.momentum * probe_velocity + options.step * b * probe_step
                probe = probe + probe_velocity
            misfit_sum += float(misfit.abs().square().sum())
            measured_sum += float(amplitudes.square().sum())
        if options.refine_probe:
            scale = gauge.power_correction(probe)
            probe, probe_velocity = probe * scale, probe_velocity * scale
            canvas, object_velocity = canvas / scale, object_velocity / scale
        result.errors.append(misfit_sum / measured_sum)
        if on_epoch is not None:
            on_epoch(epoch + 1, result.errors[-1])
    if options.refine_probe:
        # once, at the end: moving both in between costs the momentum its direction
        probe, canvas = gauge.fix(probe, canvas, _illumination(probe, starts, fractions, shape))
        lit = _illumination(probe, starts, fractions, shape) > 1e-6 * merge_weights(probe).amax()
        canvas = torch.where(lit, canvas, torch.ones_like(canvas))
    result.canvas, result.probe = canvas, probe
    return result
