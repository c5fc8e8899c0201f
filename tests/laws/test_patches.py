"""Cutting patches and adding them back."""

import numpy as np
import pytest
import torch

from laws.oracle import random_complex, random_starts
from ptycho_torch.physics.patches import add_patches, extract, merge, place

SHAPE = (23, 31)
N = 8


@pytest.fixture
def starts(rng):
    found = random_starts(rng, 12, N, SHAPE)
    found[0], found[1] = (0, 0), (SHAPE[0] - N, SHAPE[1] - N)  # both corners
    found[2] = found[3]  # one place seen twice
    return torch.from_numpy(found)


def test_extract_cuts_slices(rng, starts):
    canvas = random_complex(rng, *SHAPE)
    cuts = extract(torch.from_numpy(canvas), starts, N).numpy()
    for cut, (row, col) in zip(cuts, starts.tolist(), strict=True):
        np.testing.assert_array_equal(cut, canvas[row : row + N, col : col + N])


def test_place_adds_slices(rng, starts):
    patches = random_complex(rng, len(starts), N, N)
    expected = np.zeros(SHAPE, dtype=complex)
    for patch, (row, col) in zip(patches, starts.tolist(), strict=True):
        expected[row : row + N, col : col + N] += patch
    np.testing.assert_allclose(place(torch.from_numpy(patches), starts, SHAPE).numpy(), expected, atol=1e-13)
    before = random_complex(rng, *SHAPE)
    canvas = torch.from_numpy(before.copy())
    add_patches(canvas, torch.from_numpy(patches), starts)
    np.testing.assert_allclose(canvas.numpy(), before + expected, atol=1e-13)


def test_large_patches_are_added_as_small_ones_are(rng):
    """Row by row, and to the bit, since the batch must not matter."""
    patches = torch.from_numpy(random_complex(rng, 9, 64, 64)).to(torch.complex64)
    starts = torch.from_numpy(rng.integers(0, 17, (9, 2)))
    canvas = torch.zeros(80, 80, dtype=torch.complex64)
    add_patches(canvas, patches, starts)
    assert torch.equal(canvas, place(patches, starts, (80, 80)))


def test_cutting_is_the_same_with_a_gradient(rng, starts):
    """Two ways to cut: one that can be differentiated, and one that is quick."""
    canvas = torch.from_numpy(rng.normal(size=SHAPE) + 1j * rng.normal(size=SHAPE))
    assert torch.equal(extract(canvas.clone().requires_grad_(), starts, N), extract(canvas, starts, N))
    empty = torch.ones((), dtype=canvas.dtype).expand(SHAPE)
    assert torch.equal(extract(empty, starts, N), torch.ones(len(starts), N, N, dtype=canvas.dtype))


def test_place_is_the_adjoint_of_extract(rng, starts):
    canvas = torch.from_numpy(random_complex(rng, *SHAPE))
    patches = torch.from_numpy(random_complex(rng, len(starts), N, N))
    left = torch.vdot(extract(canvas, starts, N).flatten(), patches.flatten())
    right = torch.vdot(canvas.flatten(), place(patches, starts, SHAPE).flatten())
    assert abs(complex(left - right)) < 1e-12 * abs(complex(left))


def test_blocks_of_a_batch_do_not_mix(rng):
    canvases = torch.from_numpy(random_complex(rng, 3, *SHAPE))
    starts = torch.from_numpy(np.stack([random_starts(rng, 5, N, SHAPE) for _ in range(3)]))
    cuts = extract(canvases, starts, N)
    summed = place(cuts, starts, SHAPE)
    for k in range(3):
        torch.testing.assert_close(cuts[k], extract(canvases[k], starts[k], N), rtol=0, atol=0)
        torch.testing.assert_close(summed[k], place(cuts[k], starts[k], SHAPE), rtol=0, atol=1e-13)


def test_merging_the_cuts_of_one_object_gives_it_back_and_vacuum_elsewhere(rng, starts):
    truth = torch.from_numpy(np.exp(0.2 * random_complex(rng, *SHAPE)))
    weights = torch.from_numpy(rng.uniform(0.5, 1.0, (len(starts), N, N)))
    merged = merge(extract(truth, starts, N), weights, starts, SHAPE)
    lit = place(torch.ones_like(weights), starts, SHAPE) > 0
    assert 0.2 < lit.double().mean() < 0.95
    # eps is 1e-6 of the greatest weight, and pulls towards 1 by eps / (sum of weights)
    assert (merged - truth)[lit].abs().max() < 2e-6 * (truth - 1).abs().max()
    assert torch.all(merged[~lit] == 1)


def test_merge_weighs_proposals_as_a_loop_does(rng, starts):
    patches = random_complex(rng, len(starts), N, N)
    weights = rng.uniform(0, 1, (len(starts), N, N)) ** 4
    above, below = np.zeros(SHAPE, dtype=complex), np.zeros(SHAPE)
    for patch, weight, (row, col) in zip(patches, weights, starts.tolist(), strict=True):
        above[row : row + N, col : col + N] += weight * patch
        below[row : row + N, col : col + N] += weight
    floor = 1e-3 * weights.max()
    merged = merge(torch.from_numpy(patches), torch.from_numpy(weights), starts, SHAPE, relative_floor=1e-3)
    np.testing.assert_allclose(merged.numpy(), (above + floor) / (below + floor), rtol=1e-12)


def test_no_gradient_flows_through_the_weights(rng, starts):
    patches = torch.from_numpy(random_complex(rng, len(starts), N, N)).requires_grad_()
    weights = torch.from_numpy(rng.uniform(0.1, 1, (len(starts), N, N))).requires_grad_()
    merge(patches, weights, starts, SHAPE).abs().sum().backward()
    assert weights.grad is None and patches.grad is not None


def test_gradients(rng):
    shape, n = (7, 6), 3
    starts = torch.from_numpy(random_starts(rng, 4, n, shape))
    weights = torch.from_numpy(rng.uniform(0.1, 1, (4, n, n)))
    canvas = torch.from_numpy(random_complex(rng, *shape)).requires_grad_()
    patches = torch.from_numpy(random_complex(rng, 4, n, n)).requires_grad_()
    assert torch.autograd.gradcheck(lambda c: extract(c, starts, n), canvas)
    assert torch.autograd.gradcheck(lambda p: place(p, starts, shape), patches)
    assert torch.autograd.gradcheck(lambda p: merge(p, weights, starts, shape), patches)
