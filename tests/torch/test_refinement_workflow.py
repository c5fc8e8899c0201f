"""The refinement workflow: starts, modes, placement, bounded memory, and what it refuses."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from small_scans import against_truth, small_scan

from ptycho import diffsim
from ptycho.errors import InputError
from ptycho.geometry import canvas_for, coverage_map, placements
from ptycho.io.product import save_product
from ptycho.io.reconstruction_files import load_any, save_reconstruction_npz
from ptycho.metrics.deviance import expected_deviance, poisson_deviance
from ptycho.placed import compare_placed, place_loaded, place_outcome, place_truth
from ptycho.probe import mode_powers, probe_mask, probe_power
from ptycho.raw_data import RawData
from ptycho.reconstruction import Reconstruction
from ptycho.simulation.recipe import Recipe, simulate
from ptycho_torch.halves import HalvesSettings
from ptycho_torch.workflows import refinement
from ptycho_torch.workflows.refinement import RefinementSettings, refine_scan, torch_device, with_modes


@pytest.fixture(scope="module")
def raw():
    return small_scan(n_frames=120, defocus_error=0.1)


@pytest.fixture(scope="module")
def refined(raw):
    return refine_scan(raw, settings=RefinementSettings(epochs=40, stop_improvement=0.0))


def as_file(path, raw, image, probe, shift=(0.0, 0.0), center=None, **known):
    """A reconstruction file whose positions are `raw`'s, all moved by `shift` (x, y)."""
    canvas = canvas_for(raw.xcoords, raw.ycoords, raw.N)
    center = canvas.center_xy if center is None else center
    rec = Reconstruction(image, np.ones(image.shape, int), probe, raw.xcoords + shift[0], raw.ycoords + shift[1],
                         (center[0] + shift[0], center[1] + shift[1]), **known)  # fmt: skip
    save_reconstruction_npz(path, rec)
    return load_any(path)


# ---------------------------------------------------------------------- from vacuum


def test_from_vacuum_it_finds_the_object(raw, refined):
    assert list(refined.stages) == ["start", "refined"]
    start, end = refined.stages.values()
    np.testing.assert_array_equal(start.object, np.ones(refined.canvas.shape))
    assert end.deviance < 1.2 * end.expected_deviance < start.deviance / 5
    assert against_truth(end.object, raw).phase_correlation > 0.97
    assert probe_power(refined.probe) == pytest.approx(raw.mean_counts_per_frame(), rel=1e-4)
    assert len(refined.losses["train"]) == 40 and refined.losses["train"][-1] < refined.losses["train"][0]


def test_the_figures_are_those_of_the_simulator(raw, refined):
    """Rates of the result by the simulator's own detector model, which shares no code with the backend's."""
    left, top = refined.canvas.origin_xy
    rates = diffsim.diffraction_rates(refined.result.object, refined.probe, raw.xcoords - left, raw.ycoords - top)
    stage = refined.stages["refined"]
    assert stage.deviance == pytest.approx(poisson_deviance(rates, raw.diff3d), rel=1e-3)
    assert stage.expected_deviance == pytest.approx(expected_deviance(rates), rel=1e-3)
    assert refined.frame_deviance.mean() == pytest.approx(stage.deviance, rel=1e-5)
    assert refined.detector_residual.shape == (raw.N, raw.N)


def test_the_same_seed_gives_the_same_result(raw):
    one, two, other = (refine_scan(raw, settings=RefinementSettings(epochs=2, seed=s)) for s in (0, 0, 1))
    np.testing.assert_array_equal(one.result.object, two.result.object)
    assert not np.array_equal(one.result.object, other.result.object)


def test_without_epochs_the_start_comes_back(raw):
    outcome = refine_scan(raw, settings=RefinementSettings(epochs=0))
    assert outcome.stages["start"].deviance == pytest.approx(outcome.stages["refined"].deviance, rel=1e-4)
    assert outcome.losses == {}


