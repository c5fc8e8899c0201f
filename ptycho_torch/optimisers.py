"""Optimisers and learning-rate schedules by name."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from torch.nn import Parameter
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import ExponentialLR, LambdaLR, ReduceLROnPlateau

from ptycho_torch.config_params import TrainingConfig

SCHEDULERS = ("Default", "Exponential", "WarmupCosine", "Cosine", "ReduceLROnPlateau", "Adaptive")


def make_optimiser(parameters: Iterable[Parameter], config: TrainingConfig) -> Optimizer:
    """The optimiser that ``config.optimizer`` names.

    Raises:
        ValueError: it is none of adam, adamw, sgd.
    """
    lr, decay = config.learning_rate, config.weight_decay
    betas = (config.adam_beta1, config.adam_beta2)
    if config.optimizer == "adam":
        return Adam(parameters, lr=lr, betas=betas, weight_decay=decay)
    if config.optimizer == "adamw":
        return AdamW(parameters, lr=lr, betas=betas, weight_decay=decay)
    if config.optimizer == "sgd":
        return SGD(parameters, lr=lr, momentum=config.momentum, weight_decay=decay)
    raise ValueError(f"optimizer {config.optimizer!r} is unknown; choose adam, adamw or sgd")


def _warmup_cosine(config: TrainingConfig) -> Any:
    warm, total, low = config.lr_warmup_epochs, max(1, config.epochs), config.lr_min_ratio

    def factor(epoch: int) -> float:
        if epoch < warm:
            return (epoch + 1) / (warm + 1)
        along = min(1.0, (epoch - warm) / max(1, total - warm))
        return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * along))

    return factor


def make_scheduler(optimiser: Optimizer, config: TrainingConfig, monitor: str) -> dict[str, Any] | None:
    """The schedule that ``config.scheduler`` names, as Lightning takes it; None for a constant rate.

    Args:
        optimiser: whose rate is scheduled, stepped once per epoch.
        config: names the schedule and its parameters.
        monitor: the logged loss that "ReduceLROnPlateau" watches.

    Raises:
        ValueError: unknown name; the message lists the valid ones.
    """
    if config.scheduler == "Default":
        return None
    if config.scheduler == "Exponential":
        rate = config.lr_min_ratio ** (1 / max(1, config.epochs - 1))
        return {"scheduler": ExponentialLR(optimiser, gamma=rate), "interval": "epoch"}
    if config.scheduler in ("WarmupCosine", "Cosine"):
        return {"scheduler": LambdaLR(optimiser, _warmup_cosine(config)), "interval": "epoch"}
    if config.scheduler in ("ReduceLROnPlateau", "Adaptive"):
        plateau = ReduceLROnPlateau(
            optimiser, factor=config.plateau_factor, patience=config.plateau_patience,
            min_lr=config.plateau_min_lr, threshold=config.plateau_threshold,
        )  # fmt: skip
        return {"scheduler": plateau, "interval": "epoch", "monitor": monitor}
    raise ValueError(f"scheduler {config.scheduler!r} is unknown; choose one of {', '.join(SCHEDULERS)}")
