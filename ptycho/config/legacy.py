"""The one-way projection of the dataclasses onto the legacy dictionary (CONFIG-001), and YAML loading."""

from __future__ import annotations

import dataclasses
from collections.abc import MutableMapping
from pathlib import Path, PurePath
from typing import Any

from ptycho.errors import InputError, MissingFileError

__all__ = ["KEY_MAPPINGS", "dataclass_to_legacy_dict", "update_legacy_dict", "load_yaml_config"]

# Field name -> legacy key, where they differ.
KEY_MAPPINGS: dict[str, str] = {
    "object_big": "object.big",
    "probe_big": "probe.big",
    "probe_mask": "probe.mask",
    "probe_trainable": "probe.trainable",
    "intensity_scale_trainable": "intensity_scale.trainable",
    "positions_provided": "positions.provided",
    "output_dir": "output_prefix",
    "train_data_file": "train_data_file_path",
    "test_data_file": "test_data_file_path",
}


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, PurePath) else value


def dataclass_to_legacy_dict(obj: Any) -> dict[str, Any]:
    """Flatten a configuration dataclass: a nested `model` is merged in, fields are renamed, paths become str.

    Accepts any dataclass instance; TypeError for anything else. Fields that are None are kept here.
    """
    if not dataclasses.is_dataclass(obj) or isinstance(obj, type):
        raise TypeError(f"Expected a configuration dataclass instance, found {type(obj).__name__}.")
    # Not dataclasses.asdict: it deep-copies every value, tensors included.
    flat = {f.name: getattr(obj, f.name) for f in dataclasses.fields(obj)}
    model = flat.get("model")
    if dataclasses.is_dataclass(model) and not isinstance(model, type):
        del flat["model"]
        flat = {f.name: getattr(model, f.name) for f in dataclasses.fields(model)} | flat
    return {KEY_MAPPINGS.get(name, name): _plain(value) for name, value in flat.items()}


def update_legacy_dict(cfg: MutableMapping[str, Any], dataclass_obj: Any) -> None:
    """Write a configuration into the legacy dictionary in place. None leaves the previous value; no Path
    enters.

    One way: nothing reads the dictionary back into a dataclass. The execution config is refused (CONFIG-002).
    """
    from ptycho.config.execution import PyTorchExecutionConfig

    if isinstance(dataclass_obj, PyTorchExecutionConfig):
        raise TypeError(
            "CONFIG-002: PyTorchExecutionConfig never enters params.cfg. Pass it to the workflow function as "
            "execution_config instead."
        )
    for key, value in dataclass_to_legacy_dict(dataclass_obj).items():
        if value is not None:
            cfg[key] = value


def load_yaml_config(path: str | Path) -> dict[str, Any]:
    """A YAML file as a dictionary ({} when empty); MissingFileError or InputError with the file's name."""
    import yaml

    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise MissingFileError(f"Configuration file not found: {file}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Configuration file {file} cannot be read: {error}") from error
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"Configuration file {file} is not valid YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InputError(
            f"Configuration file {file}: found a {type(content).__name__} at the top level, expected 'name: "
            "value' lines."
        )
    return content
