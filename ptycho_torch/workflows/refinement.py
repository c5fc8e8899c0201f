"""Refine object, probe and positions of a scan together, without a network, streamed over its frames."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho import progress
from ptycho.config.validation import check_number, check_whole_number
from ptycho.errors import InputError
from ptycho.geometry import coverage_map
from ptycho.halves import check_enough_frames
from ptycho.io.reconstruction_files import LoadedObject, load_any
from ptycho.outcome import Outcome, Stage
from ptycho.probe import mode_powers, orthogonalise_modes, probe_mask, probe_power
from ptycho.raw_data import RawData
from ptycho.simulation.probes import incoherent_modes
from ptycho_torch.calibration import masked_probe
from ptycho_torch.data.parts import frames_per_step, steps_of
from ptycho_torch.data.scans import PlacedScan
from ptycho_torch.halves import HalvesSettings, with_halves
from ptycho_torch.misfit import Misfit
from ptycho_torch.physics.batches import fastest_batch
from ptycho_torch.physics.detector import detector_order, roots
from ptycho_torch.reassembly import StreamedFrames
from ptycho_torch.solvers.projection import vacuum
from ptycho_torch.solvers.refinement import Refined, RefinementOptions, refine
from ptycho_torch.workflows.corrections import moved, refocused, told_of_moves, with_room
from ptycho_torch.workflows.starting_point import mean_rate, placed_start

logger = logging.getLogger(__name__)

ADDED_SHARE = 0.02
"""Share of the probe's power with which each added mode starts."""


@dataclass(frozen=True)
class RefinementSettings:
    """How to refine.

    Attributes:
        epochs: passes over the frames.
        batch_size: frames per step; None takes a quarter of the frames, between 16 and 256, as far as memory lets.
        modes: incoherent modes of the probe; None keeps those of the start.
        refine_probe: False refines the object alone.
        seed: of which frames make a step together.
        correct_defocus: True first propagates the probe along the axis to where it explains the frames best.
        refine_positions: True moves the frames too.
        support_diameter_px: the probe is kept inside a disk of this size around index N//2; None for the whole frame.
        stop_improvement: stop when the mean misfit of ``stop_window`` epochs is lower than that of those before them by
            less than this fraction; 0 does all epochs.
        stop_window: epochs whose mean is compared.
    """

    epochs: int = 50
    batch_size: int | None = None
    modes: int | None = None
    refine_probe: bool = True
    seed: int = 0
    correct_defocus: bool = False
    refine_positions: bool = False
    support_diameter_px: float | None = None
    stop_improvement: float = 0.001
    stop_window: int = 10

    def __post_init__(self) -> None:
        """InputError for values that nothing can be refined with."""
        check_whole_number("epochs", self.epochs, 0)
        check_whole_number("batch_size", self.batch_size, 1, optional=True)
        check_whole_number("modes", self.modes, 1, optional=True)
        check_whole_number("seed", self.seed, 0)
        check_whole_number("stop_window", self.stop_window, 1)
        check_number("stop_improvement", self.stop_improvement, least=0)
        if self.support_diameter_px is not None:
            check_number("support_diameter_px", self.support_diameter_px, above=0)

    def options(self) -> RefinementOptions:
        """What the solver is told."""
        return RefinementOptions(
            epochs=self.epochs, refine_probe=self.refine_probe, refine_positions=self.refine_positions,
            stop_improvement=self.stop_improvement, stop_window=self.stop_window,
        )  # fmt: skip

    def support(self, N: int) -> NDArray[np.float32] | None:
        """The probe's mask (N, N) in [0, 1], or None."""
        return None if self.support_diameter_px is None else probe_mask(N, self.support_diameter_px)

    def frames_per_step(self, n_frames: int, N: int, modes: int) -> int:
        """The batch size for a scan."""
        return frames_per_step(n_frames, N, modes) if self.batch_size is None else self.batch_size


def torch_device(accelerator: str) -> torch.device:
    """The device of an accelerator's name as `PyTorchExecutionConfig` has it.

    Raises:
        InputError: there is no such device here.
    """
    name = "cuda" if accelerator in ("cuda", "gpu") else accelerator
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(name, False):
        found = ", ".join(kind for kind, is_there in there.items() if is_there)
        raise InputError(
            f"accelerator={accelerator!r}: found {found} on this machine, expected one of these. Say cpu or auto."
        )
    return torch.device(name)


