"""Terms on the object itself: how restless it is, and how far it is from a known one.

Every function pools all its images into one scalar.  ``weights`` says how much each pixel counts (usually how
strongly it is lit): real, >= 0, broadcast against the image, in any unit, because only its proportions matter;
None counts every pixel alike.  A mean is sum(w v) / sum(w), or 0 where nothing has weight, and no gradient flows
through the weights.
"""

from __future__ import annotations

import torch
from torch import Tensor

DARK_AMPLITUDE = 1e-3
"""Below this |O| (vacuum is 1) a pixel has no phase: d arg(O) / dO = 1 / |O| would be huge, and noise."""

_MODULUS_FLOOR = 1e-8
"""Added to |O|^2 by the smooth modulus."""


def total_variation(image: Tensor, weights: Tensor | None = None) -> Tensor:
    """Anisotropic total variation: mean over vertical pairs of pixels plus mean over horizontal pairs of |difference|.

    L. I. Rudin, S. Osher and E. Fatemi, Physica D 60, 259 (1992), in its anisotropic form.

    Args:
        image: (..., H, W) real.
        weights: see the module; a pair counts as :func:`_pair_weights` says.

    Returns:
        Scalar, in the unit of ``image``.
    """
    total = image.new_zeros(())
    for axis in (-2, -1):
        total = total + _mean(torch.diff(image, dim=axis).abs(), _pair_weights(image, weights, axis))
    return total


def phase_total_variation(object: Tensor, weights: Tensor | None = None) -> Tensor:
    """Total variation of the phase, with differences arg(O[i+1] conj(O[i])) so that wraps do not count.

    A pair with a pixel darker than ``DARK_AMPLITUDE`` counts as no difference and passes no gradient.

    Args:
        object: (..., H, W) complex.
        weights: see the module; a pair counts as :func:`_pair_weights` says.

    Returns:
        Scalar, rad; at most 2 pi.
    """
    total = object.real.new_zeros(())
    for axis in (-2, -1):
        length = object.shape[axis]
        first, second = object.narrow(axis, 0, length - 1), object.narrow(axis, 1, length - 1)
        total = total + _mean(_angle_between(second, first).abs(), _pair_weights(object, weights, axis))
    return total


def mean_deviation(image: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean of |x - mean of x|, the inner mean being that of each image.

    Args:
        image: (..., H, W) real.
        weights: see the module; both means are weighted.

    Returns:
        Scalar, in the unit of ``image``.
    """
    return _mean((image - _mean(image, weights, per_image=True)).abs(), weights)


def amplitude_variance(object: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean of (|O| - mean of |O|)^2, the inner mean being that of each image.

    |O| = sqrt(re^2 + im^2 + 1e-8), smooth at zero.

    Args:
        object: (..., H, W) complex.
        weights: see the module; both means are weighted.

    Returns:
        Scalar.
    """
    modulus = torch.sqrt(object.real.square() + object.imag.square() + _MODULUS_FLOOR)
    return _mean((modulus - _mean(modulus, weights, per_image=True)).square(), weights)


def align_phase(object: Tensor, label: Tensor, weights: Tensor | None = None) -> Tensor:
    """Turn each image by the constant phase that brings it nearest to its label.

    Counts do not know the global phase, so no comparison may see it.  sum w |c O - L|^2 over unit c is least at
    c = exp(i arg(sum w conj(O) L)); c is 1 where that sum is 0, and no gradient flows through it.

    Args:
        object: (..., H, W) complex.
        label: same shape, complex; may hold anything where the weight is 0.
        weights: see the module.

    Returns:
        (..., H, W) complex.

    Raises:
        ValueError: the shapes differ.
    """
    if object.shape != label.shape:
        raise ValueError(f"object {tuple(object.shape)} and label {tuple(label.shape)} differ in shape")
    products = object.detach().conj() * _known(label, weights).detach()
    if weights is not None:
        products = products * weights.detach()
    angle = products.sum(dim=(-2, -1), keepdim=True).angle()
    return object * torch.polar(torch.ones_like(angle), angle).to(object.dtype)


def complex_mae(object: Tensor, label: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean of |O - L| after :func:`align_phase`; arguments as there, result a scalar."""
    aligned = align_phase(object, label, weights)
    return _mean((aligned - _known(label, weights)).abs(), weights)


def edge_mae(object: Tensor, label: Tensor, weights: Tensor | None = None) -> Tensor:
    """:func:`complex_mae` plus that of the differences between vertical and between horizontal neighbours.

    The error of an object that was found from counts is mostly slow; edges are what one looks for.

    Args:
        object, label, weights: as of :func:`align_phase`; a pair counts as :func:`_pair_weights` says.

    Returns:
        Scalar.
    """
    error = align_phase(object, label, weights) - _known(label, weights)
    total = _mean(error.abs(), weights)
    for axis in (-2, -1):
        total = total + _mean(torch.diff(error, dim=axis).abs(), _pair_weights(error, weights, axis))
    return total


def labelled_mae(object: Tensor, label: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Errors of amplitude and phase after :func:`align_phase`; arguments as there.

    Where object or label is darker than ``DARK_AMPLITUDE`` the phase counts as right and passes no gradient.

    Returns:
        Two scalars: mean of ||O| - |L||, and mean of the wrapped |arg(O conj(L))| in rad.
    """
    aligned, known = align_phase(object, label, weights), _known(label, weights)
    amplitude = _mean((aligned.abs() - known.abs()).abs(), weights)
    return amplitude, _mean(_angle_between(aligned, known).abs(), weights)


def _mean(values: Tensor, weights: Tensor | None, per_image: bool = False) -> Tensor:
    """Weighted mean of (..., H, W): a scalar, or (..., 1, 1) with one mean per image."""
    axes = (-2, -1) if per_image else tuple(range(values.ndim))
    shares = torch.ones_like(values) if weights is None else weights.detach().to(values.dtype).expand_as(values)
    total = shares.sum(dim=axes, keepdim=per_image)
    # where nothing has weight the numerator is zero as well
    return (shares * values).sum(dim=axes, keepdim=per_image) / torch.where(total > 0, total, torch.ones_like(total))


def _pair_weights(image: Tensor, weights: Tensor | None, axis: int) -> Tensor | None:
    """Weights of neighbouring pixels along an axis, one entry shorter there: the smaller of the two.

    A difference is known as well as its worse pixel, and is unknown if one is.  The product would vanish there too,
    but it squares the weights, so that the skirts of the beam would count twice as little.
    """
    if weights is None:
        return None
    whole, length = weights.expand(image.shape), image.shape[axis]
    return torch.minimum(whole.narrow(axis, 0, length - 1), whole.narrow(axis, 1, length - 1))


def _angle_between(first: Tensor, second: Tensor) -> Tensor:
    """arg(first conj(second)) in (-pi, pi]; 0, without gradient, where one of them is dark."""
    bright = (first.detach().abs() > DARK_AMPLITUDE) & (second.detach().abs() > DARK_AMPLITUDE)
    product = first * second.conj()
    # replaced before the angle is taken: a gradient that is infinite or NaN survives a later selection
    return torch.where(bright, product, torch.ones_like(product)).angle()


def _known(label: Tensor, weights: Tensor | None) -> Tensor:
    """Zero where the weight is 0: labels are NaN where nobody knows the object, and 0 * NaN is NaN."""
    return label if weights is None else torch.where(weights.detach() > 0, label, label.new_zeros(()))
