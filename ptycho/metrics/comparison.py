"""How well two reconstructed objects agree (design: figures of merit).

The phases compared are those after sub-pixel registration and removal of the best constant and plane of each,
over the covered pixels, cut to the central square when `half` is given.  A flat image never gets a
good figure.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptycho.errors import InputError
from ptycho.metrics.alignment import FloatMap, find_slopes, ramp, unit_modulus, without_plane
from ptycho.metrics.frc import RingCorrelation, fourier_ring_correlation
from ptycho.metrics.image_quality import pearson, psnr, ssim
from ptycho.metrics.registration import Registered, register, soft_weight

logger = logging.getLogger(__name__)

FLAT_RELATIVE = 0.01  # contrast below this fraction of the other image's counts as none
FLAT_PHASE = 1e-4  # rad, standard deviation
FLAT_AMPLITUDE = 1e-4  # fraction of the mean
WRAP_SAFE = 0.75 * np.pi  # a reference phase within +- this needs no unwrapping
FRC_EDGE = 0.15  # taper of the region for the FRC, fraction of its smaller side


@dataclass(frozen=True)
class Comparison:
    """Figures of one object against a reference.

    phase_correlation: Pearson correlation of the phases, -1 to 1; 0 when flat.
    ssim, psnr: of the phases; data_range is that of the reference phase over the region; 0 when flat.
    frc_crossing: cycles/px where the complex FRC falls below the half-bit threshold (0.5 never, 0 at once).
    frc_resolution_px: half period there in px (None when the crossing is 0).
    amplitude_correlation: Pearson correlation of the moduli; 0 when either is flat.
    shift_px: (row, col) of the object against the reference, beyond the given centres.
    registration_residual_px: length of the shift that is left between the two after that; near 0 where the
        registration has converged, and where it has not, the figures mean little.
    contrast_ratio: standard deviation of the object's phase over the reference's.
    phase_error: root mean square phase difference, rad.
    data_range: maximum minus minimum of the reference phase over the region, rad.
    n_pixels: number of pixels compared.
    flat: the phase of the object or of the reference is constant to all intents.
    """

    phase_correlation: float
    ssim: float
    psnr: float
    frc_crossing: float
    frc_resolution_px: float | None
    amplitude_correlation: float
    shift_px: tuple[float, float]
    registration_residual_px: float
    contrast_ratio: float
    phase_error: float
    data_range: float
    n_pixels: int
    flat: bool

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain JSON types."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()
        }


@dataclass(frozen=True)
class ComparedImages:
    """What the figures are made from, for pictures: phases (rad, without constant and plane) and moduli
    (object scaled to the reference) on the region's bounding box; values outside `region` mean nothing.
    `frc` is the whole curve."""

    phase: FloatMap
    reference_phase: FloatMap
    amplitude: FloatMap
    reference_amplitude: FloatMap
    region: NDArray[np.bool_]
    corner: tuple[int, int]
    frc: RingCorrelation


def scan_center(xcoords: ArrayLike, ycoords: ArrayLike) -> tuple[float, float]:
    """(row, col) of the midpoint of the bounding box of positions given as an array's pixel indices."""
    x, y = np.asarray(xcoords, dtype=np.float64), np.asarray(ycoords, dtype=np.float64)
    return float(y.min() + y.max()) / 2, float(x.min() + x.max()) / 2


