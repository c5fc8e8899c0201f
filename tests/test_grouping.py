"""Groups of neighbours and compact blocks: contents, randomness, speed, refusals."""

import time
import tracemalloc
from itertools import combinations

import numpy as np
import pytest

from ptycho.errors import InputError
from ptycho.grouping import compact_blocks, neighbour_groups


@pytest.fixture
def grid():
    y, x = np.mgrid[:20, :20].astype(float)
    return x.ravel(), y.ravel()


def brute_force_neighbours(x, y, i, k):
    distance = np.hypot(x - x[i], y - y[i])
    distance[i] = -1
    return set(np.argsort(distance, kind="stable")[1 : k + 1])


def test_members_come_from_the_nearest_and_are_distinct(rng):
    x, y = rng.uniform(0, 30, 200), rng.uniform(0, 30, 200)
    groups = neighbour_groups(x, y, 60, 6, 4, seed=3)
    assert groups.shape == (60, 4) and groups.dtype == np.int32
    assert len(set(groups[:, 0])) == 60  # drawn without replacement
    for group in groups:
        assert len(set(group)) == 4
        assert set(group[1:]) <= brute_force_neighbours(x, y, group[0], 6)


def test_unset_selection_uses_every_frame_once(grid):
    groups = neighbour_groups(*grid, 400, 8, 4, seed=None)
    np.testing.assert_array_equal(groups[:, 0], np.arange(400))


