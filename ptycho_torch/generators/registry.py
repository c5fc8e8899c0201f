"""Generators by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ptycho.errors import InputError
from ptycho_torch.config_params import ModelConfig
from ptycho_torch.generators.base import Generator
from ptycho_torch.generators.cnn import CnnAutoencoder
from ptycho_torch.generators.patchwise import Patchwise
from ptycho_torch.generators.projection_unet import ProjectionUNet

Builder = Callable[[ModelConfig, int], Generator]
"""Makes a generator for frames of a given side."""


def _cnn(config: ModelConfig, side: int) -> Generator:
    network = CnnAutoencoder(
        n_side=side,
        # without a merge nothing ties the frames of a group together
        n_channels=config.C_model if config.object_big else 1,
        **{name: getattr(config, name) for name in _CNN_OPTIONS},
    )
    return Patchwise(network, config.projection_steps + (config.stages - 1) * config.later_projection_steps)


_CNN_OPTIONS = (
    "n_filters_scale", "amp_activation", "probe_big", "batch_norm", "cbam_encoder", "cbam_bottleneck", "cbam_decoder",
    "eca_encoder", "eca_decoder", "spatial_decoder", "decoder_spatial_kernel", "decoder_last_c_outer_fraction",
    "use_legacy_decoder_channel_override",
)  # fmt: skip


def _projection_unet(config: ModelConfig, side: int) -> Generator:
    base = config.unet_channels
    return ProjectionUNet(
        stages=config.stages,
        projection_steps=config.projection_steps,
        later_projection_steps=config.later_projection_steps,
        widths=(base, 2 * base, 3 * base),
    )


_BUILDERS: dict[str, Builder] = {ProjectionUNet.name: _projection_unet, Patchwise.name: _cnn}


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


def build_generator(config: ModelConfig, side: int) -> Generator:
    """The network that ``config.architecture`` names, with fresh weights from torch's current seed.

    Args:
        config: of the network.
        side: N of the frames, in pixels.

    Raises:
        InputError: the name is not registered (the message lists those that are); an option that it cannot take.
    """
    generator = _BUILDERS[_known(config.architecture)](config, side)
    for network in generator.networks():
        # convolutions take 0.5 to 0.9 of the time in this order of the weights (docs/performance.md)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return generator


def _known(name: str) -> str:
    if name not in _BUILDERS:
        near = difflib.get_close_matches(name, available(), n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise InputError(f"architecture {name!r} is not available{hint}; choose one of {', '.join(available())}")
    return name


@dataclass(frozen=True)
class Architecture:
    """A registered architecture, for callers that build a whole module by its name."""

    name: str

    def build_model(self, pt_configs: Mapping[str, Any]) -> Any:
        """A trainable module with fresh weights from the training config's seed; the caller's random state is kept.

        Args:
            pt_configs: model_config, data_config, training_config, inference_config.
        """
        # looked up when called: the module knows the generators, so they cannot know it
        from ptycho_torch import model

        return build_module(model.PtychoPINN_Lightning, pt_configs)


def build_module(cls: Callable[..., Any], pt_configs: Mapping[str, Any]) -> Any:
    """A module of class ``cls`` with fresh weights; see :meth:`Architecture.build_model`."""
    names = ("model_config", "data_config", "training_config", "inference_config")
    # a device that is in use has a random state of its own to be kept
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=list(devices)):
        torch.manual_seed(pt_configs["training_config"].seed)
        return cls(**{name: pt_configs[name] for name in names})


def resolve_generator(config: Any) -> Architecture:
    """The architecture that a public configuration (with ``model.architecture``) names.

    Raises:
        InputError: the name is not registered.
    """
    return Architecture(_known(config.model.architecture))