def compare_objects(
    a: NDArray[np.complexfloating],
    b: NDArray[np.complexfloating],
    *,
    a_positions: tuple[ArrayLike, ArrayLike] | None = None,
    b_positions: tuple[ArrayLike, ArrayLike] | None = None,
    a_center: tuple[float, float] | None = None,
    b_center: tuple[float, float] | None = None,
    half: int | None = None,
    covered: NDArray[np.bool_] | None = None,
    a_covered: NDArray[np.bool_] | None = None,
    max_shift: float | None = None,
) -> Comparison:
    """Compare object `a` with reference `b`.

    Parameters
    ----------
    a, b: complex 2-D, sizes may differ, same pixel size.
    a_positions, b_positions: (xcoords, ycoords) in pixel index coordinates of the own array; the midpoints of
        their bounding boxes are laid on each other.
    a_center, b_center: (row, col) to lay on each other instead; default ((H-1)/2, (W-1)/2).
    half: compare only the central square of 2*half px about the centre of b.
    covered: bool, shape of b: pixels that count (those seen by at least two frames).
    a_covered: bool, shape of a: the same for a.
    max_shift: largest shift (px) to look for beyond the centres; default a quarter of the region.

    InputError for wrong shapes and for regions too small to register.
    """
    return compare_with_images(
        a,
        b,
        a_positions=a_positions,
        b_positions=b_positions,
        a_center=a_center,
        b_center=b_center,
        half=half,
        covered=covered,
        a_covered=a_covered,
        max_shift=max_shift,
    )[0]


def compare_with_images(
    a: NDArray[np.complexfloating],
    b: NDArray[np.complexfloating],
    *,
    a_positions: tuple[ArrayLike, ArrayLike] | None = None,
    b_positions: tuple[ArrayLike, ArrayLike] | None = None,
    a_center: tuple[float, float] | None = None,
    b_center: tuple[float, float] | None = None,
    half: int | None = None,
    covered: NDArray[np.bool_] | None = None,
    a_covered: NDArray[np.bool_] | None = None,
    max_shift: float | None = None,
) -> tuple[Comparison, ComparedImages]:
    """`compare_objects` together with the registered images behind its figures."""
    for name, image, mask in (("object", a, a_covered), ("reference", b, covered)):
        if image.ndim != 2 or not np.iscomplexobj(image):
            raise InputError(
                f"comparison: the {name} has shape {image.shape}, dtype {image.dtype}; expected complex 2-D"
            )
        if mask is not None and np.shape(mask) != image.shape:
            raise InputError(
                f"comparison: the coverage of the {name} has shape {np.shape(mask)}, the {name} itself "
                f"{image.shape}; expected the same"
            )
    centers = [
        _center(image, positions, center)
        for image, positions, center in ((a, a_positions, a_center), (b, b_positions, b_center))
    ]
    region = np.isfinite(b) if covered is None else np.asarray(covered, dtype=bool) & np.isfinite(b)
    if half is not None:
        region = region & _central_square(b.shape, centers[1], half)
    offset = (centers[0][0] - centers[1][0], centers[0][1] - centers[1][1])
    valid = None if a_covered is None else np.asarray(a_covered, dtype=bool)
    return _figures(register(a, b, region, offset=offset, image_valid=valid, max_shift=max_shift))


def _center(
    image: NDArray[np.complexfloating],
    positions: tuple[ArrayLike, ArrayLike] | None,
    center: tuple[float, float] | None,
) -> tuple[float, float]:
    if center is not None:
        return center
    if positions is not None:
        return scan_center(*positions)
    return (image.shape[0] - 1) / 2, (image.shape[1] - 1) / 2


def _central_square(shape: tuple[int, ...], center: tuple[float, float], half: int) -> NDArray[np.bool_]:
    if half < 8:
        raise InputError(f"comparison: half is {half} px; expected at least 8")
    mask = np.zeros(shape, dtype=bool)
    begin = [round(middle - half + 0.5) for middle in center]
    rows, cols = (slice(max(first, 0), max(first + 2 * half, 0)) for first in begin)
    mask[rows, cols] = True
    return mask


