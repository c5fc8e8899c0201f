"""Trained models: the neutral archive, and Lightning's checkpoints."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ptycho.errors import InputError, PtychoError
from ptycho.inspection.data import Facts, Inspection, probe_facts

__all__ = ["compare_scan_with_model", "inspect_archive", "inspect_checkpoint"]

ILLUMINATION = "diffraction_to_obj"
"""The archive's group that holds the probe and the photon scale."""
_CONFIGS = ("model_config", "data_config", "training_config", "inference_config")


def inspect_archive(path: Path) -> Inspection:
    """Look at an archive; every byte is checked. InputError for one that is damaged or of another kind."""
    from ptycho.model_manager import load_archive

    archive = load_archive(path)
    settings = dict(archive.config.get("settings") or {})
    light = archive.models.get(ILLUMINATION, {})
    weights = {f"{group}.{name}": value for group, part in archive.models.items() if group != ILLUMINATION
               for name, value in part.items()}  # fmt: skip
    stated = {name: archive.config.get(name) or {} for name in _CONFIGS}
    found = Inspection(path, "model archive", {"model": _model_facts(stated, weights, light)})
    found.sections["made"] = {"backend": archive.backend, **_manifest_facts(path)}
    found.sections["configuration"] = _flat(settings or stated)
    found.warnings = _about_weights(weights, found.sections["model"])
    parts = [path] if path.is_file() else list(path.iterdir())
    found.size_bytes = sum(part.stat().st_size for part in parts if part.is_file())
    return found


def _manifest_facts(path: Path) -> Facts:
    """Of an archive that load_archive has found good."""
    if path.is_dir():
        data = (path / "manifest.json").read_bytes()
    else:
        with zipfile.ZipFile(path) as source:
            data = source.read("manifest.json")
    manifest = json.loads(data)
    return {"format_version": manifest.get("format_version"), **dict(manifest.get("versions") or {})}


def inspect_checkpoint(path: Path) -> Inspection:
    """Look at a checkpoint of Lightning; nothing in it is run. InputError for anything else, and for objects in it."""
    try:
        import torch
    except ImportError as error:
        raise PtychoError(
            f"{path}: a checkpoint is read with torch, which is not installed. Install it with: "
            "pip install 'torch>=2.2'"
        ) from error
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # many kinds, of the zip file, of what was pickled, of the format
        first = str(error).strip().split("\n")[0]
        raise InputError(
            f"{path}: found a checkpoint that cannot be read without running what it holds ({first}), expected plain "
            "tensors and numbers. It may be damaged, or not of this program: train the model again."
        ) from error
    state = stored.get("state_dict") if isinstance(stored, dict) else None
    if not isinstance(state, dict):
        raise InputError(
            f"{path}: found a file of torch without 'state_dict', expected a checkpoint of a training run. Name a "
            ".ckpt of one."
        )
    arrays = {name: value.detach().cpu().float().numpy() if value.dtype == torch.bfloat16 else value.numpy()
              for name, value in state.items() if hasattr(value, "numpy")}  # fmt: skip
    stated = {name: dict((stored.get("hyper_parameters") or {}).get(name) or {}) for name in _CONFIGS}
    light = {name: arrays[name] for name in ("probe_parts", "guess_parts", "mean_counts") if name in arrays}
    weights = {name: value for name, value in arrays.items() if name.startswith("generator.")} or {
        name: value for name, value in arrays.items() if name not in light
    }
    found = Inspection(path, "checkpoint", {"model": _model_facts(stated, weights, light)})
    found.size_bytes = path.stat().st_size
    found.sections["training"] = {
        "finished_epochs": _plus_one(stored.get("epoch")),
        "steps": stored.get("global_step"),
        "best_so_far": _best(stored.get("callbacks") or {}),
        "lightning": stored.get("pytorch-lightning_version"),
    }
    found.sections["configuration"] = _flat({name: value for name, value in stated.items() if value})
    found.warnings = _about_weights(weights, found.sections["model"])
    if not any(stated.values()):
        found.warnings.append("No configuration in the checkpoint: nobody knows what its weights are of.")
    return found


def _plus_one(epoch: Any) -> int | None:
    return epoch + 1 if isinstance(epoch, int) else None


