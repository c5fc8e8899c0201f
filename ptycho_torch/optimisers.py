"""Optimisers and learning-rate schedules by name."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from torch.nn import Parameter
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import ExponentialLR, LambdaLR, ReduceLROnPlateau

from ptycho.errors import InputError
from ptycho_torch.config_params import TrainingConfig

SCHEDULERS = ("Default", "Exponential", "MultiStage", "WarmupCosine", "Cosine", "ReduceLROnPlateau", "Adaptive")


def make_optimiser(parameters: Iterable[Parameter], config: TrainingConfig, share: float = 1.0) -> Optimizer:
    """The optimiser that ``config.optimizer`` names.

    Args:
        parameters: to be trained.
        config: names the optimiser and its parameters.
        share: of the configured learning rate.

    Raises:
        InputError: it is none of adam, adamw, sgd.
    """
    lr, decay = share * config.learning_rate, config.weight_decay
    betas = (config.adam_beta1, config.adam_beta2)
    if config.optimizer == "adam":
        return Adam(parameters, lr=lr, betas=betas, weight_decay=decay)
    if config.optimizer == "adamw":
        return AdamW(parameters, lr=lr, betas=betas, weight_decay=decay)
    if config.optimizer == "sgd":
        return SGD(parameters, lr=lr, momentum=config.momentum, weight_decay=decay)
    raise InputError(f"optimizer {config.optimizer!r} is unknown; choose adam, adamw or sgd")


def clip_adaptively(parameters: Iterable[Parameter], ratio: float) -> None:
    """Scale down gradients that are large for their weights (A. Brock et al., ICML 2021, eq. 3).

    For each output unit, the norm of the gradient is limited to ``ratio`` times the norm of the weights
    (at least 1e-3).

    Args:
        parameters: with gradients; changed in place.
        ratio: the limit.
    """
    for parameter in parameters:
        if parameter.grad is None:
            continue
        weight, gradient = parameter.detach(), parameter.grad
        axes = tuple(range(1, weight.ndim)) if weight.ndim > 1 else (0,)
        limit = ratio * weight.square().sum(axes, keepdim=True).sqrt().clamp(min=1e-3)
        norm = gradient.square().sum(axes, keepdim=True).sqrt()
        gradient.mul_((limit / norm.clamp(min=1e-12)).clamp(max=1.0))


def _multi_stage(config: TrainingConfig) -> Any:
    """Full rate in the first two stages, a fraction of it in the third; lengths unset make it thirds of the run."""
    before, last = config.stage_1_epochs + config.stage_2_epochs, config.stage_3_epochs
    last_starts = before or (config.epochs - last if last else 2 * config.epochs // 3)
    return lambda epoch: config.stage_3_lr_factor if epoch >= last_starts else 1.0


def _warmup_cosine(config: TrainingConfig) -> Any:
    warm, total, low = config.lr_warmup_epochs, max(1, config.epochs), config.lr_min_ratio

    def factor(epoch: int) -> float:
        if epoch < warm:
            return (epoch + 1) / (warm + 1)
        along = min(1.0, (epoch - warm) / max(1, total - warm))
        return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * along))

    return factor


def warm_up(config: Any) -> int:
    """Epochs in which the learning rate rises; ``config`` is a training configuration of either side."""
    return int(config.lr_warmup_epochs) if config.scheduler in ("WarmupCosine", "Cosine") else 0


def make_scheduler(optimiser: Optimizer, config: TrainingConfig, monitor: str) -> dict[str, Any] | None:
    """The schedule that ``config.scheduler`` names, as Lightning takes it; None for a constant rate.

    Args:
        optimiser: whose rate is scheduled, stepped once per epoch.
        config: names the schedule and its parameters.
        monitor: the logged loss that "ReduceLROnPlateau" watches.

    Raises:
        InputError: unknown name; the message lists the valid ones.
    """
    if config.scheduler == "Default":
        return None
    if config.scheduler == "Exponential":
        rate = config.lr_min_ratio ** (1 / max(1, config.epochs - 1))
        return {"scheduler": ExponentialLR(optimiser, gamma=rate), "interval": "epoch"}
    if config.scheduler in ("WarmupCosine", "Cosine"):
        return {"scheduler": LambdaLR(optimiser, _warmup_cosine(config)), "interval": "epoch"}
    if config.scheduler == "MultiStage":
        return {"scheduler": LambdaLR(optimiser, _multi_stage(config)), "interval": "epoch"}
    if config.scheduler in ("ReduceLROnPlateau", "Adaptive"):
        plateau = ReduceLROnPlateau(
            optimiser, factor=config.plateau_factor, patience=config.plateau_patience,
            min_lr=config.plateau_min_lr, threshold=config.plateau_threshold,
        )  # fmt: skip
        return {"scheduler": plateau, "interval": "epoch", "monitor": monitor}
    raise InputError(f"scheduler {config.scheduler!r} is unknown; choose one of {', '.join(SCHEDULERS)}")
