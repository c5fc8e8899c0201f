"""What the stored frames are: photon counts, their square roots, or square roots up to a factor.

The rules are those of specs/data_contracts.md. A domain is stated by the caller or the file, or decided by
`decide_domain` from evidence that cannot be mistaken; where there is none, an error says what to state.
Casting comes before arithmetic: squaring uint16 wraps around.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho.errors import InputError

__all__ = ["DOMAINS", "DOMAIN_NAMES", "canonical_domain", "decide_domain", "to_counts"]

DOMAINS = ("intensity", "amplitude", "normalized_amplitude")
# Names that callers of the reference implementation use.
_ALIASES = {"count_intensity": "intensity", "counts": "intensity"}
DOMAIN_NAMES = ("auto", *DOMAINS, *_ALIASES)

_SAMPLE_FRAMES = 64
_TOLERANCE = 0.02  # distance from a whole number that counts as one
_NEEDED = 0.999  # share of the non-zero values that must agree


def canonical_domain(name: object) -> str:
    """'auto', 'intensity', 'amplitude' or 'normalized_amplitude'; older names are mapped, others refused."""
    if isinstance(name, str) and name in DOMAIN_NAMES:
        return _ALIASES.get(name, name)
    raise InputError(
        f"measurement_domain: found {name!r}, expected one of {', '.join(repr(n) for n in DOMAIN_NAMES)}."
    )


def _sample(frames: Any, bad_pixels: npt.NDArray[np.bool_] | None) -> npt.NDArray[np.float64]:
    """Non-zero values of good pixels from frames spread over the scan, 1-D float64."""
    picks = np.unique(np.linspace(0, len(frames) - 1, min(len(frames), _SAMPLE_FRAMES)).astype(np.int64))
    values = np.asarray(frames[picks])
    values = values[:, ~bad_pixels] if bad_pixels is not None else values.reshape(len(picks), -1)
    values = values[values != 0].astype(np.float64)
    return values[np.isfinite(values)]


def _share_whole(values: npt.NDArray[np.float64], relative_error: float) -> float:
    """Share of values that are whole numbers >= 1; values too large for their precision do not vote."""
    votes = values[values * relative_error < _TOLERANCE / 2]
    if votes.size == 0:
        return math.nan
    nearest = np.rint(votes)
    return float(np.mean((np.abs(votes - nearest) <= _TOLERANCE) & (nearest >= 1)))


def decide_domain(
    frames: Any,
    *,
    bad_pixels: npt.NDArray[np.bool_] | None = None,
    probe_ndim: int | None = None,
    source: str = "scan",
) -> tuple[str, str]:
    """Decide 'auto': returns (domain, reason), or raises InputError that says what to state.

    frames: (M, N, N), any real dtype. bad_pixels: the file's mask, or None. probe_ndim: rank of the probe
    guess with the mode axis first (3), or 2. Rules, in this order: an integer dtype is counts; whole-numbered
    floats are counts (square roots of counts would show sqrt(2) and sqrt(3)); floats whose squares are whole
    are amplitudes; a `bad_pixels` key or a probe with modes marks a file of ptychodus, which stores counts.
    """
    dtype = np.dtype(frames.dtype)
    if dtype.kind in "iub":
        return "intensity", f"integer dtype {dtype}: photon counts"
    marks = [
        text
        for text, present in (
            ("a bad_pixels mask", bad_pixels is not None),
            ("a probe with a mode axis", probe_ndim == 3),
        )
        if present
    ]
    values = _sample(frames, bad_pixels)
    epsilon = float(np.finfo(dtype).eps)
    whole = _share_whole(values, epsilon)
    if whole >= _NEEDED:
        return "intensity", f"{dtype} values that are whole numbers: photon counts"
    squares = _share_whole(np.square(values), 2 * epsilon)
    if squares >= _NEEDED and np.all(values > 0):
        if marks:
            raise InputError(
                f"{source}: the domain of the frames is unclear: {' and '.join(marks)} speak for photon "
                "counts, but the "
                "squares of the values are whole numbers, which speaks for amplitudes. State "
                "measurement_domain="
                "'intensity' or 'amplitude' (on the command line --measurement-domain intensity or amplitude)."
            )
        return "amplitude", f"{dtype} values whose squares are whole numbers: square roots of photon counts"
    if marks:
        return (
            "intensity",
            f"{dtype} values with {' and '.join(marks)}, as ptychodus writes them: photon counts",
        )
    raise InputError(
        f"{source}: cannot tell whether the {dtype} frames are photon counts or amplitudes: neither the "
        "values nor "
        "their squares are whole numbers, and the file has neither bad_pixels nor a probe with modes. State "
        "measurement_domain='intensity' (counts), 'amplitude' (square roots of counts), or "
        "'normalized_amplitude' "
        "together with nphotons (mean photons per frame). On the command line: --measurement-domain intensity, and "
        "so on."
    )


def to_counts(frames: npt.NDArray[Any], domain: str, scale: float = 1.0) -> npt.NDArray[np.float32]:
    """Photon counts, float32, of frames in a decided domain.

    scale: for 'normalized_amplitude' the factor that turns the stored values into square roots of counts.
    """
    values = np.asarray(frames).astype(np.float32)  # a copy, and before any arithmetic
    if domain == "intensity":
        return values
    if domain == "normalized_amplitude":
        values *= np.float32(scale)
    elif domain != "amplitude":
        raise InputError(f"measurement_domain: found {domain!r}, expected one of {', '.join(DOMAINS)}.")
    return np.square(values, out=values)
