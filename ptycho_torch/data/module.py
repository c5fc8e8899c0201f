"""The Lightning data module: loaders over blocks of a scan."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Sampler

from ptycho.config.config import PyTorchExecutionConfig
from ptycho.errors import InputError
from ptycho_torch.config_params import DataConfig, ModelConfig, TrainingConfig
from ptycho_torch.data.blocks import Batch, BlockDataset, as_it_is
from ptycho_torch.data.samplers import (
    BlockRequest,
    GroupBlocks,
    TrainingBlocks,
    ValidationBlocks,
    split_frames,
    within_bounds,
)
from ptycho_torch.data.scans import LitScan

logger = logging.getLogger(__name__)

TEST_SHARE = 0.2
"""Share of the points of a scan for validation that is withheld from the object and scored."""


class BlockDataModule(LightningDataModule):
    """Training and validation loaders, split by scan point.

    Args:
        scan: the frames to train on.
        data_config, model_config, training_config: group size, block size, bounds, batch size, split and seed.
        execution_config: worker processes and memory pinning.
        n_groups: groups of ``C`` frames per epoch; None for every frame once.
        validation: another scan to validate with; then every frame of ``scan`` is trained on.

    Attributes:
        train_indices, val_indices: frames of ``scan`` that are trained on, and that are withheld.
        blocks_per_step: blocks of an optimiser step.
    """

    def __init__(
        self, scan: LitScan, data_config: DataConfig, model_config: ModelConfig,
        training_config: TrainingConfig, execution_config: PyTorchExecutionConfig, n_groups: int | None = None,
        validation: LitScan | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self._execution = execution_config
        self._data, self._model, self._training, self._n_groups = data_config, model_config, training_config, n_groups
        everything = np.arange(scan.placed.raw.n_frames)
        withholds = validation is None and scan.groups is None
        fraction = training_config.val_fraction if withholds else 0.0
        self.train_indices, self.val_indices = split_frames(len(everything), fraction, training_config.seed)
        self._train_set = BlockDataset(scan)
        self._train = self._training_sampler(scan)
        self._val_set, self._val = self._train_set, self._validation_sampler(scan, self.val_indices)
        if validation is not None:
            share = max(TEST_SHARE, 1.5 / validation.placed.raw.n_frames)
            withheld = split_frames(validation.placed.raw.n_frames, share, training_config.seed)[1]
            self._val_set, self._val = BlockDataset(validation), self._validation_sampler(validation, withheld)

    @property
    def validates(self) -> bool:
        """True if there is anything to validate with."""
        return self._val is not None

    def _block_size(self, n_frames: int) -> int:
        return min(self._model.merge_block if self._model.object_big else 1, n_frames)

    def _training_sampler(self, scan: LitScan) -> TrainingBlocks | GroupBlocks:
        config, C = self._training, self._data.C
        if scan.groups is not None:
            groups = scan.groups if self._n_groups is None else scan.groups[: self._n_groups]
            self.blocks_per_step = config.batch_size
            return GroupBlocks(groups, None if config.sequential_sampling else config.seed)
        block = self._block_size(len(self.train_indices))
        max_blocks = None if self._n_groups is None else max(1, -(-self._n_groups * C // block))
        centres = within_bounds(scan.placed.xy, self._data.x_bounds, self._data.y_bounds)
        if not centres[self.train_indices].any():
            raise InputError(
                f"x_bounds={self._data.x_bounds}, y_bounds={self._data.y_bounds}: found no training frame within "
                "these shares of the scan's range, expected some. Widen them; (0.0, 1.0) takes every frame."
            )
        blocks = TrainingBlocks(
            scan.placed.xy, self.train_indices, block, config.seed, max_blocks,
            centres=centres, sequential=config.sequential_sampling,
        )  # fmt: skip
        # batch_size counts groups of C frames; a step takes whole blocks, at least one, and steps are evenly large
        steps = -(-len(blocks) // max(1, round(config.batch_size * C / block)))
        self.blocks_per_step = -(-len(blocks) // steps)
        return blocks

    def _validation_sampler(
        self, scan: LitScan, withheld: NDArray[np.int64]
    ) -> ValidationBlocks | GroupBlocks | None:  # fmt: skip
        if scan.groups is not None:
            # positions across groups are unknown: a group is scored on itself
            return None if scan is self._train_set.scan else GroupBlocks(scan.groups, None)
        if len(withheld) == 0:
            return None
        block = self._block_size(scan.placed.raw.n_frames)
        most = max(1, self._train.n_blocks // 2)
        return ValidationBlocks(scan.placed.xy, withheld, block, most, self._training.seed)

    def _loader(self, dataset: BlockDataset, sampler: Sampler[BlockRequest], blocks: int) -> DataLoader[Batch]:
        return DataLoader(
            dataset,
            batch_size=blocks,
            sampler=sampler,
            collate_fn=as_it_is,
            # its own generator: a loader's seed must not be drawn from the caller's
            generator=torch.Generator().manual_seed(0),
            **loader_arguments(self._execution),
        )

    def train_dataloader(self) -> DataLoader[Batch]:
        """Batches of training blocks."""
        return self._loader(self._train_set, self._train, self.blocks_per_step)

    def val_dataloader(self) -> DataLoader[Batch] | list[DataLoader[Batch]]:
        """Batches that score the withheld frames; empty when none are withheld."""
        return [] if self._val is None else self._loader(self._val_set, self._val, 1)


def loader_arguments(execution: PyTorchExecutionConfig) -> dict[str, Any]:
    """Arguments of a DataLoader that the execution config decides."""
    workers = execution.num_workers
    if workers == 0 and (execution.persistent_workers or execution.prefetch_factor is not None):
        logger.warning("persistent_workers and prefetch_factor do not act without workers (num_workers=0).")
    return {
        "num_workers": workers,
        "pin_memory": execution.pin_memory,
        "persistent_workers": execution.persistent_workers and workers > 0,
        "prefetch_factor": execution.prefetch_factor if workers > 0 else None,
    }
