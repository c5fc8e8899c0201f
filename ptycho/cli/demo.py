"""`ptychopinn demo`: the whole way on a simulated scan, checked against the truth."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from ptycho.cli import shared
from ptycho.cli.knobs import SEED, knob_options
from ptycho.cli.logs import verbosity_options

__all__ = ["demo"]

logger = logging.getLogger(__name__)

SCAN_NAME = "scan.npz"
MAX_TIME_S = 120.0  # keeps slow machines to a few minutes; two cores need less


@click.command(short_help="Simulate a scan, reconstruct it, check the result.")
@shared.output_options(default="demo_output")
@knob_options(SEED)
@verbosity_options
def demo(output_dir: Path, overwrite: bool, seed: int) -> None:
    """Simulate a scan, train on it, refine the result, and compare all stages with the truth.

    600 frames of 64 x 64 pixels along a Fermat spiral over a pattern of dead leaves, 1e5 counts per frame,
    with a guess of the probe whose defocus is 10 % wrong. The scan is written beside the results, for trying
    the other verbs on it.

    \b
    Example:
      ptychopinn demo --output-dir demo_output
    """
    from ptycho.diffsim import simulate_demo_scan
    from ptycho.io.outputs import check_output_dir

    out = check_output_dir(output_dir, overwrite=overwrite)
    logger.info("Simulating a scan ...")
    raw = simulate_demo_scan(seed)
    scan = out / SCAN_NAME
    raw.to_file(scan)
    logger.info("%d frames of %d x %d pixels, %.3g counts per frame: %s", raw.n_frames, raw.N, raw.N,
                raw.mean_counts_per_frame(), scan)  # fmt: skip
    values = {"seed": seed, "max_time_s": MAX_TIME_S, "refine": True}
    shared.train_and_report([raw], [scan], out, [out], values)
