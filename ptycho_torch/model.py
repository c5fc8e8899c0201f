"""The trainable model: a generator, the probe, the detector model and the likelihood."""

from __future__ import annotations

import logging
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_torch.config_params import (
    DataConfig,
    InferenceConfig,
    ModelConfig,
    TrainingConfig,
    as_config,
    as_plain,
)
from ptycho_torch.data.blocks import BlockBatch
from ptycho_torch.generators.registry import build_generator
from ptycho_torch.optimisers import clip_adaptively, make_optimiser, make_scheduler
from ptycho_torch.physics.illumination import probe_to_complex, probe_to_real
from ptycho_torch.physics.likelihood import amplitude_mae, poisson_nll
from ptycho_torch.solvers.frames import BlockFrames

logger = logging.getLogger(__name__)

_LOSSES = {"Poisson": ("poisson", poisson_nll), "MAE": ("mae", amplitude_mae)}
FLAT = 1e-4
"""An object whose values spread less than this is a constant."""


class PtychoPINN_Lightning(pl.LightningModule):  # the name that callers of the reference import
    """Learns to reconstruct from diffraction alone, by the likelihood of the measured counts.

    Args:
        model_config, data_config, training_config, inference_config: dataclasses of
            :mod:`ptycho_torch.config_params`, or the plain dicts that a checkpoint holds.

    Attributes:
        loss_name, val_loss_name: the names under which the epoch's losses are logged.
    """

    def __init__(
        self, model_config: ModelConfig | dict[str, Any] | None = None,
        data_config: DataConfig | dict[str, Any] | None = None,
        training_config: TrainingConfig | dict[str, Any] | None = None,
        inference_config: InferenceConfig | dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.model_config = as_config(ModelConfig, model_config)
        self.data_config = as_config(DataConfig, data_config)
        self.training_config = as_config(TrainingConfig, training_config)
        self.inference_config = as_config(InferenceConfig, inference_config)
        # plain types only: such a checkpoint loads under weights_only=True, anywhere
        self.save_hyperparameters({name: as_plain(config) for name, config in self.configs().items()})
        self.generator = build_generator(self.model_config)
        n = self.data_config.N
        self.probe_parts: Tensor
        self.good_pixels: Tensor
        self.register_buffer("probe_parts", torch.zeros(self.data_config.probe_modes, n, n, 2))
        self.register_buffer("good_pixels", torch.ones(n, n, dtype=torch.bool))
        self._loss_key, self._loss = _LOSSES[self.model_config.loss_function]
        self.loss_name, self.val_loss_name = f"{self._loss_key}_train_loss", f"{self._loss_key}_val_loss"
        self._flat_epochs = 0
        self._spread = 0.0

    def configs(self) -> dict[str, Any]:
        """The four configurations by name."""
        return {
            "model_config": self.model_config,
            "data_config": self.data_config,
            "training_config": self.training_config,
            "inference_config": self.inference_config,
        }

    @property
    def probe(self) -> Tensor:
        """(M, N, N) complex64, in sqrt(counts)."""
        return probe_to_complex(self.probe_parts)

    def set_illumination(self, probe: NDArray[np.complex64], good_pixels: NDArray[np.bool_]) -> None:
        """Fix the probe (M, N, N), scaled to counts, and the detector mask (N, N)."""
        with torch.no_grad():
            self.probe_parts.copy_(probe_to_real(torch.from_numpy(np.ascontiguousarray(probe))))
            self.good_pixels.copy_(torch.from_numpy(np.ascontiguousarray(good_pixels)))

    def frames_of(self, batch: BlockBatch) -> BlockFrames:
        """The batch as the generator sees it."""
        height, width = batch.shape.tolist()
        good = None if bool(self.good_pixels.all()) else self.good_pixels
        used = None if bool(batch.used.all()) else batch.used
        return BlockFrames(batch.counts, self.probe, batch.starts, batch.fractions, (height, width), good, used)

    def forward(self, batch: BlockBatch) -> Tensor:
        """The objects of a batch of blocks, (B, H, W) complex."""
        canvas: Tensor = self.generator(self.frames_of(batch))
        return canvas

    def compute_loss(self, batch: BlockBatch) -> Tensor:
        """Mean loss per unmasked pixel of the scored frames."""
        frames = self.frames_of(batch)
        canvas = self.generator(frames)
        self._spread = float(canvas.detach().std())
        good = batch.scored[..., None, None]
        if frames.good_pixels is not None:
            good = good & frames.good_pixels
        return self._loss(frames.rates(canvas), frames.counts, None if bool(good.all()) else good)

    def training_step(self, batch: BlockBatch, batch_idx: int) -> Tensor:
        loss = self.compute_loss(batch)
        self._log(self.loss_name, loss, batch)
        return loss

    def validation_step(self, batch: BlockBatch, batch_idx: int) -> None:
        self._log(self.val_loss_name, self.compute_loss(batch), batch)

    def _log(self, name: str, loss: Tensor, batch: BlockBatch) -> None:
        frames = int(batch.scored.sum())
        self.log(name, loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=frames, sync_dist=True)

    def on_train_epoch_end(self) -> None:
        """Warn when the output has become a constant: every figure of such a run is meaningless."""
        self._flat_epochs = self._flat_epochs + 1 if self._spread < FLAT else 0
        if self._flat_epochs == 2:
            logger.warning(
                "The reconstructed object has collapsed to a constant (spread %.1e). Check the units of the "
                "frames (measurement_domain), the positions (object pixels, x = column, y = row) and the probe.",
                self._spread,
            )

    @property
    def collapsed(self) -> bool:
        """True if the output was a constant for the last two epochs or more."""
        return self._flat_epochs >= 2

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip as the Trainer was told, or adaptively, which Lightning does not know."""
        if gradient_clip_val and self.training_config.gradient_clip_algorithm == "agc":
            clip_adaptively(self.parameters(), gradient_clip_val)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def configure_optimizers(self) -> Any:
        optimiser = make_optimiser(self.parameters(), self.training_config)
        scheduler = make_scheduler(optimiser, self.training_config, self.loss_name)
        if scheduler is None:
            return optimiser
        return {"optimizer": optimiser, "lr_scheduler": scheduler}
