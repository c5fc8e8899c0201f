"""Figures of merit: comparison of objects, Fourier ring correlation, Poisson deviance.

Names are loaded when first used, so that importing the package stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ptycho.metrics.comparison import Comparison, compare_objects, compare_with_images
    from ptycho.metrics.coverage import illuminated_coverage
    from ptycho.metrics.deviance import deviance_per_pixel, expected_deviance, poisson_deviance
    from ptycho.metrics.frc import RingCorrelation, fourier_ring_correlation
    from ptycho.metrics.registration import Registered, register

__all__ = [
    "Comparison",
    "Registered",
    "RingCorrelation",
    "compare_objects",
    "compare_with_images",
    "deviance_per_pixel",
    "expected_deviance",
    "fourier_ring_correlation",
    "illuminated_coverage",
    "poisson_deviance",
    "register",
]

_HOME = {
    "Comparison": "comparison",
    "compare_objects": "comparison",
    "compare_with_images": "comparison",
    "illuminated_coverage": "coverage",
    "deviance_per_pixel": "deviance",
    "expected_deviance": "deviance",
    "poisson_deviance": "deviance",
    "RingCorrelation": "frc",
    "fourier_ring_correlation": "frc",
    "Registered": "registration",
    "register": "registration",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
