"""What follows the network and cannot be made does not cost what is there already."""

import json

import numpy as np
import pytest
from runs import run, small_scan

from ptycho.config.config import ModelConfig, PyTorchExecutionConfig, TrainingConfig
from ptycho.errors import InputError
from ptycho_torch.halves import HalvesSettings
from ptycho_torch.uncertainty import UncertaintySettings
from ptycho_torch.workflows import afterwards
from ptycho_torch.workflows.reconstruct import infer_scan, train_scan
from ptycho_torch.workflows.refinement import RefinementSettings

CPU = PyTorchExecutionConfig(accelerator="cpu")
ALL = {"refine": RefinementSettings(epochs=3), "uncertainty": UncertaintySettings(), "halves": HalvesSettings()}
NOT_MADE = {
    "refined_outcome": "The object was not refined: it broke down.",
    "with_intervals": "The intervals of the phase were not made: it broke down.",
    "with_halves": "The halves of the scan were not compared: it broke down.",
}


@pytest.fixture(scope="module")
def raw():
    return small_scan(n_frames=40)


@pytest.fixture(scope="module")
def files(tmp_path_factory, raw):
    folder = tmp_path_factory.mktemp("afterwards")
    raw.to_file(folder / "scan.npz")
    (folder / "run.yaml").write_text(
        "unet_channels: 4\nprojection_steps: 3\nnepochs: 1\ncalibration_epochs: 2\naccelerator: cpu\n"
    )
    return folder


@pytest.fixture(scope="module")
def model(files):
    assert run("train", files / "scan.npz", "-o", files / "model", "--config", files / "run.yaml", "-q").exit_code == 0
    return files / "model"


@pytest.fixture
def broken(monkeypatch):
    """Let one of them break down."""

    def make(name):
        def fail(*_args, **_keywords):
            raise InputError("it broke down.")

        monkeypatch.setattr(afterwards, name, fail)

    return make


@pytest.mark.parametrize("name", NOT_MADE)
def test_a_training_is_written_without_what_could_not_be_made(files, tmp_path, broken, name):
    """Model and network's object are there, and a note says what is missing and why."""
    broken(name)
    words = ("--refine", "--refine-epochs", 3, "--uncertainty", "--halves")
    result = run("train", files / "scan.npz", "-o", tmp_path / "out", "--config", files / "run.yaml", *words)
    assert result.exit_code == 0, result.output
    assert f"Note: {NOT_MADE[name]}" in result.stdout and NOT_MADE[name] in result.stderr
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["network"]["deviance"] > 0 and metrics["notes"].count(NOT_MADE[name]) == 1
    assert (tmp_path / "out" / "wts.h5.zip").is_file() and (tmp_path / "out" / "reconstruction.npz").is_file()


@pytest.mark.parametrize("name", NOT_MADE)
def test_the_others_are_made(model, raw, broken, name):
    broken(name)
    found = infer_scan(model, raw, execution=CPU, **ALL)
    assert NOT_MADE[name] in found.notes
    assert ("refined" in found.stages) == (name != "refined_outcome")
    assert (found.phase_interval_90_rad is not None) == (name != "with_intervals")
    assert (found.halves is not None) == (name != "with_halves")


def test_without_a_refinement_the_rest_is_as_if_none_had_been_asked_for(model, raw, broken):
    """Repeats and halves are of what the result is."""
    broken("refined_outcome")
    found = infer_scan(model, raw, execution=CPU, projections=3, **ALL)
    expected = infer_scan(model, raw, execution=CPU, projections=3, **(ALL | {"refine": None}))
    np.testing.assert_array_equal(found.phase_interval_90_rad, expected.phase_interval_90_rad)
    assert found.halves.to_dict() == expected.halves.to_dict() and "refined" not in found.halves.shared


def test_a_defect_is_none_of_that(model, raw, monkeypatch):
    def fail(*_args, **_keywords):
        raise KeyError("a defect of ours")

    monkeypatch.setattr(afterwards, "with_intervals", fail)
    with pytest.raises(KeyError, match="a defect"):
        infer_scan(model, raw, execution=CPU, **ALL)


def test_a_refinement_that_would_move_frames_is_refused_before_anything_is_done(raw, tmp_path):
    moving = RefinementSettings(refine_positions=True)
    for call in (
        lambda: infer_scan(tmp_path / "nowhere", raw, execution=CPU, refine=moving),
        lambda: train_scan(raw, TrainingConfig(ModelConfig()), CPU, output_dir=tmp_path / "out", refine=moving),
    ):
        with pytest.raises(InputError, match="refine_positions=True.*refine --from"):
            call()
    assert not (tmp_path / "out").exists()
