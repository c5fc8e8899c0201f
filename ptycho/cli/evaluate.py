"""`ptychopinn evaluate`: how well two objects agree."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ptycho.cli import shared
from ptycho.cli.logs import verbosity_options

__all__ = ["evaluate"]


@click.command()
@click.argument("a", type=shared.FILE)
@click.argument("b", type=shared.FILE)
@shared.half_option
@click.option("--json", "as_json", is_flag=True, help="Print the figures as one JSON object.")
@verbosity_options
def evaluate(a: Path, b: Path, half: int | None, as_json: bool) -> None:
    """Compare the object in A with the reference in B.

    Each is a reconstruction (NPZ, or the output folder of a run), a ptychodus product (HDF5), or a simulated
    scan, whose true object is taken. The objects are registered to a fraction of a pixel; constant and plane
    of the phase are removed.

    \b
    Example:
      ptychopinn evaluate results reference.npz --half 62
    """
    from ptycho.cli.summary import figure_lines
    from ptycho.io.reconstruction_files import load_any
    from ptycho.placed import compare_placed, place_loaded

    first, second = (place_loaded(load_any(path)) for path in (a, b))
    comparison, _ = compare_placed(first, second, half)
    figures = comparison.to_dict()
    if as_json:
        click.echo(json.dumps({"a": str(a), "b": str(b), "half": half, **figures}, indent=2))
        return
    click.echo(f"{a}\ncompared with {b}")
    for line in figure_lines({"": figures})[1:]:
        click.echo(line)
    if comparison.flat:
        click.echo("The phase of one of the two is flat: it has no figures.")
