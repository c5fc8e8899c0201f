"""The published network of PtychoPINN: diffraction amplitudes in, amplitude and phase of the object out.

One encoder, two decoders (O. Hoidn, A. A. Mishra and A. Mehta, Sci. Rep. 13, 22789 (2023)), with the attention
blocks of the later PyTorch version.  It differs from that version in what follows.

- Every head keeps its range everywhere: the outer branch of ``probe_big`` adds to the pre-activation, linearly,
  instead of to the result.
- Attention that is switched on acts, in the decoders too.
- Training begins at vacuum: the last convolutions are zero, so amplitude is 1 and phase 0.  From anywhere else, the
  first steps would only unlearn a random object.
- Without ``probe_big`` no channels are set aside for the branch that is not there.
- Gates start at 1/2 whatever they see, and the convolution before them makes up for it: attention begins as none.
- The other convolutions have He's initialisation (K. He et al., ICCV 2015) and no bias at first.  With torch's
  default the biases drown the signal: at N = 64 a share of 5e-6 of a new network's last features differs between
  frames, against 0.2, and after 320 steps of Adam on simulated frames half the deviance of withheld ones was 2.02
  per pixel (2.58 for vacuum), against 0.58 (one run each).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ptycho.errors import InputError
from ptycho_torch.physics.fourier import at_least_single

_ENCODER_WIDTHS = {64: (32, 64, 128), 128: (16, 32, 64, 128), 256: (8, 16, 32, 64, 128)}
_DECODER_WIDTHS = {64: (64, 32), 128: (128, 64, 32), 256: (256, 128, 64, 32)}
"""Channels per block for n_filters_scale = 1, by side of the frame; the encoder always ends at 8 x 8 pixels."""

_SMALLEST_AMPLITUDE = 1e-6
_SOFTPLUS_SHIFT = math.log(math.e - 1)  # softplus of this is 1


def _two_sigmoid(z: Tensor) -> Tensor:
    return 2 * torch.sigmoid(z)


def _shifted_softplus(z: Tensor) -> Tensor:
    return F.softplus(z + _SOFTPLUS_SHIFT)


def _one_plus(z: Tensor) -> Tensor:
    return 1 + z


# swish and silu are one function, and negative below zero; softplus is the positive one with their shape
_AMPLITUDE_CURVES: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": _two_sigmoid,
    "softplus": _shifted_softplus,
    "swish": _shifted_softplus,
    "silu": _shifted_softplus,
    "relu": _one_plus,
}


def amplitude_head(z: Tensor, activation: str) -> Tensor:
    """Amplitude from the pre-activation: positive, increasing, 1 at zero.

    Args:
        z: any shape, real.
        activation: 'sigmoid' = 2 sigmoid(z), below 2; 'softplus', 'swish', 'silu' = softplus(z + log(e - 1));
            'relu' = 1 + z.  All are cut at 1e-6 from below.

    Returns:
        Same shape, single precision or better.

    Raises:
        InputError: an unknown activation.
    """
    curve = _AMPLITUDE_CURVES.get(activation.lower())
    if curve is None:
        raise InputError(f"amp_activation: found {activation!r}, expected one of {', '.join(_AMPLITUDE_CURVES)}.")
    return curve(at_least_single(z)).clamp(min=_SMALLEST_AMPLITUDE)


def phase_head(z: Tensor) -> Tensor:
    """Phase pi tanh(z) in rad, single precision or better.

    No two pixels differ by more than 2 pi, by construction.  An object whose phase range is larger is still
    represented, because only exp(i phase) enters the physics; its phase then comes out wrapped.
    """
    return torch.pi * torch.tanh(at_least_single(z))


def _start_at_zero(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


class ChannelGate(nn.Module):
    """Channel attention of CBAM: one shared MLP on the average and the maximum of each channel.

    S. Woo et al., ECCV 2018.
    """

    def __init__(self, n_channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(1, n_channels // reduction)
        first, last = nn.Linear(n_channels, hidden), nn.Linear(hidden, n_channels)
        self.mlp = nn.Sequential(first, nn.ReLU(), last)
        with torch.no_grad():
            # the input is never negative, so a row of negative sum would most likely be dead for good
            first.weight *= torch.where(first.weight.sum(dim=1, keepdim=True) < 0, -1.0, 1.0)
            first.bias.zero_()
        _start_at_zero(last)

    def forward(self, x: Tensor) -> Tensor:
        """(B, n_channels, H, W) to the same shape."""
        gate = torch.sigmoid(self.mlp(x.mean(dim=(-2, -1))) + self.mlp(x.amax(dim=(-2, -1))))
        return x * gate[..., None, None]


class SpatialGate(nn.Module):
    """Spatial attention of CBAM: a convolution over the maximum and the mean of all channels."""

    def __init__(self, kernel_size: int = 7) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False)
        _start_at_zero(self.conv)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        summary = torch.cat((x.amax(dim=1, keepdim=True), x.mean(dim=1, keepdim=True)), dim=1)
        return x * torch.sigmoid(self.conv(summary))


class EfficientChannelGate(nn.Module):
    """Channel attention across neighbouring channels only (ECA; Q. Wang et al., CVPR 2020)."""

    def __init__(self, kernel_size: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, kernel_size, padding=kernel_size // 2, bias=False)
        _start_at_zero(self.conv)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        averages = x.mean(dim=(-2, -1))
        return x * torch.sigmoid(self.conv(averages[:, None])[:, 0])[..., None, None]


def attention(n_channels: int, cbam: bool = False, eca: bool = False, spatial_kernel: int = 0) -> nn.Sequential:
    """The gates that are switched on, in this order; none is the identity.  ``spatial_kernel`` 0 means no such gate."""
    gates: list[nn.Module] = []
    if cbam:
        gates += [ChannelGate(n_channels), SpatialGate()]
    if eca:
        gates.append(EfficientChannelGate())
    if spatial_kernel:
        gates.append(SpatialGate(spatial_kernel))
    return nn.Sequential(*gates)


class ConvBlock(nn.Module):
    """Twice: 3x3 convolution, batch norm if asked for, ReLU; then attention."""

    def __init__(self, n_in: int, n_out: int, batch_norm: bool = False, gates: nn.Sequential | None = None) -> None:
        super().__init__()
        # batch norm takes away what a bias before it adds
        self.conv1 = nn.Conv2d(n_in, n_out, 3, padding=1, bias=not batch_norm)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=not batch_norm)
        self.norm1: nn.Module = nn.BatchNorm2d(n_out) if batch_norm else nn.Identity()
        self.norm2: nn.Module = nn.BatchNorm2d(n_out) if batch_norm else nn.Identity()
        self.attention = nn.Sequential() if gates is None else gates
        for conv in (self.conv1, self.conv2):
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
        with torch.no_grad():  # each gate starts at 1/2 everywhere
            self.conv2.weight *= 2.0 ** len(self.attention)

    def forward(self, x: Tensor) -> Tensor:
        """(B, n_in, H, W) to (B, n_out, H, W)."""
        x = F.relu(self.norm1(self.conv1(x)))
        return self.attention(F.relu(self.norm2(self.conv2(x))))


class Encoder(nn.Module):
    """Blocks, each followed by a 2x2 maximum."""

    def __init__(self, n_in: int, widths: Sequence[int], batch_norm: bool, cbam: bool, eca: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            ConvBlock(a, b, batch_norm, attention(b, cbam, eca))
            for a, b in zip((n_in, *widths[:-1]), widths, strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, n_in, N, N) to (B, widths[-1], N / 2^blocks, N / 2^blocks)."""
        for block in self.blocks:
            x = F.max_pool2d(block(x), 2)
        return x


