"""`RawDataTorch`: a scan as callers of the reference hand it to the backend; it wraps a RawData."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptycho import params
from ptycho.config.config import update_legacy_dict
from ptycho.raw_data import RawData


class RawDataTorch:
    """A RawData under the reference's name.

    Attributes:
        raw: the scan itself.
        config: the public configuration it was given, or None.
    """

    raw: RawData
    config: Any

    def __init__(
        self,
        xcoords: ArrayLike,
        ycoords: ArrayLike,
        diff3d: Any,
        probeGuess: Any,
        scan_index: ArrayLike | None = None,
        objectGuess: Any = None,
        config: Any = None,
    ) -> None:
        """Make a scan of arrays; shapes as those of RawData.

        Args:
            xcoords, ycoords: (M,) object pixels.
            diff3d: (M, N, N) real.
            probeGuess: (N, N), (N, N, 1) or (modes, N, N) complex.
            scan_index: (M,) integer; 0 when None.
            objectGuess: (H, W) complex, or None.
            config: a public TrainingConfig or InferenceConfig. It is written into the legacy dictionary
                (CONFIG-001), and says the gridsize of groups and, if it states one, the domain of the frames.

        Raises:
            InputError: arrays that do not make a scan.
        """
        domain = getattr(config, "measurement_domain", "auto")
        nphotons = getattr(config, "nphotons", None) if domain == "normalized_amplitude" else None
        raw = RawData.from_coords_without_pc(
            xcoords, ycoords, diff3d, probeGuess, scan_index, objectGuess, measurement_domain=domain, nphotons=nphotons,
        )  # fmt: skip
        self._adopt(raw, config)

    @classmethod
    def of_raw(cls, raw: RawData, config: Any = None) -> RawDataTorch:
        """Wrap a scan that is there already; its true patches, mask and domain stay with it."""
        wrapped = cls.__new__(cls)
        wrapped._adopt(raw, config)
        return wrapped

    def _adopt(self, raw: RawData, config: Any) -> None:
        self.raw = raw
        self.config = config
        if config is not None:
            update_legacy_dict(params.cfg, config)

    @property
    def xcoords(self) -> NDArray[np.float64]:
        """(M,) x of the patch centres, object pixels."""
        return self.raw.xcoords

    @property
    def ycoords(self) -> NDArray[np.float64]:
        """(M,) y of the patch centres, object pixels."""
        return self.raw.ycoords

    @property
    def xcoords_start(self) -> NDArray[np.float64]:
        """(M,) nominal x."""
        return self.raw.xcoords_start

    @property
    def ycoords_start(self) -> NDArray[np.float64]:
        """(M,) nominal y."""
        return self.raw.ycoords_start

    @property
    def diff3d(self) -> Any:
        """(M, N, N) frames in the dtype in which they were given."""
        return self.raw.diff3d

    @property
    def probeGuess(self) -> NDArray[Any] | None:
        """The probe guess as given."""
        return self.raw.probeGuess

    @property
    def scan_index(self) -> NDArray[np.int64]:
        """(M,)."""
        return self.raw.scan_index

    @property
    def objectGuess(self) -> NDArray[Any] | None:
        """(H, W) complex, or None."""
        return self.raw.objectGuess

    @property
    def Y(self) -> NDArray[Any] | None:
        """True patches (M, N, N), or None."""
        return self.raw.Y

    def generate_grouped_data(
        self,
        N: int,
        K: int = 4,
        nsamples: int = 1,
        seed: int | None = None,
        sequential_sampling: bool = False,
        gridsize: int | None = None,
        dataset_path: Any = None,
        enable_oversampling: bool = False,
        neighbor_pool_size: int | None = None,
    ) -> dict[str, Any]:
        """The legacy dictionary of groups, exactly as RawData.generate_grouped_data makes it for the same seed.

        gridsize None is the one of ``config``; without a config, the one of the legacy dictionary.
        """
        if gridsize is None:
            gridsize = getattr(getattr(self.config, "model", None), "gridsize", None)
        return self.raw.generate_grouped_data(
            N,
            K=K,
            nsamples=nsamples,
            dataset_path=dataset_path,
            seed=seed,
            sequential_sampling=sequential_sampling,
            gridsize=gridsize,
            enable_oversampling=enable_oversampling,
            neighbor_pool_size=neighbor_pool_size,
        )

    def __repr__(self) -> str:
        return f"RawDataTorch({self.raw})"