def test_same_seed_same_groups_other_seed_others(grid):
    first, again, other = (neighbour_groups(*grid, 50, 8, 4, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_global_generator_is_left_alone(grid):
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    neighbour_groups(*grid, 50, 8, 4, seed=1)
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_sequential_takes_the_first_frames_whatever_the_seed(grid):
    a = neighbour_groups(*grid, 7, 4, 4, seed=1, sequential=True)
    b = neighbour_groups(*grid, 7, 4, 4, seed=9, sequential=True)
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(a[:, 0], np.arange(7))


def test_single_frames_are_drawn_evenly():
    x, y = np.arange(10.0), np.zeros(10)
    drawn = np.concatenate([neighbour_groups(x, y, 3, 1, 1, seed=s)[:, 0] for s in range(400)])
    counts = np.bincount(drawn, minlength=10)
    # 1200 draws over 10 frames: 120 +- 10 (one sigma)
    assert counts.min() > 75 and counts.max() < 165


def test_frames_at_one_position_still_give_distinct_groups():
    x = y = np.zeros(30)
    groups = neighbour_groups(x, y, 30, 5, 4, seed=0)
    assert all(len(set(g)) == 4 for g in groups)
    np.testing.assert_array_equal(groups[:, 0], np.arange(30))


def test_more_single_frames_than_there_are_is_cut(caplog):
    assert neighbour_groups(np.arange(5.0), np.zeros(5), 9, 1, 1, seed=0).shape == (5, 1)
    assert "one group per frame" in caplog.text
    assert neighbour_groups([0.0, 1.0], [0.0, 0.0], 2, 1, 1, seed=0).shape == (2, 1)


def test_oversampling_must_be_asked_for(grid):
    with pytest.raises(InputError, match=r"OVERSAMPLING-001.*K choose C oversampling.*enable_oversampling"):
        neighbour_groups(*grid, 401, 6, 4, seed=0)
    with pytest.raises(InputError, match=r"OVERSAMPLING-001.*neighbor_pool_size >= C"):
        neighbour_groups(*grid, 401, 6, 4, seed=0, enable_oversampling=True, neighbor_pool_size=3)


def test_oversampled_groups_differ_and_use_frames_evenly(rng):
    x, y = rng.uniform(0, 10, 30), rng.uniform(0, 10, 30)
    groups = neighbour_groups(x, y, 100, 6, 4, seed=5, enable_oversampling=True)
    again = neighbour_groups(x, y, 100, 6, 4, seed=5, enable_oversampling=True)
    np.testing.assert_array_equal(groups, again)
    assert groups.shape == (100, 4)
    assert len({tuple(sorted(g)) for g in groups}) == 100
    uses = np.bincount(groups[:, 0], minlength=30)
    assert uses.min() >= 3 and uses.max() <= 4


def test_exhausted_combinations_are_repeated_with_a_warning(caplog):
    x, y = np.arange(5.0), np.zeros(5)
    groups = neighbour_groups(x, y, 40, 4, 4, seed=0, enable_oversampling=True)
    assert groups.shape == (40, 4)
    possible = {frozenset(c) for c in combinations(range(5), 4)}
    assert {frozenset(g.tolist()) for g in groups} == possible
    assert "repeat" in caplog.text


@pytest.mark.parametrize(
    ("n", "n_groups", "K", "C", "message"),
    [(9, 5, 3, 5, "K=3 must be >= C=5"), (3, 2, 4, 4, "at least 4"), (3, 0, 4, 1, "at least one")],
)
def test_impossible_groups_are_refused(n, n_groups, K, C, message):
    with pytest.raises(ValueError, match=message):
        neighbour_groups(np.arange(float(n)), np.zeros(n), n_groups, K, C, seed=0)


def test_512_groups_of_ten_thousand_frames_are_quick_and_small(rng):
    x, y = rng.uniform(0, 100, 10_000), rng.uniform(0, 100, 10_000)
    neighbour_groups(x[:10], y[:10], 2, 4, 4, seed=0)  # imports
    began = time.process_time()
    neighbour_groups(x, y, 512, 6, 4, seed=0)
    assert time.process_time() - began < 1.0
    tracemalloc.start()
    neighbour_groups(x, y, 512, 6, 4, seed=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6


@pytest.mark.parametrize(("n", "size"), [(240, 24), (241, 24), (263, 24), (24, 24), (100, 1), (7, 24)])
def test_blocks_partition_the_frames(rng, n, size):
    x, y = rng.uniform(0, 50, n), rng.uniform(0, 30, n)
    blocks, is_new = compact_blocks(x, y, size, rng=rng)
    width = min(size, n)
    assert blocks.shape == is_new.shape == (-(-n // width), width)
    assert blocks.dtype == np.int64 and is_new.dtype == bool
    np.testing.assert_array_equal(np.sort(blocks[is_new]), np.arange(n))
    assert all(len(set(b)) == width for b in blocks)
    assert (~is_new).any(axis=1).sum() <= 1


def test_blocks_are_compact_and_differ_from_call_to_call(rng):
    x, y = rng.uniform(0, 100, 2400), rng.uniform(0, 100, 2400)
    blocks, _ = compact_blocks(x, y, 24, rng=np.random.default_rng(1))
    other, _ = compact_blocks(x, y, 24, rng=np.random.default_rng(2))
    same, _ = compact_blocks(x, y, 24, rng=np.random.default_rng(1))
    np.testing.assert_array_equal(blocks, same)
    assert not np.array_equal(blocks, other)
    # A square that holds 24 frames at this density has a side of 10 px, its points an rms radius of 4.1 px.
    radius = np.sqrt(x[blocks].var(axis=1) + y[blocks].var(axis=1))
    assert radius.mean() < 1.35 * 10 / np.sqrt(6)
    assert radius.max() < 12


def test_the_topped_up_block_takes_its_nearest(rng):
    x = np.concatenate([np.zeros(5), np.full(3, 100.0)]) + rng.uniform(0, 1, 8)
    y = np.zeros(8)
    for seed in range(5):
        blocks, is_new = compact_blocks(x, y, 5, rng=np.random.default_rng(seed))
        (row,) = np.flatnonzero((~is_new).any(axis=1))
        own, added = blocks[row][is_new[row]], blocks[row][~is_new[row]]
        middle = x[own].mean()
        others = np.setdiff1d(np.arange(8), own)
        farthest_added = np.abs(x[added] - middle).max()
        assert farthest_added <= np.sort(np.abs(x[others] - middle))[len(added) - 1] + 1e-12


def test_a_million_frames_are_grouped_in_seconds(rng):
    x, y = (
        rng.uniform(0, 300, 100_000),
        rng.uniform(0, 300, 100_000),
    )  # a tenth of it, to keep the suite quick
    began = time.process_time()
    neighbour_groups(x, y, x.size, 6, 4, seed=0)
    compact_blocks(x, y, 24, rng=rng)
    assert time.process_time() - began < 5.0
