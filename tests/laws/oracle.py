"""The diffraction model a second time: closed formulas and plain loops, no FFT and nothing of the package.

Probes and specimens are analytic functions, so that what a frame at a fractional position sees can be
evaluated where it lies instead of being interpolated.  Everything is complex128.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def dft_matrix(n: int) -> np.ndarray:
    """(n, n) unitary DFT between indices that both count from n // 2."""
    index = np.arange(n) - n // 2
    return np.exp(-2j * np.pi * np.outer(index, index) / n) / np.sqrt(n)


def dft2(field: np.ndarray) -> np.ndarray:
    """Centred orthonormal DFT of (n, n) by direct summation."""
    matrix = dft_matrix(field.shape[-1])
    return matrix @ field @ matrix.T


@dataclass(frozen=True)
class Beam:
    """Gaussian modes off centre, tilted and curved, so lopsided that no flip, turn or transpose keeps them.

    weight * exp(-(r - r0)^2 / (2 sr^2) - (c - c0)^2 / (2 sc^2) + i (a r + b c + g r c + h r^2)), where r, c
    count from the probe's origin, index n // 2.  `modes` holds (weight, sr, sc, r0, c0, a, b, g, h).
    """

    modes: tuple[tuple[float, ...], ...]

    def __call__(self, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
        """(M, len(rows), len(cols)) values at offsets from the origin."""
        r, c = rows[:, None], cols[None, :]
        values = []
        for weight, sr, sc, r0, c0, a, b, g, h in self.modes:
            envelope = np.exp(-((r - r0) ** 2) / (2 * sr**2) - (c - c0) ** 2 / (2 * sc**2))
            values.append(weight * envelope * np.exp(1j * (a * r + b * c + g * r * c + h * r**2)))
        return np.stack(values)

    def array(self, n: int, shift: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
        """(M, n, n), the beam's origin at index n // 2 + shift."""
        index = np.arange(n) - n // 2
        return self(index - shift[0], index - shift[1])


def beam(n: int, modes: int = 2, power: float = 1e4) -> Beam:
    """A lopsided beam with `modes` modes that fits a frame of n pixels; total power about `power`."""
    shapes = (
        (1.0, 0.066, 0.052, 1.3, -0.8, 0.11, -0.07, 0.010, 0.012),
        (0.5, 0.050, 0.064, -1.7, 1.4, -0.05, 0.09, -0.008, 0.006),
        (0.3, 0.058, 0.050, 0.4, -1.9, 0.02, 0.13, 0.006, -0.008),
    )
    zoom = 64 / n
    found = tuple(
        (weight, sr * n, sc * n, r0, c0, a, b, g * zoom**2, h * zoom**2)
        for weight, sr, sc, r0, c0, a, b, g, h in shapes[:modes]
    )
    norm = np.sqrt(power / sum(np.pi * s[1] * s[2] * s[0] ** 2 for s in found))
    return Beam(tuple((norm * s[0], *s[1:]) for s in found))


@dataclass(frozen=True)
class Specimen:
    """exp(sum_k (-alpha_k + i phi_k) cos(2 pi (u_k r + v_k c) + t_k)): smooth, |O| about 1, no symmetry.

    `waves` holds (alpha, phi, u, v, t); frequencies in cycles per pixel; r, c in object coordinates.
    """

    waves: tuple[tuple[float, ...], ...]

    def __call__(self, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
        """(len(rows), len(cols)) transmission at object coordinates."""
        total = np.zeros((len(rows), len(cols)), dtype=np.complex128)
        for alpha, phi, u, v, t in self.waves:
            total += (-alpha + 1j * phi) * np.cos(2 * np.pi * (u * rows[:, None] + v * cols[None, :]) + t)
        return np.exp(total)


def specimen(seed: int = 5, n_waves: int = 6, max_frequency: float = 0.05) -> Specimen:
    """Random waves of at most `max_frequency` cycles per pixel."""
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, 2 * np.pi, n_waves)
    size = rng.uniform(0.3, 1.0, n_waves) * max_frequency
    return Specimen(
        tuple(
            zip(
                rng.uniform(0.02, 0.08, n_waves), rng.uniform(0.1, 0.3, n_waves), size * np.cos(angle),
                size * np.sin(angle), rng.uniform(0, 2 * np.pi, n_waves), strict=True,
            )
        )
    )  # fmt: skip


def patch_at(sample: Specimen, x: float, y: float, n: int) -> np.ndarray:
    """What a frame at (x, y) sees: rows y - (n-1)/2 ... y + (n-1)/2, columns likewise."""
    span = np.arange(n) - (n - 1) / 2
    return sample(y + span, x + span)


def rates_at(sample: Specimen, light: Beam, x: np.ndarray, y: np.ndarray, n: int) -> np.ndarray:
    """(frames, n, n) expected counts, zero frequency at n // 2: the definition, frame by frame, mode by mode.

    The probe stays where it is in the frame; it is the specimen that is evaluated at fractional pixels.
    """
    modes = light.array(n)
    frames = np.zeros((len(x), n, n))
    for j in range(len(x)):
        patch = patch_at(sample, x[j], y[j], n)
        for mode in modes:
            frames[j] += np.abs(dft2(mode * patch)) ** 2
    return frames


def rates_of_array(image: np.ndarray, light: Beam, starts: np.ndarray, fractions: np.ndarray, n: int) -> np.ndarray:
    """(frames, n, n) expected counts of an object array; the beam is evaluated at its fractional place."""
    frames = np.zeros((len(starts), n, n))
    for j, ((row, col), shift) in enumerate(zip(starts, fractions, strict=True)):
        patch = np.array([[image[row + a, col + b] for b in range(n)] for a in range(n)])
        for mode in light.array(n, tuple(shift)):
            frames[j] += np.abs(dft2(mode * patch)) ** 2
    return frames


def random_complex(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Complex normal numbers."""
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)


def random_starts(rng: np.random.Generator, frames: int, n: int, shape: tuple[int, int]) -> np.ndarray:
    """(frames, 2) int64 first pixels of patches inside a canvas."""
    return np.stack([rng.integers(0, side - n + 1, frames) for side in shape], axis=1)


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference over the largest expected magnitude."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())