def test_the_probe_can_be_held(raw):
    outcome = refine_scan(raw, settings=RefinementSettings(epochs=10, refine_probe=False))
    guess = raw.probe[0]
    overlap = abs(np.vdot(guess, outcome.probe[0])) / np.linalg.norm(guess) / np.linalg.norm(outcome.probe[0])
    assert overlap == pytest.approx(1, abs=1e-6)
    assert outcome.stages["refined"].deviance < outcome.stages["start"].deviance


def test_epochs_are_told(raw):
    told = []
    refine_scan(raw, settings=RefinementSettings(epochs=3), on_epoch=lambda epoch, misfit: told.append((epoch, misfit)))
    assert [epoch for epoch, _ in told] == [1, 2, 3] and all(misfit > 0 for _, misfit in told)


def test_frames_come_in_batches(raw, monkeypatch):
    """Never more than a batch of frames in memory as floats."""
    most = 0
    counts = RawData.counts

    def watched(self, indices=None):
        nonlocal most
        frames = counts(self, indices)
        most = max(most, len(frames))
        return frames

    raw.mean_counts_per_frame()
    monkeypatch.setattr(RawData, "counts", watched)
    outcome = refine_scan(raw, settings=RefinementSettings(epochs=1, batch_size=16))
    assert 0 < most <= 16 and outcome.settings["batch_size"] == 16
    sizes = [RefinementSettings().frames_per_step(10**6, N, modes) for N, modes in ((512, 1), (512, 3), (2048, 8))]
    assert sizes == [256, 128, 3], "probes and patches of a step take 1 GiB at most"


def test_masked_pixels_take_no_part(raw):
    bad = np.zeros((raw.N, raw.N), dtype=bool)
    bad[5:9, 20] = bad[16, 16] = True
    frames = raw.diff3d.copy()
    frames[:, bad] = 60000
    masked = RawData(raw.xcoords, raw.ycoords, diff3d=frames, probeGuess=raw.probeGuess, bad_pixels=bad)
    outcome = refine_scan(masked, settings=RefinementSettings(epochs=30))
    assert outcome.result.deviance < 1.5 * outcome.result.expected_deviance
    assert np.isnan(outcome.detector_residual[bad]).all()


# ---------------------------------------------------------------------- modes


def test_modes_that_are_added_are_orthogonal_and_cost_no_power():
    probe = diffsim.make_probe("zone_plate", 32, defocus=15.0, mode_powers=(0.9, 0.1)) * np.complex64(100)
    more = with_modes(probe, 5)
    gram = np.einsum("iyx,jyx->ij", more[2:].conj(), more)
    gram[:, 2:] -= np.diag(np.diag(gram[:, 2:]))
    assert np.abs(gram).max() < 1e-3 * probe_power(probe)
    assert probe_power(more) == pytest.approx(probe_power(probe), rel=1e-5)
    # the two of the start keep their proportions; the three new ones have equal shares
    shares = mode_powers(more)
    assert shares[0] / shares[1] == pytest.approx(9, rel=1e-3)
    np.testing.assert_allclose(shares[2:] / shares.sum(), 0.02 / 1.06, rtol=1e-3)


def test_modes_that_are_left_out_are_the_weakest():
    probe = diffsim.make_probe("gaussian", 32, mode_powers=(0.6, 0.3, 0.1))
    fewer = with_modes(probe[::-1].copy(), 2)
    overlaps = np.abs(np.einsum("myx,nyx->mn", probe[:2].conj(), fewer))
    np.testing.assert_allclose(overlaps, np.diag(np.sqrt([0.6, 0.3]) * np.sqrt([0.6, 0.3]) / np.sqrt(0.9)), atol=1e-5)
    assert probe_power(fewer) == pytest.approx(1, rel=1e-5)
    assert with_modes(probe, None) is probe and with_modes(probe, 3) is probe