class DecoderLast(nn.Module):
    """Pre-activations of a whole frame from features of half its side.

    The central N/2 square comes from a convolution over the first channels.  The border around it comes from the
    last ``c_outer`` channels, through an up-block of its own, or is 0 (which the heads turn into vacuum) when
    ``c_outer`` is 0.  Neither reaches into the other's pixels.
    """

    def __init__(self, n_side: int, n_in: int, n_out: int, c_outer: int, batch_norm: bool) -> None:
        super().__init__()
        self.margin = n_side // 4
        self.c_outer = c_outer
        self.inner = nn.Conv2d(n_in - c_outer, n_out, 3, padding=1)
        _start_at_zero(self.inner)  # vacuum
        if c_outer:
            self.outer_block = ConvBlock(c_outer, n_in, batch_norm)
            self.outer = nn.Conv2d(n_in, n_out, 3, padding=1)
            _start_at_zero(self.outer)

    def _frame(self, square: Tensor, value: float) -> Tensor:
        """(..., N/2, N/2) set into the middle of (..., N, N) filled with ``value``."""
        return F.pad(square, (self.margin,) * 4, value=value)

    def forward(self, x: Tensor) -> Tensor:
        """(B, n_in, N/2, N/2) to (B, n_out, N, N)."""
        n_inner = x.shape[1] - self.c_outer
        z = self._frame(self.inner(x[:, :n_inner]), 0.0)
        if self.c_outer:
            border = self._frame(x.new_zeros(x.shape[-2:]), 1.0)
            z = z + border * self.outer(_twice_as_large(self.outer_block(x[:, n_inner:])))
        return z