@torch.no_grad()
def refine_scan(
    raw: RawData, start: str | Path | LoadedObject | Outcome | None = None, settings: RefinementSettings | None = None,
    *, device: str | torch.device = "cpu", on_epoch: Callable[[int, float], None] | None = None,
    halves: HalvesSettings | None = None,
) -> Outcome:  # fmt: skip
    """Refine the object, and the probe with it; writes nothing.

    Args:
        raw: the scan.
        start: object, and probe where it has one, of an earlier reconstruction of these frames: a file or the folder
            of a run, what was read from it, or the outcome of this very run; None for vacuum and the scan's own probe
            guess.
        settings: see :class:`RefinementSettings`.
        device: where to compute; frames come there in batches.
        on_epoch: called with the number of finished epochs and the relative misfit.
        halves: how to halve the scan, to hold one half against the other; None for not at all. Each half begins at
            vacuum, whatever the start: one that has seen all frames would make the halves agree.

    Returns:
        Stages "start" and "refined", coverage, probe (orthogonal modes), residuals and times.

    Raises:
        InputError: a start that does not fit the scan, no probe, or a refinement that breaks down.
    """
    started = time.perf_counter()
    settings = settings or RefinementSettings()
    start = load_any(start) if isinstance(start, (str, Path)) else start
    if halves is not None:
        check_enough_frames(raw.source, raw.n_frames)
    scan, image, light, notes = placed_start(raw, start)
    outcome = _refined_from(scan, image, light, notes, settings, device, on_epoch)
    if scan.raw is not raw:  # the start has moved frames
        outcome.given_xy = raw.xcoords, raw.ycoords
    if halves is not None:
        # positions that were found with all frames are taken as known
        own = dataclasses.replace(settings, refine_positions=False)

        def again(half: RawData) -> list[Outcome]:
            apart = _refined_from(PlacedScan.of(half, outcome.canvas), None, light, [], own, device, None)
            return [dataclasses.replace(apart, stages={"refined": apart.result})]

        shared = _shared_by_halves(start, settings, moved=outcome.given_xy is not None)
        outcome = with_halves(raw, outcome, again, halves, shared=shared, device=device)
    outcome.timings_s["total"] = time.perf_counter() - started
    return outcome


def _shared_by_halves(start: LoadedObject | Outcome | None, settings: RefinementSettings, *, moved: bool) -> str:
    """What the objects of two halves have in common; ``moved``: frames do not lie where the scan says."""
    has_probe = start is not None and start.probe is not None
    probe = "probe that the run started with, which may know all frames" if has_probe else "scan's probe guess"
    text = f"Each half was refined by itself, with its own frames alone, from vacuum and the {probe}."
    if start is not None:
        text += " The object that the run started with was not used: it has seen all frames."
    if moved:
        text += " Positions are those found with all frames."
    return text