def test_a_beam_of_two_modes_needs_two():
    recipe = Recipe(n_frames=150, N=32, mode_powers=(0.7, 0.3), defocus_error=0.0, overlap=0.8, counts_per_frame=1e6)
    scan = simulate(recipe).raw
    scan.probeGuess = np.asarray(scan.probeGuess)[:1]
    one, two = (refine_scan(scan, settings=RefinementSettings(epochs=40, modes=m)) for m in (1, 2))
    assert len(two.probe) == 2 and two.settings["modes"] == 2
    excess = [stage.deviance - stage.expected_deviance for stage in (one.result, two.result)]
    assert excess[1] < 0.4 * excess[0]
    gram = np.einsum("iyx,jyx->ij", two.probe.conj(), two.probe)
    assert abs(gram[0, 1]) < 1e-3 * abs(gram[0, 0]), "modes come out orthogonal, the strongest first"
    assert mode_powers(two.probe)[1] / probe_power(two.probe) > 0.03


# ---------------------------------------------------------------------- focus, positions, support, plateau


@pytest.mark.parametrize("error", [0.2, -0.2])
def test_a_wrong_focus_is_found(error):
    """The simulated guess is zone plate's own beam, so far beside its place; in metres where the scan has a scale."""
    recipe = Recipe(n_frames=120, N=32, defocus_error=error, counts_per_frame=1e6, pixel_size_m=2e-8,
                    photon_energy_ev=8000.0)  # fmt: skip
    scan = simulate(recipe).raw
    held = refine_scan(scan, settings=RefinementSettings(epochs=15, refine_probe=False))
    found = refine_scan(scan, settings=RefinementSettings(epochs=15, refine_probe=False, correct_defocus=True))
    wrong_px2 = error * 38.0 * 32 / 64
    facts = found.corrections["defocus"]
    assert facts["distance_px2"] == pytest.approx(-wrong_px2, abs=0.6)
    wavelength = 1.239841984e-6 / 8000
    assert facts["distance_m"] == pytest.approx(facts["distance_px2"] * (2e-8) ** 2 / wavelength, rel=1e-9)
    assert any("propagated along the axis" in note and "um" in note for note in found.notes)
    assert found.result.deviance < 0.7 * held.result.deviance
    assert held.corrections == {}


def test_wrong_positions_are_found():
    """One pixel (Gaussian, per axis); the figures of the result are those of the moved frames."""
    simulated = simulate(Recipe(n_frames=150, N=32, overlap=0.8, defocus_error=0.0, position_error=1.0,
                                counts_per_frame=1e6))  # fmt: skip
    scan = simulated.raw
    outcome = refine_scan(scan, settings=RefinementSettings(epochs=40, refine_positions=True))
    np.testing.assert_array_equal(outcome.given_xy, (scan.xcoords, scan.ycoords))
    left = np.stack((outcome.xcoords - simulated.xcoords, outcome.ycoords - simulated.ycoords))
    left -= np.median(left, axis=1, keepdims=True)
    assert np.sqrt(np.median(left**2)) < 0.1, "half of the frames are where they should be"
    x, y = outcome.canvas.origin_xy
    rates = diffsim.diffraction_rates(outcome.result.object, outcome.probe, outcome.xcoords - x, outcome.ycoords - y)
    assert outcome.result.deviance == pytest.approx(poisson_deviance(rates, scan.diff3d), rel=1e-3)
    held = refine_scan(scan, settings=RefinementSettings(epochs=40))
    assert held.given_xy is None and outcome.result.deviance < 0.8 * held.result.deviance
    starts, _ = placements(outcome.xcoords, outcome.ycoords, scan.N, outcome.canvas)
    np.testing.assert_array_equal(outcome.coverage, coverage_map(starts, scan.N, outcome.canvas.shape))


@pytest.mark.parametrize("positions", [True, False])
def test_nothing_is_lost_when_a_refinement_ends(positions):
    """Of sharp edges, frames that together would move by parts of a pixel: the result, in a loop over the frames by
    NumPy, explains the counts no worse than it did while it was iterated."""
    raw = simulate(Recipe("siemens_star", n_frames=150, N=32, overlap=0.8, defocus_error=0.0, position_error=1.0,
                          counts_per_frame=1e6, seed=3)).raw  # fmt: skip
    outcome = refine_scan(raw, settings=RefinementSettings(epochs=40, refine_positions=positions))
    x, y = outcome.canvas.origin_xy
    rates = diffsim.diffraction_rates(outcome.result.object, outcome.probe, outcome.xcoords - x, outcome.ycoords - y)
    misfit = np.square(np.sqrt(rates) - np.sqrt(raw.diff3d)).sum() / raw.diff3d.sum()
    assert misfit < outcome.losses["train"][-1]
    if positions:
        move = np.mean((outcome.xcoords - raw.xcoords, outcome.ycoords - raw.ycoords), axis=1)
        assert 0.1 < np.abs(move).max() <= 0.5, "it is left in the frames"


