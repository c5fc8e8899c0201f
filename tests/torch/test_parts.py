"""Parts of a scan that lie side by side."""

import numpy as np
import pytest
import torch

from ptycho_torch.data.parts import frames_per_step, spread_folds, spread_parts, steps_of


def scattered(n, seed=0):
    return np.random.default_rng(seed).uniform(0, 100, (n, 2))


@pytest.mark.parametrize(("frames", "n"), [(60, 4), (61, 4), (7, 3), (40, 40), (5, 9), (1, 1)])
def test_each_member_is_in_one_part(frames, n):
    parts = spread_parts(scattered(frames), np.arange(frames), n)
    assert sorted(torch.cat(parts).tolist()) == list(range(frames))
    assert len(parts) <= min(n, frames) and all(len(part) for part in parts)
    assert all(torch.equal(part, part.sort().values) and part.dtype == torch.int64 for part in parts)
    assert max(map(len, parts)) <= -(-frames // min(n, frames)) + 1


def test_others_are_in_none():
    members = np.arange(3, 30, 2)
    parts = spread_parts(scattered(50), members, 4)
    assert sorted(torch.cat(parts).tolist()) == members.tolist()
    folds = spread_folds(scattered(50), members, 4, seed=0)
    assert [np.flatnonzero(folds == n).tolist() for n in range(4)] == [part.tolist() for part in parts]


def test_parts_cover_the_scan():
    """The nearest frame of each part is hardly farther than the nearest frames at all."""
    xy = scattered(400)
    for part in spread_parts(xy, np.arange(400), 4):
        distance = np.linalg.norm(xy[:, None] - xy[part.numpy()][None], axis=2).min(axis=1)
        assert distance.max() < 2.5 * np.sqrt(100 * 100 / 100)


def test_seeds():
    xy = scattered(60)
    one, again, other = (steps_of(xy, 15, seed) for seed in (0, 0, 1))
    assert all(map(torch.equal, one, again))
    assert not all(map(torch.equal, one, other))


@pytest.mark.parametrize(("frames", "expected"), [(10, 16), (64, 16), (600, 150), (601, 151), (10**6, 256)])
def test_a_quarter_of_the_frames_makes_a_step(frames, expected):
    assert frames_per_step(frames, 64, 1) == expected


@pytest.mark.parametrize(("N", "modes"), [(512, 4), (1024, 5), (2048, 8)])
def test_a_step_of_large_frames_has_fewer(N, modes):
    """Their probes and patches of the object, complex of 8 bytes, fit into 1 GiB."""
    n = frames_per_step(10**6, N, modes)
    frame = (modes + 1) * N * N * 8
    assert n * frame <= 2**30 < (n + 1) * frame and frames_per_step(10**6, 4096, 8) == 1


def test_batches_of_about_the_size_asked_for():
    xy = scattered(100)
    assert [len(part) for part in steps_of(xy, 25)] == [25] * 4
    assert len(steps_of(xy, 16)) == 7 and len(steps_of(xy, 1000)) == 1
    assert max(map(len, steps_of(xy, 16))) <= 16