def _refined_from(
    scan: PlacedScan, image: NDArray[np.complex64] | None, light: NDArray[np.complex64], notes: list[str],
    settings: RefinementSettings, device: str | torch.device, on_epoch: Callable[[int, float], None] | None,
) -> Outcome:  # fmt: skip
    """:func:`refine_scan` from an object (H, W) on the scan's canvas, None for vacuum, and a probe (M, N, N)."""
    started = time.perf_counter()
    raw = scan.raw
    if settings.refine_positions:
        scan, image = with_room(scan, image)
    guess, support = light, settings.support(raw.N)
    light = masked_probe(raw, guess, support)
    probe = with_modes(light, settings.modes)
    batch = settings.frames_per_step(raw.n_frames, raw.N, max(len(light), len(probe)))
    frames = _streamed(scan, light, batch, device)
    canvas = vacuum((), scan.canvas.shape, frames.probe) if image is None else torch.from_numpy(image).to(device)
    if image is not None:
        # the start is taken as it is, but for its brightness: what it says of the counts in all is put right
        canvas = canvas * math.sqrt(raw.mean_counts_per_frame() / mean_rate(frames, canvas, raw.good_pixels))
    given = _stage(canvas, scan, frames.deviance(canvas[None]), time.perf_counter() - started)
    refining = time.perf_counter()
    corrections: dict[str, Any] = {}
    if settings.correct_defocus:
        # the support is that of the focused beam: what it cuts away of the guess would be missing there
        whole = with_modes(masked_probe(raw, guess, None), settings.modes)
        focused, corrections["defocus"], note = refocused(raw, whole, device, settings.seed)
        probe = masked_probe(raw, focused, support)
        notes.append(note)
    begin = torch.from_numpy(np.ascontiguousarray(probe)).to(device)
    refined = _refined(scan, canvas, begin, batch, settings, on_epoch)
    taken = time.perf_counter() - refining
    scan, x, y = moved(scan, refined)
    if settings.refine_positions:
        corrections["positions"], note = told_of_moves(refined.moved_px, refined.at_limit)
        notes.append(note)
    found = _orthogonal(refined.probe)
    after = _streamed(scan, found, batch, device).deviance(refined.canvas[None])
    stages = {"start": given, "refined": _stage(refined.canvas, scan, after, taken)}
    notes += _told_of_the_end(refined, settings, stages)
    return Outcome(
        stages=stages,
        coverage=coverage_map(scan.starts.numpy(), raw.N, scan.canvas.shape),
        probe=found,
        canvas=scan.canvas,
        xcoords=x,
        ycoords=y,
        timings_s={"refinement": taken},
        losses={"train": refined.errors} if refined.errors else {},
        notes=[f"Frames are taken as {raw.measurement_domain}: {raw.domain_reason}", *notes],
        settings={**dataclasses.asdict(settings), "batch_size": batch, "modes": len(found), "N": raw.N},
        frame_deviance=after.by_frame,
        detector_residual=after.on_detector,
        corrections=corrections,
        given_xy=(raw.xcoords, raw.ycoords) if settings.refine_positions else None,
    )


def refined_outcome(
    raw: RawData, outcome: Outcome, settings: RefinementSettings, *, device: str | torch.device = "cpu"
) -> Outcome:  # fmt: skip
    """A reconstruction of this run with a last stage "refined", which starts from its object and probe.

    Args:
        raw: the scan as it was reconstructed.
        outcome: of it; left as it is.
        settings: see :class:`RefinementSettings`.
        device: where to compute.

    Raises:
        InputError: the refinement breaks down, or is to move frames, which takes another canvas.
    """
    if settings.refine_positions:
        raise InputError(
            "refine_positions=True: found the last stage of a run, which keeps the canvas of the stages before it; "
            "expected a refinement of its own. Start one from the result: refine_scan, or ptychopinn refine --from."
        )
    refined = refine_scan(raw, outcome, settings, device=device)
    timings = {**outcome.timings_s, "refinement": refined.timings_s["refinement"]}
    return dataclasses.replace(
        outcome,
        stages={**outcome.stages, "refined": refined.result},
        probe=refined.probe,
        xcoords=refined.xcoords,
        ycoords=refined.ycoords,
        timings_s=timings,
        losses={**outcome.losses, "refinement": refined.losses.get("train", [])},
        notes=[*outcome.notes, *(note for note in refined.notes if note not in outcome.notes)],
        settings={**outcome.settings, "refinement": refined.settings},
        corrections={**outcome.corrections, **refined.corrections},
        frame_deviance=refined.frame_deviance,
        detector_residual=refined.detector_residual,
    )


def _told_of_the_end(refined: Refined, settings: RefinementSettings, stages: dict[str, Stage]) -> list[str]:
    """Notes on where the refinement stopped, and on whether it was of use."""
    notes = []
    if refined.stopped:
        notes.append(
            f"It stopped after {len(refined.errors)} of {settings.epochs} epochs: the mean misfit of "
            f"{settings.stop_window} epochs fell by less than {settings.stop_improvement:.2g} of itself."
        )
        logger.info("%s", notes[-1])
    refined_stage = stages["refined"]
    # below what noise leaves, a smaller deviance is no merit
    noise = 1.02 * refined_stage.expected_deviance
    if refined_stage.deviance > max(stages["start"].deviance, noise):
        notes.append("The refined object explains the frames less well than the start: its deviance is higher.")
        logger.warning("%s", notes[-1])
    return notes


