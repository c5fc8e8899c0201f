"""Keeping the central detector pixels: where the coarser object lies, and how strong the coarser probe is."""

import numpy as np
import pytest

from laws.oracle import beam, rates_at, relative_error, specimen
from ptycho.cropping import crop_object, crop_probe

X = np.array([130.0, 137.5, 141.25])
Y = np.array([119.0, 124.5, 128.75])


class Moved:
    """A specimen seen through other coordinates: value at u is the old one at scale * (u - new) + old."""

    def __init__(self, sample, scale, old, new, strength=1.0):
        self.sample, self.scale, self.old, self.new, self.strength = sample, scale, old, new, strength

    def __call__(self, rows, cols):
        at = (self.scale * (axis - self.new) + self.old for axis in (rows, cols))
        return self.strength * self.sample(*at)


class Zoomed:
    """A beam on a coarser grid: the same offsets in larger pixels, stronger by the same factor."""

    def __init__(self, light, scale):
        self.light, self.scale = light, scale

    def array(self, n):
        offset = (np.arange(n) - n // 2) * self.scale
        return self.scale * self.light(offset, offset)


def _half(n):
    """Half a pixel between the middle (n-1)/2 and the origin n//2, for even n."""
    return n // 2 - (n - 1) / 2


@pytest.mark.parametrize(("side", "n"), [(128, 64), (129, 64), (128, 63), (126, 84)])
def test_the_central_pixels_are_the_frames_of_the_coarser_object(side, n):
    """The formula of specs/coordinates.md, both sides evaluated here."""
    sample, light, scale = specimen(max_frequency=0.03), beam(128, modes=2), side / n
    first = side // 2 - n // 2
    kept = rates_at(sample, light, X, Y, side)[:, first : first + n, first : first + n]
    coarse = Moved(sample, scale, _half(side), _half(n))
    assert relative_error(rates_at(coarse, Zoomed(light, scale), X / scale, Y / scale, n), kept) < 1e-6
    quarter = Moved(sample, scale, 0.0, 0.0)  # plain decimation at u = s u'
    if _half(side) != scale * _half(n):
        assert relative_error(rates_at(quarter, Zoomed(light, scale), X / scale, Y / scale, n), kept) > 1e-3


def test_half_the_frame_starts_a_quarter_of_a_new_pixel_early():
    scale, side, n = 2, 128, 64
    assert scale * (10 - _half(n)) + _half(side) == 2 * 10 - 0.5


def test_the_package_crops_probe_and_object_so():
    sample, light, scale, side, n = specimen(max_frequency=0.03), beam(128, modes=2), 2, 128, 64
    expected = Zoomed(light, scale).array(n)
    assert relative_error(crop_probe(light.array(side), n), expected) < 1e-6
    shape = (300, 280)
    image = sample(np.arange(shape[0]), np.arange(shape[1]))
    found = crop_object(image, side, n)
    assert found.shape == (150, 140)
    coarse = Moved(sample, scale, 0.5, 0.5)(np.arange(150), np.arange(140))
    inner = np.s_[20:-20, 20:-20]  # an image that goes on forever is cut at its edges
    assert relative_error(found[inner], coarse[inner]) < 3e-3
