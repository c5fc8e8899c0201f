"""With noise-free rates as data and the true probe held fixed, the true object is the minimum of the loss."""

import numpy as np
import pytest
import torch

from laws.oracle import beam, rates_at, specimen
from ptycho.geometry import canvas_for, placements
from ptycho_torch.physics.detector import detector_order, expected_counts
from ptycho_torch.physics.illumination import merge_weights, shift_probe
from ptycho_torch.physics.likelihood import amplitude_mae, poisson_nll
from ptycho_torch.physics.patches import extract, merge

CASES = [(n, block) for n in (64, 128, 256) for block in (1, 4, 24)]


class Scene:
    """A block of frames whose counts are the rates of a known object and an unscaled, known probe."""

    def __init__(self, n: int, block: int) -> None:
        rng = np.random.default_rng([n, block])
        self.sample = specimen(3, n_waves=8)
        light = beam(n, modes=2, power=1e5)
        x, y = rng.uniform(-0.08 * n, 0.08 * n, (2, block))
        canvas = canvas_for(x, y, n)
        starts, fractions = placements(x, y, n, canvas)
        self.n, self.shape, self.starts = n, canvas.shape, torch.from_numpy(starts)
        self.probes = shift_probe(torch.from_numpy(light.array(n)), torch.from_numpy(fractions))
        self.weights = merge_weights(self.probes)
        self.counts = detector_order(torch.from_numpy(rates_at(self.sample, light, x, y, n)))
        x0, y0 = canvas.origin_xy
        self.rows, self.cols = y0 + np.arange(canvas.shape[0]), x0 + np.arange(canvas.shape[1])
        self.truth = torch.from_numpy(self.sample(self.rows, self.cols))

    def rates(self, image: torch.Tensor, floor: float = 1e-6) -> torch.Tensor:
        """Every frame proposes its cut of the object, the proposals are merged, the merged object diffracts.

        The merge puts vacuum where next to no light falls (below `floor` of the brightest pixel).
        """
        merged = merge(extract(image, self.starts, self.n), self.weights, self.starts, self.shape, floor)
        return expected_counts(merged, self.probes, self.starts)

    def loss(self, image: torch.Tensor, floor: float = 1e-6) -> torch.Tensor:
        return poisson_nll(self.rates(image, floor), self.counts)

    def losses(self, image: torch.Tensor) -> tuple[float, float]:
        """Poisson and amplitude losses."""
        rates = self.rates(image)
        return float(poisson_nll(rates, self.counts)), float(amplitude_mae(rates, self.counts))

    def rivals(self) -> dict[str, torch.Tensor]:
        truth, (height, width) = self.truth, self.shape
        slope = np.arange(height)[:, None] - 2 * np.arange(width)[None, :]
        ramp = np.exp(2j * np.pi * 0.25 / self.n * slope)
        moved = {
            f"shifted by {dy}, {dx}": torch.from_numpy(self.sample(self.rows - dy, self.cols - dx))
            for dy, dx in ((1.0, 0.0), (0.0, -1.0), (0.5, 0.5))
        }
        found = {
            "vacuum": torch.ones_like(truth),
            "3 % brighter": 1.03 * truth,
            "3 % darker": 0.97 * truth,
            **moved,
            "conjugated": truth.conj().resolve_conj(),
            "tilted": truth * torch.from_numpy(ramp),
        }
        if self.n == 256:  # these take their time
            return found
        return found | {
            "its mean": torch.full_like(truth, complex(truth.mean())),
            "upside down": truth.flip(0),
            "left to right": truth.flip(1),
            "turned": truth.flip((0, 1)),
            "turned and conjugated": truth.flip((0, 1)).conj().resolve_conj(),
            "without phase": truth.abs().to(truth.dtype),
            "without absorption": truth / truth.abs(),
        }


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"N{case[0]}-block{case[1]}")
def scene(request):
    return Scene(*request.param)


def test_the_true_object_is_the_minimum(scene):
    assert float(scene.loss(scene.truth, floor=1e-14)) < 1e-10
    poisson, amplitude = scene.losses(scene.truth)
    losses = {name: scene.losses(image) for name, image in scene.rivals().items()}
    assert min(found[0] for found in losses.values()) > 300 * poisson, losses
    assert min(found[1] for found in losses.values()) > 20 * amplitude, losses


def test_a_global_phase_changes_nothing(scene):
    turned = scene.truth * torch.exp(torch.tensor(1.3j, dtype=torch.complex128))
    assert float(scene.loss(turned, floor=1e-14)) < 1e-10


def test_the_gradient_vanishes_at_the_truth_and_not_elsewhere(scene):
    def gradient(image):
        image = image.clone().requires_grad_()
        (found,) = torch.autograd.grad(scene.loss(image, floor=1e-14), image)
        return float(found.abs().max())

    assert gradient(scene.truth) < 1e-6 * gradient(torch.ones_like(scene.truth))


@pytest.mark.parametrize("block", [1, 4, 24])
def test_every_small_change_makes_it_worse(block):
    scene = Scene(64, block)
    random = torch.Generator().manual_seed(block)
    at_truth = float(scene.loss(scene.truth))
    for _ in range(12):
        change = torch.randn(scene.shape, generator=random, dtype=torch.complex128)
        step = [float(scene.loss(scene.truth + size * change)) for size in (1e-3, 1e-2)]
        assert at_truth < step[0] < step[1]


def test_descent_from_vacuum_goes_towards_the_truth():
    """The gradient points the right way: 60 steps leave a small part of the loss."""
    scene = Scene(64, 24)
    image = torch.ones_like(scene.truth).requires_grad_()
    optimiser = torch.optim.Adam([image], lr=0.02)
    first = float(scene.loss(image).detach())
    for _ in range(60):
        optimiser.zero_grad()
        loss = scene.loss(image)
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 0.02 * first
