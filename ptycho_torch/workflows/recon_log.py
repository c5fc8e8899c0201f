"""Pictures of the object while it is being learned."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from numpy.typing import NDArray

from ptycho.config.config import PyTorchExecutionConfig
from ptycho.io.atomic import atomic_path
from ptycho_torch.data.scans import PlacedScan
from ptycho_torch.physics.patches import extract
from ptycho_torch.reassembly import StreamedFrames

logger = logging.getLogger(__name__)

FOLDER = "reconstructions"


class ReconstructionLog(pl.Callback):
    """Every few epochs, patches of the object (and the object) as PNG below the output folder and to the logger.

    Args:
        every: in epochs.
        patches: how many patches, evenly chosen from the scan.
        indices: frames whose patches are shown instead.
        stitch: show the whole object too.
        most_frames: use only so many frames, around the middle of the scan; None for all.
        folder: where the pictures go.

    ``scan`` is to be set before training starts.
    """

    scan: PlacedScan | None = None

    def __init__(
        self, every: int, patches: int, indices: tuple[int, ...] | None, stitch: bool, most_frames: int | None,
        folder: Path,
    ) -> None:  # fmt: skip
        self.every, self.patches, self.indices = every, patches, indices
        self.stitch, self.most_frames, self.folder = stitch, most_frames, folder

    @classmethod
    def asked_by(cls, execution: PyTorchExecutionConfig, output_dir: Path) -> ReconstructionLog | None:
        """As the execution config says, or None where it asks for nothing."""
        if execution.recon_log_every_n_epochs is None:
            return None
        fixed = execution.recon_log_fixed_indices
        return cls(
            execution.recon_log_every_n_epochs, execution.recon_log_num_patches,
            None if fixed is None else tuple(fixed), execution.recon_log_stitch,
            execution.recon_log_max_stitch_samples, output_dir / FOLDER,
        )  # fmt: skip

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make the pictures when their epoch has come."""
        epoch = trainer.current_epoch + 1
        if self.scan is None or epoch % self.every or not trainer.is_global_zero:
            return
        config: Any = pl_module.data_config
        frames, used = self._frames(self.scan, config.C)
        canvas = self._object(pl_module, frames)
        shown = self._shown(used)
        self.folder.mkdir(parents=True, exist_ok=True)
        from ptycho import plotting

        if len(shown):
            at = torch.from_numpy(np.searchsorted(used, shown))
            cut = extract(canvas.cpu(), frames.starts[at], frames.raw.N).numpy()
            self._write(trainer, plotting.patches_figure(cut, [f"frame {i}" for i in shown]), "patches", epoch)
        if self.stitch:
            lit = np.ones(tuple(canvas.shape), dtype=bool)
            self._write(trainer, plotting.phase_figure(canvas.cpu().numpy(), lit), "object", epoch)

    def _frames(self, scan: PlacedScan, group: int) -> tuple[PlacedScan, NDArray[np.int64]]:
        """The frames that are used, at least one ``group``, and their numbers in the scan, sorted."""
        total = scan.raw.n_frames
        most = total if self.most_frames is None else max(self.most_frames, group)
        if most >= total:
            return scan, np.arange(total)
        distance = np.sum((scan.xy - np.median(scan.xy, axis=0)) ** 2, axis=1)
        wanted = {i for i in self.indices or () if i < total}
        used = np.array(sorted(wanted | set(np.argsort(distance, kind="stable")[:most].tolist())))
        return PlacedScan.of(scan.raw.subset(used)), used

    def _shown(self, used: NDArray[np.int64]) -> NDArray[np.int64]:
        """The frames whose patches are shown."""
        if self.indices is None:
            evenly = np.linspace(0, len(used) - 1, min(self.patches, len(used)))
            return used[np.unique(evenly.round().astype(int))]
        known = np.intersect1d(np.array(self.indices, dtype=np.int64), used)
        missing = sorted(set(self.indices) - set(known.tolist()))
        if missing:
            logger.warning("recon_log_fixed_indices: the scan has no frames %s.", missing)
        return known

    @staticmethod
    def _object(module: Any, frames: PlacedScan) -> torch.Tensor:
        training = module.training
        module.eval()
        with torch.no_grad():
            streamed = StreamedFrames(frames, module.probe, module.good_pixels)
            canvas: torch.Tensor = module.generator(streamed)[0]
        module.train(training)
        return canvas

    def _write(self, trainer: pl.Trainer, figure: Any, what: str, epoch: int) -> None:
        with atomic_path(self.folder / f"epoch_{epoch:04d}_{what}.png") as temporary:
            figure.savefig(temporary)
        experiment: Any = getattr(trainer.logger, "experiment", None)
        if hasattr(experiment, "add_figure"):  # tensorboard
            experiment.add_figure(what, figure, global_step=epoch)
        elif hasattr(experiment, "log_figure"):  # mlflow
            experiment.log_figure(trainer.logger.run_id, figure, f"{what}/epoch_{epoch:04d}.png")  # type: ignore[union-attr]
