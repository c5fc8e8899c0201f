"""Every setting that ptychodus offers acts, is refused with a reason, or is told to be without effect.

The keywords that ptychodus passes are taken from its own builders; the settings from its own settings objects, so that
a setting that a later version adds fails here until something is said about it.
"""

import ast
import dataclasses
import inspect
import logging

import pytest

pytest.importorskip("ptychodus")

import torch
from contract.settings_world import (
    N,
    first_batch,
    loss,
    menu,
    optimiser,
    parameter_of,
    public_configs,
    rates,
    scored,
    torch_configs,
    torch_settings,
)
from ptychodus.api.settings import SettingsRegistry
from ptychodus.model.ptychopinn import reconstructor as first
from ptychodus.model.ptychopinn import settings as first_settings
from ptychodus.model.ptychopinn_torch import reconstructor as second
from ptychodus.model.ptychopinn_torch import settings as second_settings
from ptychodus.model.ptychopinn_torch.enums import PtychoPINNTorchEnumerators

from ptycho.config import config as public
from ptycho.errors import InputError
from ptycho_torch import config_params
from ptycho_torch.api import base_api, offered
from ptycho_torch.api.configuration import ConfigManager, device_here
from ptycho_torch.model import PtychoPINN_Lightning
from ptycho_torch.settings import changed_fields

# ---------------------------------------------------------------- the keywords


@pytest.mark.parametrize("module", [first, second])
def test_every_keyword_is_known(module):
    """By the source of ptychodus's builders: what they pass, whatever the values are."""
    classes = public if module is first else config_params
    calls = [
        node
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.endswith("Config")
    ]
    assert {call.func.id for call in calls} >= {"ModelConfig", "TrainingConfig", "InferenceConfig"}
    for call in calls:
        assert call.args == [], ast.unparse(call)
        known = {field.name for field in dataclasses.fields(getattr(classes, call.func.id))}
        unknown = {keyword.arg for keyword in call.keywords} - known
        assert not unknown, f"{call.func.id} does not know {sorted(unknown)}"


def test_the_defaults_are_built_and_say_nothing(prepared, caplog):
    caplog.set_level(logging.INFO)
    assert public_configs(inference=True).model.N == N and public_configs().model.N == 0
    assert public_configs("Supervised").model.model_type == "supervised"
    run = prepared()
    assert [note for note in run.notes if "no effect" in note] == []
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert told == ["device='cuda': there is no such device here; the CPU is used."]
    assert "N=32 is taken from the frames; the setting (model_size) said 128." in caplog.text
    # what the rows of ACTS that look at these are compared with
    assert 0.4 < loss(run) < 0.6 and len(first_batch(run)[0]["images"]) == 2 and scored(run) > 60


# ---------------------------------------------------------------- a run that stops before its first step


@pytest.fixture
def prepared(labelled_scan, stopped, tmp_path):
    """The second library's training, as its child runs it, with these settings."""

    def prepare(mode="Unsupervised", **changes):
        labelled_scan.to_file(tmp_path / "train_data.npz")
        configs = ConfigManager(*torch_configs(mode, **changes))
        loader = base_api.PtychoDataLoader(tmp_path, configs, output_dir=tmp_path)
        model = base_api.PtychoModel._new_model(PtychoPINN_Lightning, configs)
        trainer = base_api.Trainer._from_lightning(model, loader, config_manager=configs)
        trainer.train()
        stopped.notes = trainer._payload.overrides_applied["superseded"]
        return stopped

    return prepare


