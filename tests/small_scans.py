"""Small scans for the backend's tests."""

from __future__ import annotations

import numpy as np

from ptycho.diffsim import simulate_demo_scan
from ptycho.geometry import canvas_for
from ptycho.metrics import Comparison, compare_objects, illuminated_coverage
from ptycho.raw_data import RawData
from ptycho_torch.data.scans import PlacedScan


def small_scan(n_frames: int = 60, seed: int = 0, defocus_error: float = 0.0, counts: float = 1e5) -> RawData:
    """Frames of 32 x 32 pixels along a Fermat spiral, with the truth."""
    return simulate_demo_scan(seed, n_frames=n_frames, N=32, counts_per_frame=counts, defocus_error=defocus_error)


def against_truth(image: np.ndarray, raw: RawData) -> Comparison:
    """An object on the canvas of ``raw`` against the object it was simulated from, where two beams have been."""
    canvas = canvas_for(raw.xcoords, raw.ycoords, raw.N)
    lit = illuminated_coverage(raw.probe_truth, PlacedScan.of(raw).starts.numpy(), canvas.shape) >= 2
    x, y = canvas.center_xy
    return compare_objects(image, raw.object_truth, b_center=(y, x), a_covered=lit, max_shift=4)


def write_scan(path, N=64, probe=None, **entries):
    """A file with as little in it as a factory needs: five frames of ones."""
    probe = np.ones((N, N), np.complex64) if probe is None else probe
    np.savez(path, diffraction=np.ones((5, N, N), np.float32), xcoords=np.arange(5.0), ycoords=np.arange(5.0),
             probeGuess=probe, **entries)  # fmt: skip
    return path
