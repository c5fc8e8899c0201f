"""Positions as unknowns: the step of one frame, the bookkeeping, and a scan whose positions are wrong."""

import numpy as np
import pytest
import torch

from laws.oracle import beam, rates_at, relative_error, specimen
from ptycho.geometry import Canvas, canvas_for, placements
from ptycho_torch.data.parts import steps_of
from ptycho_torch.physics.backprojection import replace_amplitude
from ptycho_torch.physics.detector import centred_order, detector_order, expected_counts
from ptycho_torch.physics.illumination import exit_waves, shift_probe, shift_probe_slopes
from ptycho_torch.physics.patches import extract
from ptycho_torch.solvers.positions import LIMIT_PX, VARIANCE_OF_ROOT, Positions, position_steps
from ptycho_torch.solvers.refinement import RefinementOptions, refine

N = 64
X, Y = np.array([3.2, -5.7, 8.1]), np.array([-1.4, 6.6, 0.3])


def true_object(canvas):
    x0, y0 = canvas.origin_xy
    return torch.from_numpy(specimen()(y0 + np.arange(canvas.shape[0]), x0 + np.arange(canvas.shape[1])))


def test_slopes_are_those_of_the_beam_itself():
    light, h = beam(N), 1e-4
    fractions = torch.tensor([[0.3, -0.45], [0.0, 0.2]], dtype=torch.float64)
    slopes = shift_probe_slopes(torch.from_numpy(light.array(N)), fractions)
    for j, (row, column) in enumerate(fractions.tolist()):
        down = (light.array(N, (row + h, column)) - light.array(N, (row - h, column))) / (2 * h)
        right = (light.array(N, (row, column + h)) - light.array(N, (row, column - h))) / (2 * h)
        assert relative_error(slopes[0][j].numpy(), down) < 1e-6
        assert relative_error(slopes[1][j].numpy(), right) < 1e-6


@pytest.mark.parametrize("masked", [False, True])
def test_the_step_is_that_of_differences_of_the_definition(masked):
    """Gauss-Newton with the slopes of square roots of rates taken by finite differences, by the definition alone."""
    sample, light, h = specimen(), beam(N), 1e-4
    good = np.ones((N, N), dtype=bool)
    if masked:
        good[20:40, 30:36] = False
    away = np.array([0.21, -0.13, 0.05]), np.array([-0.11, 0.24, 0.3])
    measured = rates_at(sample, light, X + away[0], Y + away[1], N)
    here = np.sqrt(rates_at(sample, light, X, Y, N))
    by_row = (np.sqrt(rates_at(sample, light, X, Y + h, N)) - np.sqrt(rates_at(sample, light, X, Y - h, N))) / (2 * h)
    by_col = (np.sqrt(rates_at(sample, light, X + h, Y, N)) - np.sqrt(rates_at(sample, light, X - h, Y, N))) / (2 * h)
    expected = []
    for j in range(len(X)):
        slopes = np.stack((by_row[j][good], by_col[j][good]), axis=1)
        residual = (np.sqrt(measured[j]) - here[j])[good]
        normal = slopes.T @ slopes + VARIANCE_OF_ROOT * np.eye(2)
        expected.append(np.linalg.solve(normal, slopes.T @ residual))

    canvas = canvas_for(X, Y, N)
    starts, fractions = (torch.from_numpy(part) for part in placements(X, Y, N, canvas))
    probe, mask = torch.from_numpy(light.array(N)), detector_order(torch.from_numpy(good)) if masked else None
    patches = extract(true_object(canvas), starts, N)
    waves = exit_waves(shift_probe(probe, fractions), patches)
    # what is measured on masked pixels has no say
    counts = detector_order(torch.from_numpy(np.where(good, measured, 1e6)))
    misfit = replace_amplitude(waves, counts.sqrt(), mask) - waves
    found = position_steps(probe, fractions, patches, waves, misfit, longest_px=9.0, good_pixels=mask).numpy()
    np.testing.assert_allclose(found, expected, atol=2e-4)
    # and it leads most of the way: (row, column) = (y, x)
    assert np.abs(found - np.stack((away[1], away[0]), axis=1)).max() < 0.1
    short = position_steps(probe, fractions, patches, waves, misfit, longest_px=0.1, good_pixels=mask)
    assert short.abs().max() == pytest.approx(0.1)


