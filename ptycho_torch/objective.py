"""What training makes small: the likelihood of the counts, and terms on the object itself, with their weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ptycho.errors import InputError
from ptycho_torch.config_params import ModelConfig, TrainingConfig
from ptycho_torch.physics import realspace
from ptycho_torch.physics.illumination import merge_weights
from ptycho_torch.physics.likelihood import amplitude_mae, poisson_nll
from ptycho_torch.physics.patches import extract
from ptycho_torch.solvers.frames import BlockFrames

LOSS_KEYS = {"Poisson": "poisson", "MAE": "mae"}
"""``ModelConfig.loss_function`` -> the first part of the names under which losses are logged."""


_OF_THE_LIKELIHOOD = ("nll_weight", "mae_weight", "realspace_weight", "realspace_mae_weight")


def likelihood_weights(model: ModelConfig, training: TrainingConfig) -> tuple[float, float]:
    """(weight of the Poisson term, weight of the amplitude MAE) of training without labels.

    loss_function 'Poisson' takes nll_weight and adds mae_weight; 'MAE' is the MAE alone, by mae_weight or 1.
    """
    if model.loss_function == "MAE":
        return 0.0, training.mae_weight or 1.0
    return (training.nll_weight if training.nll else 0.0), training.mae_weight


def needs_labels(model: ModelConfig, training: TrainingConfig) -> bool:
    """True if the objective compares the object with a known one."""
    return model.mode == "Supervised" or training.realspace_weight * training.realspace_mae_weight > 0


def check_objective(model: ModelConfig, training: TrainingConfig) -> None:
    """Refuse weights that contradict each other or leave nothing to train by.

    Raises:
        InputError: such weights; the message names them.
    """
    if model.loss_function not in LOSS_KEYS:
        raise InputError(f"loss_function: found {model.loss_function!r}, expected one of {', '.join(LOSS_KEYS)}.")
    for name, terms in (("amp_loss", _AMPLITUDE_TERMS), ("phase_loss", _PHASE_TERMS)):
        if getattr(model, name) and getattr(model, name) not in terms:
            raise InputError(f"{name}: found {getattr(model, name)!r}, expected None or one of {', '.join(terms)}.")
    if (training.realspace_weight > 0) != (training.realspace_mae_weight > 0):
        raise InputError(
            f"found realspace_weight={training.realspace_weight!r} and realspace_mae_weight="
            f"{training.realspace_mae_weight!r}: their product weights the comparison with the known object. State "
            "both, or none."
        )
    if model.mode == "Supervised":
        changed = [n for n in _OF_THE_LIKELIHOOD if getattr(training, n) not in (0.0, getattr(TrainingConfig, n))]
        if changed:
            raise InputError(
                f"{', '.join(f'{n}={getattr(training, n)!r}' for n in changed)}: training with labels compares objects "
                "only, by their mean absolute error. Leave these weights out, or train without labels."
            )
        return
    if model.loss_function == "MAE" and training.nll_weight not in (0.0, TrainingConfig.nll_weight):
        raise InputError(
            f"nll_weight={training.nll_weight!r} does not act with the loss 'mae'. State torch_loss_mode='poisson', "
            "or leave it out."
        )
    if not any(likelihood_weights(model, training)):
        raise InputError("nll_weight and mae_weight are both 0: found nothing to train by, expected one above 0.")


def objective(
    canvas: Tensor, frames: BlockFrames, fields: dict[str, Tensor], model: ModelConfig, training: TrainingConfig
) -> Tensor:
    """The loss of a batch.

    Args:
        canvas: (B, H, W) complex, the objects.
        frames: the frames on these canvases.
        fields: of the batch, see :class:`ptycho_torch.data.blocks.Batch`.
        model, training: say which terms there are, and their weights.

    Returns:
        Scalar: mean per unmasked pixel of the scored frames, plus the terms on the object.
    """
    if model.mode == "Supervised":
        patches, labels, weights = _against_labels(canvas, frames, fields)
        amplitude, phase = realspace.labelled_mae(patches, labels, weights)
        total = amplitude + phase
    else:
        total = _likelihood(canvas, frames, fields, *likelihood_weights(model, training))
        if needs_labels(model, training):
            weight = training.realspace_weight * training.realspace_mae_weight
            total = total + weight * realspace.complex_mae(*_against_labels(canvas, frames, fields))
    return total + _regularisers(canvas, frames, model)


def _likelihood(
    canvas: Tensor, frames: BlockFrames, fields: dict[str, Tensor], nll_weight: float, mae_weight: float
) -> Tensor:
    good = fields["scored"][..., None, None]
    if frames.good_pixels is not None:
        good = good & frames.good_pixels
    mask = None if bool(good.all()) else good
    rates = frames.rates(canvas)
    terms = [
        weight * term(rates, frames.counts, mask)
        for weight, term in ((nll_weight, poisson_nll), (mae_weight, amplitude_mae))
        if weight > 0
    ]
    return torch.stack(terms).sum()


def _against_labels(
    canvas: Tensor, frames: BlockFrames, fields: dict[str, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Patches of the scored frames, those of the known object, and how strongly each pixel is lit."""
    if "label_amp" not in fields:
        raise InputError("DATA-SUP-001: training with labels needs label_amp and label_phase in every batch.")
    labels = torch.polar(fields["label_amp"], fields["label_phase"])
    patches = extract(canvas, frames.starts, labels.shape[-1])
    weights = merge_weights(frames.probes) * fields["scored"][..., None, None]
    return patches, labels, weights


def _modulus(canvas: Tensor) -> Tensor:
    """|O|, differentiable where O is 0."""
    return torch.sqrt(canvas.real.square() + canvas.imag.square() + 1e-8)


def _phase(canvas: Tensor, lit: Tensor) -> Tensor:
    """Phase of each object against its own mean direction, so that neither a global phase nor most wraps count."""
    direction = (canvas * lit).sum(dim=(-2, -1), keepdim=True).detach()
    return (canvas * direction.conj()).angle()


_AMPLITUDE_TERMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Total_Variation": lambda canvas, lit: realspace.total_variation(_modulus(canvas), lit),
    "Mean_Deviation": lambda canvas, lit: realspace.mean_deviation(_modulus(canvas), lit),
}
_PHASE_TERMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Total_Variation": realspace.phase_total_variation,
    "Mean_Deviation": lambda canvas, lit: realspace.mean_deviation(_phase(canvas, lit), lit),
}


def _regularisers(canvas: Tensor, frames: BlockFrames, model: ModelConfig) -> Tensor:
    """Terms on the amplitude and the phase of the object where it is lit."""
    total = canvas.real.new_zeros(())
    if not (model.amp_loss or model.phase_loss or model.amplitude_variance_loss):
        return total
    lit = frames.illumination().clamp(max=1.0)
    if model.amp_loss:
        total = total + model.amp_loss_coeff * _AMPLITUDE_TERMS[model.amp_loss](canvas, lit)
    if model.phase_loss:
        total = total + model.phase_loss_coeff * _PHASE_TERMS[model.phase_loss](canvas, lit)
    if model.amplitude_variance_loss:
        total = total + model.amplitude_variance_coeff * realspace.amplitude_variance(canvas, lit)
    return total
