"""ptychodus's configurations for settings, and how a training looks that stops before its first step."""

import inspect
from types import SimpleNamespace

import torch
from ptychodus.api.settings import SettingsRegistry
from ptychodus.model.ptychopinn import reconstructor as first
from ptychodus.model.ptychopinn import settings as first_settings
from ptychodus.model.ptychopinn_torch import reconstructor as second
from ptychodus.model.ptychopinn_torch import settings as second_settings

N = 32


def torch_settings():
    """The second library's settings as they are when ptychodus starts."""
    registry = SettingsRegistry()
    return SimpleNamespace(
        data=second_settings.PtychoPINNTorchDataSettings(registry),
        model=second_settings.PtychoPINNTorchModelSettings(registry),
        training=second_settings.PtychoPINNTorchTrainingSettings(registry),
        inference=second_settings.PtychoPINNTorchInferenceSettings(registry),
    )


def parameter_of(groups, name):
    """batch_size stands in two groups; that of training is meant."""
    found = [groups.training, groups.data, groups.model, groups.inference]
    return next(getattr(group, name) for group in found if hasattr(group, name))


def torch_configs(mode="Unsupervised", **changes):
    """What ptychodus passes for these settings: data, model, training, inference, datagen."""
    groups = torch_settings()
    for name, value in changes.items():
        parameter_of(groups, name).set_value(value)
    return second._build_configs(mode, groups.data, groups.model, groups.training, groups.inference)


def public_configs(name="PINN", inference=False, **changes):
    """The same of the first library: its training configuration, or the one of reconstruction."""
    registry = SettingsRegistry()
    model = first_settings.PtychoPINNModelSettings(registry)
    training = first_settings.PtychoPINNTrainingSettings(registry)
    for key, value in changes.items():
        getattr(model if hasattr(model, key) else training, key).set_value(value)
    if inference:
        return first._build_inference_config(model, name, N, is_developer_mode_enabled=False)
    return first._build_training_config(model, training, name)


def first_batch(run):
    return next(iter(run.loader))


def loss(run):
    return float(run.module.compute_loss(first_batch(run)).detach())


def optimiser(run):
    found = run.module.configure_optimizers()
    return found if isinstance(found, torch.optim.Optimizer) else found["optimizer"]


def rates(run, epochs=4):
    found = run.module.configure_optimizers()
    values = []
    for _ in range(epochs):
        values.append(round(found["optimizer"].param_groups[0]["lr"] / run.module.training_config.learning_rate, 6))
        found["optimizer"].step()
        found["lr_scheduler"]["scheduler"].step()
    return values


def scored(run):
    """How many frames are ever scored; an epoch scores a part of them."""
    found = set()
    for epoch in range(40):
        run.loader.sampler.set_epoch(epoch)
        found |= {int(frame) for block in run.loader.sampler for frame in block.indices[block.scored]}
    return len(found)


def menu(enumerators):
    return [
        (name.removeprefix("get_").removesuffix("s"), value)
        for name, getter in inspect.getmembers(enumerators, callable)
        if name.startswith("get_")
        for value in getter()
    ]