class Decoder(nn.Module):
    """Blocks, each followed by doubling the resolution, and :class:`DecoderLast`; gives pre-activations."""

    def __init__(
        self, n_in: int, widths: Sequence[int], last: DecoderLast, batch_norm: bool, cbam: bool, eca: bool,
        spatial_kernel: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.blocks = nn.ModuleList(
            ConvBlock(a, b, batch_norm, attention(b, cbam, eca, spatial_kernel))
            for a, b in zip((n_in, *widths[:-1]), widths, strict=True)
        )
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        """(B, n_in, 8, 8) to (B, n_out, N, N)."""
        for block in self.blocks:
            x = _twice_as_large(block(x))
        return self.last(x)


def _twice_as_large(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def outer_channels(width: int, n_channels: int, fraction: float | None) -> int:
    """Channels of the last block that are set aside for the border, of ``width``.

    Args:
        width: channels of the last block.
        n_channels: frames of a group; as many channels are set aside when ``fraction`` is None.
        fraction: of ``width``, rounded down, at least 1 channel: the older rule.

    Raises:
        InputError: nothing would be left for the centre.
    """
    if fraction is not None and not 0 < fraction < 1:
        raise InputError(f"decoder_last_c_outer_fraction: found {fraction}, expected a number between 0 and 1.")
    outer = n_channels if fraction is None else max(1, int(width * fraction))
    if outer >= width:
        raise InputError(
            f"cnn: found {n_channels} frames in a group and {width} channels in the last block, of which {outer} are "
            "for the border; expected fewer. Raise n_filters_scale, lower gridsize, or set probe_big=False."
        )
    return outer


class CnnAutoencoder(nn.Module):
    """Encoder and two decoders.

    Args:
        n_side: N, side of a frame in pixels: 64, 128 or 256.
        n_channels: C, frames of a group; each is a channel of input and output.
        n_filters_scale: factor on all widths, which are rounded.
        amp_activation: see :func:`amplitude_head`; upper or lower case.
        probe_big: the border outside the central N/2 square is predicted too; otherwise it is vacuum.
        batch_norm: in the encoder and the phase decoder; the amplitude decoder never has any, as published.
        cbam_encoder, cbam_bottleneck, cbam_decoder: CBAM in each block, and behind the encoder.
        eca_encoder, eca_decoder: ECA in each block, after CBAM.
        spatial_decoder: one more spatial gate in each decoder block, with kernel ``decoder_spatial_kernel`` (odd).
        use_legacy_decoder_channel_override: the border's channels are the share ``decoder_last_c_outer_fraction``
            of the last block's, instead of C.

    Attributes:
        encoder, decoder_amp, decoder_phase: the parts; the decoders give pre-activations.

    Raises:
        InputError: a value out of range.
    """

    def __init__(
        self, *, n_side: int, n_channels: int = 1, n_filters_scale: float = 2, amp_activation: str = "sigmoid",
        probe_big: bool = True, batch_norm: bool = False, cbam_encoder: bool = True, cbam_bottleneck: bool = False,
        cbam_decoder: bool = False, eca_encoder: bool = False, eca_decoder: bool = False,
        spatial_decoder: bool = False, decoder_spatial_kernel: int = 7, decoder_last_c_outer_fraction: float = 0.125,
        use_legacy_decoder_channel_override: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        if n_side not in _ENCODER_WIDTHS:
            raise InputError(
                f"cnn: found frames of N={n_side}, expected one of {', '.join(map(str, _ENCODER_WIDTHS))}. Crop the "
                "frames, or take another architecture."
            )
        if n_channels < 1 or not n_filters_scale > 0:
            raise InputError(
                f"cnn: found n_channels={n_channels} and n_filters_scale={n_filters_scale}, expected both above 0."
            )
        if spatial_decoder and (decoder_spatial_kernel < 1 or decoder_spatial_kernel % 2 == 0):
            raise InputError(f"decoder_spatial_kernel: found {decoder_spatial_kernel}, expected an odd number above 0.")
        amplitude_head(torch.zeros(()), amp_activation)  # refuses an unknown one now
        self.n_side, self.n_channels, self.amp_activation = n_side, n_channels, amp_activation
        down, up = (
            [max(1, round(width * n_filters_scale)) for width in table[n_side]]
            for table in (_ENCODER_WIDTHS, _DECODER_WIDTHS)
        )
        fraction = decoder_last_c_outer_fraction if use_legacy_decoder_channel_override else None
        c_outer = outer_channels(up[-1], n_channels, fraction) if probe_big else 0
        kernel = decoder_spatial_kernel if spatial_decoder else 0

        def decoder(norm: bool) -> Decoder:
            last = DecoderLast(n_side, up[-1], n_channels, c_outer, norm)
            return Decoder(down[-1], up, last, norm, cbam_decoder, eca_decoder, kernel)

        self.encoder = Encoder(n_channels, down, batch_norm, cbam_encoder, eca_encoder)
        self.bottleneck = attention(down[-1], cbam=cbam_bottleneck)
        self.decoder_amp = decoder(False)
        self.decoder_phase = decoder(batch_norm)

    def forward(self, amplitudes: Tensor) -> tuple[Tensor, Tensor]:
        """Amplitude and phase of the object patches.

        Args:
            amplitudes: (B, C, N, N) real, square roots of counts scaled to a mean of sum |X|^2 = (N/2)^2 per
                frame, zero frequency at N // 2.

        Returns:
            Amplitude, positive, and phase in rad, both (B, C, N, N); single precision or better.

        Raises:
            InputError: another shape.
        """
        expected = (self.n_channels, self.n_side, self.n_side)
        if amplitudes.ndim != 4 or amplitudes.shape[1:] != expected:
            raise InputError(f"cnn: found input of shape {tuple(amplitudes.shape)}, expected any number of {expected}.")
        features = self.bottleneck(self.encoder(amplitudes))
        amplitude = amplitude_head(self.decoder_amp(features), self.amp_activation)
        return amplitude, phase_head(self.decoder_phase(features))
