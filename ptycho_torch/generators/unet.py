"""A small U-Net without normalisation layers, so that its output depends on local input only."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SILU_GAIN = 1.6765
"""1 / sqrt(E[silu(z)^2]) for a standard normal z."""


class DoubleConv(nn.Module):
    """Two 3x3 convolutions, each followed by SiLU.

    They start with weights that keep the strength of a signal (K. He et al., ICCV 2015, there for another
    nonlinearity): without normalisation nothing else does, and what fades on the way is learned late or not at all.
    """

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(n_in, n_out, 3, padding=1)
        self.second = nn.Conv2d(n_out, n_out, 3, padding=1)
        for conv in (self.first, self.second):
            nn.init.normal_(conv.weight, std=SILU_GAIN / math.sqrt(conv.weight[0].numel()))
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, n_in, H, W) to (B, n_out, H, W)."""
        alone = not torch.is_grad_enabled()  # then nobody asks for what was there before
        return F.silu(self.second(F.silu(self.first(x), inplace=alone)), inplace=alone)


class UNet(nn.Module):
    """Encoder and decoder with skip connections (O. Ronneberger et al., MICCAI 2015), zero output at the start.

    Args:
        n_in: input channels.
        n_out: output channels.
        widths: channels per level, finest first; each level halves the resolution.

    Any height and width are accepted: the input is padded with zeros to a multiple of ``stride``.
    """

    def __init__(self, n_in: int, n_out: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.stride = 2 ** (len(widths) - 1)
        self.encoder = nn.ModuleList(DoubleConv(a, b) for a, b in zip((n_in, *widths[:-1]), widths, strict=True))
        self.decoder = nn.ModuleList(
            DoubleConv(deep + skip, skip) for deep, skip in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.head = nn.Conv2d(widths[0], n_out, 1)
        with torch.no_grad():
            for parameter in self.head.parameters():
                parameter.zero_()

    @property
    def halo_px(self) -> int:
        """How far an output pixel can see: tiles need this much margin, a multiple of ``stride``."""
        levels = len(self.encoder)
        reach = sum(4 * 2**k for k in range(levels - 1)) + 2 * 2 ** (levels - 1) + 2 * self.stride
        return -(-reach // self.stride) * self.stride

    def forward(self, x: Tensor) -> Tensor:
        """(B, n_in, H, W) to (B, n_out, H, W)."""
        height, width = x.shape[-2:]
        x = self._whole_steps(x)
        skips = []
        for level, block in enumerate(self.encoder):
            x = block(F.avg_pool2d(x, 2) if level else x)
            skips.append(x)
        skips.pop()
        for block in self.decoder:  # a skip goes with its use: they are the largest maps
            x = block(torch.cat((F.interpolate(x, scale_factor=2.0, mode="nearest"), skips.pop()), dim=1))
        return self.head(x)[..., :height, :width]

    def mean_of_turns(self, x: Tensor) -> Tensor:
        """As :meth:`forward`, the mean over ``x`` as it is and turned by one, two and three quarters.

        Nothing tells the network which way round an object is, so that what the four disagree about is its own error.
        """
        height, width = x.shape[-2:]
        x = self._whole_steps(x)  # turned before that, a tile would be pooled in another grid than the whole
        total = self(x)
        for quarters in (1, 2, 3):
            total = total + torch.rot90(self(torch.rot90(x, quarters, (-2, -1))), -quarters, (-2, -1))
        return total[..., :height, :width] / 4

    def _whole_steps(self, x: Tensor) -> Tensor:
        """Padded with zeros to multiples of the stride."""
        height, width = x.shape[-2:]
        # the modulus of a negative size is more than torch.compile knows
        steps_down, steps_across = (height + self.stride - 1) // self.stride, (width + self.stride - 1) // self.stride
        return F.pad(x, (0, steps_across * self.stride - width, 0, steps_down * self.stride - height))
