"""Every setting of ptychodus's first library acts, is refused, or is told to be without effect."""

import pytest

pytest.importorskip("ptychodus")

from contract.settings_world import N, first_batch, loss, menu, public_configs
from ptychodus.api.settings import SettingsRegistry
from ptychodus.model.ptychopinn import settings as first_settings
from ptychodus.model.ptychopinn.enums import PtychoPINNEnumerators

from ptycho.errors import InputError
from ptycho.workflows.components import run_cdi_example
from ptycho_torch.workflows.training import TrainingJob


@pytest.fixture
def prepared_first(labelled_scan, stopped, monkeypatch):
    """The first library's training in the same way."""

    def prepare(name="PINN", **changes):
        runs, true_run = [], TrainingJob.run

        def run(*args, **more):
            runs.append(true_run(*args, **more))
            return runs[-1]

        monkeypatch.setattr(TrainingJob, "run", run)
        config = public_configs(name, **changes)
        config.model.N = N
        run_cdi_example(labelled_scan, labelled_scan, config)
        stopped.notes = runs[0].notes
        return stopped

    return prepare


FIRST_ACTS = {
    "gridsize": ({"gridsize": 3}, lambda r: r.module.data_config.C == 9),
    "object_big": ({"object_big": False}, lambda r: first_batch(r)[0]["images"].shape[1] == 1),
    "probe_mask": ({"probe_mask": True}, lambda r: float(first_batch(r)[1][0, 0].abs().max()) == 0),
    "batch_size": ({"batch_size": 96}, lambda r: len(first_batch(r)[0]["images"]) == 3),
    "nepochs": ({"nepochs": 7}, lambda r: r.arguments["max_epochs"] == 7),
    "mae_weight": ({"mae_weight": 1.0}, lambda r: loss(r) > 0.8),
    "nll_weight": ({"nll_weight": 0.5}, lambda r: loss(r) < 0.35),
    "realspace_weight": ({"realspace_weight": 1.0, "realspace_mae_weight": 1.0}, lambda r: loss(r) > 0.7),
    "realspace_mae_weight": ({"realspace_weight": 1.0, "realspace_mae_weight": 1.0}, lambda r: loss(r) > 0.7),
}
FIRST_REFUSED = {
    "gaussian_smoothing_sigma": (1.0, "frames are placed exactly"),
    "positions_provided": (False, "positions are always those of the scan"),
}
FIRST_TOLD = {
    "n_filters_scale": 3, "amp_activation": "relu", "probe_big": False, "pad_object": False, "probe_scale": 2.0,
    "nphotons": 2e6, "probe_trainable": True, "intensity_scale_trainable": False,
}  # fmt: skip


def all_first_settings():
    registry = SettingsRegistry()
    groups = (first_settings.PtychoPINNModelSettings(registry), first_settings.PtychoPINNTrainingSettings(registry))
    return sorted({name for group in groups for name in vars(group) if not name.startswith("_")})


@pytest.mark.parametrize("name", all_first_settings())
def test_a_setting_of_the_first_library(name, prepared_first):
    """Those of reconstruction (NumSamples, NumNearestNeighbors) are told of by the model that predicts."""
    if name in FIRST_REFUSED:
        value, reason = FIRST_REFUSED[name]
        with pytest.raises(InputError, match=reason):
            prepared_first(**{name: value})
    elif name in FIRST_ACTS:
        changes, shows = FIRST_ACTS[name]
        assert shows(prepared_first(**changes))
    else:
        notes = prepared_first(**{name: FIRST_TOLD[name]}).notes
        assert any(note.startswith(f"{name}=") and "has no effect" in note for note in notes), notes


def test_the_defaults_of_the_first_library(prepared_first):
    """What the rows of FIRST_ACTS are compared with."""
    run = prepared_first()
    assert 0.6 < loss(run) < 0.7 and len(first_batch(run)[0]["images"]) == 1
    assert first_batch(run)[0]["images"].shape[1] == 24 and float(first_batch(run)[1][0, 0].abs().max()) > 0


@pytest.mark.parametrize("value", [value for _, value in menu(PtychoPINNEnumerators())])
def test_activations_of_the_first_library(prepared_first, value):
    assert prepared_first(amp_activation=value).module is not None


def test_a_probe_scale_of_zero_is_offered(prepared_first):
    assert any(note.startswith("probe_scale=0") for note in prepared_first(probe_scale=0.0).notes)
