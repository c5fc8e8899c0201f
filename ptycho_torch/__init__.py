"""The PyTorch backend: physics, solvers, networks, training and stitching."""

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise RuntimeError(
        "PyTorch is required for ptycho_torch package, and it cannot be imported "
        f"({error}). Install it with: pip install torch>=2.2"
    ) from error

TORCH_AVAILABLE = True
