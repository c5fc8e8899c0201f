"""What every test shares: no GPU, and the legacy dictionary put back after each test."""

import copy
import os

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before anything imports torch

import numpy as np
import pytest

from ptycho import params


@pytest.fixture(autouse=True)
def _restore_params():
    """Tests see the legacy dictionary's starting values and leave none of theirs behind."""
    params.reset()
    yield
    params.reset()


@pytest.fixture
def rng():
    return np.random.default_rng(20240229)


@pytest.fixture
def scan_arrays(rng):
    """Plain arrays of a small scan of counts: 12 frames of 16 x 16, as uint16."""
    n, side = 12, 16
    return copy.deepcopy(
        {
            "xcoords": rng.uniform(20, 40, n),
            "ycoords": rng.uniform(25, 45, n),
            "diff3d": rng.poisson(5.0, (n, side, side)).astype(np.uint16),
            "probeGuess": (rng.normal(size=(side, side)) + 1j * rng.normal(size=(side, side))).astype(
                np.complex64
            ),
            "scan_index": np.arange(n),
        }
    )
