"""Where a position is: rows, columns, signs, fractions, the half pixel between (N-1)/2 and N//2."""

import numpy as np
import pytest
import torch

from laws.oracle import beam, dft_matrix, rates_at, relative_error, specimen
from ptycho.geometry import Canvas, canvas_for, placements
from ptycho_torch.physics.detector import centred_order, expected_counts
from ptycho_torch.physics.illumination import shift_probe

X = np.array([13.0, 17.5, 20.25, 15.9, 18.49])
Y = np.array([-7.0, -3.5, 1.75, -10.2, 0.02])


def _model(image, canvas, light, x, y, n, *, fraction_sign=1.0, start_offset=(0, 0)):
    """Rates by the package: placement on the canvas, probe moved by the remainder, diffraction."""
    starts, fractions = placements(x, y, n, canvas)
    probes = shift_probe(torch.from_numpy(light.array(n)), torch.from_numpy(fraction_sign * fractions))
    starts = torch.from_numpy(starts + np.array(start_offset))
    return centred_order(expected_counts(torch.from_numpy(image), probes, starts)).numpy()


def _axes(canvas):
    """Object coordinates of a canvas's rows and columns."""
    x0, y0 = canvas.origin_xy
    return y0 + np.arange(canvas.shape[0]), x0 + np.arange(canvas.shape[1])


@pytest.mark.parametrize("n", [63, 64])
@pytest.mark.parametrize("center_xy", [None, (16.3, -4.1)])
def test_frames_see_the_specimen_where_their_positions_say(n, center_xy):
    sample, light = specimen(), beam(n)
    canvas = canvas_for(X, Y, n, center_xy=center_xy)
    image = sample(*_axes(canvas))
    assert relative_error(_model(image, canvas, light, X, Y, n), rates_at(sample, light, X, Y, n)) < 1e-7


def _scene(n=64):
    sample, light = specimen(), beam(n)
    canvas = canvas_for(X, Y, n, shape=(n + 20, n + 24))
    return sample, light, canvas, sample(*_axes(canvas)), rates_at(sample, light, X, Y, n)


def test_every_wrong_convention_is_detected():
    """The law above would be worth nothing if it did not tell these from the truth."""
    n = 64
    sample, light, canvas, image, truth = _scene(n)
    square = Canvas((n + 24, n + 24), canvas.center_xy)
    rows, cols = _axes(square)
    difference = square.center_xy[1] - square.center_xy[0]
    swapped = sample(cols + difference, rows - difference).T
    wrong = {
        "one row down": _model(image, canvas, light, X, Y, n, start_offset=(1, 0)),
        "one column right": _model(image, canvas, light, X, Y, n, start_offset=(0, 1)),
        "half a pixel (N//2 for (N-1)/2)": _model(image, canvas, light, X + 0.5, Y + 0.5, n),
        "a tenth of a pixel": _model(image, canvas, light, X + 0.1, Y, n),
        "remainder ignored": _model(image, canvas, light, X, Y, n, fraction_sign=0.0),
        "remainder with the other sign": _model(image, canvas, light, X, Y, n, fraction_sign=-1.0),
        "object upside down": _model(image[::-1].copy(), canvas, light, X, Y, n),
        "object left to right": _model(image[:, ::-1].copy(), canvas, light, X, Y, n),
        "object transposed": _model(swapped, square, light, X, Y, n),
        "x and y exchanged": _model(
            sample(*_axes(square)), square, light,
            Y - difference, X + difference, n,
        ),
        "object conjugated": _model(image.conj(), canvas, light, X, Y, n),
        "frames upside down": truth[:, ::-1],
        "frames left to right": truth[:, :, ::-1],
        "frames transposed": truth.transpose(0, 2, 1),
        "frames not centred": np.fft.ifftshift(truth, axes=(1, 2)),
    }  # fmt: skip
    errors = {name: relative_error(frames, truth) for name, frames in wrong.items()}
    assert min(errors.values()) > 3e-3, errors
    assert relative_error(_model(image, canvas, light, X, Y, n), truth) < 1e-7


