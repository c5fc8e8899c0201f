"""What is asked for after an object is there: refinement, intervals of the phase, two halves of the scan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ptycho.cli.mistakes import backend_errors
from ptycho.cli.options import COUNT
from ptycho.errors import InputError

if TYPE_CHECKING:
    from ptycho.raw_data import RawData

__all__ = ["IMPLIED_BY", "afterwards_options", "asked_afterwards", "halves_option", "halves_settings"]

F = TypeVar("F", bound=Callable[..., Any])

REFINE_EPOCHS = 50
IMPLIED_BY = {"refine": "refine_epochs", "uncertainty": "ensemble"}
"""Option -> the one that asks for it too."""


def refine_options(function: F) -> F:
    """--refine and --refine-epochs."""
    function = click.option(
        "--refine-epochs", type=COUNT, default=REFINE_EPOCHS, show_default=True, metavar="N",
        help="Passes over the frames that a refinement takes; implies --refine.",
    )(function)  # fmt: skip
    return click.option(
        "--refine/--no-refine", default=False, show_default=True,
        help="Refine object and probe afterwards by least squares, from the network's on.",
    )(function)  # fmt: skip


def refinement_settings(values: dict[str, Any]) -> Any:
    """What the stated settings ask to be refined after the network, or None; imports torch.

    InputError for passes of no refinement.
    """
    wanted, epochs = values.get("refine"), values.get("refine_epochs")
    if wanted is False and epochs is not None:
        raise InputError(
            f"refine_epochs={epochs} and no refinement: found both, expected one. They are the passes of a refinement; "
            "leave one of them out."
        )
    if not wanted and epochs is None:
        return None
    with backend_errors():
        from ptycho_torch.workflows.refinement import RefinementSettings

        return RefinementSettings(epochs=epochs or REFINE_EPOCHS)


def uncertainty_options(function: F) -> F:
    """--uncertainty and --ensemble."""
    function = click.option(
        "--ensemble", type=COUNT, metavar="K",
        help="Simulated repeats of the scan that the intervals are made from; implies --uncertainty. [default: 1]",
    )(function)  # fmt: skip
    return click.option(
        "--uncertainty/--no-uncertainty", default=False, show_default=True,
        help="Say how far each pixel of the phase can be trusted, with 90 % intervals: the scan is repeated in "
        "simulation and reconstructed once more.",
    )(function)  # fmt: skip


def uncertainty_settings(values: dict[str, Any]) -> Any:
    """How the stated settings ask intervals to be found, or None; imports torch.

    InputError for an ensemble without intervals.
    """
    wanted, repeats = values.get("uncertainty"), values.get("ensemble")
    if wanted is False and repeats is not None:
        raise InputError(
            f"ensemble={repeats} and no uncertainty: found both, expected one. The ensemble is what intervals are made "
            "from; leave one of them out."
        )
    if not wanted and repeats is None:
        return None
    with backend_errors():
        from ptycho_torch.uncertainty import UncertaintySettings

        return UncertaintySettings(repeats=repeats or 1, seed=values.get("seed") or 0)


def halves_option(function: F) -> F:
    """--halves."""
    return click.option(
        "--halves/--no-halves", default=False, show_default=True,
        help="Reconstruct two halves of the scan apart too: the resolution down to which they agree, and how well each "
        "explains the frames of the other.",
    )(function)  # fmt: skip


def halves_settings(values: dict[str, Any], raws: Sequence[RawData] = ()) -> Any:
    """How the stated settings ask the scans to be halved, or None; imports torch.

    InputError for a scan of too few frames.
    """
    if not values.get("halves"):
        return None
    from ptycho.halves import check_enough_frames

    for raw in raws:
        check_enough_frames(raw.source, min(raw.n_frames, values.get("n_subsample") or raw.n_frames))
    with backend_errors():
        from ptycho_torch.halves import HalvesSettings

        return HalvesSettings(seed=values.get("seed") or 0, half=values.get("half"))


def afterwards_options(function: F) -> F:
    """--refine, --uncertainty and --halves, with what belongs to them."""
    return refine_options(uncertainty_options(halves_option(function)))


def asked_afterwards(values: dict[str, Any], raws: Sequence[RawData]) -> dict[str, Any]:
    """The same as keyword arguments of the backend's train_scans and infer_scan; imports torch where there are any.

    InputError for what contradicts itself, or for scans of too few frames.
    """
    return {
        "refine": refinement_settings(values),
        "uncertainty": uncertainty_settings(values),
        "halves": halves_settings(values, raws),
    }
