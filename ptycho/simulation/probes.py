"""Probes to simulate with: disk, Gaussian, defocused zone plate, from a file; incoherent modes.

All are complex64 (modes, N, N), centred on pixel N//2 of both axes, with total power sum |P|^2 = 1 over all
modes (`ptycho.diffsim.simulate_scan` scales them to a dose).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft, special

from ptycho.errors import InputError, MissingFileError

ComplexField = NDArray[np.complex128]
HC_EV_M = 1.239841984e-6  # Planck constant times speed of light, eV m


@dataclass(frozen=True)
class ZonePlate:
    """A zone plate (or any annular aperture) seen in pixels of the object plane.

    outer_frequency: edge of the aperture in the far field, cycles/px (0.5 = edge of the detector).
    central_stop: radius of the central stop as a fraction of the aperture's.
    defocus: wavelength * distance from focus / pixel**2, in px**2.  The spot of geometric optics is
        2 * outer_frequency * |defocus| px wide.
    astigmatism: the same unit; added to the defocus along rows (y), taken away along columns (x).
    edge: softness of the aperture's edges, a fraction of outer_frequency.
    """

    outer_frequency: float = 0.35
    central_stop: float = 0.4
    defocus: float = 38.0
    astigmatism: float = 0.0
    edge: float = 0.1

    @classmethod
    def from_si(
        cls,
        *,
        photon_energy_ev: float,
        outermost_zone_width_m: float,
        pixel_size_m: float,
        defocus_m: float,
        central_stop: float = 0.4,
        astigmatism_m: float = 0.0,
    ) -> ZonePlate:
        """The same from SI units; numerical aperture = wavelength / (2 * outermost zone width)."""
        wavelength = HC_EV_M / photon_energy_ev
        return cls(
            outer_frequency=pixel_size_m / (2 * outermost_zone_width_m),
            central_stop=central_stop,
            defocus=wavelength * defocus_m / pixel_size_m**2,
            astigmatism=wavelength * astigmatism_m / pixel_size_m**2,
        )

    def with_defocus_error(self, fraction: float) -> ZonePlate:
        """The same zone plate with a defocus wrong by `fraction` (0.1 = 10 % too far)."""
        return replace(self, defocus=self.defocus * (1 + fraction))


def zone_plate(N: int, *, optics: ZonePlate | None = None, **changes: float) -> ComplexField:
    """The beam of a zone plate `defocus` away from its focus: the annular far field times the Fresnel phase.

    psi = iFT( A(q) * exp(-i * pi * (defocus * |q|^2 + astigmatism * (q_y^2 - q_x^2))) ), q in cycles/px:
    Fresnel's transfer function (Goodman, Introduction to Fourier Optics, section 4.2) in pixel units.
    `changes` replace fields of `optics` (default `ZonePlate()`: a soft ring about 26 px across).  InputError
    when the beam would not fit the frame or the detector.
    """
    try:
        plate = replace(optics or ZonePlate(), **changes)
    except TypeError as error:
        raise InputError(
            f"zone plate: {error}; fields are outer_frequency, central_stop, defocus, astigmatism, edge"
        ) from error
    if not 0 < plate.outer_frequency < 0.5 or not 0 <= plate.central_stop < 1 or plate.edge < 0:
        raise InputError(
            f"zone plate: {plate}; expected 0 < outer_frequency < 0.5 cycles/px, 0 <= central_stop < 1, "
            "edge >= 0"
        )
    width = 2 * plate.outer_frequency * (abs(plate.defocus) + abs(plate.astigmatism))
    if width > 0.9 * N:
        raise InputError(
            f"zone plate: the beam is about {width:.0f} px wide and does not fit a frame of {N} px; "
            "reduce defocus or outer_frequency, or enlarge N"
        )
    qy = fft.fftfreq(N)[:, None]
    qx = fft.fftfreq(N)[None, :]
    radius = np.hypot(qy, qx)
    softness = max(plate.edge * plate.outer_frequency, 0.25 / N)
    aperture = 0.5 * special.erfc((radius - plate.outer_frequency) / softness)
    if plate.central_stop > 0:
        aperture *= 0.5 * special.erfc((plate.central_stop * plate.outer_frequency - radius) / softness)
    phase = np.pi * (plate.defocus * radius**2 + plate.astigmatism * (qy**2 - qx**2))
    return fft.fftshift(fft.ifft2(aperture * np.exp(-1j * phase)))


def disk(N: int, *, diameter: float | None = None, edge: float = 1.0, curvature: float = 0.0) -> ComplexField:
    """A disk of `diameter` px (default 0.4 N) with an edge softened over `edge` px and a phase of
    `curvature` * (r / radius)**2 rad."""
    size = 0.4 * N if diameter is None else diameter
    radius = _radius(N)
    if not 0 < size <= N:
        raise InputError(f"disk probe: diameter is {size} px; expected more than 0 and at most N = {N}")
    profile = 0.5 * special.erfc((radius - size / 2) / max(edge, 1e-3))
    return profile * np.exp(1j * curvature * (2 * radius / size) ** 2)


def gaussian(N: int, *, fwhm: float | None = None, curvature: float = 0.0) -> ComplexField:
    """A Gaussian beam whose intensity has a full width at half maximum of `fwhm` px (default 0.25 N), with a
    phase of `curvature` * (2 r / fwhm)**2 rad."""
    size = 0.25 * N if fwhm is None else fwhm
    if not 0 < size <= N:
        raise InputError(f"gaussian probe: fwhm is {size} px; expected more than 0 and at most N = {N}")
    scaled = (2 * _radius(N) / size) ** 2
    return np.exp(-0.5 * np.log(2) * scaled) * np.exp(1j * curvature * scaled)


def from_file(N: int, *, path: str | Path, key: str | None = None) -> ComplexField:
    """A probe from .npy or .npz (key `probe` or `probeGuess` unless `key` is given): (N, N), (N, N, 1) or
    (modes, N, N).  MissingFileError, InputError when the file or the key is not there or the size differs
    from N."""
    file = Path(path)
    if not file.is_file():
        raise MissingFileError(f"probe file {file} does not exist; give an .npy or .npz file")
    try:
        content = np.load(file, allow_pickle=False)
        if isinstance(content, np.ndarray):
            probe = content
        else:
            with content:
                names = [key] if key else ["probe", "probeGuess"]
                found = next((name for name in names if name in content.files), None)
                if found is None:
                    raise InputError(
                        f"probe file {file}: keys {content.files}; expected {' or '.join(names)}"
                    )
                probe = content[found]
    except (ValueError, OSError, EOFError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"probe file {file} cannot be read ({error}); expected a plain .npy or .npz"
        ) from error
    if probe.ndim == 3 and probe.shape[-1] == 1 and probe.shape[0] != 1:
        probe = probe[..., 0]
    if probe.ndim not in (2, 3) or probe.shape[-2:] != (N, N):
        raise InputError(f"probe file {file}: shape {probe.shape}; expected ({N}, {N}) or (modes, {N}, {N})")
    return probe.astype(np.complex128)


def incoherent_modes(base: ComplexField, powers: Sequence[float]) -> ComplexField:
    """Orthogonal modes (modes, N, N) derived from one beam, with these fractions of the power.

    `base` (N, N) is multiplied by the polynomials of the Hermite-Gauss family (1, x, y, x*y, x^2, y^2, ...),
    and the products are orthogonalised in turn, so that mode 0 is the base itself.
    """
    fractions = np.asarray(powers, dtype=np.float64)
    if fractions.ndim != 1 or len(fractions) < 1 or np.any(fractions < 0) or not fractions.sum() > 0:
        raise InputError(
            f"mode powers are {list(powers)}; expected at least one fraction, none negative, sum > 0"
        )
    fractions = fractions / fractions.sum()
    axis = np.arange(base.shape[-1]) - base.shape[-1] // 2
    orders = [(total - col, col) for total in range(len(fractions)) for col in range(total + 1)]
    found: list[ComplexField] = []
    spread = np.sqrt(np.sum(_radius(base.shape[-1]) ** 2 * np.abs(base) ** 2) / np.sum(np.abs(base) ** 2))
    for (order_x, order_y), _ in zip(orders, fractions, strict=False):
        field = base * special.eval_hermitenorm(order_x, axis / spread)[None, :]
        field = field * special.eval_hermitenorm(order_y, axis / spread)[:, None]
        for other in found:
            field = field - other * np.vdot(other, field)
        found.append(field / np.linalg.norm(field))
    return np.stack(found) * np.sqrt(fractions)[:, None, None]


def _radius(N: int) -> NDArray[np.float64]:
    axis = np.arange(N) - N // 2
    return np.hypot(axis[:, None], axis[None, :])


PROBES: dict[str, Callable[..., ComplexField]] = {
    "disk": disk,
    "file": from_file,
    "gaussian": gaussian,
    "zone_plate": zone_plate,
}


def make_probe(
    name: str, N: int, *, mode_powers: Sequence[float] | None = None, **parameters: Any
) -> NDArray[np.complex64]:
    """A probe by name: complex64 (modes, N, N), total power 1.

    `mode_powers` (e.g. (0.8, 0.15, 0.05)) adds incoherent modes to a coherent beam.  `parameters` go to the
    function of that name, e.g. defocus=60.0 for "zone_plate".  InputError for an unknown name, N below 8, bad
    parameters.
    """
    if name not in PROBES:
        raise InputError(f"unknown probe {name!r}; expected one of {', '.join(sorted(PROBES))}")
    if N < 8:
        raise InputError(f"probe of N = {N}; expected at least 8 px")
    try:
        field = PROBES[name](int(N), **parameters)
    except TypeError as error:
        raise InputError(
            f"probe {name!r} does not take these parameters {sorted(parameters)}: {error}"
        ) from error
    if field.ndim == 2:
        field = incoherent_modes(field, mode_powers) if mode_powers is not None else field[None]
    elif mode_powers is not None:
        raise InputError(f"probe {name!r} already has {len(field)} modes; leave mode_powers out")
    norm = np.linalg.norm(field)
    if not np.isfinite(norm) or norm == 0:
        raise InputError(f"probe {name!r} is zero or not finite; expected a beam")
    return (field / norm).astype(np.complex64)
