"""Canvas, placement and coverage against loops and hand-made cases."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptycho.errors import InputError
from ptycho.geometry import Canvas, canvas_for, coverage_map, placements

coordinate = st.floats(-300, 300, allow_nan=False)


def test_canvas_is_centred_on_the_bounding_box_and_just_large_enough():
    x, y = np.array([10.0, 20.0, 14.0]), np.array([-3.0, 2.5, 0.0])
    canvas = canvas_for(x, y, 8)
    assert canvas.center_xy == (15.0, -0.25)
    assert canvas.shape == (int(np.ceil(5.5 + 8)), 18)  # rows from y, columns from x


def test_whole_range_that_suffers_from_round_off_costs_no_extra_row():
    x = np.array([0.1 + 0.2, 10.3])  # 10.000000000000002 apart or so
    assert canvas_for(x, np.zeros(2), 4).shape == (4, 14)


def test_a_given_centre_makes_the_canvas_reach_the_farthest_frame():
    canvas = canvas_for(np.array([0.0, 10.0]), np.array([0.0, 0.0]), 4, center_xy=(2.0, 0.0))
    assert canvas.shape == (4, 2 * 8 + 4)
    starts, _ = placements([0.0, 10.0], [0.0, 0.0], 4, canvas)
    assert starts[:, 1].tolist() == [6, 16]


def test_object_array_as_canvas_gives_slice_starts_in_its_own_indices():
    # The frame at (x, y) sees columns x-(N-1)/2 ... x+(N-1)/2 of the array.
    height, width, N = 40, 50, 8
    canvas = Canvas((height, width), ((width - 1) / 2, (height - 1) / 2))
    assert canvas.origin_xy == (0.0, 0.0)
    starts, fractions = placements([20.5, 20.75], [10.5, 11.2], N, canvas)
    assert starts.tolist() == [[7, 17], [8, 17]]
    np.testing.assert_allclose(fractions, [[0, 0], [-0.3, 0.25]], atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(coordinate, coordinate), min_size=1, max_size=12), st.integers(1, 70))
def test_every_frame_fits_and_start_plus_fraction_is_the_position(points, N):
    x, y = (np.array(v) for v in zip(*points, strict=True))
    canvas = canvas_for(x, y, N)
    starts, fractions = placements(x, y, N, canvas)
    assert starts.dtype == np.int64 and fractions.dtype == np.float64
    assert (starts >= 0).all() and (starts + N <= np.array(canvas.shape)).all()
    assert (np.abs(fractions) <= 0.5).all()
    x0, y0 = canvas.origin_xy
    middle = starts + fractions + (N - 1) / 2
    np.testing.assert_allclose(middle[:, 1] + x0, x, atol=1e-9)
    np.testing.assert_allclose(middle[:, 0] + y0, y, atol=1e-9)


def test_coverage_counts_like_a_loop(rng):
    N, shape = 7, (31, 24)
    starts = np.stack([rng.integers(0, shape[0] - N + 1, 40), rng.integers(0, shape[1] - N + 1, 40)], axis=1)
    expected = np.zeros(shape, dtype=int)
    for row, col in starts:
        expected[row : row + N, col : col + N] += 1
    counted = coverage_map(starts, N, shape)
    assert counted.dtype == np.int32
    np.testing.assert_array_equal(counted, expected)


@pytest.mark.parametrize(
    ("x", "y", "N", "what"),
    [
        ([], [], 8, "none"),
        ([1.0], [1.0, 2.0], 8, "same length"),
        ([1.0, np.nan], [1.0, 2.0], 8, "frame 1"),
        ([1.0], [1.0], 0, "N=0"),
        ([0.0, 1e9], [0.0, 1e9], 8, "runaway"),
    ],
)
def test_unusable_positions_are_refused(x, y, N, what):
    with pytest.raises(InputError, match=what):
        canvas_for(x, y, N)


def test_a_canvas_that_is_too_small_is_refused():
    with pytest.raises(InputError, match="outside the canvas"):
        canvas_for([0.0, 10.0], [0.0, 0.0], 4, shape=(4, 12))
    with pytest.raises(InputError, match="outside"):
        coverage_map(np.array([[0, 9]]), 4, (4, 12))