# setting -> what it is set to (with what it needs beside it), and what the run shows of it
ACTS = {
    "num_channels": ({"num_channels": 9, "grid_size_x": 3, "grid_size_y": 3}, lambda r: r.module.data_config.C == 9),
    "grid_size_x": ({"num_channels": 1, "grid_size_x": 1, "grid_size_y": 1}, lambda r: r.module.data_config.C == 1),
    "grid_size_y": ({"num_channels": 1, "grid_size_x": 1, "grid_size_y": 1}, lambda r: r.module.data_config.C == 1),
    "x_lower_bound": ({"x_lower_bound": 0.5}, lambda r: scored(r) < 50),
    "x_upper_bound": ({"x_upper_bound": 0.5}, lambda r: scored(r) < 50),
    "y_lower_bound": ({"y_lower_bound": 0.5}, lambda r: scored(r) < 50),
    "y_upper_bound": ({"y_upper_bound": 0.5}, lambda r: scored(r) < 50),
    "object_big": ({"object_big": False}, lambda r: first_batch(r)[0]["images"].shape[1] == 1),
    "loss_function": ({"loss_function": "MAE"}, lambda r: r.module.loss_name == "mae_train_loss"),
    "auxiliary_amplitude_loss": (
        {"auxiliary_amplitude_loss": "Total_Variation", "auxiliary_amplitude_loss_coeff": 1e3}, lambda r: loss(r) > 5,
    ),
    "auxiliary_phase_loss": (
        {"auxiliary_phase_loss": "Mean_Deviation", "auxiliary_phase_loss_coeff": 1e3}, lambda r: loss(r) > 5,
    ),
    "auxiliary_amplitude_loss_coeff": (
        {"auxiliary_amplitude_loss": "Mean_Deviation", "auxiliary_amplitude_loss_coeff": 1e3}, lambda r: loss(r) > 5,
    ),
    "auxiliary_phase_loss_coeff": (
        {"auxiliary_phase_loss": "Total_Variation", "auxiliary_phase_loss_coeff": 1e3}, lambda r: loss(r) > 5,
    ),
    "amplitude_variance_loss": (
        {"amplitude_variance_loss": True, "amplitude_variance_coeff": 1e4}, lambda r: loss(r) > 5,
    ),
    "amplitude_variance_coeff": (
        {"amplitude_variance_loss": True, "amplitude_variance_coeff": 1e4}, lambda r: loss(r) > 5,
    ),
    "epochs": ({"epochs": 7}, lambda r: r.arguments["max_epochs"] == 7),
    "batch_size": ({"batch_size": 64}, lambda r: len(first_batch(r)[0]["images"]) == 4),
    "learning_rate": ({"learning_rate": 0.02}, lambda r: optimiser(r).param_groups[0]["lr"] == 0.02),
    "num_dataloader_workers": ({"num_dataloader_workers": 1}, lambda r: r.loader.num_workers == 1),
    "gradient_accumulation_steps": (
        {"gradient_accumulation_steps": 3}, lambda r: r.arguments["accumulate_grad_batches"] == 3,
    ),
    "gradient_clip_val": ({"gradient_clip_val": 0.3}, lambda r: r.arguments["gradient_clip_val"] == 0.3),
    "device": ({"device": "cpu"}, lambda r: r.arguments["accelerator"] == "cpu"),
    "learning_rate_scheduler": ({"learning_rate_scheduler": "Exponential"}, lambda r: rates(r)[1] < 1),
    "learning_rate_warmup_epochs": (
        {"learning_rate_scheduler": "Cosine", "learning_rate_warmup_epochs": 3}, lambda r: rates(r)[0] == 0.25,
    ),
    "minimum_learning_rate_ratio": (
        {"learning_rate_scheduler": "Exponential", "minimum_learning_rate_ratio": 0.01, "epochs": 2},
        lambda r: rates(r)[1] == 0.01,
    ),
    # labels that a model keeps
    "notes": ({"notes": "of Tuesday"}, lambda r: r.module.hparams["training_config"]["notes"] == "of Tuesday"),
    "model_name": ({"model_name": "mine"}, lambda r: r.module.hparams["training_config"]["model_name"] == "mine"),
    # ptychodus's own: it makes them act
    "visible_gpu_indices": None, "n_devices": None,
}  # fmt: skip
REFUSED = {
    "probe_reference_loss_coeff": 0.5, "epochs_finetune": 3, "enable_staged_finetuning": True,
    "use_negative_log_likelihood_loss": False,
}  # fmt: skip
REASONS = {
    "probe_reference_loss_coeff": "losses on the probe are not available", "epochs_finetune": "training has one stage",
    "enable_staged_finetuning": "training has one stage", "use_negative_log_likelihood_loss": "nothing to train by",
}  # fmt: skip