@pytest.mark.parametrize("kind", ["npz", "h5"])
def test_frames_lie_where_the_start_has_moved_them(tmp_path, kind):
    """Positions 1 px wrong, found by one run: the next one begins where that ended, in whatever frame of reference."""
    raw = simulate(Recipe(n_frames=120, N=32, overlap=0.8, defocus_error=0.0, position_error=1.0,
                          counts_per_frame=1e6)).raw  # fmt: skip
    found = refine_scan(raw, settings=RefinementSettings(epochs=40, refine_positions=True))
    path = tmp_path / f"r.{kind}"
    x, y = found.canvas.center_xy
    rec = Reconstruction(found.result.object, found.coverage, found.probe, found.xcoords + 70.5, found.ycoords - 3.25,
                         (x + 70.5, y - 3.25), 1e-8)  # fmt: skip
    (save_reconstruction_npz if kind == "npz" else save_product)(path, rec)
    again = refine_scan(raw, load_any(path), RefinementSettings(epochs=0), halves=HalvesSettings())
    assert "Positions are those found with all frames." in again.halves.shared
    assert again.result.deviance == pytest.approx(found.result.deviance, rel=0.02)
    moved = np.stack((again.xcoords - found.xcoords, again.ycoords - found.ycoords))
    assert np.abs(moved - moved.mean(axis=1, keepdims=True)).max() < 1e-3
    np.testing.assert_array_equal(again.given_xy, (raw.xcoords, raw.ycoords))
    assert any("Frames lie where" in note and str(path) in note for note in again.notes)
    on = refine_scan(raw, load_any(path), RefinementSettings(epochs=10))
    assert on.result.deviance < 1.02 * found.result.deviance


def test_positions_of_other_frames_are_not_taken(raw, refined, tmp_path, caplog):
    """The same number of frames in another order."""
    order = np.random.default_rng(0).permutation(raw.n_frames)
    loaded = as_file(tmp_path / "r.npz", raw.subset(order), refined.result.object, refined.probe)
    outcome = refine_scan(raw, loaded, RefinementSettings(epochs=0))
    assert outcome.given_xy is None and "may be other frames" in caplog.text
    assert outcome.result.deviance < 1.5 * refined.result.deviance


def test_a_file_is_a_start_for_positions_too(raw, refined, tmp_path):
    as_file(tmp_path / "r.npz", raw, refined.result.object, refined.probe, center=refined.canvas.center_xy)
    outcome = refine_scan(raw, tmp_path / "r.npz", RefinementSettings(epochs=8, refine_positions=True))
    assert outcome.stages["start"].deviance == pytest.approx(refined.result.deviance, rel=0.02)
    assert outcome.corrections["positions"]["rms_px"] < 0.5, "they were right"


def test_a_support_acts_from_the_guess_on(raw):
    outcome = refine_scan(raw, settings=RefinementSettings(epochs=3, support_diameter_px=18.0))
    rows, cols = np.meshgrid(np.arange(32) - 15.5, np.arange(32) - 15.5, indexing="ij")
    assert not outcome.probe[0][np.hypot(rows, cols) > 14].any() and outcome.probe[0][16, 16] != 0
    assert probe_power(outcome.probe) == pytest.approx(raw.mean_counts_per_frame(), rel=1e-4)


