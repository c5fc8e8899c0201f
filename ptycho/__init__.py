"""PtychoPINN: the framework-neutral half (configuration, scans, grouping, files, simulation, metrics).

Importing this package, or any module of it, imports neither torch nor lightning nor matplotlib.
The PyTorch backend lives in the package `ptycho_torch`.
"""

__version__ = "0.1.0"

__all__ = ["__version__"]
