"""Pictures of objects, probes, scans and comparisons as matplotlib figures.

Figures are built with the object interface (no pyplot, no window, no global state) and drawn by Agg, so they can be
made on any host. matplotlib is imported by the functions. Arrays are (row, column), row 0 at the top. Colour maps are
perceptually uniform and told apart by people who see few colours; phases that wrap get a cyclic one.
"""

from ptycho.plotting.comparisons import comparison_figure, halves_figure
from ptycho.plotting.objects import (
    amplitude_figure,
    coverage_figure,
    flat_phase,
    interval_figure,
    patches_figure,
    phase_figure,
    stages_figure,
)
from ptycho.plotting.probes import hue_circle, probe_figure
from ptycho.plotting.residuals import losses_figure, positions_figure, residual_figure

__all__ = [
    "amplitude_figure",
    "comparison_figure",
    "coverage_figure",
    "flat_phase",
    "halves_figure",
    "hue_circle",
    "interval_figure",
    "losses_figure",
    "patches_figure",
    "phase_figure",
    "positions_figure",
    "probe_figure",
    "residual_figure",
    "stages_figure",
]