def with_modes(probe: NDArray[np.complex64], modes: int | None) -> NDArray[np.complex64]:
    """A probe (M, N, N) with another number of modes and the same power; None leaves it as it is.

    Of fewer modes the strongest are kept, after all were made orthogonal. Added ones are orthogonal to all others,
    shaped as the next of the Hermite-Gauss family on the strongest mode, and have `ADDED_SHARE` of the power each.
    """
    if modes is None or modes == len(probe):
        return probe
    power = probe_power(probe)
    if modes < len(probe):
        kept = orthogonalise_modes(probe)[:modes]
        return (kept * math.sqrt(power / probe_power(kept))).astype(np.complex64)
    strongest = probe[int(np.argmax(mode_powers(probe)))].astype(np.complex128)
    family = incoherent_modes(strongest, np.ones(modes + len(probe)).tolist())
    known = [mode.astype(np.complex128) for mode in orthogonalise_modes(probe)]
    for candidate in family[1:]:
        left = candidate / np.linalg.norm(candidate)
        for mode in known:
            if np.linalg.norm(mode) > 0:
                left = left - mode * (np.vdot(mode, left) / np.vdot(mode, mode))
        # one that the probe has already leaves nothing but round-off
        if np.linalg.norm(left) > 0.1 and len(known) < modes:
            known.append(left / np.linalg.norm(left) * math.sqrt(ADDED_SHARE * power))
    every = np.stack([*probe.astype(np.complex128), *known[len(probe) :]])
    return (every * math.sqrt(power / probe_power(every))).astype(np.complex64)


def _streamed(scan: PlacedScan, probe: NDArray[np.complex64], batch: int, device: str | torch.device) -> StreamedFrames:
    light, good = (torch.from_numpy(np.ascontiguousarray(part)).to(device) for part in (probe, scan.raw.good_pixels))
    return StreamedFrames(scan, light, good, min(batch, fastest_batch(scan.raw.N, len(light), device)))


def _refined(
    scan: PlacedScan, canvas: Tensor, probe: Tensor, batch: int, settings: RefinementSettings,
    on_epoch: Callable[[int, float], None] | None,
) -> Refined:  # fmt: skip
    """Object (H, W), probe (M, N, N) and places as the solver leaves them; InputError if it broke down."""
    device, support = probe.device, settings.support(scan.raw.N)
    masked = scan.raw.bad_pixels is not None
    good = detector_order(torch.from_numpy(scan.raw.good_pixels.copy())).to(device) if masked else None
    what = "object, probe and positions" if settings.refine_positions else "object and probe"
    with progress.task(f"Refining {what}", settings.epochs, "epoch") as step:
        refined = refine(
            lambda at: roots(detector_order(scan.counts(at).to(device))),
            scan.starts.to(device),
            scan.fractions.to(device),
            steps_of(scan.xy, batch, settings.seed),
            canvas,
            probe,
            settings.options(),
            good_pixels=good,
            support=None if support is None else torch.from_numpy(support).to(device),
            on_epoch=progress.by_epoch(step, also=on_epoch),
        )
    if not all(bool(torch.isfinite(part).all()) for part in (refined.canvas, refined.probe, refined.moved_px)):
        raise InputError(
            f"{scan.raw.source}: the refinement broke down (misfit {refined.errors[-1]:.3g} after "
            f"{len(refined.errors)} epochs): expected finite numbers. Take larger batches, or another start."
        )
    return refined


def _orthogonal(probe: Tensor) -> NDArray[np.complex64]:
    light = probe.cpu().numpy().astype(np.complex64)
    return orthogonalise_modes(light) if len(light) > 1 else light


def _stage(canvas: Tensor, scan: PlacedScan, misfit: Misfit, time_s: float) -> Stage:
    image = canvas.cpu().numpy().astype(np.complex64)
    coverage = coverage_map(scan.starts.numpy(), scan.raw.N, scan.canvas.shape)
    seen = np.where(coverage > 0, image, np.complex64(1))
    return Stage(seen, misfit.deviance, misfit.expected, time_s)
