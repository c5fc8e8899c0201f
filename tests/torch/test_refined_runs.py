"""Refinement as the last stage of training and of inference: from the network's object, on the same canvas."""

import numpy as np
import pytest
from small_scans import against_truth, small_scan

from ptycho.config.config import ModelConfig, PyTorchExecutionConfig, TrainingConfig
from ptycho.errors import InputError
from ptycho.probe import probe_power
from ptycho_torch.archive import load_model
from ptycho_torch.generators.base import ByParts
from ptycho_torch.workflows import first_projections
from ptycho_torch.workflows.reconstruct import infer_scan, infer_with, train_scan
from ptycho_torch.workflows.refinement import RefinementSettings

CPU = PyTorchExecutionConfig(accelerator="cpu")
SHORT = RefinementSettings(epochs=12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("refined_run")


@pytest.fixture(scope="module")
def trained(folder):
    model = ModelConfig(unet_channels=4, merge_block=12, stages=2, projection_steps=4, later_projection_steps=2)
    config = TrainingConfig(model=model, nepochs=2, calibration_epochs=4, stop_improvement=0.0)
    return train_scan(small_scan(100, defocus_error=0.1), config, CPU, output_dir=folder, refine=SHORT)


def test_it_is_the_last_of_three_stages_and_the_best(trained):
    assert list(trained.stages) == ["projection", "network", "refined"]
    raw = small_scan(100, defocus_error=0.1)
    found = [against_truth(stage.object, raw).phase_correlation for stage in trained.stages.values()]
    assert found[2] > 0.98 and found[2] > found[1] + 0.005
    refined, network = trained.stages["refined"], trained.stages["network"]
    assert refined.object.shape == network.object.shape == trained.canvas.shape
    assert refined.deviance < network.deviance
    # the maps and the probe are those of the last stage
    assert trained.frame_deviance.mean() == pytest.approx(refined.deviance, rel=1e-4)
    assert probe_power(trained.probe) == pytest.approx(raw.mean_counts_per_frame(), rel=1e-3)


def test_what_was_done_is_kept(trained):
    assert trained.settings["refinement"]["epochs"] == 12
    assert len(trained.losses["train"]) == 2 and len(trained.losses["refinement"]) == 12
    assert trained.losses["refinement"][-1] < trained.losses["refinement"][0]
    assert 0 < trained.timings_s["refinement"] < trained.timings_s["total"]


def test_a_trained_model_gives_a_start(trained, folder):
    """Another object under the same probe: the refinement goes on from the network, and gains."""
    raw = small_scan(100, seed=3, defocus_error=0.1)
    with_it, without = (infer_scan(folder, raw, execution=CPU, refine=how, projections=6) for how in (SHORT, None))
    assert list(without.stages) == ["projection", "network"]
    np.testing.assert_array_equal(with_it.stages["network"].object, without.stages["network"].object)
    assert with_it.result.deviance < without.result.deviance
    found = [against_truth(outcome.result.object, raw).phase_correlation for outcome in (without, with_it)]
    assert found[1] > found[0]


@pytest.mark.parametrize("name, kind", [("refine", "RefinementSettings"), ("uncertainty", "UncertaintySettings"),
                                        ("halves", "HalvesSettings")])  # fmt: skip
def test_what_follows_the_network_is_said_in_settings(name, kind, trained, folder, tmp_path):
    """Before anything is trained or reconstructed."""
    with pytest.raises(InputError, match=rf"{name}: found True, expected {kind}\(\) or None"):
        infer_scan(folder, small_scan(20), execution=CPU, **{name: True})
    with pytest.raises(InputError, match=rf"{name}: found True"):
        train_scan(small_scan(20), TrainingConfig(ModelConfig()), CPU, output_dir=tmp_path / "none", **{name: True})
    assert not (tmp_path / "none").exists()


def test_what_a_refinement_corrects_is_kept(trained, folder):
    focused = RefinementSettings(epochs=2, correct_defocus=True)
    outcome = infer_scan(folder, small_scan(100, seed=3, defocus_error=0.1), execution=CPU, refine=focused)
    facts = outcome.corrections["defocus"]
    assert abs(facts["distance_px2"]) < 1.9 and len(facts["tried"]) > 3, "the probe of the network has been refined"


def test_a_refinement_starts_from_where_the_object_has_settled(trained, folder, monkeypatch):
    """Not from as many projections as the network was trained with; what is said of it is in the notes."""
    monkeypatch.setattr(first_projections, "SETTLED", 0.5)
    raw = small_scan(100, seed=3, defocus_error=0.1)
    found = infer_scan(folder, raw, execution=CPU, refine=SHORT)
    module, _ = load_model(folder)
    module.generator.project_first(ByParts(module.generator.begin_steps, 0.5))
    by_hand = infer_with(module, raw, CPU)
    np.testing.assert_array_equal(found.stages["network"].object, by_hand.stages["network"].object)
    exact = infer_scan(folder, raw, execution=CPU, projections=module.generator.begin_steps)
    assert np.abs(exact.stages["network"].object - by_hand.stages["network"].object).max() > 1e-3, "it ended before"
    assert sum("until the object had settled" in note for note in found.notes) == 1
    assert not any("settled" in note for note in infer_scan(folder, raw, execution=CPU).notes)
