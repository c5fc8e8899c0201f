"""Calling the older entry points of the backend as scripts do, and a scan file as older ones are."""

import sys

import numpy as np


def call(module, monkeypatch, *args):
    """The exit code of `module.cli_main()` with this command line, 0 when it returns; only SystemExit may leave it."""
    monkeypatch.setattr(sys, "argv", [module.__name__, *(str(arg) for arg in args)])
    try:
        module.cli_main()
    except SystemExit as end:
        return 0 if end.code is None else end.code
    return 0


def legacy_scan(path, known=True, N=64):
    """Ten frames without any metadata; known: float counts, else floats that say nothing about their unit."""
    rng = np.random.default_rng(1)
    rows, columns = np.mgrid[:N, :N] - N / 2
    spot = 20 * np.exp(-(rows**2 + columns**2) / 50)
    frames = rng.poisson(spot, (10, N, N)) if known else rng.random((10, N, N))
    np.savez(
        path, diff3d=frames.astype(np.float32), xcoords=rng.uniform(60, 120, 10), ycoords=rng.uniform(60, 120, 10),
        probeGuess=np.exp(-(rows**2 + columns**2) / 200).astype(np.complex64),
        objectGuess=np.ones((200, 200), np.complex64),
    )  # fmt: skip
    return path
