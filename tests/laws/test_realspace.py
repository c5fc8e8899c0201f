"""Terms on the object, against plain loops, and what they must not see or break on."""

import cmath

import numpy as np
import pytest
import torch

from laws.oracle import random_complex
from ptycho_torch.physics.realspace import (
    DARK_AMPLITUDE,
    align_phase,
    amplitude_variance,
    complex_mae,
    edge_mae,
    labelled_mae,
    mean_deviation,
    phase_total_variation,
    total_variation,
)

SHAPE = (2, 3, 5, 7)
OF_ONE = {
    "total_variation": lambda o, w=None: total_variation(o.real, w),
    "phase_total_variation": phase_total_variation,
    "mean_deviation": lambda o, w=None: mean_deviation(o.imag, w),
    "amplitude_variance": amplitude_variance,
}
OF_TWO = {
    "complex_mae": complex_mae,
    "amplitude_mae": lambda o, label, w=None: labelled_mae(o, label, w)[0],
    "phase_mae": lambda o, label, w=None: labelled_mae(o, label, w)[1],
}


@pytest.fixture
def image(rng):
    return rng.normal(size=SHAPE)


@pytest.fixture
def sample(rng):
    """Amplitudes about 1, phases all around the circle."""
    return rng.uniform(0.5, 1.5, SHAPE) * np.exp(1j * rng.uniform(-np.pi, np.pi, SHAPE))


@pytest.fixture
def label(rng):
    return rng.uniform(0.5, 1.5, SHAPE) * np.exp(1j * rng.uniform(-np.pi, np.pi, SHAPE))


@pytest.fixture(params=["unweighted", "weighted"])
def weights(request, rng):
    if request.param == "unweighted":
        return None
    found = rng.uniform(0, 3, SHAPE)
    found[rng.uniform(size=SHAPE) < 0.2] = 0.0
    return found


def value(term, *arrays):
    return float(term(*(None if a is None else torch.from_numpy(np.asarray(a)) for a in arrays)))


def images_of(array, weights):
    """Pairs of (H, W) arrays: each image and its weights."""
    shares = np.ones(array.shape) if weights is None else weights
    return list(zip(array.reshape(-1, *array.shape[-2:]), shares.reshape(-1, *array.shape[-2:]), strict=True))


def variation_by_loops(array, weights, distance):
    vertical, horizontal = [0.0, 0.0], [0.0, 0.0]
    for picture, share in images_of(array, weights):
        height, width = picture.shape
        for i in range(height):
            for j in range(width):
                if i + 1 < height:
                    w = min(share[i, j], share[i + 1, j])
                    vertical[0] += w * distance(picture[i, j], picture[i + 1, j])
                    vertical[1] += w
                if j + 1 < width:
                    w = min(share[i, j], share[i, j + 1])
                    horizontal[0] += w * distance(picture[i, j], picture[i, j + 1])
                    horizontal[1] += w
    return vertical[0] / vertical[1] + horizontal[0] / horizontal[1]


def wrapped(angle):
    while angle > np.pi:
        angle -= 2 * np.pi
    while angle <= -np.pi:
        angle += 2 * np.pi
    return angle


def spread_by_loops(array, weights, measure):
    total = norm = 0.0
    for picture, share in images_of(array, weights):
        mean = sum(w * x for x, w in zip(picture.flat, share.flat, strict=True)) / share.sum()
        for x, w in zip(picture.flat, share.flat, strict=True):
            total += w * measure(x - mean)
            norm += w
    return total / norm


def aligned_by_search(sample, label, weights):
    """Each image turned by the best of many phases, refined; knows no closed formula."""
    found = np.empty_like(sample)
    shares = np.ones(sample.shape) if weights is None else weights
    for k in np.ndindex(sample.shape[:-2]):
        centre, width = 0.0, np.pi
        for _ in range(14):
            tried = centre + np.linspace(-width, width, 41)
            misfit = [(shares[k] * np.abs(sample[k] * cmath.exp(1j * t) - label[k]) ** 2).sum() for t in tried]
            centre, width = tried[int(np.argmin(misfit))], width / 8
        found[k] = sample[k] * cmath.exp(1j * centre)
    return found


def test_total_variation_by_loops(image, weights):
    expected = variation_by_loops(image, weights, lambda a, b: abs(a - b))
    assert value(total_variation, image, weights) == pytest.approx(expected, rel=1e-12)


def test_phase_total_variation_by_loops(sample, weights):
    expected = variation_by_loops(
        sample, weights, lambda a, b: abs(wrapped(cmath.phase(complex(a)) - cmath.phase(complex(b))))
    )
    assert value(phase_total_variation, sample, weights) == pytest.approx(expected, rel=1e-12)


def test_mean_deviation_by_loops(image, weights):
    assert value(mean_deviation, image, weights) == pytest.approx(spread_by_loops(image, weights, abs), rel=1e-12)


def test_amplitude_variance_by_loops(sample, weights):
    expected = spread_by_loops(np.sqrt(np.abs(sample) ** 2 + 1e-8), weights, lambda d: d**2)
    assert value(amplitude_variance, sample, weights) == pytest.approx(expected, rel=1e-12)