@pytest.mark.parametrize("n", [63, 64])
@pytest.mark.parametrize(("x", "y"), [(40.0, 37.0), (40.5, 37.5), (41.3, 36.8), (39.75, 38.49)])
def test_a_single_bright_pixel_lies_where_the_position_says(n, x, y):
    """Only pixel (r0, c0) transmits: every detector pixel gets |P|^2 / n^2 at its distance from the beam."""
    light = beam(n, modes=1)
    shape, (r0, c0) = (85, 91), (36, 44)
    image = np.zeros(shape, dtype=complex)
    image[r0, c0] = 1.0
    canvas = Canvas(shape, ((shape[1] - 1) / 2, (shape[0] - 1) / 2))  # positions are pixel indices of `image`
    # frame index of the pixel is r0 - (y - (n-1)/2); the beam's origin is at frame index n // 2
    row, col = r0 - y + (n - 1) / 2 - n // 2, c0 - x + (n - 1) / 2 - n // 2
    expected = float(np.abs(light(np.array([row]), np.array([col]))[0, 0, 0]) ** 2) / n**2
    frames = _model(image, canvas, light, np.array([x]), np.array([y]), n)
    np.testing.assert_allclose(frames, expected, rtol=1e-6)
    mirrored = (col, row), (-row, col), (row, -col)
    for other in (*mirrored, (row + 0.5, col + 0.5), (row + 1, col), (row, col - 1)):
        changed = float(np.abs(light(np.array([other[0]]), np.array([other[1]]))[0, 0, 0]) ** 2) / n**2
        assert abs(changed / expected - 1) > 0.01, other


def test_two_pixels_make_fringes_the_right_way_round():
    """A second pixel two rows below, five columns right, a quarter wave behind: axes and signs of frames."""
    n, x, y = 64, 40.5, 37.5
    light = beam(n, modes=1)
    shape, (r0, c0) = (85, 91), (37, 42)
    image = np.zeros(shape, dtype=complex)
    image[r0, c0], image[r0 + 2, c0 + 5] = 1.0, 0.7j
    offsets = np.array([r0, r0 + 2]) - y - 0.5, np.array([c0, c0 + 5]) - x - 0.5
    field = light(*offsets)[0]
    near, far = field[0, 0], 0.7j * field[1, 1]
    q = np.arange(n) - n // 2
    fringes = np.exp(-2j * np.pi * (2 * q[:, None] + 5 * q[None, :]) / n)
    expected = np.abs(near + far * fringes) ** 2 / n**2
    canvas = Canvas(shape, ((shape[1] - 1) / 2, (shape[0] - 1) / 2))
    frames = _model(image, canvas, light, np.array([x]), np.array([y]), n)
    assert relative_error(frames[0], expected) < 1e-6
    for other in (expected.T, expected[::-1], expected[:, ::-1], expected[::-1, ::-1]):
        assert relative_error(other, expected) > 0.1


def test_moving_scan_and_specimen_together_changes_nothing():
    n, (dx, dy) = 64, (0.37, -0.81)
    sample, light = specimen(), beam(n)
    for shift_x, shift_y in ((0.0, 0.0), (dx, dy), (11.0, 250.0)):
        canvas = canvas_for(X + shift_x, Y + shift_y, n)
        rows, cols = _axes(canvas)
        frames = _model(sample(rows - shift_y, cols - shift_x), canvas, light, X + shift_x, Y + shift_y, n)
        assert relative_error(frames, rates_at(sample, light, X, Y, n)) < 1e-7


def test_a_tilted_specimen_moves_the_pattern_to_higher_indices():
    """exp(+2 pi i k c / n) across the columns moves the frame by +k detector columns."""
    n, k = 64, 3
    light = beam(n, modes=1)
    canvas = Canvas((n, n), ((n - 1) / 2, (n - 1) / 2))
    image = np.exp(2j * np.pi * k * np.arange(n) / n)[None, :] * np.ones((n, 1))
    frame = _model(image, canvas, light, np.array([(n - 1) / 2]), np.array([(n - 1) / 2]), n)[0]
    far = dft_matrix(n) @ light.array(n)[0] @ dft_matrix(n).T
    assert relative_error(frame, np.roll(np.abs(far) ** 2, k, axis=1)) < 1e-9
