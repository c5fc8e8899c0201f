"""Two halves of a scan: how well each explains the other, that they share nothing, and what runs hand over."""

import dataclasses

import numpy as np
import pytest
from small_scans import small_scan

from ptycho.config.config import ModelConfig, PyTorchExecutionConfig, TrainingConfig
from ptycho.errors import InputError
from ptycho.geometry import canvas_for, coverage_map, placements
from ptycho.halves import LIT_SHARE
from ptycho.io.reconstruction_files import LoadedObject
from ptycho.outcome import Outcome, Stage
from ptycho.raw_data import RawData
from ptycho_torch.halves import HalvesSettings, with_halves
from ptycho_torch.workflows.reconstruct import infer_scan, train_scan
from ptycho_torch.workflows.refinement import RefinementSettings, refine_scan

CPU = PyTorchExecutionConfig(accelerator="cpu")
SIDE = 32


# ---------------------------------------------------------------------- held-out frames, where the truth is known


def beam(width=5.0):
    rows, cols = np.indices((SIDE, SIDE)) - SIDE // 2
    return np.exp(-(rows**2 + cols**2) / (2 * width**2) + 0.02j * (rows**2 + cols**2))[None]


@pytest.fixture(scope="module")
def world():
    """A scan of 7 x 7 whole-pixel steps of a random phase, made by NumPy alone: (scan, object, probe in counts)."""
    rng = np.random.default_rng(5)
    x, y = (4.0 * part.ravel() for part in np.meshgrid(np.arange(7), np.arange(7)))
    canvas = canvas_for(x, y, SIDE)
    grain = np.fft.ifft2(
        np.fft.fft2(rng.standard_normal(canvas.shape)) * (np.hypot(*np.meshgrid(
            np.fft.fftfreq(canvas.shape[1]), np.fft.fftfreq(canvas.shape[0]))) < 0.15)
    ).real  # fmt: skip
    image = np.exp(0.5j * grain / grain.std()).astype(np.complex64)
    probe = (beam() * np.sqrt(2e4 / (np.abs(beam()) ** 2).sum())).astype(np.complex64)
    starts, fractions = placements(x, y, SIDE, canvas)
    np.testing.assert_allclose(fractions, 0, atol=1e-9)
    rates = [rate_of(image, probe, start) for start in starts]
    bad = np.zeros((SIDE, SIDE), bool)
    bad[:, 20] = True
    scan = RawData(x, y, diff3d=rng.poisson(rates).astype(np.uint16), probeGuess=probe, bad_pixels=bad,
                   measurement_domain="intensity")  # fmt: skip
    return scan, image, probe


def rate_of(image, probe, start):
    """(N, N) expected counts of a frame on a whole pixel, zero frequency in the middle."""
    row, col = start
    wave = probe[0] * image[row : row + SIDE, col : col + SIDE]
    return np.abs(np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(wave), norm="ortho"))) ** 2


def outcome_of(scan, image, probe, name="refined"):
    canvas = canvas_for(scan.xcoords, scan.ycoords, SIDE)
    starts, _ = placements(scan.xcoords, scan.ycoords, SIDE, canvas)
    return Outcome(
        stages={name: Stage(image, 1.0, 1.0, 0.0)}, coverage=coverage_map(starts, SIDE, canvas.shape), probe=probe,
        canvas=canvas, xcoords=scan.xcoords, ycoords=scan.ycoords,
    )  # fmt: skip


def halved(world, make=None, settings=None):
    """What the halves say, where a half of the frames is always reconstructed to `make(its frames)`."""
    scan, image, probe = world
    whole = outcome_of(scan, image, probe)

    def again(part):
        found = image if make is None else make(part)
        return [dataclasses.replace(whole, stages={"refined": Stage(found, 1.0, 1.0, 0.0)})]

    return with_halves(scan, whole, again, settings or HalvesSettings(), shared="Nothing.")


def test_the_true_object_leaves_what_noise_leaves(world):
    found = halved(world)
    figures = found.halves.stages["refined"]
    # 49 frames of 31 x 32 pixels, each with a deviance of about 1 +- sqrt(2): the mean is known to 0.01
    pixels = figures.n_scored * SIDE * (SIDE - 1)
    assert figures.deviance == pytest.approx(figures.expected_deviance, abs=4 * np.sqrt(2 / pixels))
    assert 0.2 < figures.expected_deviance < 1
    assert figures.frc.crossing == 0.5 and np.abs(figures.shift_px).max() < 0.02
    assert found.timings_s["halves"] > 0 and found.settings["halves"] == {"seed": 0, "half": None}
    assert found.halves.n_frames == (25, 24) and found.halves.shared == "Nothing."


def test_a_wrong_object_leaves_more(world):
    wrong = halved(world, lambda part: (world[1] * np.exp(0.3j * (np.indices(world[1].shape)[0] % 3))).astype("c8"))
    assert wrong.halves.stages["refined"].deviance > 1.5 * wrong.halves.stages["refined"].expected_deviance


