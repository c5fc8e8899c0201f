"""Centred transforms and sub-pixel shifts."""

import numpy as np
import pytest
import torch

from laws.oracle import dft2, random_complex
from ptycho_torch.physics.fourier import at_least_single, fft2c, fourier_shift, ifft2c, shift_ramp

SIDES = [8, 9, 16, 21]


@pytest.mark.parametrize("n", SIDES)
def test_transform_is_the_centred_sum(rng, n):
    field = random_complex(rng, n, n)
    np.testing.assert_allclose(fft2c(torch.from_numpy(field)).numpy(), dft2(field), atol=1e-12)


@pytest.mark.parametrize("n", SIDES)
def test_parseval(rng, n):
    field = torch.from_numpy(random_complex(rng, 3, n, n))
    torch.testing.assert_close(
        fft2c(field).abs().square().sum((-2, -1)), field.abs().square().sum((-2, -1)), rtol=1e-13, atol=0
    )


@pytest.mark.parametrize("n", SIDES)
def test_inverse_and_adjoint(rng, n):
    a, b = (torch.from_numpy(random_complex(rng, n, n)) for _ in range(2))
    torch.testing.assert_close(ifft2c(fft2c(a)), a, rtol=0, atol=1e-13)
    torch.testing.assert_close(fft2c(ifft2c(a)), a, rtol=0, atol=1e-13)
    left = torch.vdot(fft2c(a).flatten(), b.flatten())
    right = torch.vdot(a.flatten(), ifft2c(b).flatten())
    assert abs(complex(left - right)) < 1e-12 * n


@pytest.mark.parametrize("n", SIDES)
def test_a_point_at_the_origin_has_a_flat_real_spectrum(n):
    point = torch.zeros(n, n, dtype=torch.float64)
    point[n // 2, n // 2] = 1
    flat = torch.full((n, n), 1 / n, dtype=torch.complex128)
    torch.testing.assert_close(fft2c(point), flat, rtol=0, atol=1e-14)


def _harmonics(n, rows, cols):
    """A random trigonometric polynomial without the Nyquist frequency, at any coordinates."""
    top = (n - 1) // 2
    order = np.arange(-top, top + 1)
    weights = random_complex(np.random.default_rng(7), order.size, order.size)
    turn = 2j * np.pi / n
    return np.exp(turn * np.outer(rows, order)) @ weights @ np.exp(turn * np.outer(order, cols))


@pytest.mark.parametrize("n", SIDES)
@pytest.mark.parametrize("shift", [(0.5, -0.5), (0.37, 0.0), (0.0, -0.21), (3.0, -2.0), (-1.4, 0.25)])
def test_shift_of_a_band_limited_function_is_exact(n, shift):
    index = np.arange(n)
    image = torch.from_numpy(_harmonics(n, index, index))
    expected = _harmonics(n, index - shift[0], index - shift[1])
    moved = fourier_shift(image, torch.tensor(shift, dtype=torch.float64)).numpy()
    np.testing.assert_allclose(moved, expected, atol=1e-11 * np.abs(expected).max())


def test_content_moves_to_higher_indices():
    image = torch.zeros(9, 9, dtype=torch.complex128)
    image[3, 4] = 1
    moved = fourier_shift(image, torch.tensor([2.0, -1.0], dtype=torch.float64))
    assert int(moved.abs().argmax()) == 5 * 9 + 3
    assert abs(complex(moved[5, 3]) - 1) < 1e-12


def test_a_shift_keeps_the_power_of_a_wave(rng):
    image = torch.from_numpy(random_complex(rng, 8, 8))
    moved = fourier_shift(image, torch.tensor([0.31, -0.5], dtype=torch.float64))
    assert abs(float(moved.abs().square().sum() / image.abs().square().sum()) - 1) < 1e-13


def test_shifts_broadcast_over_leading_axes(rng):
    image = torch.from_numpy(random_complex(rng, 8, 8))
    shifts = torch.from_numpy(rng.uniform(-1, 1, (2, 3, 2)))
    moved = fourier_shift(image, shifts)
    assert moved.shape == (2, 3, 8, 8) and shift_ramp(shifts, 8).shape == (2, 3, 8, 8)
    torch.testing.assert_close(moved[1, 2], fourier_shift(image, shifts[1, 2]), rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.complex32])
def test_half_precision_is_computed_in_single(rng, dtype):
    # complex32 is made of float16 pairs; converting up is exact, so the results must be identical
    if dtype is torch.complex32:
        low = torch.view_as_complex(torch.from_numpy(rng.normal(size=(8, 8, 2))).to(torch.float16))
        high = torch.view_as_complex(torch.view_as_real(low).float())
    else:
        low = torch.from_numpy(rng.normal(size=(8, 8))).to(dtype)
        high = low.float()
    for transform in (fft2c, ifft2c):
        found = transform(low)
        assert found.dtype == torch.complex64
        torch.testing.assert_close(found, transform(high), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128])
def test_single_and_double_keep_their_precision(dtype):
    field = torch.ones(4, 4, dtype=dtype)
    double = dtype in (torch.float64, torch.complex128)
    assert at_least_single(field).dtype == dtype
    assert fft2c(field).dtype == (torch.complex128 if double else torch.complex64)


def test_autocast_does_not_lower_the_transform(rng):
    field = torch.from_numpy(random_complex(rng, 16, 16)).to(torch.complex64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = fft2c(field)
    torch.testing.assert_close(inside, fft2c(field), rtol=0, atol=0)


def test_gradients(rng):
    field = torch.from_numpy(random_complex(rng, 4, 4)).requires_grad_()
    shift = torch.tensor([0.3, -0.2], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(fft2c, field)
    assert torch.autograd.gradcheck(ifft2c, field)
    assert torch.autograd.gradcheck(fourier_shift, (field, shift))
