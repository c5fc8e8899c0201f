"""The Lightning data module: loaders over blocks of one scan."""

from __future__ import annotations

import logging

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Sampler

from ptycho.config.config import PyTorchExecutionConfig
from ptycho_torch.config_params import DataConfig, ModelConfig, TrainingConfig
from ptycho_torch.data.blocks import (
    BlockBatch,
    BlockDataset,
    BlockRequest,
    PlacedScan,
    TrainingBlocks,
    ValidationBlocks,
    split_frames,
)

logger = logging.getLogger(__name__)


class BlockDataModule(LightningDataModule):
    """Training and validation loaders of one scan, split by scan point.

    Args:
        scan: the placed frames.
        data_config, model_config, training_config: group size, block size, batch size, split and seed.
        execution_config: worker processes and memory pinning.
        n_groups: groups of ``C`` frames per epoch; None for every frame once.
    """

    def __init__(
        self, scan: PlacedScan, data_config: DataConfig, model_config: ModelConfig,
        training_config: TrainingConfig, execution_config: PyTorchExecutionConfig, n_groups: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self._dataset = BlockDataset(scan)
        self._execution = execution_config
        xy = np.stack((scan.raw.xcoords, scan.raw.ycoords), axis=1)
        train, withheld = split_frames(len(xy), training_config.val_fraction, training_config.seed)
        self.train_indices, self.val_indices = train, withheld
        block = min(model_config.merge_block if model_config.object_big else 1, len(train))
        # batch_size counts groups of C frames; a step takes whole blocks, at least one
        per_batch = max(1, round(training_config.batch_size * data_config.C / block))
        max_blocks = None if n_groups is None else max(1, -(-n_groups * data_config.C // block))
        self._train = TrainingBlocks(xy, train, block, per_batch, training_config.seed, max_blocks)
        val_blocks = max(1, self._train.n_blocks // 2)
        self._val = ValidationBlocks(xy, withheld, block, val_blocks, training_config.seed) if len(withheld) else None

    def _loader(self, sampler: Sampler[BlockRequest]) -> DataLoader[BlockBatch]:
        execution = self._execution
        workers = execution.num_workers
        if workers == 0 and (execution.persistent_workers or execution.prefetch_factor is not None):
            logger.warning("persistent_workers and prefetch_factor do not act without workers (num_workers=0).")
        return DataLoader(
            self._dataset,
            batch_size=None,
            sampler=sampler,
            # its own generator: a loader's seed must not be drawn from the caller's
            generator=torch.Generator().manual_seed(0),
            num_workers=workers,
            pin_memory=execution.pin_memory,
            persistent_workers=execution.persistent_workers and workers > 0,
            prefetch_factor=execution.prefetch_factor if workers > 0 else None,
        )

    def train_dataloader(self) -> DataLoader[BlockBatch]:
        """Batches of training blocks."""
        return self._loader(self._train)

    def val_dataloader(self) -> DataLoader[BlockBatch] | list[DataLoader[BlockBatch]]:
        """Batches that score the withheld frames; empty when none are withheld."""
        return [] if self._val is None else self._loader(self._val)
