"""Joint refinement of object, probe and positions from diffraction frames.

Mini-batches, each spread over the scan; for each, the departure of the exit waves from those that the counts make
likelier is turned into preconditioned directions for object and probe, and one 2x2 least-squares problem gives the step
along both (M. Odstrcil, A. Menzel, M. Guizar-Sicairos, Opt. Express 26, 3108 (2018)); momentum carries the directions
from batch to batch. The batches stay the same, as ordered subsets (H. M. Hudson and R. S. Larkin, IEEE Trans. Med.
Imaging 13, 601 (1994)), and share one preconditioner, the most that any of them lights: a pixel that a batch hardly
sees is hardly moved by it, and what the batches disagree about stays small. Phases that vary slowly over the beam, of
which frames see little, are carried further (:mod:`ptycho_torch.physics.slow_phase`). Positions, where they are unknown
too, take a step of their own after that (:mod:`ptycho_torch.solvers.positions`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from ptycho_torch.physics.backprojection import approach_counts
from ptycho_torch.physics.batches import fastest_batch
from ptycho_torch.physics.illumination import exit_waves, merge_weights, shift_probe, unshift_probe_sum
from ptycho_torch.physics.modes import multiplied, sum_modes
from ptycho_torch.physics.patches import add_patches, extract
from ptycho_torch.physics.slow_phase import SlowPhase, carry, light_through, slow_phase
from ptycho_torch.solvers.gauge import ProbeGauge
from ptycho_torch.solvers.positions import Positions, position_steps
from ptycho_torch.solvers.projection import momentum

STAYING = 8.0
"""Weight of staying where the waves are, see :func:`approach_counts`: the steps are fewer and longer than projections,
and the less they follow single counts the better (docs/findings.md, POISSON-001)."""

AmplitudeSource = Callable[[Tensor], Tensor]
"""Frame indices (n,) int64 to square roots of counts (n, N, N), zero frequency first."""


@dataclass(frozen=True)
class RefinementOptions:
    """How to iterate.

    Attributes:
        epochs: passes over all frames.
        step: fraction of the least-squares step that is taken.
        momentum: share of the previous step that is kept, in [0, 1); None for :func:`momentum_for`.
        probe_from_epoch: the probe is held for so many epochs.
        refine_probe: False keeps the probe as it is.
        relative_floor: regularisation of the preconditioners, in units of their maximum.
        refine_positions: True moves the frames too.
        positions_from_epoch: they are held for so many epochs, until there is an object to go by.
        position_step: fraction of the Gauss-Newton step of a position that is taken.
        longest_move_px: no frame is moved by more along an axis in one epoch.
        stop_improvement: end when the mean misfit of ``stop_window`` epochs is lower than that of those before them by
            less than this fraction; 0 never stops.
        stop_window: epochs whose mean is compared, so that the noise of the batches does not decide.
    """

    epochs: int = 15
    step: float = 0.5
    momentum: float | None = None
    probe_from_epoch: int = 1
    refine_probe: bool = True
    relative_floor: float = 0.1
    refine_positions: bool = False
    positions_from_epoch: int = 5
    position_step: float = 1.0
    longest_move_px: float = 0.5
    stop_improvement: float = 0.0
    stop_window: int = 10

    def on_plateau(self, errors: list[float]) -> bool:
        """Whether the misfits of the epochs so far say that more of them would hardly help."""
        held = max(self.probe_from_epoch * self.refine_probe, self.positions_from_epoch * self.refine_positions)
        known, window = errors[held:], self.stop_window
        if self.stop_improvement <= 0 or len(known) < 2 * window:
            return False
        before, now = sum(known[-2 * window : -window]), sum(known[-window:])
        # a misfit that is no number stops nothing: the caller is to see it
        return now > (1 - self.stop_improvement) * before


@dataclass
class Refined:
    """Result of :func:`refine`.

    Attributes:
        canvas: (H, W) complex object.
        probe: (M, N, N) complex.
        starts, fractions: (F, 2) where the frames lie in the end.
        moved_px: (F, 2) real, (row, column), by how much they were moved; in the mean at most half a pixel,
            unless a frame at its limit forbids more to be taken out.
        errors: per epoch, sum |psi' - psi|^2 over sum of counts: the relative misfit of the amplitudes.
        stopped: True if it ended on a plateau, before the last epoch.
        at_limit: how many frames were moved as far as they may.
    """

    canvas: Tensor
    probe: Tensor
    starts: Tensor
    fractions: Tensor
    moved_px: Tensor
    errors: list[float] = field(default_factory=list)
    stopped: bool = False
    at_limit: int = 0


IN_ORDER = 4
"""So many parts at most are taken in the same order in each epoch: momentum remembers each of them more than once, and
none more than another. More parts would resonate with it, and come in random order (docs/findings.md, FASTER-001)."""


def momentum_for(parts: int) -> float:
    """Share of the previous step that is kept where an epoch has so many steps.

    Many parts carry the object farther towards the frames of a few of them before the others are heard.
    """
    return 0.9 if parts <= IN_ORDER else 0.8


def turns_of(parts: int, random: torch.Generator) -> Sequence[int]:
    """The parts in the order in which an epoch takes them: see `IN_ORDER`."""
    if parts <= IN_ORDER:
        return range(parts)
    order: list[int] = torch.randperm(parts, generator=random).tolist()
    return order


class _Piece(NamedTuple):
    """Frames that are worked on at a time, as the second look at them needs them: (n, 2), (n, 2), (n, M, N, N),
    (n, N, N)."""

    starts: Tensor
    fractions: Tensor
    probes: Tensor
    patches: Tensor


class _Asked:
    """What the frames of a batch ask for, summed over them.

    Attributes:
        of_object: (H, W) complex, sum over frames and modes of conj(P) (psi' - psi).
        light: (H, W) real, sum over frames and modes of |P|^2.
        of_probe: (M, N, N) complex, sum over frames of conj(O) (psi' - psi), moved back.
        seen: (N, N) real, sum over frames of |O|^2.
        squares: (2,) real, sums of |psi' - psi|^2 and of the counts.
    """

    def __init__(self, canvas: Tensor, probe: Tensor) -> None:
        self.of_object, self.of_probe = torch.zeros_like(canvas), torch.zeros_like(probe)
        self.light, self.seen = torch.zeros_like(canvas.real), torch.zeros_like(probe[0].real)
        self.squares = torch.zeros_like(probe.real[0, 0, :2])


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """The real part of the inner product of complex tensors of one shape."""
    return torch.dot(torch.view_as_real(a).flatten(), torch.view_as_real(b).flatten())


def _joint_steps(fits: tuple[Tensor, Tensor | None], norms: Tensor) -> tuple[Tensor, Tensor]:
    """Steps (a, b) that minimise |misfit - a by_object - b by_probe|^2, real and shared by the batch.

    Args:
        fits: inner products of the misfit with what either step does to the waves, that of the probe None for no step.
        norms: (3,), inner products of those two with themselves, and with each other.
    """
    (object_fit, probe_fit), (object_norm, probe_norm, cross) = fits, norms
    if probe_fit is None:
        return object_fit / (object_norm + 1e-30), torch.zeros_like(object_fit)
    # a small multiple of the diagonal keeps the pair solvable when both directions are alike
    a, d = 1.001 * object_norm + 1e-30, 1.001 * probe_norm + 1e-30
    determinant = a * d - cross.square()
    return (d * object_fit - cross * probe_fit) / determinant, (a * probe_fit - cross * object_fit) / determinant


class _Course:
    """How far the steps go in each epoch, and where it ends.

    Batches pull the object about by their own noise, which smaller steps at the end average over: from half of the
    epochs on, or from a plateau on, the steps fall to nothing.
    """

    def __init__(self, options: RefinementOptions) -> None:
        self._options = options
        self._falls_from, self.end = options.epochs // 2, options.epochs

    def step(self, epoch: int) -> float:
        """The fraction of the least-squares step in an epoch."""
        left = (self.end - epoch) / max(1, self.end - self._falls_from)
        return self._options.step * min(1.0, left)

    def look_at(self, errors: list[float]) -> None:
        """On a plateau, end soon."""
        done = len(errors)
        if done < self._falls_from and self._options.on_plateau(errors):
            self._falls_from, self.end = done, min(self.end, done + self._options.stop_window)


class _Solver:
    """The unknowns and their velocities; see :func:`refine` for the arguments."""

    def __init__(
        self, amplitudes_of: AmplitudeSource, positions: Positions, parts: Sequence[Tensor], canvas: Tensor,
        probe: Tensor, options: RefinementOptions, good_pixels: Tensor | None, support: Tensor | None,
    ) -> None:  # fmt: skip
        self.amplitudes_of, self.positions, self.options = amplitudes_of, positions, options
        self.good_pixels, self.support = good_pixels, support
        self.gauge = ProbeGauge.of(probe)
        self.canvas, self.probe = canvas.clone(), probe
        self.object_velocity, self.probe_velocity = torch.zeros_like(canvas), torch.zeros_like(probe)
        self.step = options.step
        self.shape, self.n = (canvas.shape[0], canvas.shape[1]), probe.shape[-1]
        self._parts = parts
        self._slow = SlowPhase.of(probe)
        self._at_once = fastest_batch(self.n, len(probe), probe.device)
        self._momentum = momentum_for(len(parts)) if options.momentum is None else options.momentum
        self._made = self._at_limit = 0
        self._most_lit = self._no_light()
        for part in parts:
            torch.maximum(self._most_lit, self._light_of(part), out=self._most_lit)

    def sweep(self, order: Sequence[int], epoch: int) -> float:
        """One pass over the frames, their parts in this order; the relative misfit on the way."""
        options = self.options
        with_probe = options.refine_probe and epoch >= options.probe_from_epoch
        with_positions = options.refine_positions and epoch >= options.positions_from_epoch
        self._next_most_lit = self._no_light()
        squares = [self._step(self._parts[number], with_probe, with_positions) for number in order]
        self._most_lit = self._next_most_lit
        if options.refine_probe:
            self._hold_power()
        # looked at once an epoch: a device need not be waited for after each batch
        misfit_sum, measured_sum = torch.stack(squares).cpu().double().sum(0).tolist()
        return misfit_sum / measured_sum

    def _step(self, part: Tensor, with_probe: bool, with_positions: bool) -> Tensor:
        """Take the steps that the frames of a part ask for; (2,), see :class:`_Asked`, before them.

        The frames are looked at twice, a few at a time: for what they ask for, and for what the steps would do to them.
        What the misfit has in common with that follows from the sums, for the one is the adjoint of the other.
        """
        asked, floor = _Asked(self.canvas, self.probe), self.options.relative_floor
        pieces = [self._look_at(at, asked, with_probe, with_positions) for at in part.split(self._at_once)]
        torch.maximum(self._next_most_lit, asked.light, out=self._next_most_lit)
        object_step = asked.of_object / (self._most_lit + floor * self._most_lit.amax())
        through = light_through(self.canvas, self._most_lit, self._slow)
        phase = slow_phase(self.canvas, asked.of_object, through, self._slow)
        carry(object_step, self.canvas, phase, self._most_lit, self._slow)
        probe_step, probe_fit = None, None
        if with_probe:
            probe_step = asked.of_probe / (asked.seen + floor * asked.seen.amax())
            probe_step = probe_step if self.support is None else probe_step * self.support
            probe_fit = _inner(probe_step, asked.of_probe)
        a, b = _joint_steps((_inner(object_step, asked.of_object), probe_fit), _norms(pieces, object_step, probe_step))
        kept = min(self._momentum, momentum(self._made))
        self._made += 1
        # in place: canvases are what memory grows with
        self.object_velocity.mul_(kept).add_(object_step.mul_(self.step * a))
        self.canvas.add_(self.object_velocity)
        if probe_step is not None:
            self.probe_velocity = kept * self.probe_velocity + self.step * b * probe_step
            self.probe = self.probe + self.probe_velocity
        return asked.squares

    def _look_at(self, members: Tensor, asked: _Asked, with_probe: bool, with_positions: bool) -> _Piece:
        """Add to the sums what some frames ask for, and move those frames."""
        amplitudes, at = self.amplitudes_of(members), members.to(self.canvas.device)
        if self.good_pixels is not None:
            amplitudes = torch.where(self.good_pixels, amplitudes, amplitudes.new_zeros(()))
        starts, fractions = self.positions.starts[at], self.positions.fractions[at]
        probes, patches = shift_probe(self.probe, fractions), extract(self.canvas, starts, self.n)
        waves = exit_waves(probes, patches)
        misfit = approach_counts(waves, amplitudes, self.good_pixels, STAYING, departure=True)
        asked.squares += torch.stack((_inner(misfit, misfit), amplitudes.square().sum()))
        add_patches(asked.light, merge_weights(probes), starts)
        add_patches(asked.of_object, sum_modes(probes.conj() * misfit), starts)
        if with_positions:
            moves = position_steps(
                self.probe, fractions, patches, waves, misfit, longest_px=self.options.longest_move_px,
                good_pixels=self.good_pixels,
            )  # fmt: skip
            self.positions.move(at, self.options.position_step * moves)
        if with_probe:
            asked.seen += patches.real.square().sum(0) + patches.imag.square().sum(0)
            asked.of_probe += unshift_probe_sum(multiplied(misfit, patches.conj()[:, None]), fractions)
        return _Piece(starts, fractions, probes, patches)

    def _hold_power(self) -> None:
        scale = self.gauge.power_correction(self.probe)
        self.probe, self.probe_velocity = self.probe * scale, self.probe_velocity * scale
        self.canvas.div_(scale)
        self.object_velocity.div_(scale)

    def fix_gauge(self) -> None:
        """Once, at the end: moving object and probe in between would cost the momentum its direction."""
        if self.options.refine_positions:
            self._at_limit = self.positions.at_limit()
            row, column = self.positions.without_mean()
            self.canvas = torch.roll(self.canvas, (-row, -column), (0, 1))
        if self.options.refine_probe:
            # a support says where the probe lies
            light, free = self._illumination(), self.support is None
            self.probe, self.canvas = self.gauge.fix(self.probe, self.canvas, light, place=free)
        if self.options.refine_positions or self.options.refine_probe:
            lit = self._illumination() > 1e-6 * merge_weights(self.probe).amax()
            self.canvas = torch.where(lit, self.canvas, torch.ones_like(self.canvas))

    def _no_light(self) -> Tensor:
        return torch.zeros(self.shape, dtype=self.probe.real.dtype, device=self.probe.device)

    def _light_of(self, part: Tensor) -> Tensor:
        """(H, W) real: sum over the frames of a part, and modes, of |P|^2."""
        light = self._no_light()
        for at in part.to(self.canvas.device).split(self._at_once):
            probes = shift_probe(self.probe, self.positions.fractions[at])
            add_patches(light, merge_weights(probes), self.positions.starts[at])
        return light

    def _illumination(self) -> Tensor:
        light = self._no_light()
        for part in self._parts:
            light += self._light_of(part)
        return light

    def result(self, errors: list[float], stopped: bool) -> Refined:
        where = self.positions
        return Refined(
            self.canvas, self.probe, where.starts, where.fractions, where.correction, errors, stopped, self._at_limit
        )


def _norms(pieces: Sequence[_Piece], object_step: Tensor, probe_step: Tensor | None) -> Tensor:
    """(3,): of what the steps do to the waves, squared, and their inner product; takes the probes of the pieces."""
    sums = torch.zeros(3, dtype=object_step.real.dtype, device=object_step.device)
    for piece in pieces:
        by_object = multiplied(piece.probes, extract(object_step, piece.starts, piece.probes.shape[-1])[:, None])
        sums[0] += _inner(by_object, by_object)
        if probe_step is not None:
            by_probe = multiplied(shift_probe(probe_step, piece.fractions), piece.patches[:, None])
            sums[1] += _inner(by_probe, by_probe)
            sums[2] += _inner(by_object, by_probe)
    return sums


@torch.no_grad()
def refine(
    amplitudes_of: AmplitudeSource, starts: Tensor, fractions: Tensor, parts: Sequence[Tensor], canvas: Tensor,
    probe: Tensor, options: RefinementOptions, *, good_pixels: Tensor | None = None, support: Tensor | None = None,
    on_epoch: Callable[[int, float], None] | None = None,
) -> Refined:  # fmt: skip
    """Refine object and probe together, and positions where the options say so.

    Args:
        amplitudes_of: gives the amplitudes of a batch of frames, so that frames may stay on disk.
        starts: (F, 2) int64 placement of all frames on the canvas (row, column).
        fractions: (F, 2) real sub-pixel remainders.
        parts: the frames of each step, (n,) int64 indices, each frame in one of them. They serve best where each is
            spread over the scan (:func:`ptycho_torch.data.parts.steps_of`).
        canvas: (H, W) complex start, ones for vacuum. Where positions are refined, leave room around the frames.
        probe: (M, N, N) complex guess, scaled to counts; its power is kept, and without a support to the pixel its
            centroid.
        options: see :class:`RefinementOptions`.
        good_pixels: (N, N) bool, zero frequency first, or None.
        support: (N, N) real in [0, 1], the probe is zero where it is 0, or None; the guess lies within.
        on_epoch: called with the number of finished epochs and the relative misfit.

    Returns:
        See :class:`Refined`.
    """
    shape = (canvas.shape[0], canvas.shape[1])
    positions = Positions(starts, fractions, shape, probe.shape[-1])
    solver = _Solver(amplitudes_of, positions, parts, canvas, probe, options, good_pixels, support)
    errors: list[float] = []
    course, random = _Course(options), torch.Generator().manual_seed(0)
    while len(errors) < course.end:
        solver.step = course.step(len(errors))
        errors.append(solver.sweep(turns_of(len(parts), random), len(errors)))
        if on_epoch is not None:
            on_epoch(len(errors), errors[-1])
        course.look_at(errors)
    solver.fix_gauge()
    return solver.result(errors, course.end < options.epochs)