def test_a_ramp_has_its_slopes():
    rows, cols = np.mgrid[:20, :30]
    ramp = 0.7 * rows - 0.4 * cols
    assert value(total_variation, ramp) == pytest.approx(1.1)
    assert np.ptp(ramp) > 6 * np.pi
    assert value(phase_total_variation, 0.8 * np.exp(1j * ramp)) == pytest.approx(1.1), "wraps do not count"


def test_a_single_step_is_shared_among_the_pairs():
    step = np.zeros((4, 6))
    step[2:] = 5.0
    assert value(total_variation, step) == pytest.approx(5.0 / 3)  # one of three vertical pairs in each column


def test_a_pair_with_an_unknown_pixel_is_unknown(rng):
    picture, weights = rng.normal(size=(6, 6)), np.ones((6, 6))
    weights[2, 3] = 0.0
    before = value(total_variation, picture, weights)
    picture[2, 3] = 1e6
    assert value(total_variation, picture, weights) == before


@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (1, 1)])
def test_lines_and_points(shape, rng):
    line = rng.normal(size=shape)
    expected = np.abs(np.diff(line.ravel())).mean() if line.size > 1 else 0.0
    assert value(total_variation, line) == pytest.approx(expected)
    assert value(phase_total_variation, np.exp(1j * line)) <= 2 * np.pi


@pytest.mark.parametrize("term", OF_ONE.values(), ids=OF_ONE.keys())
def test_a_constant_has_no_restlessness(term):
    constant = np.full((2, 8, 8), 0.6 - 0.3j)
    assert value(term, constant) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("term", OF_ONE.values(), ids=OF_ONE.keys())
def test_each_image_has_its_own_mean(term):
    levels = np.array([0.5 + 1j, 2.0 - 1j])[:, None, None] * np.ones((2, 8, 8))
    assert value(term, levels) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("term", [phase_total_variation, amplitude_variance])
def test_the_global_phase_does_not_count(term, sample, weights):
    turned = sample * cmath.exp(2.5j)
    assert value(term, turned, weights) == pytest.approx(value(term, sample, weights), rel=1e-10)


def test_align_phase_finds_the_nearest_turn(sample, label, weights):
    found = align_phase(*(None if a is None else torch.from_numpy(a) for a in (sample, label, weights)))
    np.testing.assert_allclose(found.numpy(), aligned_by_search(sample, label, weights), atol=1e-6)


def test_align_phase_turns_each_image_back(sample, rng):
    factors = np.exp(1j * rng.uniform(-np.pi, np.pi, (*SHAPE[:2], 1, 1)))
    found = align_phase(torch.from_numpy(sample * factors), torch.from_numpy(sample))
    np.testing.assert_allclose(found.numpy(), sample, atol=1e-12)


def test_align_phase_leaves_alone_what_has_no_overlap():
    sample = torch.ones(1, 2, 2, dtype=torch.complex64) * 1j
    assert torch.equal(align_phase(sample, torch.zeros_like(sample)), sample)
    assert torch.equal(align_phase(sample, torch.ones_like(sample), torch.zeros(2, 2)), sample)


def test_the_turn_passes_no_gradient(sample, label):
    given = torch.from_numpy(sample).requires_grad_()
    factor = (align_phase(given, torch.from_numpy(label)) / given).detach()
    align_phase(given, torch.from_numpy(label)).real.sum().backward()
    torch.testing.assert_close(given.grad, factor.conj())


def test_errors_against_a_label_by_loops(sample, label, weights):
    aligned = aligned_by_search(sample, label, weights)
    shares = np.ones(SHAPE) if weights is None else weights
    sums = np.zeros(3)
    for o, known, w in zip(aligned.flat, label.flat, shares.flat, strict=True):
        angle = abs(wrapped(cmath.phase(complex(o)) - cmath.phase(complex(known))))
        sums += w * np.array([abs(o - known), abs(abs(o) - abs(known)), angle])
    found = [value(term, sample, label, weights) for term in OF_TWO.values()]
    np.testing.assert_allclose(found, sums / shares.sum(), rtol=1e-6)


def test_errors_of_edges_by_loops(sample, label, weights):
    error = aligned_by_search(sample, label, weights) - label
    shares = np.ones(SHAPE) if weights is None else np.broadcast_to(weights, SHAPE)
    sums = np.zeros((3, 2))
    for place in np.ndindex(SHAPE):
        sums[0] += shares[place] * abs(error[place]), shares[place]
        for axis, way in ((1, (0, 0, 1, 0)), (2, (0, 0, 0, 1))):
            beside = tuple(np.add(place, way))
            if beside[2] < SHAPE[2] and beside[3] < SHAPE[3]:
                both = min(shares[place], shares[beside])
                sums[axis] += both * abs(error[beside] - error[place]), both
    assert value(edge_mae, sample, label, weights) == pytest.approx((sums[:, 0] / sums[:, 1]).sum(), rel=1e-6)


