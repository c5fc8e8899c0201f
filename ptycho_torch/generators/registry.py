"""Generators by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from ptycho.errors import InputError
from ptycho_torch.config_params import ModelConfig
from ptycho_torch.generators.base import Generator
from ptycho_torch.generators.projection_unet import ProjectionUNet

Builder = Callable[[ModelConfig], Generator]


def _projection_unet(config: ModelConfig) -> Generator:
    base = config.unet_channels
    return ProjectionUNet(
        stages=config.stages,
        projection_steps=config.projection_steps,
        later_projection_steps=config.later_projection_steps,
        widths=(base, 2 * base, 3 * base),
    )


_BUILDERS: dict[str, Builder] = {ProjectionUNet.name: _projection_unet}


def available() -> tuple[str, ...]:
    """Names of all registered architectures."""
    return tuple(sorted(_BUILDERS))


def register(name: str, builder: Builder) -> None:
    """Make an architecture available under ``name``.

    Raises:
        ValueError: the name is taken.
    """
    if name in _BUILDERS:
        raise ValueError(f"architecture {name!r} is registered already; choose another name")
    _BUILDERS[name] = builder


def build_generator(config: ModelConfig) -> Generator:
    """The network that ``config.architecture`` names, with fresh weights from torch's current seed.

    Raises:
        InputError: the name is not registered; the message lists those that are.
    """
    builder = _BUILDERS.get(config.architecture)
    if builder is None:
        near = difflib.get_close_matches(config.architecture, available(), n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise InputError(
            f"architecture {config.architecture!r} is not available{hint}; choose one of {', '.join(available())}"
        )
    return builder(config)
