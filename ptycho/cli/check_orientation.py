"""`ptychopinn check-orientation`: are the positions of a scan the right way round?"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ptycho.cli import shared
from ptycho.cli.knobs import ACCELERATOR, SEED, knob_options, with_device
from ptycho.cli.logs import verbosity_options
from ptycho.cli.options import COUNT, HeadedCommand

if TYPE_CHECKING:
    from ptycho.raw_data import RawData
    from ptycho_torch.orientation import Ranking

__all__ = ["check_orientation"]

FRAMES, EPOCHS = 200, 10  # a test compares them with ptycho_torch.orientation
_SEED = dataclasses.replace(SEED, help="Of which frames make a step together.")
_WORDS = {"sure": "sure", "likely": "likely, not sure", "open": "not decided"}


@click.command("check-orientation", cls=HeadedCommand, short_help="Are the positions the right way round?")
@click.argument("scan", type=shared.FILE)
@click.option("--frames", type=click.IntRange(min=8), default=FRAMES, show_default=True,
              help="Use so many frames from the middle of the scan.")  # fmt: skip
@click.option("--epochs", type=COUNT, default=EPOCHS, show_default=True,
              help="Passes over them for each orientation.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
@knob_options(_SEED, *with_device((ACCELERATOR,)))
@click.option("--threads", type=COUNT, metavar="N", help="Threads of the CPU to compute with. [default: torch's]")
@shared.scan_options
@verbosity_options
def check_orientation(
    scan: Path, frames: int, epochs: int, as_json: bool, seed: int, threads: int | None, **values: Any
) -> None:
    """Try the eight orientations of the positions of SCAN and rank them.

    An axis with the wrong sign, or x and y exchanged, is the most common reason why a scan does not
    reconstruct. Here object and probe are refined from scratch with the positions as they are stored, with x
    flipped, y flipped, x and y exchanged, and all combinations; the orientation that explains the frames best
    (least Poisson deviance) is named, with how sure that is and what to change in the file. Nothing is written.

    Turning the positions or turning the frames the other way is the same to the data: the object comes out
    turned, no more. And with both axes flipped the frames are explained exactly as well, by the inverted and
    conjugated object and probe: those two only the probe guess can tell apart, by the sign of its defocus.

    \b
    Example:
      ptychopinn check-orientation scan.npz --crop 64
    """
    raw = shared.load_scan(scan, values)
    shared.set_threads(threads)
    execution = shared.execution_config({"accelerator": values["accelerator"]})
    with shared.backend_errors():
        from ptycho_torch.orientation import rank_orientations
        from ptycho_torch.workflows.refinement import torch_device
    device = torch_device(execution.accelerator)
    ranking = rank_orientations(raw, frames=frames, epochs=epochs, seed=seed, device=device)
    if as_json:
        click.echo(json.dumps(_as_json(scan, raw, ranking, frames, epochs), indent=2))
        return
    for line in _told(scan, raw, ranking, frames, epochs):
        click.echo(line)


def _as_json(scan: Path, raw: RawData, ranking: Ranking, frames: int, epochs: int) -> dict[str, Any]:
    return {
        "scan": str(scan),
        "N": raw.N,
        "frames": min(frames, raw.n_frames),
        "epochs": epochs,
        "best": ranking.best.name,
        "verdict": ranking.verdict,
        "change": ranking.best.code or None,
        "frames_say": {"verdict": ranking.frames_verdict, "ratio": ranking.pair.ratio, "sigma": ranking.pair.sigma},
        "guess_says": {"verdict": ranking.twin.verdict, "ratio": ranking.twin.ratio, "sigma": ranking.twin.sigma},
        "guess_symmetry": ranking.guess_symmetry,
        "mean_frame_deviance": ranking.mean_frame,
        "orientations": [
            {
                "name": tried.orientation.name,
                "matrix": tried.orientation.matrix,
                "deviance": tried.deviance,
                "expected_deviance": tried.expected,
            }
            for tried in ranking.tried
        ],
    }


def _told(scan: Path, raw: RawData, ranking: Ranking, frames: int, epochs: int) -> Iterator[str]:
    """The ranking in words, line by line."""
    best = ranking.tried[0]
    used = min(frames, raw.n_frames)
    yield f"{scan}: {used} of {raw.n_frames} frames of {raw.N} x {raw.N} pixels, {epochs} epochs each"
    yield ""
    expected = "(expected from photon noise)"
    width = max(len(text) for text in (expected, *(tried.orientation.name for tried in ranking.tried)))
    yield f"{'positions'.ljust(width)}  {'deviance per pixel':>18}  {'to the best':>11}"
    for tried in ranking.tried:
        ratio = tried.deviance / best.deviance
        yield f"{tried.orientation.name.ljust(width)}  {tried.deviance:18.4f}  {ratio:11.3f}"
    yield f"{expected.ljust(width)}  {best.expected:18.4f}"
    yield ""
    yield f"Best: {best.orientation.name}; {_WORDS[ranking.verdict]}."
    for paragraph in (*_reasons(ranking), *_remedy(ranking)):
        yield paragraph if paragraph.startswith(" ") else click.wrap_text(paragraph, 100)


def _reasons(ranking: Ranking) -> Iterator[str]:
    best, pair, twin = ranking.best, ranking.pair, ranking.twin
    yield (
        f"The frames: the best of the other pairs explains them {pair.ratio:.3f} times as badly ({pair.sigma:.1f} "
        f"standard errors apart): {_WORDS[ranking.frames_verdict]}."
    )
    yield (
        f"The probe guess: its twin ({best.twin.name}) is {twin.ratio:.3f} times as bad ({twin.sigma:.1f} standard "
        f"errors): {_WORDS[twin.verdict]}. The guess correlates {ranking.guess_symmetry:.2f} with its own twin."
    )
    if ranking.tried[0].deviance >= ranking.mean_frame:
        yield f"No orientation explains the frames better than their mean does ({ranking.mean_frame:.4f})."
    if ranking.frames_verdict == "open":
        yield (
            "Reasons why nothing is decided: positions in another unit than object pixels (see `ptychopinn inspect`), "
            "a probe guess that is far from the true one, very few counts, beams that hardly overlap, an object with "
            "hardly any contrast. Try --frames 500 --epochs 50, or a better guess."
        )
    elif twin.verdict == "open":
        from ptycho_torch.orientation import OWN_TWIN

        why = (
            "A guess that is its own twin, as a disk with a flat phase is, cannot tell them apart; one with the "
            "defocus of the beam can. "
            if ranking.guess_symmetry > OWN_TWIN
            else ""
        )
        yield (
            f"The frames allow two: {best.name}, and {best.twin.name}. {why}Both give the same object, but for "
            "inversion and the sign of its phase: compare with what is known of it, or of the defocus."
        )


def _remedy(ranking: Ranking) -> Iterator[str]:
    best = ranking.best
    if ranking.frames_verdict == "open":
        return
    yield ""
    if not best.code:
        yield "Nothing has to be changed in the file." if ranking.verdict != "open" else (
            "One of the two is what the file has: nothing has to be changed unless more is known."
        )
        return
    yield "To change in the file, in the positions (xcoords_start and ycoords_start likewise, where they are there):"
    yield f"    {best.code}"
    yield f"Or else in frames, bad_pixels and probe guess, about pixel [N//2, N//2]: {best.of_frames}."
    yield "Data cannot tell which of the two the file has the wrong way round; the one's object is the other's, turned."
