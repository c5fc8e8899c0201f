"""Memory that large steps leave behind."""

from __future__ import annotations

import ctypes
import sys

__all__ = ["hand_back"]


def hand_back() -> None:
    """Give the operating system what was freed and the C library keeps for later; nothing where it has no such call.

    The GNU library keeps up to 64 MiB of what was freed. Between two steps that each need tens of MiB, of another kind,
    that is memory which both take (docs/performance.md).
    """
    if sys.platform != "linux":
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # musl has none
        trim(0)