def all_torch_settings():
    return sorted(
        {name for group in vars(torch_settings()).values() for name in vars(group) if not name.startswith("_")}
        - {"model_size"}  # see test_the_defaults_are_built_and_say_nothing
    )


OTHER = {
    "data_normalization_mode": "Group", "neighbor_lookup_method": "4_quadrant", "scan_pattern": "Rectangular",
    "data_scaling_method": "Max", "amplitude_activation_function": "sigmoid", "patch_weighting_method": "uniform",
    "distributed_strategy": "ddp",
}  # fmt: skip


def another_value(name):
    """A value that the menu offers and that is not the default."""
    if name in OTHER:
        return OTHER[name]
    value = parameter_of(torch_settings(), name).get_value()
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int) else value / 2 + 0.013


@pytest.mark.parametrize("name", all_torch_settings())
def test_a_setting_of_the_second_library(name, prepared):
    if name in REFUSED:
        with pytest.raises(InputError, match=REASONS[name]) as caught:
            prepared(**{name: REFUSED[name]})
        assert "Leave it at" in str(caught.value) or "Switch it on" in str(caught.value)
        return
    if name in ACTS:
        if ACTS[name] is not None:
            changes, shows = ACTS[name]
            run = prepared(**changes)
            assert shows(run), run.notes
            assert not [note for note in run.notes if "no effect" in note]
        return
    changes = {name: another_value(name)}
    default, changed = torch_configs(), torch_configs(**changes)
    fields = [
        field
        for one, other in zip(default, changed, strict=True)
        for field in vars(one)
        if getattr(one, field) != getattr(other, field)
    ]
    run = prepared(**changes)
    assert fields, "the setting does not reach us"
    for field in fields:
        assert any(note.startswith(f"{field}=") and "has no effect" in note for note in run.notes), (field, run.notes)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"auxiliary_amplitude_loss_coeff": 2.0}, "amp_loss_coeff=2.0 has no effect: there is no amp_loss"),
        ({"auxiliary_phase_loss_coeff": 2.0}, "phase_loss_coeff=2.0 has no effect: there is no phase_loss"),
        ({"amplitude_variance_coeff": 2.0}, "amplitude_variance_coeff=2.0 has no effect: there is no"),
        ({"learning_rate_warmup_epochs": 2}, "lr_warmup_epochs=2 has no effect: it acts with the schedules"),
        ({"minimum_learning_rate_ratio": 0.5}, "lr_min_ratio=0.5 has no effect: it acts with the schedules"),
    ],
)
def test_details_of_what_is_off(prepared, changes, named):
    assert any(note.startswith(named) for note in prepared(**changes).notes)


MENU = {
    "data_normalization_mode": "data_normalization_mode", "neighbor_lookup_method": "neighbor_lookup_method",
    "scan_pattern": "scan_pattern", "data_scaling_method": "data_scaling_method", "loss_function": "loss_function",
    "amplitude_activation_function": "amplitude_activation_function",
    "auxiliary_loss_function": "auxiliary_phase_loss", "learning_rate_scheduler": "learning_rate_scheduler",
    "patch_weighting_method": "patch_weighting_method",
}  # fmt: skip


@pytest.mark.parametrize(("of", "value"), menu(PtychoPINNTorchEnumerators()))
def test_a_value_of_a_menu_of_the_second_library(of, value, prepared):
    """Each can be chosen: nothing is refused, and a changed one that does not act is told."""
    name = MENU[of]
    run = prepared(**{name: value})
    acts = name in ACTS or value == parameter_of(torch_settings(), name).get_value()
    assert bool([note for note in run.notes if "no effect" in note]) is not acts