def _best(callbacks: dict[str, Any]) -> str | None:
    """The best value of what was watched, in words."""
    for state in callbacks.values():
        if isinstance(state, dict) and state.get("best_model_score") is not None:
            return f"{state.get('monitor')} {float(state['best_model_score']):.6g}"
    return None


def _model_facts(stated: dict[str, Any], weights: dict[str, npt.NDArray[Any]], light: dict[str, Any]) -> Facts:
    """stated: the four configurations. light: probe_parts, guess_parts, mean_counts where they are there."""
    model, data = stated["model_config"], stated["data_config"]
    facts: Facts = {
        "architecture": model.get("architecture"),
        "N": data.get("N"),
        "frames_per_group": data.get("C"),
        "parameters": int(sum(value.size for value in weights.values())),
        "weights_bytes": int(sum(value.nbytes for value in weights.values())),
        "measurement_domain": data.get("measurement_domain"),
    }
    for name in ("stages", "projection_steps", "later_projection_steps", "merge_block"):
        if model.get("architecture") == "projection_unet" and name in model:
            facts[name] = model[name]
    if "mean_counts" in light:
        mean = float(np.asarray(light["mean_counts"]).reshape(-1)[0])
        facts["mean_counts_per_frame"] = mean
        facts["intensity_scale"] = mean**0.5 / (data["N"] / 2) if data.get("N") and mean > 0 else None
    for name, key in (("probe_parts", "probe"), ("guess_parts", "probe_guess")):
        field = _complex(light.get(name))
        if field is not None:
            facts[key] = probe_facts(field)
    return facts


def _complex(parts: Any) -> npt.NDArray[np.complex64] | None:
    """(modes, N, N) from real (modes, N, N, 2); None for anything else."""
    array = None if parts is None else np.asarray(parts)
    if array is None or array.ndim != 4 or array.shape[-1] != 2 or not np.isfinite(array).all():
        return None
    return (array[..., 0] + 1j * array[..., 1]).astype(np.complex64)


def _flat(settings: dict[str, Any], prefix: str = "") -> Facts:
    """Nested settings as one level: name.part."""
    flat: Facts = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def _about_weights(weights: dict[str, npt.NDArray[Any]], facts: Facts) -> list[str]:
    warnings = []
    broken = [name for name, value in weights.items() if value.dtype.kind == "f" and not np.isfinite(value).all()]
    if broken:
        warnings.append(f"{len(broken)} of {len(weights)} weights are not finite (first {broken[0]}): train anew.")
    if not weights:
        warnings.append("No weights of a network.")
    if "mean_counts_per_frame" in facts and not facts["mean_counts_per_frame"] > 0:
        warnings.append("No photon scale and no probe: the model was never trained.")
    return warnings


def compare_scan_with_model(scan: Inspection, model: Inspection) -> None:
    """Add to the inspection of a scan what speaks against reconstructing it with a model. InputError if it is none."""
    if model.kind not in ("model archive", "checkpoint"):
        raise InputError(f"{model.path}: found a {model.kind}, expected a model (wts.h5.zip or .ckpt). Name a model.")
    facts, frames = model.sections["model"], scan.sections["frames"]
    scan.sections["model"] = {"file": str(model.path), **facts}
    side, N = frames["side_px"], facts.get("N")
    if N is not None and N != side:
        remedy = f"Crop the scan (--crop {N})" if N < side else f"Train a model for {side}"
        scan.warnings.append(f"The model {model.path} takes frames of N = {N}, these have {side}. {remedy}.")
    if frames["domain"] is not None and facts.get("measurement_domain") not in (None, frames["domain"], "auto"):
        scan.warnings.append(
            f"The model was trained on frames taken as {facts['measurement_domain']}, these are taken as "
            f"{frames['domain']}; each is turned into counts. Is that right?"
        )
    mean, trained = frames["mean_counts_per_frame"], facts.get("mean_counts_per_frame")
    if mean and trained and not 0.01 <= mean / trained <= 100:
        scan.warnings.append(
            f"The model was trained at {trained:.3g} counts per frame, here are {mean:.3g}: expect less of it."
        )
