"""The trainable model: a generator, the probe, the detector model and the likelihood."""

from __future__ import annotations

import dataclasses
import logging
import math
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho.errors import InputError
from ptycho_torch.config_params import (
    DataConfig,
    InferenceConfig,
    ModelConfig,
    TrainingConfig,
    as_config,
    as_plain,
)
from ptycho_torch.data.blocks import Batch
from ptycho_torch.generators.base import Generator
from ptycho_torch.generators.registry import build_generator
from ptycho_torch.objective import LOSS_KEYS, check_objective, objective
from ptycho_torch.optimisers import clip_adaptively, make_optimiser, make_scheduler
from ptycho_torch.physics.detector import detector_order
from ptycho_torch.physics.fourier import fourier_shift
from ptycho_torch.physics.illumination import probe_to_complex, probe_to_real
from ptycho_torch.physics.patches import extract
from ptycho_torch.solvers.frames import BlockFrames, input_scale, relative_to_block

logger = logging.getLogger(__name__)

FLAT = 1e-4
"""An object whose values spread less than this is a constant."""
LOG_EVERY = 16
"""Steps between two entries of the training loss."""


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
        n = self.data_config.N
        self.generator = build_generator(self.model_config, n)
        self.probe_parts: Tensor
        self.guess_parts: Tensor
        self.good_pixels: Tensor
        self.mean_counts: Tensor
        self.probe_mask_map: Tensor
        self.register_buffer("probe_parts", torch.zeros(self.data_config.probe_modes, n, n, 2))
        self.register_buffer("guess_parts", torch.zeros(self.data_config.probe_modes, n, n, 2))
        self.register_buffer("good_pixels", torch.ones(n, n, dtype=torch.bool))
        self.register_buffer("mean_counts", torch.zeros(()))
        self.register_buffer("probe_mask_map", torch.ones(n, n))
        check_objective(self.model_config, self.training_config)
        key = LOSS_KEYS[self.model_config.loss_function]
        self.loss_name, self.val_loss_name = f"{key}_train_loss", f"{key}_val_loss"
        self._flat_epochs = 0
        self._spread: Tensor | float = 0.0
        # losses of the frames since the last entry, summed, and how many frames
        self._losses: Tensor | float = 0.0
        self._scored = 0

    def configs(self) -> dict[str, Any]:
        """The four configurations by name."""
        return {
            "model_config": self.model_config,
            "data_config": self.data_config,
            "training_config": self.training_config,
            "inference_config": self.inference_config,
        }

    @property
    def model(self) -> Generator:
        """The generator, under the name by which callers of the reference reach the network."""
        return self.generator

    @property
    def probe(self) -> Tensor:
        """(M, N, N) complex64, in sqrt(counts)."""
        return probe_to_complex(self.probe_parts)

    @property
    def probe_guess(self) -> Tensor:
        """(M, N, N) complex64, the probe of the training scan's file, scaled to counts; zero before training."""
        return probe_to_complex(self.guess_parts)

    @property
    def intensity_scale(self) -> float:
        """sqrt(mean counts per frame) / (N/2) of the training scan."""
        return math.sqrt(float(self.mean_counts)) / (self.data_config.N / 2)

    def mask(self) -> NDArray[np.float32] | None:
        """(N, N) with which the probe is masked, or None."""
        values: NDArray[np.float32] = self.probe_mask_map.cpu().numpy()
        return None if bool((values == 1).all()) else values

    def set_illumination(
        self, probe: NDArray[np.complex64], guess: NDArray[np.complex64], good_pixels: NDArray[np.bool_],
        mean_counts: float, measurement_domain: str, probe_mask: NDArray[np.float32] | None = None,
    ) -> None:  # fmt: skip
        """Remember what the training scan was lit with, and what its stored numbers were.

        Args:
            probe: (M, N, N) scaled to counts, as it is after its refinement.
            guess: (M, N, N) scaled to counts, as it was before; a scan with the same guess gets ``probe``.
            good_pixels: (N, N) detector mask.
            mean_counts: per frame, over the good pixels.
            measurement_domain: as decided for the scan, see :mod:`ptycho.domain`.
            probe_mask: (N, N) with which the probe is masked, or None.
        """
        device = self.probe_parts.device
        self.probe_parts = probe_to_real(torch.from_numpy(probe.copy())).to(device)
        self.guess_parts = probe_to_real(torch.from_numpy(guess.copy())).to(device)
        self.good_pixels = torch.from_numpy(good_pixels.copy()).to(device)
        self.mean_counts = torch.tensor(mean_counts, dtype=torch.float32, device=device)
        mask = torch.ones(good_pixels.shape) if probe_mask is None else torch.from_numpy(probe_mask.copy())
        self.probe_mask_map = mask.float().to(device)
        self.data_config = dataclasses.replace(
            self.data_config, probe_modes=len(probe), measurement_domain=measurement_domain
        )
        # a checkpoint is to be loaded by what it says of itself
        self.hparams["data_config"] = as_plain(self.data_config)

    def configure_for(self, training: TrainingConfig, inference: InferenceConfig) -> None:
        """Take over how to train and how to stream; the network stays as it is.

        Raises:
            InputError: weights of the loss that say nothing.
        """
        check_objective(self.model_config, training)
        self.training_config, self.inference_config = training, inference
        self.hparams["training_config"], self.hparams["inference_config"] = as_plain(training), as_plain(inference)

    def frames_of(self, batch: Batch) -> BlockFrames:
        """The batch as the generator sees it, lit by the probe that the batch brings along."""
        fields = batch[0]
        height, width = fields["shape"].tolist()
        used = None if bool(fields["used"].all()) else fields["used"]
        return BlockFrames(
            fields["images"], batch[1], fields["starts"], fields["fractions"], (height, width),
            fields.get("good_pixels"), used, (fields["begun"], fields["lit"]) if "begun" in fields else None,
        )  # fmt: skip

    def forward(self, batch: Batch) -> Tensor:
        """The objects of a batch of blocks, (B, H, W) complex."""
        canvas: Tensor = self.generator(self.frames_of(batch))
        return canvas

    @torch.no_grad()
    def forward_predict(
        self, x: Tensor, positions: Tensor, probe: Tensor | None = None, input_scale_factor: Tensor | float = 1.0
    ) -> Tensor:  # fmt: skip
        """Object patches of groups of frames, each group by itself. A whole scan is better streamed.

        Args:
            x: (B, C, N, N) amplitudes, zero frequency at N//2, in any unit.
            positions: (B, C, 1, 2) pixels, (x, y) = centre of the group - position.
            probe: (M, N, N) or (B or 1, C or 1, M, N, N), of which the first is taken; None for the trained one.
            input_scale_factor: such that ``x`` times it has a mean energy of (N/2)^2 per frame over the scan.

        Returns:
            (B, C, N, N) complex64, each centred on its own position.

        Raises:
            InputError: frames of another side than the module's.
        """
        device, n = self.probe_parts.device, self.data_config.N
        if x.ndim != 4 or x.shape[-2:] != (n, n):
            raise InputError(f"found frames of shape {tuple(x.shape)}, expected (groups, C, {n}, {n}) for this model.")
        light = self.probe if probe is None else (probe if probe.ndim == 3 else probe[0, 0]).to(device)
        factor = input_scale_factor.to(device) if isinstance(input_scale_factor, Tensor) else input_scale_factor
        good = None if bool(self.good_pixels.all()) else self.good_pixels
        scale = input_scale(light, None if good is None else detector_order(good))
        amplitudes = x.to(device, torch.float32) * factor / scale
        if good is not None:
            amplitudes = torch.where(good, amplitudes, amplitudes.new_zeros(()))
        places = -positions[..., 0, :].flip(-1).to(device, torch.float32)
        places = places - places.amin(dim=1, keepdim=True)
        starts, shape = relative_to_block(places.round().long(), n)
        fractions = places - places.round()
        frames = BlockFrames(amplitudes.square(), light, starts, fractions, shape, good)
        # the departure from vacuum is moved: it is what is small at the rim, where a Fourier shift wraps round
        return 1 + fourier_shift(extract(self.generator(frames), starts, n) - 1, -fractions)

    def compute_loss(self, batch: Batch) -> Tensor:
        """Mean loss per unmasked pixel of the scored frames, with the terms that the configuration adds."""
        frames = self.frames_of(batch)
        canvas = self.generator(frames)
        self._spread = canvas.detach().std()  # not a number yet: a device need not wait for it
        return objective(canvas, frames, batch[0], self.model_config, self.training_config)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self.compute_loss(batch)
        value, frames = _counted(loss, batch)
        self._losses, self._scored = self._losses + value * frames, self._scored + frames
        # gradients are averaged over the processes, which may have unequal numbers of frames
        return loss * batch[0]["share"] if "share" in batch[0] else loss

    def on_train_epoch_start(self) -> None:
        """Leave out what an interrupted epoch has not logged."""
        self._losses, self._scored = 0.0, 0

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Log the mean of the losses since the last time; not at every step, where it takes a few per cent of one.

        At the first step, so that an epoch that is broken off has a loss, and at the one after which training stops.
        """
        due = batch_idx % LOG_EVERY == 0 or self.trainer.is_last_batch or self.trainer.should_stop
        if due and self._scored > 0:
            self._log(self.loss_name, "train_loss", self._losses / self._scored, self._scored)
            self._losses, self._scored = 0.0, 0

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._log(self.val_loss_name, "val_loss", *_counted(self.compute_loss(batch), batch))

    def _log(self, name: str, generic_name: str, loss: Tensor | float, frames: int) -> None:
        """Under the loss's own name, and for callbacks under the one that every module has."""
        for key, shown in ((name, True), (generic_name, False)):
            self.log(
                key, loss, on_step=False, on_epoch=True, prog_bar=shown, logger=shown, batch_size=frames, sync_dist=True
            )

    def on_train_epoch_end(self) -> None:
        """Warn when the output has become a constant: every figure of such a run is meaningless."""
        spread = float(self._spread)
        self._flat_epochs = self._flat_epochs + 1 if spread < FLAT else 0
        if self._flat_epochs == 2:
            logger.warning(
                "The reconstructed object has collapsed to a constant (spread %.1e). Check the units of the "
                "frames (measurement_domain), the positions (object pixels, x = column, y = row) and the probe.",
                spread,
            )

    @property
    def collapsed(self) -> bool:
        """True if the output was a constant for the last two epochs or more."""
        return self._flat_epochs >= 2

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Log the norm of all gradients, before they are clipped, where that is asked for."""
        config = self.training_config
        if config.log_grad_norm and self.global_step % config.grad_norm_log_freq == 0:
            norms = [p.grad.norm() for p in self.parameters() if p.grad is not None]
            self.log("grad_norm", torch.stack(norms).norm(), on_step=True, on_epoch=False)

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip as the Trainer was told, or adaptively, which Lightning does not know."""
        if gradient_clip_val and self.training_config.gradient_clip_algorithm == "agc":
            clip_adaptively(self.parameters(), gradient_clip_val)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def configure_optimizers(self) -> Any:
        optimiser = make_optimiser(
            self.parameters(), self.training_config, self.generator.learning_rate_share
        )
        scheduler = make_scheduler(optimiser, self.training_config, self.loss_name)
        if scheduler is None:
            return optimiser
        return {"optimizer": optimiser, "lr_scheduler": scheduler}


def _counted(loss: Tensor, batch: Batch) -> tuple[Tensor, int]:
    """What this process adds to the mean loss over all scored frames of a step, and how many frames that are.

    The mean over processes of what each counts for is the mean over all of them.
    """
    frames = max(1, int(batch[0].get("step_frames", batch[0]["scored"].sum())))
    return loss.detach() * batch[0].get("share", 1.0), frames