@pytest.mark.parametrize("diameter_px", [8.0, 12.0])
@pytest.mark.parametrize("positions", [True, False])
def test_nothing_is_lost_where_the_support_cuts_the_beam(raw, diameter_px, positions):
    """The soft edge of the disk, which acts on the steps, is not cut once more at the end."""
    settings = RefinementSettings(epochs=20, support_diameter_px=diameter_px, refine_positions=positions)
    outcome = refine_scan(raw, settings=settings)
    x, y = outcome.canvas.origin_xy
    rates = diffsim.diffraction_rates(outcome.result.object, outcome.probe, outcome.xcoords - x, outcome.ycoords - y)
    misfit = np.square(np.sqrt(rates) - np.sqrt(raw.diff3d)).sum() / raw.diff3d.sum()
    # the misfit of the steps weighs dim pixels less; an edge that was cut twice would make this 6 and 2.5 times as much
    assert misfit < 1.25 * outcome.losses["train"][-1]
    assert not outcome.probe[0][probe_mask(raw.N, diameter_px) == 0].any()


def test_a_guess_out_of_focus_is_focused_before_it_is_cut():
    """Its light lies outside a support that holds the focused beam."""
    found = {}
    for error in (0.0, 0.6):
        raw = simulate(Recipe(n_frames=120, N=32, defocus_error=error, counts_per_frame=1e5)).raw
        settings = RefinementSettings(epochs=25, correct_defocus=error > 0, support_diameter_px=16.0)
        found[error] = refine_scan(raw, settings=settings)
        assert not found[error].probe[0][probe_mask(32, 16.0) == 0].any()
    assert found[0.6].corrections["defocus"]["distance_px2"] == pytest.approx(-0.6 * 19.0, abs=0.6)
    assert found[0.6].result.deviance < 1.05 * found[0.0].result.deviance


@pytest.mark.parametrize("values", [
    {"epochs": -1}, {"epochs": 1.5}, {"batch_size": 0}, {"modes": 0}, {"stop_window": 0}, {"stop_improvement": -0.1},
    {"support_diameter_px": 0.0}, {"seed": -1},
])  # fmt: skip
def test_settings_without_a_meaning_are_refused(values):
    name, value = next(iter(values.items()))
    with pytest.raises(InputError, match=f"{name}.*{value}"):
        RefinementSettings(**values)


def test_it_stops_where_it_no_longer_gains(raw):
    outcome = refine_scan(raw, settings=RefinementSettings(epochs=500))
    taken = len(outcome.losses["train"])
    assert 20 < taken < 500 and any(f"stopped after {taken} of 500 epochs" in note for note in outcome.notes)


# ---------------------------------------------------------------------- from a file


@pytest.mark.parametrize("kind", ["npz", "h5"])
@pytest.mark.parametrize("shift", [(0.0, 0.0), (123.25, -40.6)])
def test_it_goes_on_where_a_file_ends(raw, refined, tmp_path, kind, shift):
    """Whatever the origin of the file's positions: the start explains the frames as well as the run that wrote it."""
    loaded = as_file(tmp_path / "r.npz", raw, refined.result.object, refined.probe, shift, refined.canvas.center_xy)
    if kind == "h5":
        rec = Reconstruction(loaded.object, loaded.coverage, loaded.probe, loaded.xcoords, loaded.ycoords,
                             loaded.center_xy, 1e-8)  # fmt: skip
        save_product(tmp_path / "r.h5", rec)
        loaded = load_any(tmp_path / "r.h5")
    outcome = refine_scan(raw, loaded, RefinementSettings(epochs=5))
    start, end = outcome.stages.values()
    assert start.deviance == pytest.approx(refined.result.deviance, rel=0.02)
    assert end.deviance < 1.05 * start.deviance
    found, _ = compare_placed(place_outcome(outcome, "start"), place_outcome(refined, "refined"))
    assert found.phase_correlation > 0.999 and np.abs(found.shift_px).max() < 0.05


def test_the_brightness_of_a_file_does_not_matter(raw, refined, tmp_path):
    """Another program's share of power between object and probe is brought to ours."""
    bright, weak = 7 * refined.result.object, refined.probe / 100
    dim = as_file(tmp_path / "r.npz", raw, bright, weak, center=refined.canvas.center_xy)
    outcome = refine_scan(raw, dim, RefinementSettings(epochs=1))
    assert outcome.stages["start"].deviance == pytest.approx(refined.result.deviance, rel=0.02)
    assert probe_power(outcome.probe) == pytest.approx(raw.mean_counts_per_frame(), rel=1e-4)


