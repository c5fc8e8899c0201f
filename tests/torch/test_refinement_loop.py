"""The refinement of an object against a loop over frames in NumPy, and how many steps an epoch may have."""

import numpy as np
import pytest
import torch
from frame_loops import asked_for, carried_further, scan_of_a_narrow_beam, shifted, with_a_mask
from small_scans import against_truth, small_scan

from ptycho_torch.calibration import scaled_guess
from ptycho_torch.data.parts import steps_of
from ptycho_torch.data.scans import PlacedScan
from ptycho_torch.physics.detector import detector_order, roots
from ptycho_torch.physics.slow_phase import SlowPhase
from ptycho_torch.solvers.refinement import IN_ORDER, STAYING, RefinementOptions, momentum_for, refine
from ptycho_torch.workflows.refinement import RefinementSettings, refine_scan


def by_solver(raw, parts, epochs):
    scan, good = PlacedScan.of(raw), None
    if raw.bad_pixels is not None:
        good = detector_order(torch.from_numpy(raw.good_pixels))
    return refine(
        lambda at: roots(detector_order(scan.counts(at))), scan.starts, scan.fractions, parts,
        torch.ones(scan.canvas.shape, dtype=torch.complex64), torch.from_numpy(scaled_guess(raw)),
        RefinementOptions(epochs=epochs, refine_probe=False), good_pixels=good,
    )  # fmt: skip


def by_loop(raw, parts, epochs):
    """The object and the relative misfit of each epoch: least-squares steps over a common light, with momentum."""
    scan, n = PlacedScan.of(raw), raw.N
    modes = scaled_guess(raw).astype(np.complex128)
    lights = [np.stack([shifted(mode, part) for mode in modes]) for part in scan.fractions.double().numpy()]
    where = [tuple(slice(at, at + n) for at in start) for start in scan.starts.tolist()]
    counts, good = np.fft.ifftshift(raw.diff3d.astype(float), axes=(1, 2)), np.fft.ifftshift(raw.good_pixels)
    lit = np.zeros((len(parts), *scan.canvas.shape))
    for number, part in enumerate(parts):
        for j in part.tolist():
            lit[number][where[j]] += (np.abs(lights[j]) ** 2).sum(axis=0)
    most, slow = lit.max(axis=0), SlowPhase.of(torch.from_numpy(modes))
    image, velocity = np.ones(scan.canvas.shape, complex), np.zeros(scan.canvas.shape, complex)
    made, errors, random = 0, [], torch.Generator().manual_seed(0)
    for epoch in range(epochs):
        step = 0.5 * min(1.0, (epochs - epoch) / max(1, epochs - epochs // 2))
        squares = measured = 0.0
        shuffled = len(parts) > IN_ORDER
        order = torch.randperm(len(parts), generator=random).tolist() if shuffled else range(len(parts))
        for part in (parts[number] for number in order):
            asked = {j: asked_for(lights[j] * image[where[j]], counts[j], good, STAYING) for j in part.tolist()}
            direction = np.zeros_like(image)
            for j, change in asked.items():
                direction[where[j]] += (np.conj(lights[j]) * change).sum(axis=0)
            turned = 1j * image * carried_further(image, direction, most, slow)
            direction = direction / (most + 0.1 * most.max()) + turned
            moved = {j: lights[j] * direction[where[j]] for j in asked}
            fit = sum((np.conj(moved[j]) * asked[j]).sum().real for j in asked)
            length = fit / sum((np.abs(moved[j]) ** 2).sum() for j in asked)
            velocity = min(momentum_for(len(parts)), made / (made + 3)) * velocity + step * length * direction
            image, made = image + velocity, made + 1
            squares += sum((np.abs(change) ** 2).sum() for change in asked.values())
            measured += sum(counts[j][good].sum() for j in asked)
        errors.append(squares / measured)
    return image, errors


@pytest.mark.parametrize(("masked", "batch"), [(False, 10), (True, 10), (False, 4)])
def test_it_is_the_loop_over_frames(rng, masked, batch):
    raw = scan_of_a_narrow_beam(rng)
    raw = with_a_mask(raw) if masked else raw
    parts = steps_of(PlacedScan.of(raw).xy, batch)
    found, (expected, errors) = by_solver(raw, parts, 4), by_loop(raw, parts, 4)
    assert np.abs(expected - 1).max() > 0.3
    np.testing.assert_allclose(found.canvas.numpy(), expected, atol=2e-4)
    np.testing.assert_allclose(found.errors, errors, rtol=1e-3)


@pytest.mark.parametrize("counts", [2e3, 1e6])
@pytest.mark.parametrize("batch", [3, 10, 30, 120])
def test_it_settles_with_any_number_of_steps(counts, batch):
    """From batches of which none sees the whole scan to a single one."""
    raw = small_scan(120, counts=counts)
    found = refine_scan(raw, None, RefinementSettings(epochs=40, batch_size=batch, stop_improvement=0.0))
    errors = found.losses["train"]
    assert errors[-1] < min(errors[:10]) and max(errors[15:]) < 1.25 * min(errors[5:15])
    assert against_truth(found.result.object, raw).phase_correlation > (0.97 if counts > 1e5 else 0.87)
