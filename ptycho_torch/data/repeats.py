"""A scan measured once more in simulation, drawn batch by batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho.raw_data import RawData

_KEPT_BYTES = 2**28


class RepeatedScan(RawData):
    """A scan whose counts are drawn from rates: those of each frame always the same ones for one seed.

    Positions, probe, mask and all else are those of the scan it repeats.  Counts of up to 256 MiB in all are kept;
    those of larger scans are drawn anew whenever they are asked for, so that memory does not grow with the scan.
    """

    _rates: Callable[[Tensor], Tensor]
    _excess: float
    _seed: tuple[int, ...]
    _numbers: NDArray[np.int64]
    _kept: dict[int, NDArray[np.float32]]

    @classmethod
    def of(
        cls, raw: RawData, rates: Callable[[Tensor], Tensor], *, excess: float = 1.0, seed: tuple[int, ...] = (0,)
    ) -> RepeatedScan:
        """Repeat ``raw``.

        Args:
            raw: the scan.
            rates: (n,) int64 frame indices -> (n, N, N) expected counts, zero frequency at N//2.
            excess: variance of the counts over their mean, > 0: counts are drawn as if they came in bunches of this
                size.
            seed: of the draws; whole numbers >= 0.
        """
        part = object.__new__(cls)
        part.__dict__.update(raw._derived().__dict__)
        part._rates, part._excess, part._seed, part._kept = rates, excess, seed, {}
        part._numbers = np.arange(raw.n_frames)
        return part

    def subset(self, indices: Any, *, copy: bool = True) -> RawData:
        """See :meth:`RawData.subset`; the frames have the counts that they have here."""
        chosen = np.arange(self.n_frames)[indices].reshape(-1)
        part = super().subset(indices, copy=copy)
        assert isinstance(part, RepeatedScan)
        part._numbers = self._numbers[chosen]
        return part

    def counts(self, indices: Any = None) -> NDArray[np.float32]:
        """Simulated counts, float32 (n, N, N), of all frames or of those given."""
        wanted = self._numbers[slice(None) if indices is None else indices].reshape(-1).tolist()
        missing = [index for index in wanted if index not in self._kept]
        drawn = dict(zip(missing, self._drawn(missing), strict=True)) if missing else {}
        counts = np.stack([self._kept[index] if index in self._kept else drawn[index] for index in wanted])
        if 4 * self.n_frames * self.N**2 <= _KEPT_BYTES:
            self._kept.update(drawn)
        return counts

    def _drawn(self, indices: list[int]) -> list[NDArray[np.float32]]:
        rates = self._rates(torch.tensor(indices)).cpu().numpy().astype(np.float64) / self._excess
        rngs = (np.random.default_rng((*self._seed, index)) for index in indices)
        return [(self._excess * rng.poisson(rate)).astype(np.float32) for rng, rate in zip(rngs, rates, strict=True)]
