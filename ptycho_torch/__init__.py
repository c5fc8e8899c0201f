"""The PyTorch backend: physics, solvers, networks, training and stitching."""

import importlib
from typing import Any

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise RuntimeError(
        "PyTorch is required for ptycho_torch package, and it cannot be imported "
        f"({error}). Install it with: pip install torch>=2.2"
    ) from error

TORCH_AVAILABLE = True

_LAZY = {
    "to_model_config": "ptycho_torch.config_bridge",
    "to_training_config": "ptycho_torch.config_bridge",
    "to_inference_config": "ptycho_torch.config_bridge",
}
"""Names of the package that are looked up in a module when they are first asked for."""


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