def _figures(pair: Registered) -> tuple[Comparison, ComparedImages]:
    region = pair.region
    weight = region.astype(np.float64)
    phase, reference, coherence = _phases(pair, weight)
    spread, reference_spread = (_phase_spread(field, weight) for field in (pair.image, pair.reference))
    flat = min(spread, reference_spread) < max(FLAT_PHASE, FLAT_RELATIVE * max(spread, reference_spread))
    values, target = phase[region], reference[region]
    data_range = float(np.ptp(target))
    curve = fourier_ring_correlation(pair.image, pair.reference, soft_weight(region, FRC_EDGE))
    crossing = 0.0 if flat else curve.crossing
    correlation = similarity = ratio = 0.0
    if not flat:
        correlation = min(pearson(values, target), coherence)
        similarity = min(ssim(phase, reference, region, data_range), coherence)
        ratio = float(values.std() / target.std())
    else:
        logger.warning(
            "the phase of one object is flat (standard deviations %.2g and %.2g rad): no figures",
            spread,
            reference_spread,
        )
    moduli = np.abs(pair.image), np.abs(pair.reference)
    result = Comparison(
        phase_correlation=correlation,
        ssim=similarity,
        frc_crossing=crossing,
        contrast_ratio=ratio,
        psnr=0.0 if flat else psnr(phase, reference, region, data_range),
        frc_resolution_px=0.5 / crossing if crossing > 0 else None,
        amplitude_correlation=_amplitude_correlation(moduli[0][region], moduli[1][region]),
        shift_px=pair.shift_px,
        registration_residual_px=pair.residual_px,
        phase_error=float(np.sqrt(np.mean((values - target) ** 2))),
        data_range=data_range,
        n_pixels=int(np.count_nonzero(region)),
        flat=bool(flat),
    )
    power = float(np.sum(moduli[0][region] ** 2))
    scale = float(np.sum(moduli[0][region] * moduli[1][region])) / max(power, 1e-30)
    images = ComparedImages(phase, reference, moduli[0] * scale, moduli[1], region, pair.corner, curve)
    return result, images


def _phases(pair: Registered, weight: FloatMap) -> tuple[FloatMap, FloatMap, float]:
    """Phases of image and reference without plane, and an upper bound for the figures.

    A reference within one turn is compared as it stands.  A wider one is unwrapped, and the image's phase is
    taken as that plus the (wrapped) difference: then each pixel is right up to the turn the reference is in.
    As this pulls even meaningless phases towards the reference, the figures may then not exceed the mean
    cosine of the difference, which is 0 for a flat or a random image.
    """
    region = pair.region
    unit = unit_modulus(pair.reference)
    reference = np.angle(unit * np.conj(np.sum(weight * unit)))
    turn = np.angle(np.sum(weight * unit))
    middle = 0.5 * (reference[region].max() + reference[region].min())
    reference, turn = np.angle(np.exp(1j * (reference - middle))), turn + middle
    if np.abs(reference[region]).max() < WRAP_SAFE:
        phase = np.angle(pair.image * np.exp(-1j * turn))
        return without_plane(phase, weight), without_plane(reference, weight), 1.0
    from skimage.restoration import unwrap_phase  # imported here: slow, and seldom needed

    wide = np.ma.filled(unwrap_phase(np.ma.array(reference, mask=~region), rng=0), 0.0)
    difference = without_plane(np.angle(pair.image * np.conj(pair.reference)), weight)
    wide = without_plane(wide, weight)
    return wide + difference, wide, max(0.0, float(np.cos(difference[region]).mean()))


def _phase_spread(field: NDArray[np.complexfloating], weight: FloatMap) -> float:
    """Standard deviation (rad) of the phase about its own best plane, found without unwrapping."""
    slopes = find_slopes(field, weight)
    unit = unit_modulus(field) * ramp(field.shape, (-slopes[0], -slopes[1]))
    phase = np.angle(unit * np.conj(np.sum(weight * unit)))
    return float(without_plane(phase, weight)[weight > 0].std())


def _amplitude_correlation(values: FloatMap, target: FloatMap) -> float:
    weak, strong = sorted(float(part.std() / max(part.mean(), 1e-30)) for part in (values, target))
    if weak < max(FLAT_AMPLITUDE, FLAT_RELATIVE * strong):
        return 0.0
    return pearson(values, target)
