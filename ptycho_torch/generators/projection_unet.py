"""Alternating projection and learned correction, unrolled and trained end to end.

Each stage takes a few averaged projections towards the measured counts and lets a U-Net correct
amplitude and phase of the merged object.  The network sees the object's departure from vacuum, what
the projections of the stage just changed, and how strongly each pixel is lit.  It works on the canvas,
where every object pixel is computed once, instead of once for every frame that covers it; docs/findings.md
has the comparison.

The pattern is that of learned iterative reconstruction (J. Adler and O. Oktem, IEEE Trans. Med. Imaging
37, 1322 (2018)) with a post-processing network as its one-stage case (K. H. Jin et al., IEEE Trans. Image
Process. 26, 4509 (2017)).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from ptycho_torch.generators.base import ByParts, FramesOnCanvas, Generator
from ptycho_torch.generators.unet import UNet
from ptycho_torch.physics.illumination import confidence

N_FEATURES = 5
MAX_LOG_AMPLITUDE = 2.0
CHANGE_GAIN = 4.0
"""The change of a stage is several times smaller than the departure from vacuum."""


def correction_features(canvas: Tensor, before: Tensor, illumination: Tensor) -> Tensor:
    """Network input from the object, the object before the stage and the relative illumination.

    Args:
        canvas, before: (B, H, W) complex.
        illumination: (B, H, W) real, in units of the maximum of one frame.

    Returns:
        (B, 5, H, W) real; all zero where nothing was measured, so that zero padding means vacuum.
    """
    departure = canvas - 1
    change = CHANGE_GAIN * (canvas - before)
    lit = torch.log10(1 + 100 * illumination) / 3
    return torch.stack((departure.real, departure.imag, change.real, change.imag, lit), dim=1)


def apply_correction(canvas: Tensor, correction: Tensor) -> Tensor:
    """Multiply the object by exp(a + i phi), with |a| < 2 and |phi| < pi.

    Args:
        canvas: (B, H, W) complex.
        correction: (B, 2, H, W) real; zero changes nothing.

    Returns:
        (B, H, W) complex.
    """
    correction = correction.to(canvas.real.dtype)
    log_amplitude = MAX_LOG_AMPLITUDE * torch.tanh(correction[:, 0] / MAX_LOG_AMPLITUDE)
    phase = torch.pi * torch.tanh(correction[:, 1] / torch.pi)
    return canvas * torch.polar(torch.exp(log_amplitude), phase)


def corrected(network: UNet, canvas: Tensor, before: Tensor, illumination: Tensor, *, turned: bool = False) -> Tensor:
    """The object, corrected by what ``network`` makes of :func:`correction_features`; all (B, H, W).

    The correction fades where there is too little light to learn from. ``turned``: it is the network's mean over four
    orientations (docs/findings.md, TURNS-001).
    """
    features = correction_features(canvas, before, illumination)
    correction = network.mean_of_turns(features) if turned else network(features)
    return apply_correction(canvas, correction * confidence(illumination)[:, None])


class ProjectionUNet(Generator):
    """Stages of projection and correction.

    Args:
        stages: number of project-correct stages, >= 1; those after the second share its weights.
        projection_steps: projections before the first correction, >= 1; one step from vacuum is the merged
            back-projection of single frames.
        later_projection_steps: projections before each later one.
        widths: channels of the U-Net's levels.
    """

    name = "projection_unet"
    takes_parts = True

    def __init__(
        self, stages: int, projection_steps: int, later_projection_steps: int, widths: Sequence[int]
    ) -> None:
        super().__init__()
        self.stages, self.begin_steps, self.later_steps = stages, projection_steps, later_projection_steps
        self._begin: int | ByParts = projection_steps
        unets = [UNet(N_FEATURES, 2, widths) for _ in range(min(stages, 2))]
        self.correctors = nn.ModuleList(unets)
        self._halo_px = unets[0].halo_px

    def networks(self) -> list[nn.Module]:
        """The U-Nets."""
        return list(self.correctors)

    def project_first(self, by_parts: ByParts) -> None:
        """See :class:`ptycho_torch.generators.base.Generator`."""
        self.begin_steps, self._begin = by_parts.passes, by_parts

    def forward(self, frames: FramesOnCanvas) -> Tensor:
        """The object, (B, H, W) complex."""
        before = frames.vacuum()
        with torch.no_grad():  # nothing trainable lies before the first projection
            canvas = frames.begin(self._begin)
        illumination = frames.illumination()
        # a coarse object, for others to go on from, is not worth four networks' time
        turned = not self.training and isinstance(self._begin, int)
        for stage in range(self.stages):
            if stage > 0:
                made = self.begin_steps + (stage - 1) * self.later_steps
                before, canvas = canvas, frames.project(canvas, self.later_steps, made=made)
            correct = partial(corrected, cast(UNet, self.correctors[min(stage, 1)]), turned=turned)
            canvas = frames.apply(correct, canvas, before, illumination, halo_px=self._halo_px, overwrite=True)
        return canvas

    def without_network(self, frames: FramesOnCanvas) -> Tensor:
        """As many projections as all stages take together, and no correction."""
        canvas = frames.begin(self._begin)
        return frames.project(canvas, (self.stages - 1) * self.later_steps, made=self.begin_steps)
