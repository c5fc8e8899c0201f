"""Bringing waves to the measured counts or amplitudes, and the object that such waves speak for."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ptycho_torch.physics.fourier import at_least_single
from ptycho_torch.physics.illumination import exit_waves, merge_weights
from ptycho_torch.physics.modes import mode_intensity, multiplied


def replace_amplitude(waves: Tensor, amplitudes: Tensor, good_pixels: Tensor | None = None) -> Tensor:
    """Project exit waves onto the measured far-field amplitudes.

    psi_m = iFT( sqrt(I) F_m / sqrt(sum_m |F_m|^2) ): the modes share the measured amplitude in the
    proportions of the model (P. Thibault and A. Menzel, Nature 494, 68 (2013)).  Masked pixels keep the
    model's own amplitude.

    Args:
        waves: (..., M, N, N) complex.
        amplitudes: (..., N, N) real, square roots of counts, zero frequency first.
        good_pixels: (N, N) bool, zero frequency first, or None.

    Returns:
        (..., M, N, N) complex.
    """

    def gain(modelled: Tensor, counted: Tensor) -> Tensor:
        # the floor only keeps 0/0 away, so no gradient needs to flow through its scale
        floor = 1e-10 * (modelled.detach().amax(dim=(-2, -1), keepdim=True) + 1e-20)
        return counted / torch.sqrt(modelled + floor)

    return _with_gain(waves, amplitudes, good_pixels, gain)


def _with_gain(
    waves: Tensor, amplitudes: Tensor, good_pixels: Tensor | None, gain_of: Callable[[Tensor, Tensor], Tensor],
    departure: bool = False,
) -> Tensor:  # fmt: skip
    """Waves of which each detector pixel is multiplied by a gain, common to the modes, of rate and amplitude; masked
    pixels stay as they are. ``departure``: the change of the waves, and the gain is that of the change."""
    spectrum = torch.fft.fft2(at_least_single(waves), norm="ortho")
    if good_pixels is not None:
        # not only in the gain: a NaN that is selected away there still makes the gradient NaN
        amplitudes = torch.where(good_pixels, amplitudes, amplitudes.new_zeros(()))
    gain = gain_of(mode_intensity(spectrum), amplitudes)
    if good_pixels is not None:
        gain = torch.where(good_pixels, gain, gain.new_full((), 0.0 if departure else 1.0))
    return torch.fft.ifft2(multiplied(spectrum, gain[..., None, :, :]), norm="ortho")


POISSON_WEIGHT = 16.0
"""Weight of staying where the wave is, against the likelihood of the counts, in :func:`approach_counts`."""


def approach_counts(
    waves: Tensor, amplitudes: Tensor, good_pixels: Tensor | None = None, weight: float = POISSON_WEIGHT,
    departure: bool = False,
) -> Tensor:  # fmt: skip
    """Move exit waves towards what the counts, as Poisson counts, make likely.

    For each detector pixel the modelled amplitude A goes towards the a that minimises
    a^2 - I ln a^2 + w (a - A)^2, the negative log-likelihood of the counts I with a proximal term:
    a = (w A + sqrt(w^2 A^2 + 4 (1 + w) I)) / (2 (1 + w)); and past it by the factor 1 + w/2, with which the step near
    the measured amplitude is that of :func:`replace_amplitude`. Where counts are few that one is biased: the mean of
    sqrt(I) is below the square root of the mean, and a pixel without counts is no pixel without rate. The modes share
    a gain, and masked pixels keep the model's own amplitude.

    Proximal maps of the Poisson likelihood: H. Chang et al., SIAM J. Imaging Sci. 11, 2204 (2018).

    Args:
        waves: (..., M, N, N) complex.
        amplitudes: (..., N, N) real, square roots of counts, zero frequency first.
        good_pixels: (N, N) bool, zero frequency first, or None.
        weight: w above.
        departure: True for by how much they move.

    Returns:
        (..., M, N, N) complex.
    """
    share, relaxation = weight / (2 * (1 + weight)), 1 + weight / 2

    def gain(modelled: Tensor, counted: Tensor) -> Tensor:
        # counts; a frame without light, of which the gain would be infinite, stays without
        floor = 1e-8 + 1e-10 * modelled.detach().amax(dim=(-2, -1), keepdim=True)
        # the relaxed step from 1 to a / A = share + sqrt(share^2 + I / ((1 + w) A^2)); the relaxation is in the root
        ratio = counted.square() / (modelled + floor)
        slope, least = relaxation**2 / (1 + weight), (relaxation * share) ** 2
        beyond = relaxation * (share - 1) + (0 if departure else 1)
        if torch.is_grad_enabled() and ratio.requires_grad:
            return (ratio * slope + least).sqrt() + beyond
        return ratio.mul_(slope).add_(least).sqrt_().add_(beyond)

    return _with_gain(waves, amplitudes, good_pixels, gain, departure)


def divide_by_probe(waves: Tensor, probes: Tensor, relative_floor: float = 1e-2) -> Tensor:
    """Least-squares object of waves: sum_m conj(P_m) psi_m / (sum_m |P_m|^2 + eps max).

    Args:
        waves: (..., M, N, N) complex.
        probes: (..., M, N, N) complex.
        relative_floor: eps above; the weakly lit part of the frame goes to zero.

    Returns:
        (..., N, N) complex.
    """
    weight = merge_weights(probes)
    floor = relative_floor * weight.amax(dim=(-2, -1), keepdim=True)
    return (probes.conj() * waves).sum(dim=-3) / (weight + floor)


def backproject(
    amplitudes: Tensor, probes: Tensor, good_pixels: Tensor | None = None, relative_floor: float = 1e-2
) -> Tensor:
    """One-step back-projection of single frames, as the departure from vacuum.

    The measured amplitude with the phase of the probe's own far field is propagated back and divided
    by the probe; the same for a frame without object is subtracted.

    Args:
        amplitudes: (..., N, N) real, square roots of counts, zero frequency first.
        probes: (..., M, N, N) complex, shifted by the frames' sub-pixel parts.
        good_pixels: (N, N) bool, zero frequency first, or None.
        relative_floor: see :func:`divide_by_probe`.

    Returns:
        (..., N, N) complex, zero for an empty beam.
    """
    vacuum = exit_waves(probes, torch.ones_like(amplitudes).to(probes.dtype))
    revised = replace_amplitude(vacuum, amplitudes, good_pixels)
    return divide_by_probe(revised - vacuum, probes, relative_floor)