@pytest.mark.parametrize("term", OF_TWO.values(), ids=OF_TWO.keys())
def test_labels_are_met_up_to_a_phase_per_image(term, sample, label, weights, rng):
    factors = np.exp(1j * rng.uniform(-np.pi, np.pi, (*SHAPE[:2], 1, 1)))
    assert value(term, sample * factors, sample, weights) == pytest.approx(0.0, abs=1e-12)
    found, turned = value(term, sample, label, weights), value(term, sample * factors, label, weights)
    assert turned == pytest.approx(found, rel=1e-10) and found > 0.1


def test_a_phase_error_across_the_wrap_is_small():
    label = np.exp(1j * np.array([[0.0, 0.0, 0.0, np.pi - 0.05]]))
    near = np.exp(1j * np.array([[0.0, 0.0, 0.0, np.pi + 0.05]]))
    assert value(OF_TWO["phase_mae"], near, label) < 0.2 / 4 + 1e-9


@pytest.mark.parametrize("term", [align_phase, complex_mae, edge_mae, labelled_mae])
def test_different_shapes_are_refused(term):
    with pytest.raises(ValueError, match=r"\(2, 4, 4\) and label \(4, 4\)"):
        term(torch.ones(2, 4, 4, dtype=torch.complex64), torch.ones(4, 4, dtype=torch.complex64))


@pytest.mark.parametrize("name", [*OF_ONE, *OF_TWO])
def test_weights_have_no_unit_no_gradient_and_may_be_zero(name, sample, label, rng):
    arrays = (sample,) if name in OF_ONE else (sample, label)
    term = OF_ONE.get(name) or OF_TWO[name]
    shares = rng.uniform(0.1, 1, SHAPE[-2:])  # one map for all images
    found = value(term, *arrays, shares)
    assert value(term, *arrays, np.broadcast_to(shares * 1e5, SHAPE).copy()) == pytest.approx(found, rel=1e-10)
    assert value(term, *arrays, np.zeros(SHAPE)) == 0.0
    given = [torch.from_numpy(a).requires_grad_() for a in (*arrays, shares)]
    term(*given).backward()
    assert given[-1].grad is None and given[0].grad is not None


@pytest.mark.parametrize("name", [*OF_ONE, *OF_TWO])
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-20, 0.5 * DARK_AMPLITUDE, 2 * DARK_AMPLITUDE])
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_gradients_are_finite_in_the_dark(name, scale, dtype, sample, label):
    dark = torch.from_numpy(sample).to(dtype)
    dark[0, 0] *= scale
    dark[1, 1, 2, 3] *= scale
    dark.requires_grad_()
    known = torch.from_numpy(label).to(dtype)
    known[0, 0, :2] = 0
    found = OF_ONE[name](dark) if name in OF_ONE else OF_TWO[name](dark, known)
    found.backward()
    assert torch.isfinite(found)
    assert torch.isfinite(torch.view_as_real(dark.grad)).all()
    assert dark.grad.abs().max() <= 1 / DARK_AMPLITUDE


@pytest.mark.parametrize("name", OF_TWO)
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_what_an_unweighted_label_holds_reaches_neither_error_nor_gradient(name, poison, sample, label, rng):
    shares = np.ones(SHAPE)
    shares[..., 0, :] = 0.0
    spoilt = label.copy()
    spoilt[..., 0, :] = poison
    assert value(OF_TWO[name], sample, spoilt, shares) == value(OF_TWO[name], sample, label, shares)
    given = torch.from_numpy(sample).requires_grad_()
    OF_TWO[name](given, torch.from_numpy(spoilt), torch.from_numpy(shares)).backward()
    assert torch.isfinite(torch.view_as_real(given.grad)).all()


@pytest.mark.parametrize("name", OF_ONE)
def test_gradients(name, rng, weights):
    # far from the kinks of the absolute values: a generic object has none within the step of gradcheck
    sample = torch.from_numpy(random_complex(rng, 2, 4, 5)).requires_grad_()
    shares = None if weights is None else torch.from_numpy(weights[0, 0, :4, :5])
    assert torch.autograd.gradcheck(lambda o: OF_ONE[name](o, shares), sample)


def test_gradients_against_a_label(rng):
    """With the turn held: it is detached, so the check compares with a label that needs none to first order."""
    sample = torch.from_numpy(random_complex(rng, 4, 5))
    label = torch.from_numpy(random_complex(rng, 4, 5))
    held = align_phase(sample, label)
    steps = torch.from_numpy(random_complex(rng, 4, 5)) * 1e-6
    # keep the overlap's phase: step along directions that leave Im sum conj(O) L unchanged
    overlap = (held.conj() * label).sum()
    drift = (steps.conj() * label).sum().imag / (label.abs().square().sum())
    steps = steps + 1j * drift * label
    assert abs(overlap.imag) < 1e-9 and abs((steps.conj() * label).sum().imag) < 1e-15
    for term in OF_TWO.values():
        given = held.clone().requires_grad_()
        term(given, label).backward()
        slope = (given.grad.conj() * steps).sum().real
        difference = (term(held + steps, label) - term(held - steps, label)) / 2
        assert float(slope) == pytest.approx(float(difference), rel=1e-5)
