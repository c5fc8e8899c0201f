"""Overrides by name: which names there are, which of them are the same knob, and what a profile stands for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from ptycho.errors import InputError
from ptycho_torch.config_bridge import ALL_GROUPS, LOSSES, torch_mode
from ptycho_torch.config_params import SCHEDULE_ALIASES, did_you_mean

ALIASES = {
    "max_epochs": "epochs",
    "nepochs": "epochs",
    "neighbor_count": "K",
    "model_type": "mode",
    "gridsize": "grid_size",
    "device": "accelerator",
    "n_devices": "devices",
    "n_images": "n_groups",
    **SCHEDULE_ALIASES,
}
"""Name that callers use -> the name under which the knob is kept here."""

_CI_CONTRACT = {
    "scale_contract_version": "ci_intensity_v2",
    "measurement_domain": "count_intensity",
    "physics_forward_mode": "rectangular_scaled",
    "torch_loss_mode": "poisson",
    "loss_function": "Poisson",
}
_CI_DEFAULTS = {
    "amplitude_physics_gain": 1.0,
    "rect_s1s2_trainable": True,
    "rect_s1s2_init": "data",
    "cnn_output_mode": "real_imag",
}

Config = TypeVar("Config")


@dataclass
class Knobs:
    """Overrides under one name per knob.

    Attributes:
        values: knob -> value, in the backend's form.
        names: knob -> the name under which the caller stated it.
    """

    values: dict[str, Any]
    names: dict[str, str]

    def of(self, cls: type, *, without: Iterable[str] = ()) -> dict[str, Any]:
        """Those that are fields of the dataclass ``cls``."""
        known = {f.name for f in fields(cls)} - set(without)
        return {name: value for name, value in self.values.items() if name in known}


def read_overrides(overrides: Mapping[str, Any] | None, classes: Iterable[type], argument: Mapping[str, Any]) -> Knobs:
    """Check overrides and bring them to one name per knob.

    Args:
        overrides: name -> value; a field of any of ``classes``, or an alias of one.
        classes: the dataclasses that can be overridden.
        argument: fields that have an argument of their own, with its value.

    Raises:
        InputError: an unknown name (with the nearest valid one), a knob stated twice differently, a value of the
            wrong form.
    """
    known = {f.name for cls in classes for f in fields(cls)} - {"model"}
    known |= {alias for alias, name in ALIASES.items() if name in known}
    knobs = Knobs({}, {})
    for given, raw in (overrides or {}).items():
        if given not in known:
            raise InputError(f"override {given!r} is unknown{did_you_mean(given, known)}.")
        if given in argument:
            if raw is not None and str(raw) != str(argument[given]):
                raise InputError(f"{given}: found {str(raw)!r} in overrides and {str(argument[given])!r} as argument.")
            continue
        name, value = ALIASES.get(given, given), _converted(given, raw)
        if name in knobs.values and knobs.values[name] != value:
            first = knobs.names[name]
            raise InputError(
                f"overrides {first}={(overrides or {})[first]!r} and {given}={raw!r} are one knob, stated twice."
            )
        knobs.values[name], knobs.names[name] = value, given
    _check_pairs(knobs)
    return knobs


def with_profile(overrides: Mapping[str, Any] | None, profile: str | None) -> dict[str, Any]:
    """The overrides with those of a profile. 'ci' states that frames are counts and how they are scored.

    Raises:
        InputError: an unknown profile, or an override that contradicts it.
    """
    stated = dict(overrides or {})
    if profile is None:
        return stated
    if profile != "ci":
        raise InputError(f"profile: found {profile!r}, expected None or 'ci'.")
    for name, value in _CI_CONTRACT.items():
        if stated.get(name, value) != value:
            raise InputError(f"profile 'ci' means {name}={value!r}, found the override {name}={stated[name]!r}.")
    return {**_CI_DEFAULTS, **stated, **_CI_CONTRACT}


def _grid(value: Any) -> tuple[int, int]:
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value, value
    raise InputError(f"gridsize must be positive (a whole number), found {value!r}.")


def _groups(value: Any) -> Any:
    return None if value == ALL_GROUPS else value


_CONVERTERS: dict[str, Callable[[Any], Any]] = {
    "n_groups": _groups,
    "gridsize": _grid,
    "grid_size": lambda value: tuple(value) if isinstance(value, (list, tuple)) else _grid(value),
    "mode": torch_mode,
    "model_type": torch_mode,
}


def _converted(name: str, value: Any) -> Any:
    return _CONVERTERS[name](value) if name in _CONVERTERS else value


def _check_pairs(knobs: Knobs) -> None:
    """Knobs that say the same thing in different words."""
    values = knobs.values
    if "nll" in values and "nll_weight" in values and bool(values["nll"]) != (values["nll_weight"] > 0):
        raise _contradiction(values, "nll", "nll_weight")
    if "loss_function" in values and "torch_loss_mode" in values and values.get("mode") != "Supervised":
        if LOSSES.get(values["torch_loss_mode"]) != values["loss_function"]:
            raise _contradiction(values, "loss_function", "torch_loss_mode")
    if "C" in values and "grid_size" in values:
        rows, columns = values["grid_size"]
        if values["C"] != rows * columns:
            raise _contradiction(values, "C", "grid_size")


def _contradiction(values: dict[str, Any], a: str, b: str) -> InputError:
    return InputError(f"overrides {a}={values[a]!r} and {b}={values[b]!r} contradict each other. State one of them.")
