"""The Lightning data module: loaders over blocks of a scan."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from ptycho.config.config import PyTorchExecutionConfig
from ptycho.errors import InputError
from ptycho_torch.config_params import DataConfig, ModelConfig, TrainingConfig
from ptycho_torch.data.blocks import Batch, Begun, BlockDataset, as_it_is
from ptycho_torch.data.parts import spread_folds
from ptycho_torch.data.samplers import (
    BlockRequest,
    GroupBlocks,
    MixedBatches,
    TrainingBlocks,
    ValidationBlocks,
    split_frames,
    within_bounds,
)
from ptycho_torch.data.scans import LitScan
from ptycho_torch.reassembly import StreamedFrames

logger = logging.getLogger(__name__)

TEST_SHARE = 0.2
"""Share of the points of a scan for validation that is withheld from the object and scored."""


FOLDS = 4
"""Parts of the training frames, each of which is scored on an object that began without it."""
LEAST_SEEN = 0.8
"""So much of each part's light has to fall where others see too; else nothing is known there without it."""


class BlockDataModule(LightningDataModule):
    """Training and validation loaders over one scan or several, split by scan point.

    Args:
        scans: the frames to train on; a batch is always of one scan.
        data_config, model_config, training_config: group size, block size, bounds, batch size, split and seed.
        execution_config: worker processes and memory pinning.
        n_groups: groups of ``C`` frames per epoch and scan; None for every frame once.
        validation: scans to validate with; where there are some, every frame of ``scans`` is trained on.
        processes: how many train together; each gets its part of every step.

    Attributes:
        train_indices, val_indices: frames of the first scan that are trained on, and that are withheld.
        blocks_per_step: blocks of an optimiser step, of all processes together, by scan.
    """

    def __init__(
        self, scans: LitScan | Sequence[LitScan], data_config: DataConfig, model_config: ModelConfig,
        training_config: TrainingConfig, execution_config: PyTorchExecutionConfig, n_groups: int | None = None,
        validation: LitScan | Sequence[LitScan] = (), processes: int = 1,
    ) -> None:  # fmt: skip
        super().__init__()
        self._processes = processes
        self._execution = execution_config
        self._data, self._model, self._training, self._n_groups = data_config, model_config, training_config, n_groups
        self._scans, self._beside = _as_list(scans), _as_list(validation)
        self._splits = [self._split(scan) for scan in self._scans]
        self.train_indices, self.val_indices = self._splits[0]
        parts = [self._training_part(scan, split[0]) for scan, split in zip(self._scans, self._splits, strict=True)]
        self.blocks_per_step = [size for _, size in parts]
        self._train = parts
        self._val_scans, self._val = self._validation_parts()
        self._begun: dict[int, dict[int | None, Begun]] = {}

    def begin(self, steps: int, device: str) -> None:
        """Make what blocks start from: the first projections, by all frames that are trained on, on the whole canvas.

        A block then starts as the whole scan does in inference, and nothing is projected twice. There is one more for
        each of `FOLDS` parts of the frames, made without it, provided that the others see what those see: a block is
        scored on the frames of one part, and starts without them. A network that is scored on frames which its input
        has seen learns to keep their noise (docs/findings.md, FOLD-001). Scans of which positions are known within
        groups only have no common canvas, and blocks of single frames are to know nothing of each other: they start
        from vacuum, as with ``steps`` = 0.

        Args:
            steps: projections from vacuum.
            device: where to make them; torch's name.
        """
        if steps == 0 or not self._model.object_big:
            return
        beside = [split_of_beside(scan, self._training.seed) for scan in self._beside]
        for scan, (members, _) in zip([*self._scans, *self._beside], [*self._splits, *beside], strict=True):
            if scan.groups is None:
                self._begun[id(scan)] = {None: _begun(_of(scan, members, device), steps)}
        for scan, (members, _), (blocks, _) in zip(self._scans, self._splits, self._train, strict=True):
            # a known object has no noise that could be learned
            if isinstance(blocks, TrainingBlocks) and self._model.mode != "Supervised":
                folds = spread_folds(scan.placed.xy, members, FOLDS, self._training.seed)
                parts = [_of(scan, members[folds[members] != n], device) for n in range(FOLDS)]
                whole = self._begun[id(scan)][None]
                if _seen_without(whole.lit, [_lit(part) for part in parts]) >= LEAST_SEEN:
                    blocks.folds = folds
                    self._begun[id(scan)] |= {n: _begun(part, steps) for n, part in enumerate(parts)}

    @property
    def validates(self) -> bool:
        """True if there is anything to validate with."""
        return bool(self._val)

    def _split(self, scan: LitScan) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        withholds = not self._beside and scan.groups is None
        config = self._training
        return split_frames(scan.placed.raw.n_frames, config.val_fraction if withholds else 0.0, config.seed)

    def _block_size(self, n_frames: int) -> int:
        return min(self._model.merge_block if self._model.object_big else 1, n_frames)

    def _training_part(self, scan: LitScan, members: NDArray[np.int64]) -> tuple[TrainingBlocks | GroupBlocks, int]:
        """Blocks of a scan, and how many make a step."""
        config, C = self._training, self._data.C
        if scan.groups is not None:
            groups = scan.groups if self._n_groups is None else scan.groups[: self._n_groups]
            blocks_of_groups = GroupBlocks(groups, None if config.sequential_sampling else config.seed)
            return blocks_of_groups, max(config.batch_size, self._processes)
        if len(members) == 0:
            raise InputError(
                f"val_fraction={config.val_fraction!r} withholds all of {scan.placed.raw.n_frames} frames: found "
                "nothing to train on. Withhold less."
            )
        block = self._block_size(len(members))
        max_blocks = None if self._n_groups is None else max(1, -(-self._n_groups * C // block))
        centres = within_bounds(scan.placed.xy, self._data.x_bounds, self._data.y_bounds)
        if not centres[members].any():
            raise InputError(
                f"x_bounds={self._data.x_bounds}, y_bounds={self._data.y_bounds}: found no training frame within "
                "these shares of the scan's range, expected some. Widen them; (0.0, 1.0) takes every frame."
            )
        blocks = TrainingBlocks(
            scan.placed.xy, members, block, config.seed, max_blocks,
            centres=centres, sequential=config.sequential_sampling,
        )  # fmt: skip
        # batch_size counts groups of C frames; a step takes whole blocks, at least one, and steps are evenly large
        steps = -(-len(blocks) // max(self._processes, round(config.batch_size * C / block)))
        return blocks, -(-len(blocks) // steps)

    def _validation_parts(self) -> tuple[list[LitScan], list[ValidationBlocks | GroupBlocks]]:
        """Scans that are validated with, and the blocks of each."""
        found: list[tuple[LitScan, ValidationBlocks | GroupBlocks]] = []
        for scan, (_, withheld), (blocks, _) in zip(self._scans, self._splits, self._train, strict=True):
            if len(withheld):
                found.append((scan, self._withheld_blocks(scan, withheld, len(blocks))))
        for scan in self._beside:
            if scan.groups is not None:
                # positions across groups are unknown: a group is scored on itself
                found.append((scan, GroupBlocks(scan.groups, None)))
                continue
            withheld = split_of_beside(scan, self._training.seed)[1]
            found.append((scan, self._withheld_blocks(scan, withheld, sum(len(blocks) for blocks, _ in self._train))))
        return [scan for scan, _ in found], [blocks for _, blocks in found]

    def _withheld_blocks(self, scan: LitScan, withheld: NDArray[np.int64], training_blocks: int) -> ValidationBlocks:
        # a withheld frame needs neighbours that make the object, also where training takes frames one by one
        merged = self._model.merge_block if self._model.merge_block > 1 else ModelConfig.merge_block
        size, most = min(merged, scan.placed.raw.n_frames), max(1, training_blocks // 2)
        return ValidationBlocks(scan.placed.xy, withheld, size, most, self._training.seed)

    def _loader(
        self, scans: Sequence[LitScan], parts: Sequence[tuple[Sampler[BlockRequest], int]], seed: int | None
    ) -> DataLoader[Batch]:  # fmt: skip
        batches: dict[str, Any] = {"batch_sampler": MixedBatches(parts, seed)}
        if len(parts) == 1 and self._processes == 1:
            batches = {"sampler": parts[0][0], "batch_size": parts[0][1]}
        return DataLoader(
            BlockDataset(scans, [self._begun.get(id(scan)) for scan in scans]),
            collate_fn=as_it_is,
            # its own generator: a loader's seed must not be drawn from the caller's. Other processes do not touch
            # that one, and torch cannot hand two generators over to them.
            generator=torch.Generator().manual_seed(0) if self._processes == 1 else None,
            **batches,
            **loader_arguments(self._execution),
        )

    def train_dataloader(self) -> DataLoader[Batch]:
        """Batches of training blocks."""
        return self._loader(self._scans, self._train, self._training.seed)

    def val_dataloader(self) -> DataLoader[Batch] | list[DataLoader[Batch]]:
        """Batches that score the withheld frames; empty when none are withheld."""
        return self._loader(self._val_scans, [(b, self._processes) for b in self._val], None) if self._val else []


def _seen_without(lit: Tensor, lit_without: Sequence[Tensor]) -> float:
    """Share of the light of the parts of a scan that falls where the other frames send as much or more."""
    own = [(lit - others).clamp(min=0) for others in lit_without]
    seen = sum(float(part[others >= part].sum()) for part, others in zip(own, lit_without, strict=True))
    return seen / max(1e-30, sum(float(part.sum()) for part in own))


def split_of_beside(scan: LitScan, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Frames of a scan for validation that make its object, and those that are withheld from it and scored."""
    n_frames = scan.placed.raw.n_frames
    return split_frames(n_frames, max(TEST_SHARE, 1.5 / n_frames), seed)


def _of(scan: LitScan, members: NDArray[np.int64], device: str) -> StreamedFrames:
    """Some frames of a scan, streamed."""
    good = torch.from_numpy(scan.placed.raw.good_pixels.copy()).to(device)
    return StreamedFrames(scan.placed, scan.probe.to(device), good, members=torch.from_numpy(members))


def _lit(frames: StreamedFrames) -> Tensor:
    return (frames.illumination()[0] * frames.probe.abs().square().sum(0).amax()).cpu()


@torch.no_grad()
def _begun(frames: StreamedFrames, steps: int) -> Begun:
    return Begun(frames.begin(steps)[0].cpu(), _lit(frames))


def _as_list(scans: LitScan | Sequence[LitScan]) -> list[LitScan]:
    return [scans] if isinstance(scans, LitScan) else list(scans)


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
