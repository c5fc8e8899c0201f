"""The PyTorch backend: physics, solvers, networks, training and stitching.

Importing the package imports torch and nothing else of ours; names of ``__all__`` are looked up in their modules
when they are first asked for.
"""

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
"""True: without torch this package cannot be imported (POLICY-001). Callers of the reference ask for it."""

_LAZY = {
    "MemmapDatasetBridge": "ptycho_torch.memmap_bridge",
    "PtychoDataContainerTorch": "ptycho_torch.data_container_bridge",
    "RawDataTorch": "ptycho_torch.raw_data_bridge",
    "load_inference_bundle_torch": "ptycho_torch.workflows.components",
    "run_cdi_example_torch": "ptycho_torch.workflows.components",
    "to_inference_config": "ptycho_torch.config_bridge",
    "to_model_config": "ptycho_torch.config_bridge",
    "to_training_config": "ptycho_torch.config_bridge",
    "train_cdi_model_torch": "ptycho_torch.workflows.components",
}
"""Name -> the module that has it."""

__all__ = [
    "MemmapDatasetBridge",
    "PtychoDataContainerTorch",
    "RawDataTorch",
    "TORCH_AVAILABLE",
    "load_inference_bundle_torch",
    "run_cdi_example_torch",
    "to_inference_config",
    "to_model_config",
    "to_training_config",
    "train_cdi_model_torch",
]


def __getattr__(name: str) -> Any:
    # Safe from several threads: the import system makes the others wait until a module is complete. A lock of our
    # own on top of its locks could deadlock with a thread that imports one of these modules by itself.
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
