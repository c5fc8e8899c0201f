"""Which way round the positions of a scan are: eight orientations, ranked by how well each explains the frames.

What data can tell.  A frame is |F[P(r) O(r + s)]|^2 with the position s.  If the file states t = A s with A one of the
eight symmetries of the square, one orientation B = A^-1 of the positions brings them back.  For a wrong B no pair of
object and probe explains all frames, with one exception: |F f| is the same for f(r) and for conj(f(-r)), so that

    s, P(r), O(r)    and    -s, conj(P(-r)), conj(O(-r))

give the same frames, exactly.  B and -B (both axes flipped) are twins: the eight are four pairs, and only something
that is known of probe or object besides tells the two of a pair apart.  That is the probe guess, as far as it differs
from its own twin conj(P(-r)): the sign of a defocus, say.  A guess that is its own twin, as a real disk is, tells
nothing; then both of a pair explain the frames equally well, and the figures show it.

Positions or frames.  Frames turned by B^-1 with the positions as they are give the object and the probe turned by
B^-1: data cannot tell which of the two the file has the wrong way round.

Each orientation is refined jointly with the probe, all from vacuum and the same guess, for a few epochs, and scored by
the Poisson deviance of the frames it was refined on.  Withheld frames separate less well: they are fewer, and where
beams hardly overlap the right orientation predicts them no better than a wrong one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho import progress
from ptycho.errors import InputError
from ptycho.geometry import canvas_for, placements
from ptycho.probe import far_field, mode_powers, scale_probe_to_counts
from ptycho.raw_data import RawData
from ptycho_torch.data.parts import frames_per_step, steps_of
from ptycho_torch.data.scans import PlacedScan
from ptycho_torch.misfit import deviance_per_pixel, expected_deviance_per_pixel
from ptycho_torch.physics.detector import detector_order, expected_counts, roots
from ptycho_torch.physics.illumination import shift_probe
from ptycho_torch.solvers.projection import vacuum
from ptycho_torch.solvers.refinement import RefinementOptions, refine

__all__ = [
    "ORIENTATIONS",
    "Contrast",
    "Orientation",
    "Ranking",
    "Tried",
    "central_frames",
    "guess_symmetry",
    "rank_orientations",
    "turned_frames",
]

FRAMES, EPOCHS = 200, 10
MIN_FRAMES = 8
BATCH = 64
BROKEN = 1e12  # deviance of a refinement that ended in numbers that are none
SURE = (1.05, 5.0)
"""Ratio of the deviances and standard errors between them from which on a choice is called sure ..."""
LIKELY = (1.015, 4.0)
"""... and likely. On 116 scans, most made to be hard, 56 choices were sure and all right, 14 likely and 13 right."""
OWN_TWIN = 0.98
"""A guess that correlates better with its own twin than this cannot tell the twins apart."""


@dataclass(frozen=True)
class Orientation:
    """One of the eight ways to turn positions.

    Attributes:
        name: for people.
        matrix: new (x, y) = matrix (x, y).
    """

    name: str
    matrix: tuple[tuple[int, int], tuple[int, int]]

    def positions(self, xcoords: NDArray[np.float64], ycoords: NDArray[np.float64]) -> NDArray[np.float64]:
        """(2, M): x and y, turned about the origin."""
        return np.array(self.matrix, dtype=np.float64) @ np.stack((xcoords, ycoords))

    @property
    def code(self) -> str:
        """The change of the positions as a line of Python; empty for none."""
        names = [f"{'-' * (a + b < 0)}{'xcoords' if a else 'ycoords'}" for a, b in self.matrix]
        return "" if names == ["xcoords", "ycoords"] else f"xcoords, ycoords = {names[0]}, {names[1]}"

    @property
    def of_frames(self) -> str:
        """The change of frames (and probe guess) that does the same for the data, in words; empty for none."""
        # new[qx, qy] = old[B (qx, qy)]: in rows and columns a transposition where the matrix has no diagonal
        swapped = self.matrix[0][0] == 0
        steps = ["exchange rows and columns"] if swapped else []
        first, second = self._flips()
        flips = [text for text, flipped in (("rows (up-down)", first), ("columns (left-right)", second)) if flipped]
        return ", then ".join([*steps, *(["flip " + " and ".join(flips)] if flips else [])])

    def _flips(self) -> tuple[bool, bool]:
        """Whether rows, columns are flipped after the transposition, if there is one."""
        (a, b), (c, d) = self.matrix
        # old row index = c qx + d qy, old column index = a qx + b qy
        return (b < 0, c < 0) if a == 0 else (d < 0, a < 0)

    @property
    def twin(self) -> Orientation:
        """Both axes flipped besides: the orientation that frames cannot tell from this one."""
        (a, b), (c, d) = self.matrix
        return next(other for other in ORIENTATIONS if other.matrix == ((-a, -b), (-c, -d)))


ORIENTATIONS = (
    Orientation("as stored", ((1, 0), (0, 1))),
    Orientation("x flipped", ((-1, 0), (0, 1))),
    Orientation("y flipped", ((1, 0), (0, -1))),
    Orientation("x and y flipped", ((-1, 0), (0, -1))),
    Orientation("x and y exchanged", ((0, 1), (1, 0))),
    Orientation("exchanged, x flipped", ((0, -1), (1, 0))),
    Orientation("exchanged, y flipped", ((0, 1), (-1, 0))),
    Orientation("exchanged, x and y flipped", ((0, -1), (-1, 0))),
)


def turned_frames(frames: NDArray[np.generic], orientation: Orientation) -> NDArray[np.generic]:
    """Frames (or probes) (..., N, N) turned so that they fit the positions as stored, about pixel N//2: a copy."""
    turned = np.swapaxes(frames, -1, -2) if orientation.matrix[0][0] == 0 else frames
    for axis, flipped in zip((-2, -1), orientation._flips(), strict=True):
        if flipped:
            # index N//2 stays where it is; an even side has one index more below it than above
            turned = np.roll(np.flip(turned, axis), 1 - turned.shape[axis] % 2, axis)
    return np.ascontiguousarray(turned)


