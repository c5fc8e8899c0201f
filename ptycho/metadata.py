"""`MetadataManager`: what a data file says of its own making, as JSON text under the key `_metadata`.

The text is stored as a plain string array, so that reading it never needs pickle (DATA-002).
"""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import socket
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho import __version__
from ptycho.errors import InputError
from ptycho.io.atomic import atomic_path
from ptycho.io.npz import open_npz, read_entry
from ptycho.validation import fault, metadata_nphotons

__all__ = ["MetadataManager"]

logger = logging.getLogger(__name__)

Metadata = dict[str, Any]

_PHYSICS = (
    "nphotons",
    "gridsize",
    "N",
    "probe_trainable",
    "intensity_scale_trainable",
    "nll_weight",
    "model_type",
)
_TRAINING = ("n_images", "n_groups", "batch_size", "nepochs")
_COMPARED = ("nphotons", "N", "gridsize")
_NPHOTONS_TOLERANCE = 1e-9
_SAVEZ_ARGUMENTS = ("file", "allow_pickle")  # numpy takes arrays of these names for its own arguments


class MetadataManager:
    """Makes, stores, reads and compares metadata. Nothing is kept in the class: all methods are static.

    Metadata is a dictionary: schema_version; creation_info (timestamp, script, hostname, ptychopinn_version);
    physics_parameters and training_parameters, as far as the configuration has them; data_transformations, a
    list of records; additional_parameters, if any.
    """

    METADATA_KEY = "_metadata"
    SCHEMA_VERSION = "1.0.0"

    @staticmethod
    def create_metadata(config: Any, script_name: str, **extra: Any) -> Metadata:
        """Metadata of data made now.

        config: a public configuration; of a ModelConfig alone only the model's values are known.
        script_name: what made the data. extra: stored under additional_parameters.
        """
        metadata: Metadata = {
            "schema_version": MetadataManager.SCHEMA_VERSION,
            "creation_info": {
                "timestamp": _now(),
                "script": str(script_name),
                "hostname": socket.gethostname(),
                "ptychopinn_version": __version__,
            },
            "physics_parameters": _known(config, _PHYSICS),
            "training_parameters": _known(config, _TRAINING),
            "data_transformations": [],
        }
        if extra:
            metadata["additional_parameters"] = dict(extra)
        return metadata

    @staticmethod
    def save_with_metadata(file_path: str | Path, data_dict: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
        """Write arrays and metadata as a compressed NPZ, atomically; '.npz' is appended where it is missing.

        Entries that are None are left out. Raises InputError for what only a pickle could hold.
        """
        text = _json_text(metadata)
        arrays: dict[str, Any] = {
            key: _plain_array(key, value) for key, value in data_dict.items() if value is not None
        }
        arrays[MetadataManager.METADATA_KEY] = np.array(text)
        target = Path(file_path)
        target = target if target.suffix == ".npz" else target.with_name(target.name + ".npz")
        with atomic_path(target) as temporary, open(temporary, "wb") as stream:
            np.savez_compressed(stream, **arrays)

    @staticmethod
    def load_with_metadata(file_path: str | Path) -> tuple[dict[str, npt.NDArray[Any]], Metadata | None]:
        """The arrays of an NPZ without `_metadata`, and the metadata: None if there is none that can be read.

        Pickled entries (object arrays) are never loaded: they are left out, with a warning, and so is metadata
        that older writers stored in this way. MissingFileError, InputError: no NPZ, or a damaged one.
        """
        source = str(file_path)
        with open_npz(file_path) as npz:
            read: dict[str, Any] = {key: read_entry(npz, key, source, optional=True) for key in npz.files}
        for key, value in read.items():
            if isinstance(value, bytes):  # what NumPy hands out for a member that is no array
                raise fault(source, key, "something that is no array", "an array", "Write the file again.")
        stored = read.pop(MetadataManager.METADATA_KEY, None)
        data = {key: value for key, value in read.items() if value is not None}
        return data, None if stored is None else _parsed(stored, source)

    @staticmethod
    def validate_parameters(metadata: Mapping[str, Any] | None, config: Any) -> list[str]:
        """A sentence for each of nphotons, N and gridsize in which metadata and configuration differ.

        What one of the two does not say is not compared; no metadata, no differences.
        """
        stored = _section(metadata, "physics_parameters")
        wanted = _known(config, _COMPARED)
        return [
            f"{name}: the data was made with {stored[name]!r}, the configuration has {wanted[name]!r}."
            for name in _COMPARED
            if name in stored and name in wanted and not _same(stored[name], wanted[name])
        ]

    @staticmethod
    def add_transformation_record(
        metadata: Metadata, tool_name: str, operation: str, parameters: Mapping[str, Any] | None = None
    ) -> Metadata:
        """Append to data_transformations what was done to the data; the same dictionary is changed and returned."""
        record = {
            "timestamp": _now(),
            "tool": tool_name,
            "operation": operation,
            "parameters": dict(parameters or {}),
        }
        metadata.setdefault("data_transformations", []).append(record)
        return metadata

    @staticmethod
    def get_nphotons(metadata: Mapping[str, Any] | None, default: float = 1e9) -> float:
        """physics_parameters.nphotons, or the default where there is no positive one."""
        stored = metadata_nphotons(None if metadata is None else dict(metadata))
        return default if stored is None else stored

    @staticmethod
    def merge_metadata(
        metadata_list: Sequence[Mapping[str, Any] | None], merge_strategy: str = "preserve_first"
    ) -> Metadata:
        """One metadata for data put together from several files; entries that are None are passed over.

        The first one, copied, with the transformations of all in order and a record of the merge.
        merge_strategy: 'preserve_first', or 'validate_consistent', which raises InputError where values of
        physics_parameters differ. An empty list gives {}.
        """
        if merge_strategy not in ("preserve_first", "validate_consistent"):
            raise InputError(
                f"merge_strategy: found {merge_strategy!r}, expected 'preserve_first' or 'validate_consistent'."
            )
        known = [entry for entry in metadata_list if entry is not None]
        if not known:
            return {}
        if merge_strategy == "validate_consistent":
            _check_consistent(known)
        merged: Metadata = copy.deepcopy(dict(known[0]))
        records = [record for entry in known for record in entry.get("data_transformations") or []]
        merged["data_transformations"] = copy.deepcopy(records)
        return MetadataManager.add_transformation_record(
            merged, "MetadataManager", "merge", {"files": len(metadata_list), "strategy": merge_strategy}
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _known(config: Any, names: Sequence[str]) -> dict[str, Any]:
    """Those of the named values that a configuration, or its model, has and that are not None."""
    found = {name: getattr(config, name, getattr(getattr(config, "model", None), name, None)) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def _section(metadata: Mapping[str, Any] | None, name: str) -> Mapping[str, Any]:
    section = (metadata or {}).get(name)
    return section if isinstance(section, Mapping) else {}


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return abs(a - b) <= _NPHOTONS_TOLERANCE
    return bool(a == b)


def _check_consistent(known: Sequence[Mapping[str, Any]]) -> None:
    """InputError if two of the entries state different values of one physics parameter."""
    first: dict[str, Any] = {}
    differences = []
    for number, entry in enumerate(known):
        for name, value in _section(entry, "physics_parameters").items():
            if not _same(first.setdefault(name, value), value):
                differences.append(f"{name} = {value!r} (entry {number}) and {first[name]!r}")
    if differences:
        raise InputError(
            f"Metadata that does not agree: found {'; '.join(differences)}, expected the same value everywhere. "
            "Merge data of one kind only, or with merge_strategy='preserve_first'."
        )


def _parsed(stored: npt.NDArray[Any], source: str) -> Metadata | None:
    item = stored.reshape(-1)[0] if stored.size == 1 else ""
    text = item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item)
    try:
        content = json.loads(text)
    except ValueError as error:
        logger.warning("%s: _metadata: found no JSON text (%s); it is ignored.", source, error)
        return None
    if not isinstance(content, dict):
        logger.warning("%s: _metadata: found a %s, expected a JSON object; ignored.", source, type(content).__name__)
        return None
    return content


def _plain_array(key: str, value: Any) -> npt.NDArray[Any]:
    """The value as an array that can be stored without pickle."""
    if key in _SAVEZ_ARGUMENTS:
        raise InputError(f"{key}: found an entry of this name, which numpy.savez cannot store. Rename it.")
    array = np.asarray(value)
    if array.dtype.hasobject:
        raise InputError(
            f"{key}: found a {type(value).__name__} that only a pickle could hold, expected numbers or text. "
            "Leave it out, or store its parts under keys of their own."
        )
    return array


def _json_text(metadata: Mapping[str, Any]) -> str:
    try:
        return json.dumps(dict(metadata), default=_for_json)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"metadata: found something that JSON cannot hold ({error}), expected numbers, text, lists, dictionaries."
        ) from error


def _for_json(value: Any) -> Any:
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, (np.generic, np.ndarray)) and value.dtype.kind in "biufU":
        return value.tolist()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"a {type(value).__name__}")