def test_held_out_figures_are_those_of_a_loop_over_the_frames(world):
    """Each half's own object, on the frames of the other that are lit enough; masked pixels left out."""
    scan, image, probe = world
    canvas = canvas_for(scan.xcoords, scan.ycoords, SIDE)
    parts = []

    def make(part):
        parts.append(part.sample_indices)
        return (image * np.exp(0.05j * len(parts) * np.sin(np.indices(image.shape)[1]))).astype(np.complex64)

    figures = halved(world, make).halves.stages["refined"]
    assert sorted(np.concatenate(parts).tolist()) == list(range(49))
    intensity = np.abs(probe[0]) ** 2
    starts, _ = placements(scan.xcoords, scan.ycoords, SIDE, canvas)
    good, deviances = ~scan.bad_pixels, []
    for number, (mine, others) in enumerate((parts, parts[::-1])):
        made = (image * np.exp(0.05j * (number + 1) * np.sin(np.indices(image.shape)[1]))).astype(np.complex64)
        lit = np.zeros(canvas.shape, bool)
        for row, col in starts[mine]:
            lit[row : row + SIDE, col : col + SIDE] |= intensity > 0.1 * intensity.max()
        for frame in others:
            row, col = starts[frame]
            if (intensity * lit[row : row + SIDE, col : col + SIDE]).sum() < LIT_SHARE * intensity.sum():
                continue
            rate, counts = rate_of(made, probe, starts[frame])[good], scan.diff3d[frame][good].astype(float)
            logs = np.array([k * np.log(k / r) if k > 0 else 0.0 for k, r in zip(counts, rate, strict=True)])
            deviances.append(2 * np.mean(rate - counts + logs))
    assert figures.n_scored == len(deviances) and 20 < len(deviances) < 49
    assert figures.deviance == pytest.approx(np.mean(deviances), rel=1e-4)


def test_frames_that_no_other_half_lights_are_told_of(world):
    scan, _, probe = world
    # so sparse that no beam reaches the next
    apart = RawData(scan.xcoords * 10, scan.ycoords * 10, diff3d=scan.diff3d, probeGuess=probe,
                    measurement_domain="intensity")  # fmt: skip
    canvas = canvas_for(apart.xcoords, apart.ycoords, SIDE)
    found = halved((apart, np.ones(canvas.shape, np.complex64), probe))
    figures = found.halves.stages["refined"]
    assert (figures.deviance, figures.expected_deviance, figures.frc, figures.n_scored) == (None, None, None, 0)
    assert any("none is scored" in note for note in found.notes)
    assert any("could not be compared" in note for note in found.notes)


def test_the_square_that_is_compared_can_be_stated(world):
    whole, part = (halved(world, settings=HalvesSettings(half=half)).halves.stages["refined"] for half in (None, 10))
    assert len(part.frc.frequency) == 11 < len(whole.frc.frequency)
    assert part.deviance == whole.deviance, "frames are scored whole"


def test_too_few_frames(world):
    scan, image, probe = world
    with pytest.raises(InputError, match="found 7 frame"):
        halved((scan.subset(slice(7)), image, probe))


# ---------------------------------------------------------------------- refinement


@pytest.fixture(scope="module")
def raw():
    return small_scan(60)


SHORT = RefinementSettings(epochs=12)


@pytest.fixture(scope="module")
def refined(raw):
    return refine_scan(raw, None, SHORT, halves=HalvesSettings())


def test_a_refinement_is_the_same_with_and_without(raw, refined):
    without = refine_scan(raw, None, SHORT)
    np.testing.assert_array_equal(refined.result.object, without.result.object)
    assert without.halves is None and list(refined.halves.stages) == ["refined"]
    assert "vacuum" in refined.halves.shared


def test_held_out_frames_are_explained_less_well_than_those_that_were_fitted(refined):
    figures = refined.halves.stages["refined"]
    assert refined.result.deviance < figures.deviance
    assert figures.expected_deviance < figures.deviance < 10 * figures.expected_deviance
    assert 30 < figures.n_scored <= 60


def test_fewer_counts_agree_down_to_coarser_detail(refined):
    dim = refine_scan(small_scan(60, counts=3e2), None, SHORT, halves=HalvesSettings())
    fine, coarse = (run.halves.stages["refined"].resolution_px for run in (refined, dim))
    assert coarse > 1.3 * fine


def test_no_half_sees_frames_of_the_other(raw, refined, monkeypatch):
    """The object of a half is the same, whatever the frames of the other half hold."""
    from ptycho_torch import halves

    seen = {}

    def watched(images, *args):
        seen["images"] = images
        return found(images, *args)

    found = halves.agreement
    monkeypatch.setattr(halves, "agreement", watched)
    first = halves.split_in_halves(raw.xcoords, raw.ycoords)[0]
    refine_scan(raw, None, SHORT, halves=HalvesSettings())
    before = seen["images"]
    frames = raw.diff3d.copy()
    frames[first] = np.roll(frames[first], 5, axis=0)
    refine_scan(
        RawData(raw.xcoords, raw.ycoords, diff3d=frames, probeGuess=raw.probe, measurement_domain="intensity"),
        None, SHORT, halves=HalvesSettings(),
    )  # fmt: skip
    assert (seen["images"][0] != before[0]).any()
    np.testing.assert_array_equal(seen["images"][1], before[1])


