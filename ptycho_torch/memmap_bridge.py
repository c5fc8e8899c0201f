"""`MemmapDatasetBridge`: a scan file as callers of the reference hand it to the backend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ptycho.raw_data import RawData
from ptycho_torch.raw_data_bridge import RawDataTorch


class MemmapDatasetBridge:
    """A scan file, read by RawData.from_file, which maps large uncompressed frames from the file itself.

    The reference needs a folder for a copy of the frames that can be mapped; here nothing is written and
    ``memmap_dir`` is neither made nor looked at. It is accepted because callers pass it.

    Attributes:
        npz_path: the scan file.
        memmap_dir: as given.
        raw_data_torch: the scan, wrapped.
        raw: the scan.
    """

    def __init__(self, npz_path: str | Path, config: Any = None, memmap_dir: str | Path = "data/memmap") -> None:
        """Read a scan (specs/data_contracts.md); frames are called diff3d or diffraction.

        Args:
            npz_path: any format that ptycho.io.registry knows.
            config: as that of RawDataTorch.
            memmap_dir: see above.

        Raises:
            MissingFileError, InputError: no such file, or not a scan.
        """
        self.npz_path = Path(npz_path)
        self.memmap_dir = Path(memmap_dir)
        raw = RawData.from_file(npz_path, measurement_domain=getattr(config, "measurement_domain", None))
        self.raw_data_torch = RawDataTorch.of_raw(raw, config)

    @property
    def raw(self) -> RawData:
        """The scan itself."""
        return self.raw_data_torch.raw

    def get_grouped_data(
        self, N: int, K: int = 4, nsamples: int = 1, gridsize: int | None = None, seed: int | None = None
    ) -> dict[str, Any]:
        """The legacy dictionary of groups; see RawDataTorch.generate_grouped_data."""
        return self.raw_data_torch.generate_grouped_data(N, K=K, nsamples=nsamples, seed=seed, gridsize=gridsize)