@pytest.mark.parametrize(
    ("strategy", "told"), [("ddp_spawn", False), ("auto", False), ("ddp", True), ("deepspeed", True)]
)
def test_strategies_run_in_this_process(prepared, strategy, told):
    run = prepared(distributed_strategy=strategy)
    assert (run.arguments["strategy"], run.arguments["devices"]) == ("auto", 1)
    assert any(note.startswith(f"strategy='{strategy}' has no effect") for note in run.notes) is told


def test_several_devices_are_one(labelled_scan, stopped, tmp_path, caplog):
    configs = ConfigManager(*torch_configs())
    configs.update(training_config={"n_devices": 4})
    labelled_scan.to_file(tmp_path / "scan.npz")
    loader = base_api.PtychoDataLoader(tmp_path, configs, output_dir=tmp_path)
    base_api.Trainer(base_api.PtychoModel._new_model(PtychoPINN_Lightning, configs), loader, configs)
    assert stopped.arguments["devices"] == 1
    assert "n_devices=4: this process trains on one device" in caplog.text


def test_devices(monkeypatch, caplog):
    for cuda in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
        caplog.clear()
        for asked in ("cuda", "gpu", "cuda:0", "auto"):
            assert device_here(asked) == ("cuda" if cuda else "cpu")
        assert len(caplog.records) == (0 if cuda else 3)
    with pytest.raises(InputError, match=r"found 'cuda:1'.*visible_gpu_indices"):
        device_here("cuda:1")


@pytest.mark.parametrize(
    ("changes", "fragments"),
    [
        ({"num_channels": 9}, ("9 channels", "num_channels", "2 x 2", "grid_size_y")),
        ({"grid_size_x": 3, "num_channels": 6}, ("grid_size=(2, 3)", "expected (g, g)")),
        ({"x_lower_bound": 0.98, "x_upper_bound": 0.99, "y_lower_bound": 0.0, "y_upper_bound": 0.01}, None),
        ({"loss_function": "Huber"}, ("'Huber'", "'Poisson'", "'MAE'")),
        ({"amplitude_activation_function": "gelu"}, ("'gelu'", "silu", "sigmoid")),
        ({"auxiliary_phase_loss": "Sparsity"}, ("'Sparsity'", "Total_Variation")),
        ({"learning_rate_scheduler": "Step"}, ("'Step'", "Cosine")),
        ({"device": "tpu"}, ("'tpu'", "'cuda'")),
        ({"learning_rate": 0.0}, ("learning_rate must be positive",)),
    ],
)
def test_values_that_cannot_be(prepared, changes, fragments):
    if fragments is None:  # the frame nearest to the bounds is trained on
        assert prepared(**changes).notes == []
        return
    with pytest.raises(InputError) as caught:
        prepared(**changes)
    for fragment in fragments:
        assert fragment in str(caught.value)


def test_ptychodus_defaults_that_are_not_ours():
    """What differs is known; a new difference deserves a look."""
    config = public_configs()
    assert set(changed_fields(config)) - {"model"} == {"train_data_file", "nphotons"}
    assert set(changed_fields(config.model)) == {"N"}
    changed = [set(changed_fields(config)) for config in torch_configs()]
    assert changed == [{"N"}, {"decoder_last_amp_channels"}, set(), set(), set()]


# ---------------------------------------------------------------- the page that tells of them


@pytest.mark.parametrize("module", [first_settings, second_settings])
def test_the_page_tells_of_every_setting(module):
    registry = SettingsRegistry()
    for _, cls in inspect.getmembers(module, inspect.isclass):
        if cls.__module__ == module.__name__:
            cls(registry)
    assert len(registry) == (3 if module is first_settings else 4)
    for group in registry:
        assert set(registry[group].parameters()) == set(offered.OFFERED[group][1])
