"""The published network as a generator: each group of frames gives its patches, and they are merged on the canvas."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ptycho_torch.generators.base import FramesOnCanvas, Generator
from ptycho_torch.generators.cnn import CnnAutoencoder


class Patchwise(Generator):
    """No projection: the network alone goes from amplitudes to the object, which overlap then averages.

    Args:
        autoencoder: amplitudes (G, C, N, N) to amplitude and phase of the object, both of that shape.
        baseline_steps: projections of the figure that the network has to beat.
    """

    name = "cnn"
    learning_rate_share = 0.2  # docs/findings.md, RATE-001

    def __init__(self, autoencoder: CnnAutoencoder, baseline_steps: int) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.baseline_steps = baseline_steps

    def networks(self) -> list[nn.Module]:
        """The autoencoder."""
        return [self.autoencoder]

    def forward(self, frames: FramesOnCanvas) -> Tensor:
        """The object, (B, H, W) complex."""

        def predict(amplitudes: Tensor) -> Tensor:
            amplitude, phase = self.autoencoder(amplitudes)
            return torch.polar(amplitude, phase)

        return frames.from_patches(predict, self.autoencoder.n_channels)

    def without_network(self, frames: FramesOnCanvas) -> Tensor:
        """As many projections as the other architecture takes, and no network."""
        return frames.begin(self.baseline_steps)
