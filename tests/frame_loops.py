"""One frame at a time in NumPy and double precision: what solvers are held against."""

import numpy as np
from scipy.ndimage import map_coordinates, uniform_filter

from ptycho.raw_data import RawData
from ptycho_torch.physics.slow_phase import SlowPhase


def shifted(light, fraction):
    """A mode moved by a fraction of a pixel, by a ramp on its transform; the Nyquist frequencies keep their power."""
    n = len(light)
    by = np.fft.fftfreq(n)
    ramps = [np.exp(-2j * np.pi * by * part) for part in fraction]
    for ramp, part in zip(ramps, fraction, strict=True):
        ramp[n // 2] = np.exp(1j * np.pi * part)
    return np.fft.ifft2(np.fft.fft2(light) * ramps[0][:, None] * ramps[1][None])


def asked_for(waves, counts, good, w):
    """(M, N, N) by how much the counts of a frame ask for other waves; counts and good pixels, zero frequency first."""
    spectrum = np.fft.fft2(waves, norm="ortho")
    rate = (np.abs(spectrum) ** 2).sum(axis=0)
    rate += 1e-8 + 1e-10 * rate.max()  # where no light is modelled, its phase is nobody's guess
    likelier = (w * np.sqrt(rate) + np.sqrt(w**2 * rate + 4 * (1 + w) * counts)) / (2 * (1 + w))
    gain = 1 + (1 + w / 2) * (likelier / np.sqrt(rate) - 1)
    return np.fft.ifft2(spectrum * np.where(good, gain - 1, 0), norm="ortho")


def carried_further(canvas, asked, light, slow: SlowPhase, before=None):
    """(H, W) by how much a step is to turn the phase of an object more than it does, where that is slow; the light that
    comes through is that of the object ``before``."""
    before = canvas if before is None else before
    side = max(1, round(slow.width_px / np.sqrt(2)))
    rows, columns = (-(-length // side) for length in canvas.shape)
    turning, through = np.zeros((2, rows, columns))
    for row, column in np.ndindex(canvas.shape):
        old, new = canvas[row, column], asked[row, column]
        turning[row // side, column // side] += old.real * new.imag - old.imag * new.real
        through[row // side, column // side] += abs(before[row, column]) ** 2 * light[row, column]
    for _ in range(3):
        turning, through = (uniform_filter(values, 3, mode="constant") for values in (turning, through))
    phase = slow.gain * turning / (through + 0.1 * through.max())
    middles = [(np.arange(length) + 0.5) / side - 0.5 for length in canvas.shape]
    fine = map_coordinates(phase, np.meshgrid(*middles, indexing="ij"), order=1, mode="nearest")
    return fine * light / (light + 0.01 * light.max())


def scan_of_a_narrow_beam(rng):
    """Two Gaussian modes, whose far field has no zeros: there the phase of single precision is noise."""
    r = np.arange(32) - 16
    narrow = np.exp(-(r[:, None] ** 2 + r[None] ** 2) / (2 * 1.3**2))
    light = 60 * np.stack((narrow, 0.4 * narrow * r[:, None])).astype(np.complex64)
    y, x = rng.uniform(0, 14, (2, 40))
    rows, columns = np.mgrid[:64, :64]
    specimen = np.exp(0.6j * np.sin(rows / 2.1) * np.cos(columns / 3.3))
    starts = np.stack((y, x), axis=1).astype(int)
    waves = light * np.stack([specimen[a : a + 32, b : b + 32] for a, b in starts])[:, None]
    rates = (np.abs(np.fft.fftshift(np.fft.fft2(waves, norm="ortho"), axes=(2, 3))) ** 2).sum(axis=1)
    return RawData(x, y, diff3d=rng.poisson(rates).astype(np.uint16), probeGuess=light)


def with_a_mask(raw):
    """The same scan with a bar of bad pixels."""
    bad = np.zeros((raw.N, raw.N), bool)
    bad[12:15, 3:20] = True
    return raw.masked(bad)