@dataclass(frozen=True)
class Tried:
    """One orientation, refined.

    Attributes:
        orientation: which.
        per_frame: (F,) mean deviance per good pixel of each frame.
        expected: what Poisson statistics alone would give for the modelled rates, mean over frames and pixels.
    """

    orientation: Orientation
    per_frame: NDArray[np.float64]
    expected: float

    @property
    def deviance(self) -> float:
        """Mean over the frames, per good pixel."""
        return float(self.per_frame.mean())


@dataclass(frozen=True)
class Contrast:
    """How much worse the second of two orientations is.

    Attributes:
        ratio: of its deviance to that of the first.
        sigma: difference of the deviances in standard errors, frames paired.
    """

    ratio: float
    sigma: float

    @classmethod
    def of(cls, first: Tried, second: Tried) -> Contrast:
        """Of two that were tried on the same frames."""
        difference = second.per_frame - first.per_frame
        error = float(difference.std(ddof=1)) / math.sqrt(len(difference))
        return cls(second.deviance / first.deviance, float(difference.mean()) / max(error, 1e-30))

    @property
    def verdict(self) -> str:
        """'sure', 'likely' or 'open'."""
        for word, (ratio, sigma) in (("sure", SURE), ("likely", LIKELY)):
            if self.ratio >= ratio and self.sigma >= sigma:
                return word
        return "open"


@dataclass(frozen=True)
class Ranking:
    """All eight orientations, best first.

    Attributes:
        tried: sorted by deviance; of twins that cannot be told apart the one that changes less comes first.
        guess_symmetry: how well the guess correlates with its own twin, 0 to 1.
        mean_frame: deviance of the frames if each were their mean, which knows no positions.
    """

    tried: tuple[Tried, ...]
    guess_symmetry: float
    mean_frame: float

    @property
    def best(self) -> Orientation:
        """The first."""
        return self.tried[0].orientation

    def _first(self, wanted: Callable[[Orientation], bool]) -> Tried:
        return next(tried for tried in self.tried[1:] if wanted(tried.orientation))

    @property
    def pair(self) -> Contrast:
        """The best against the best of the other three pairs: what the frames say."""
        return Contrast.of(self.tried[0], self._first(lambda o: o not in (self.best, self.best.twin)))

    @property
    def twin(self) -> Contrast:
        """The best against its twin: what the probe guess says."""
        return Contrast.of(self.tried[0], self._first(lambda o: o == self.best.twin))

    @property
    def frames_verdict(self) -> str:
        """What the frames say of the best pair, 'sure', 'likely' or 'open'.

        Nothing where no orientation explains them better than their mean does: then the eight differ by how they fail.
        """
        return self.pair.verdict if self.tried[0].deviance < self.mean_frame else "open"

    @property
    def verdict(self) -> str:
        """How sure the best is: the weaker of what frames and guess say, 'sure', 'likely' or 'open'."""
        verdicts = (self.frames_verdict, self.twin.verdict)
        return next(word for word in ("open", "likely", "sure") if word in verdicts)


def central_frames(raw: RawData, number: int) -> RawData:
    """The frames nearest to the middle of the scan, at most ``number``, in their order."""
    if raw.n_frames <= number:
        return raw
    distance = (raw.xcoords - np.median(raw.xcoords)) ** 2 + (raw.ycoords - np.median(raw.ycoords)) ** 2
    return raw.subset(np.sort(np.argsort(distance, kind="stable")[:number]))


def guess_symmetry(probe: NDArray[np.complex64]) -> float:
    """Greatest correlation of a probe (M, N, N) with its own twin conj(P(-r)) over all shifts, 0 to 1.

    The strongest mode speaks for all. In Fourier space the twin is the complex conjugate, so that the correlation
    over shifts is the transform of the square of the far field.
    """
    spectrum = far_field(probe[int(np.argmax(mode_powers(probe)))].astype(np.complex128))
    over_shifts = np.fft.fft2(spectrum * spectrum)
    return float(np.abs(over_shifts).max() / np.sum(np.abs(spectrum) ** 2))