def test_a_part_of_the_frames_lies_where_it_did(raw, refined, tmp_path):
    loaded = as_file(tmp_path / "r.npz", raw, refined.result.object, refined.probe, center=refined.canvas.center_xy)
    part = raw.subset(slice(0, 60))
    outcome = refine_scan(part, loaded, RefinementSettings(epochs=1))
    assert outcome.stages["start"].deviance < 1.3 * refined.result.deviance


def test_an_object_without_a_probe(raw, refined, tmp_path):
    np.savez(tmp_path / "o.npz", object=refined.result.object, xcoords=raw.xcoords, ycoords=raw.ycoords,
             center_xy=np.array(refined.canvas.center_xy))  # fmt: skip
    outcome = refine_scan(raw, load_any(tmp_path / "o.npz"), RefinementSettings(epochs=1))
    assert any("has no probe" in note for note in outcome.notes)
    assert outcome.stages["start"].deviance < 30


def test_a_scan_that_carries_its_object(raw, tmp_path):
    raw.to_file(tmp_path / "scan.npz")
    outcome = refine_scan(raw, load_any(tmp_path / "scan.npz"), RefinementSettings(epochs=1))
    start = outcome.stages["start"]
    assert start.deviance == pytest.approx(start.expected_deviance, rel=0.02), "the truth explains the frames"
    found, _ = compare_placed(place_outcome(outcome, "start"), place_truth(raw))
    assert found.phase_correlation > 0.9999 and np.abs(found.shift_px).max() < 0.01


def test_starts_that_do_not_fit(raw, refined, tmp_path):
    image, probe = refined.result.object, refined.probe
    narrow = as_file(tmp_path / "a.npz", raw, image, probe[:, 8:24, 8:24])
    with pytest.raises(InputError, match="a.npz: found a probe of 16 x 16.*--crop"):
        refine_scan(raw, narrow)
    coarse = as_file(tmp_path / "b.npz", raw, image, probe)
    coarse.xcoords, coarse.ycoords = coarse.xcoords / 2, coarse.ycoords / 2
    with pytest.raises(InputError, match="b.npz: found positions that span.*--crop"):
        refine_scan(raw, coarse)
    part = raw.subset(slice(0, 60))
    elsewhere = as_file(tmp_path / "c.npz", raw, image, probe, shift=(5000.0, 0.0))
    with pytest.raises(InputError, match="c.npz: found an object that covers 0%"):
        refine_scan(part, elsewhere)
    dark = as_file(tmp_path / "d.npz", raw, 0 * image, probe)
    with pytest.raises(InputError, match="lets no light through"):
        refine_scan(raw, dark)
    sized = small_scan(n_frames=120)
    sized.pixel_size_m = 2e-8
    other = as_file(tmp_path / "e.npz", raw, image, probe, pixel_size_m=1e-8)
    with pytest.raises(InputError, match="found pixels of 1e-08 m"):
        refine_scan(sized, other)
    assert place_loaded(other) is not None


def test_a_refinement_that_breaks_down_is_said(raw, monkeypatch):
    def broken(*args, **kwargs):
        result = real(*args, **kwargs)
        result.canvas = result.canvas * float("nan")
        return result

    real = refinement.refine
    monkeypatch.setattr(refinement, "refine", broken)
    with pytest.raises(InputError, match="broke down"):
        refine_scan(raw, settings=RefinementSettings(epochs=1))


def test_devices():
    assert torch_device("cpu") == torch.device("cpu")
    with pytest.raises(InputError, match="accelerator='cuda': found cpu"):
        torch_device("cuda")


def test_the_real_scan():
    star = os.environ.get("SIEMENS_STAR_DIR")
    if not star:
        pytest.skip("SIEMENS_STAR_DIR is not set: the real scan is not here")
    raw = RawData.from_file(Path(star) / "scan.npz").crop(64)
    outcome = refine_scan(raw, settings=RefinementSettings(epochs=30))
    reference = place_loaded(load_any(Path(star) / "lsqml_200_n64.npz"))
    found, _ = compare_placed(place_outcome(outcome, "refined"), reference, 62)
    assert found.phase_correlation > 0.98
