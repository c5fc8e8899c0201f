"""From the settings of a command line to the arguments of the factories."""

from __future__ import annotations

import argparse
import dataclasses
import logging
from pathlib import Path
from typing import Any

from ptycho.cli import older_options as older
from ptycho.cli.knobs import SCAN_KNOBS
from ptycho.cli.logs import is_quiet
from ptycho.cli.resolve import Settings
from ptycho.config.config import PyTorchExecutionConfig, TrainingConfig
from ptycho.errors import InputError
from ptycho_torch.cli import shared
from ptycho_torch.config_bridge import ALL_GROUPS

logger = logging.getLogger(__name__)

_EXECUTION = {f.name for f in dataclasses.fields(PyTorchExecutionConfig)}
_ARGUMENTS = {"train_data_file", "model_path", "test_data", "output_dir", "threads", "profile"}
_RUNTIME = {older.DEVICE.name, older.DISABLE_MLFLOW.name}


def execution_from(settings: Settings, mode: str) -> PyTorchExecutionConfig:
    """The execution config that the settings describe; a deprecated one is also named in the log.

    Python shows a DeprecationWarning to nobody but who asks for it.
    """
    stated = {name: value for name, value in settings.values.items() if name in _EXECUTION | _RUNTIME}
    if "logger_backend" in stated:
        stated["logger_backend"] = stated["logger_backend"] or "none"  # None would mean that nothing is stated
    for extra in (older.DEVICE, older.DISABLE_MLFLOW):
        if stated.get(extra.name):
            logger.warning("%s is deprecated: %s", extra.flags[0], extra.help.removeprefix("Deprecated: "))
    return shared.build_execution_config_from_args(argparse.Namespace(quiet=is_quiet(), **stated), mode)


def overrides_from(settings: Settings) -> dict[str, Any]:
    """What is stated and is no matter of execution, as the factories take it.

    ``log_patch_stats`` and ``patch_stats_limit`` are always there, and so is ``n_groups``, without which a factory
    does not work: 'all' stands for every frame.
    """
    leave_out = _EXECUTION | _ARGUMENTS | _RUNTIME
    stated = {name: value for name, value in settings.values.items() if name not in leave_out}
    return {"log_patch_stats": False, "patch_stats_limit": None, "n_groups": ALL_GROUPS, **stated}


def read_scan(path: Path, settings: Settings, nphotons: float = TrainingConfig.nphotons) -> Any:
    """The scan, with what is stated about its frames.

    Files for these entry points hold square roots of counts up to a factor, unless they say otherwise. So where
    neither the file nor the caller says what the frames are, and their values do not tell, they are taken for that,
    with a warning; `ptychopinn` asks instead.

    Args:
        path: of the file.
        settings: what is stated.
        nphotons: mean photons per frame, for that case and where neither the file nor the caller knows it.
    """
    from ptycho.raw_data import RawData

    stated = {knob.field: settings.get(knob.field) for knob in SCAN_KNOBS}
    about = {name: value for name, value in stated.items() if value is not None}
    raw = RawData.from_file(path, **about)
    if about.get("measurement_domain", "auto") != "auto":
        return raw
    try:
        _ = raw.measurement_domain
    except InputError as error:
        nphotons = raw.nphotons or nphotons  # what was stated is in it
        raw = RawData.from_file(path, measurement_domain="normalized_amplitude", nphotons=nphotons)
        _ = raw.mean_counts_per_frame()  # frames that are no amplitudes either are refused here
        logger.warning(
            "%s Taken for 'normalized_amplitude' with nphotons=%g, as older files are.", str(error), nphotons
        )
    return raw