def rank_orientations(
    raw: RawData, *, frames: int = FRAMES, epochs: int = EPOCHS, seed: int = 0, device: str | torch.device = "cpu",
    on_orientation: Callable[[Tried], None] | None = None,
) -> Ranking:  # fmt: skip
    """Try the eight orientations of the positions of a scan.

    Args:
        raw: the scan, with a probe guess.
        frames: so many from its middle are used.
        epochs: of the joint refinement of object and probe, per orientation.
        seed: of which frames make a step together.
        device: where to compute.
        on_orientation: called with each result.

    Returns:
        The ranking.

    Raises:
        InputError: too few frames, no usable probe guess, or positions that do not fit on a canvas.
    """
    part = central_frames(raw, frames)
    if part.n_frames < MIN_FRAMES:
        raise InputError(
            f"{raw.source}: found {part.n_frames} frames, expected at least {MIN_FRAMES} to compare orientations with. "
            "Take more frames."
        )
    guess = scale_probe_to_counts(part.probe, part.mean_counts_per_frame(), part.good_pixels)
    amplitudes = _amplitudes(part)
    # the same for all, so that chance does not tell them apart
    batch = frames_per_step(part.n_frames, part.N, len(guess))
    parts = steps_of(np.stack((part.xcoords, part.ycoords), axis=1), batch, seed)
    found = []
    with progress.task("Trying orientations", len(ORIENTATIONS), "orientation") as step:
        for orientation in ORIENTATIONS:
            tried = _try(part, orientation, amplitudes, torch.from_numpy(guess).to(device), epochs, parts)
            found.append(tried)
            step(1, f"{orientation.name}: {tried.deviance:.4g}")
            if on_orientation is not None:
                on_orientation(tried)
    return Ranking(tuple(_sorted(found)), guess_symmetry(guess), _of_mean_frame(part, amplitudes))


def _sorted(found: list[Tried]) -> list[Tried]:
    """Best first; where the best and its twin explain the frames alike, that of the two which the list has first."""
    ranked = sorted(found, key=lambda tried: tried.deviance)
    best = ranked[0]
    twin = next(tried for tried in ranked if tried.orientation == best.orientation.twin)
    earlier = ORIENTATIONS.index(twin.orientation) < ORIENTATIONS.index(best.orientation)
    if earlier and Contrast.of(best, twin).verdict == "open":
        ranked.remove(twin)
        ranked.insert(0, twin)
    return ranked


def _amplitudes(part: RawData) -> Tensor:
    """(F, N, N) float32 square roots of counts, zero frequency first; masked pixels are 0."""
    everything = PlacedScan.of(part).counts(torch.arange(part.n_frames))
    return roots(detector_order(everything))


def _of_mean_frame(part: RawData, amplitudes: Tensor) -> float:
    """Mean deviance per good pixel of frames that are all expected to be their mean."""
    good = torch.from_numpy(np.fft.ifftshift(part.good_pixels))
    counts = amplitudes.square()[:, good]
    return float(deviance_per_pixel(counts.mean(dim=0, keepdim=True).expand_as(counts), counts).mean())


def _try(
    part: RawData, orientation: Orientation, amplitudes: Tensor, guess: Tensor, epochs: int, parts: list[Tensor]
) -> Tried:
    """Refine with the positions turned, and score."""
    x, y = orientation.positions(part.xcoords, part.ycoords)
    canvas = canvas_for(x, y, part.N)
    whole, rest = placements(x, y, part.N, canvas)
    starts = torch.from_numpy(whole).to(guess.device)
    fractions = torch.from_numpy(rest.astype(np.float32)).to(guess.device)
    good = None if part.bad_pixels is None else detector_order(torch.from_numpy(part.good_pixels)).to(guess.device)
    refined = refine(
        lambda at: amplitudes[at].to(guess.device), starts, fractions, parts, vacuum((), canvas.shape, guess), guess,
        RefinementOptions(epochs=epochs), good_pixels=good,
    )  # fmt: skip
    per_frame, expected = [], []
    used = torch.ones((part.N, part.N), dtype=torch.bool, device=guess.device) if good is None else good
    for at in torch.arange(part.n_frames).split(BATCH):
        rate = expected_counts(refined.canvas, shift_probe(refined.probe, fractions[at]), starts[at])[:, used]
        counts = amplitudes[at].to(guess.device).square()[:, used]
        per_frame.append(deviance_per_pixel(rate, counts).mean(dim=1).cpu())
        expected.append(expected_deviance_per_pixel(rate).mean(dim=1).cpu())
    # an orientation whose refinement broke down is the worst of all, not the unknown one
    deviances = torch.cat(per_frame).nan_to_num(nan=BROKEN, posinf=BROKEN)
    return Tried(orientation, deviances.double().numpy(), float(torch.cat(expected).mean()))