def test_a_start_that_knows_all_frames_is_kept_from_the_halves(raw, refined, tmp_path):
    start = LoadedObject(
        object=refined.result.object, path=tmp_path / "earlier.npz", kind="reconstruction", key="object",
        probe=raw.probe, xcoords=raw.xcoords, ycoords=raw.ycoords, center_xy=refined.canvas.center_xy,
    )  # fmt: skip
    again = refine_scan(raw, start, SHORT, halves=HalvesSettings())
    figures, fresh = again.halves.stages["refined"], refined.halves.stages["refined"]
    # another canvas by two pixels, so that the order of sums differs
    assert figures.deviance == pytest.approx(fresh.deviance, rel=0.02)
    assert figures.n_scored == fresh.n_scored
    assert "was not used" in again.halves.shared and "may know all frames" in again.halves.shared


def test_halves_lie_where_the_run_has_moved_the_frames(raw):
    rng = np.random.default_rng(3)
    wrong = RawData(
        raw.xcoords + rng.normal(0, 0.7, 60), raw.ycoords + rng.normal(0, 0.7, 60), diff3d=raw.diff3d,
        probeGuess=raw.probe, measurement_domain="intensity",
    )  # fmt: skip
    moving = RefinementSettings(epochs=30, refine_positions=True)
    with_them, without = (
        refine_scan(wrong, None, how, halves=HalvesSettings()) for how in (moving, RefinementSettings(epochs=30))
    )
    assert with_them.halves.stages["refined"].deviance < 0.6 * without.halves.stages["refined"].deviance
    assert "Positions are those found with all frames" in with_them.halves.shared


# ---------------------------------------------------------------------- networks


@pytest.fixture(scope="module")
def trained(tmp_path_factory, raw):
    folder = tmp_path_factory.mktemp("halves")
    model = ModelConfig(unet_channels=4, merge_block=12, stages=2, projection_steps=4, later_projection_steps=2)
    config = TrainingConfig(model=model, nepochs=2, calibration_epochs=4, stop_improvement=0.0)
    return folder, train_scan(raw, config, CPU, output_dir=folder, halves=HalvesSettings())


def test_every_stage_of_a_network_has_its_figures(trained):
    _, outcome = trained
    assert list(outcome.halves.stages) == ["projection", "network"]
    for name, figures in outcome.halves.stages.items():
        assert figures.frc.correlation[2:5].min() > 0.5, name
        assert figures.deviance > outcome.stages[name].deviance
    assert "weights know both" in outcome.halves.shared


def test_inference_finds_the_same_and_refinement_adds_a_stage(trained, raw):
    folder, outcome = trained
    again, without, coarse, more = (
        infer_scan(folder, raw, execution=CPU, halves=halves, refine=refine, projections=projections)
        for halves, refine, projections in (
            (HalvesSettings(), None, None), (None, None, None),
            (HalvesSettings(), None, 1), (HalvesSettings(), SHORT, 1),
        )
    )  # fmt: skip
    assert without.halves is None
    np.testing.assert_array_equal(again.result.object, without.result.object)
    assert list(more.halves.stages) == ["projection", "network", "refined"]
    for one, other in ((outcome, again), (coarse, more)):
        for name, figures in one.halves.stages.items():
            found = other.halves.stages[name]
            # the probe of a stage is its own, whatever a later one makes of it
            assert found.deviance == pytest.approx(figures.deviance, rel=1e-4), name
            np.testing.assert_allclose(found.frc.correlation, figures.frc.correlation, atol=1e-4)
    assert more.halves.stages["refined"].deviance < more.halves.stages["network"].deviance
    assert "this very scan" in again.halves.shared and "own network's object" in more.halves.shared


def test_a_scan_that_is_too_small_is_refused_before_it_is_trained_on(raw, tmp_path):
    few = raw.subset(slice(7))
    config = TrainingConfig(model=ModelConfig(), nepochs=1)
    with pytest.raises(InputError, match="halves: found 7 frame"):
        train_scan(few, config, CPU, output_dir=tmp_path / "run", halves=HalvesSettings())
    with pytest.raises(InputError, match="found 9 frame.*at least 18.*groups of 9"):
        train_scan(
            raw, dataclasses.replace(config, model=ModelConfig(gridsize=3), n_subsample=9), CPU,
            output_dir=tmp_path / "run", halves=HalvesSettings(),
        )  # fmt: skip
    assert not (tmp_path / "run").exists()