def test_a_frame_that_sees_nothing_stays():
    """In vacuum every position explains a frame equally well."""
    light = torch.from_numpy(beam(N).array(N))
    fractions = torch.zeros(1, 2, dtype=torch.float64)
    patches = torch.ones(1, N, N, dtype=torch.complex128)
    waves = exit_waves(shift_probe(light, fractions), patches)
    rates = expected_counts(patches[0], light[None], torch.zeros(1, 2, dtype=torch.int64))
    noisy = torch.from_numpy(np.random.default_rng(0).poisson(rates.numpy()))
    misfit = replace_amplitude(waves, noisy.double().sqrt(), None) - waves
    assert position_steps(light, fractions, patches, waves, misfit, longest_px=9.0).abs().max() < 1e-3


# ---------------------------------------------------------------------- bookkeeping


def placed(room=0):
    smallest = canvas_for(X, Y, N)
    canvas = Canvas((smallest.shape[0] + 2 * room, smallest.shape[1] + 2 * room), smallest.center_xy)
    starts, fractions = (torch.from_numpy(part) for part in placements(X, Y, N, canvas))
    return canvas, Positions(starts, fractions, canvas.shape, N)


def test_moved_frames_lie_where_they_would_have_been_placed():
    canvas, positions = placed(room=6)
    by = np.array([[0.9, -2.2], [-0.4, 0.6]])
    positions.move(torch.tensor([2, 0]), torch.from_numpy(by))
    x, y = X.copy(), Y.copy()
    x[[2, 0]] += by[:, 1]
    y[[2, 0]] += by[:, 0]
    starts, fractions = placements(x, y, N, canvas)
    np.testing.assert_array_equal(positions.starts.numpy(), starts)
    np.testing.assert_allclose(positions.fractions.numpy(), fractions, atol=1e-12)
    positions.move(torch.tensor([0]), torch.tensor([[100.0, 0.0]], dtype=torch.float64))
    assert positions.correction[0].tolist() == [LIMIT_PX, 0.6], "no farther than the limit"


def test_at_the_rim_of_the_canvas_a_frame_still_sees_what_it_should():
    """There is no room: the fraction takes what the start cannot, and the rates are those of the definition."""
    canvas, positions = placed()
    positions.move(torch.arange(3), torch.tensor([[-1.8, 0.7], [1.9, -2.0], [0.0, 1.7]], dtype=torch.float64))
    last = torch.tensor([canvas.shape[0] - N, canvas.shape[1] - N])
    assert (positions.starts >= 0).all() and (positions.starts <= last).all()
    assert positions.fractions.abs().max() > 1
    probes = shift_probe(torch.from_numpy(beam(N).array(N)), positions.fractions)
    found = centred_order(expected_counts(true_object(canvas), probes, positions.starts)).numpy()
    moved = positions.correction.numpy()
    assert relative_error(found, rates_at(specimen(), beam(N), X + moved[:, 1], Y + moved[:, 0], N)) < 1e-5


def test_the_mean_can_be_taken_out_in_whole_pixels():
    _, positions = placed(room=6)
    by = torch.tensor([[1.9, -3.2], [0.7, -0.4], [1.6, -0.9]], dtype=torch.float64)
    positions.move(torch.arange(3), by)
    assert positions.without_mean() == (1, -2)  # of 1.4 and -1.5
    torch.testing.assert_close(positions.correction, by - torch.tensor([1, -2]))


@pytest.mark.parametrize("sign", [1, -1])
def test_the_mean_moves_no_frame_beyond_the_limit(sign):
    """Most frames move one way, and one is stopped by the limit on the other side: the canvas has no more room."""
    _, positions = placed(room=9)
    by = sign * torch.tensor([[4.2, 4.0], [3.9, 4.1], [-11.0, 2.0]], dtype=torch.float64)
    positions.move(torch.arange(3), by)
    assert positions.at_limit() == 1
    assert positions.without_mean() == (0, 3 * sign)  # of -1.0 / 3, and of 10.1 / 3
    assert positions.correction[2, 0] == -LIMIT_PX * sign
    positions.move(torch.arange(3), sign * torch.tensor([[3.0, 0.0], [3.0, 0.0], [-9.0, 0.0]], dtype=torch.float64))
    assert positions.without_mean()[0] == 0 and positions.correction.abs().max() <= LIMIT_PX


