"""The flat legacy dictionary. Kept for older callers (ptychodus among them); our own code does not read it.

It is a one-way projection of the dataclasses: `update_legacy_dict(params.cfg, config)` writes it
(CONFIG-001). Keys that no one has set and that have no default, such as 'intensity_scale', raise KeyError
from `get`.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

__all__ = [
    "cfg",
    "get",
    "set",
    "seal",
    "unseal",
    "params",
    "validate",
    "ensure_defaults",
    "reset",
    "DEFAULT_CFG",
]

logger = logging.getLogger(__name__)

# The legacy dictionary's own starting values, which differ from the dataclasses' defaults; callers overwrite
# them with update_legacy_dict before they use any.
DEFAULT_CFG: dict[str, Any] = {
    "N": 128,
    "offset": 4,
    "gridsize": 2,
    "outer_offset_train": None,
    "outer_offset_test": None,
    "batch_size": 16,
    "nepochs": 60,
    "n_filters_scale": 2,
    "output_prefix": "outputs",
    "big_gridsize": 10,
    "max_position_jitter": 10,
    "sim_jitter_scale": 0.0,
    "default_probe_scale": 0.7,
    "mae_weight": 0.0,
    "nll_weight": 1.0,
    "tv_weight": 0.0,
    "realspace_mae_weight": 0.0,
    "realspace_weight": 0.0,
    "nphotons": 1e9,
    "nimgs_train": 9,
    "nimgs_test": 3,
    "data_source": "generic",
    "probe.trainable": False,
    "intensity_scale.trainable": False,
    "positions.provided": False,
    "object.big": True,
    "probe.big": False,
    "probe_scale": 10.0,
    "set_phi": False,
    "probe.mask": True,
    "pad_object": True,
    "model_type": "pinn",
    "label": "",
    "size": 392,
    "amp_activation": "sigmoid",
    "h5_path": "wts.h5",
    "npseed": 42,
    "debug": True,
    "gaussian_smoothing_sigma": 0.0,
    "use_xla_translate": True,
}
DATA_SOURCES = ("lines", "grf", "experimental", "points", "testimg", "diagonals", "xpp", "V", "generic")
_FREE_AFTER_SEAL = ("intensity_scale", "probe", "timestamp")
_MISSING = object()
_seal_state = {"sealed": False}

cfg: dict[str, Any] = dict(DEFAULT_CFG)


def ensure_defaults() -> None:
    """Put back every default that is missing, so that `cfg.clear()` followed by `get` works."""
    for key, value in DEFAULT_CFG.items():
        cfg.setdefault(key, value)


def reset() -> None:
    """Back to the starting values, unsealed. In place: other modules hold the same dictionary."""
    cfg.clear()
    cfg.update(DEFAULT_CFG)
    unseal()


def get(key: str, default: Any = _MISSING) -> Any:
    """The value of a key; KeyError when it is unset and no default is given. 'bigN' is computed."""
    ensure_defaults()
    if key == "bigN":
        cfg["bigN"] = cfg["N"] + (cfg["gridsize"] - 1) * cfg["offset"]
    if key in cfg:
        return cfg[key]
    if default is not _MISSING:
        return default
    raise KeyError(
        f"'{key}' is not set in ptycho.params.cfg; it is written by update_legacy_dict or by loading a model"
    )


def set(key: str, value: Any) -> None:  # the legacy name; hides the builtin in this module
    """Store a value and check the dictionary (AssertionError). After `seal`, late changes are logged."""
    if _seal_state["sealed"] and key not in _FREE_AFTER_SEAL:
        caller = sys._getframe(1)
        logger.warning(
            "post-seal change of params key '%s' at %s:%d", key, caller.f_code.co_filename, caller.f_lineno
        )
    cfg[key] = value
    validate()


def validate() -> bool:
    """AssertionError if a value is outside what legacy code can work with; True otherwise."""
    source = cfg.get("data_source", "generic")
    if source not in DATA_SOURCES:
        raise AssertionError(
            f"params 'data_source': found {source!r}, expected one of {', '.join(DATA_SOURCES)}"
        )
    if cfg.get("realspace_mae_weight", 0.0) > 0 and not cfg.get("realspace_weight", 0.0) > 0:
        raise AssertionError("params: realspace_mae_weight > 0 needs realspace_weight > 0")
    return True


def params() -> dict[str, Any]:
    """A copy of the dictionary with the derived 'bigN'."""
    return {**cfg, "bigN": get("bigN")}


def seal() -> None:
    """From now on a `set` of a configuration key is logged as a warning; nothing is refused."""
    _seal_state["sealed"] = True


def unseal() -> None:
    """Undo `seal`."""
    _seal_state["sealed"] = False
