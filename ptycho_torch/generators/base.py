"""What a generator is given, and what it must give back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple, Protocol

from torch import Tensor, nn

from ptycho.errors import InputError


class ByParts(NamedTuple):
    """First projections of a whole scan by parts of the frames in turn (:mod:`ptycho_torch.ordered_subsets`).

    They are coarser at the end than as many by all frames at once, and far ahead on the way.

    Attributes:
        passes: over all frames, >= 1.
        settled: end before that, once what is left to move the object by is less than this share of its departure from
            vacuum.
    """

    passes: int
    settled: float = 0.0


class FramesOnCanvas(Protocol):
    """Frames that share a canvas, seen through the operations a generator may use.

    Training gives blocks of neighbouring frames (leading axis: blocks of a batch), inference the
    whole scan as a stream; a generator written against these operations serves both.
    """

    def vacuum(self) -> Tensor:
        """(B, H, W) complex ones."""
        ...

    def begin(self, steps: int | ByParts) -> Tensor:
        """The object after so many projections from vacuum, (B, H, W) complex.

        In training that is by all frames of the scan, made once, where ``Generator.begin_steps`` has announced it; then
        the blocks are cut from it.
        """
        ...

    def project(self, canvas: Tensor, steps: int, made: int = 0) -> Tensor:
        """Averaged projections towards the measured counts, (B, H, W) to (B, H, W), after ``made`` others."""
        ...

    def illumination(self) -> Tensor:
        """(B, H, W) real: sum over frames and modes of |P|^2 over the maximum of sum over modes |P|^2."""
        ...

    def from_patches(self, predict: Callable[[Tensor], Tensor], group: int) -> Tensor:
        """(B, H, W) complex: patches predicted from frames alone, merged by their illumination.

        ``predict`` maps amplitudes (G, ``group``, N, N), zero frequency at N//2, of a mean energy of (N/2)^2 per
        frame, to object patches of that shape, complex, each centred on its own position.
        """
        ...

    def apply(
        self, step: Callable[..., Tensor], *maps: Tensor, halo_px: int | None, overwrite: bool = False
    ) -> Tensor:  # fmt: skip
        """``step(*maps)``, in tiles where the canvas is large, so that what it needs in between stays small.

        ``step`` takes maps (B, ..., H, W) of any common H and W and gives one of that size, of which each pixel depends
        on those at most ``halo_px`` away; None: on all of them, and there are no tiles. ``overwrite`` says that the
        first map, to which the result is alike, is not needed any more: on a large canvas it becomes the result.
        """
        ...


class Generator(nn.Module, ABC):
    """Base of all generators: the object on the canvas from the frames on it.

    Attributes:
        name: of the architecture.
        learning_rate_share: what the optimiser takes of the configured learning rate; layers of many channels need
            smaller steps.
        begin_steps: the ``steps`` with which :meth:`FramesOnCanvas.begin` will be called; 0 if it is not.
        takes_parts: whether :meth:`project_first` is known.
    """

    name: str
    learning_rate_share: float = 1.0
    begin_steps: int = 0
    takes_parts: bool = False

    def networks(self) -> list[nn.Module]:
        """The parts that are called on tensors alone, which is what can be compiled."""
        return []

    @abstractmethod
    def forward(self, frames: FramesOnCanvas) -> Tensor:
        """The object, (B, H, W) complex."""

    def project_first(self, by_parts: ByParts) -> None:
        """Begin with these projections from now on, for a coarse object soon.

        Raises:
            InputError: the generator takes none.
        """
        raise InputError(
            f"projections={by_parts.passes}: the architecture {self.name!r} takes no projections before the network. "
            "Leave them out."
        )

    @abstractmethod
    def without_network(self, frames: FramesOnCanvas) -> Tensor:
        """What the same data give without the network: the figure that has to be beaten."""