# ---------------------------------------------------------------------- a scan


class Displaced:
    """Frames of the analytic specimen, without noise; what is said of their positions is wrong by 1 px (rms)."""

    def __init__(self, n_frames=80, room=9):
        rng = np.random.default_rng(1)
        # a spiral: every frame has neighbours
        turn, radius = np.arange(n_frames) * np.pi * (3 - np.sqrt(5)), 15 * np.sqrt(np.arange(n_frames) / n_frames)
        self.x, self.y = radius * np.cos(turn), radius * np.sin(turn)
        self.error = rng.normal(0, 1, (2, n_frames))
        self.error -= self.error.mean(axis=1, keepdims=True)
        self.error /= np.sqrt(np.mean(self.error**2))
        x, y = self.x + self.error[0], self.y + self.error[1]
        smallest = canvas_for(x, y, N)
        self.canvas = Canvas((smallest.shape[0] + 2 * room, smallest.shape[1] + 2 * room), smallest.center_xy)
        starts, fractions = placements(x, y, N, self.canvas)
        self.starts, self.fractions = torch.from_numpy(starts), torch.from_numpy(fractions)
        # finer than the other laws need, for positions are read from detail, and of more waves, so as not to repeat
        self.sample = specimen(n_waves=20, max_frequency=0.12)
        self.counts = rates_at(self.sample, beam(N), self.x, self.y, N)
        self.amplitudes = detector_order(torch.from_numpy(self.counts)).sqrt()
        self.probe = torch.from_numpy(beam(N).array(N))

    def refine(self, **options):
        start = torch.ones(self.canvas.shape, dtype=torch.complex128)
        parts = steps_of((self.starts + self.fractions).numpy(), 20)
        return refine(lambda at: self.amplitudes[at], self.starts, self.fractions, parts, start, self.probe,
                      RefinementOptions(**options))  # fmt: skip

    def left(self, moved_px):
        """(2, F) what is still wrong, (x, y), without the common shift."""
        wrong = self.error + moved_px.numpy().T[::-1]
        return wrong - wrong.mean(axis=1, keepdims=True)


@pytest.fixture(scope="module")
def displaced():
    return Displaced()


@pytest.fixture(scope="module")
def corrected(displaced):
    return displaced.refine(epochs=60, refine_positions=True)


def test_displaced_positions_are_recovered(displaced, corrected):
    held = displaced.refine(epochs=60)
    assert not held.moved_px.any() and torch.equal(held.starts, displaced.starts)
    assert np.sqrt(np.mean(displaced.left(corrected.moved_px) ** 2)) < 0.1
    assert corrected.errors[-1] < 0.1 * held.errors[-1]


def test_what_comes_back_belongs_together(displaced, corrected):
    """Object, probe, starts and fractions give the misfit that was told; the mean move is none, to the pixel."""
    assert corrected.moved_px.mean(0).abs().max() <= 0.5
    rates = expected_counts(corrected.canvas, shift_probe(corrected.probe, corrected.fractions), corrected.starts)
    misfit = (rates.sqrt() - displaced.amplitudes).square().sum() / displaced.amplitudes.square().sum()
    assert float(misfit) < 1.1 * corrected.errors[-1]
    moved = displaced.starts + displaced.fractions + corrected.moved_px
    torch.testing.assert_close(corrected.starts + corrected.fractions, moved)


def test_positions_are_held_until_there_is_an_object(displaced):
    assert not displaced.refine(epochs=5, refine_positions=True).moved_px.any()
    assert displaced.refine(epochs=6, refine_positions=True).moved_px.any()
    once = displaced.refine(epochs=2, refine_positions=True, positions_from_epoch=1).moved_px
    # half a pixel to either side
    assert 0 < (once.amax(0) - once.amin(0)).max() <= 1 + 1e-9
