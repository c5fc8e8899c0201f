"""The result of an inspection."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Inspection", "probe_facts"]

Facts = dict[str, Any]


@dataclass
class Inspection:
    """What was found in a file.

    path: of the file. kind: 'scan', 'model archive', 'checkpoint', 'reconstruction' or 'product'. sections: facts by
    section and name, in plain JSON types; a name ends in its unit (_px, _m, _ev, _bytes), and None is unknown.
    warnings: what will not work or looks wrong, and what to do, a sentence or two each. size_bytes: of the
    file.
    """

    path: Path
    kind: str
    sections: dict[str, Facts] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    size_bytes: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Everything as one JSON object."""
        head = {"file": str(self.path), "kind": self.kind, "size_bytes": self.size_bytes}
        return {name: _plain(part) for name, part in {**head, **self.sections, "warnings": self.warnings}.items()}


def _plain(value: Any) -> Any:
    """JSON types; numbers that JSON does not know become None, other things text."""
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def shape_text(array: npt.NDArray[Any]) -> str:
    """As '516 x 128 x 128 uint16'."""
    sides = " x ".join(str(side) for side in np.shape(array)) or "scalar"
    return f"{sides} {array.dtype}"


def probe_facts(probe: npt.NDArray[Any]) -> Facts:
    """Of a probe (modes, N, N): number of modes, their shares of the power, the beam's diameter."""
    from ptycho.probe import mode_powers, probe_power
    from ptycho.simulation.figures import probe_diameter

    power = probe_power(probe)
    return {
        "modes": len(probe),
        "side_px": int(probe.shape[-1]),
        "mode_shares": [round(float(share), 6) for share in mode_powers(probe) / power] if power > 0 else None,
        "power": power,
        "beam_diameter_px": probe_diameter(probe) if power > 0 else None,
    }
