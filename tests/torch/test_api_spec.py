"""The pages that are normative for callers: their tables are those of the code, and what they name is there."""

import dataclasses
import importlib
import inspect
import re
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch

from ptycho import documents
from ptycho.config.config import InferenceConfig, ModelConfig, PyTorchExecutionConfig, TrainingConfig
from ptycho_torch import reference, reference_facts, settings

SPECS = Path(__file__).resolve().parents[2] / "specs"
CLASSES = (ModelConfig, TrainingConfig, InferenceConfig, PyTorchExecutionConfig)
MADE_HERE = "python -m ptycho_torch.reference specs/ptychodus_api_spec.md specs/scaling.md"


@pytest.mark.parametrize("name", reference.PAGES)
def test_the_tables_of_the_pages_are_those_of_the_code(name):
    text = (SPECS / name).read_text(encoding="utf-8")
    assert documents.with_tables(text, reference.PAGES[name]) == text, f"run: {MADE_HERE}"
    for marker in reference.PAGES[name]:
        with pytest.raises(ValueError, match=f"{marker}: begin"):
            documents.with_tables(text.replace(f"<!-- {marker}: begin -->", ""), reference.PAGES[name])


def test_a_page_is_rewritten_between_its_markers_only(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- a: begin -->\nold\n<!-- a: end -->\nafter\n")
    documents.rewrite(page, {"a": lambda: documents.table(("x", "y"), [("1", "p | q")])})
    assert page.read_text() == (
        "before\n<!-- a: begin -->\n| x | y |\n|---|---|\n| 1 | p \\| q |\n<!-- a: end -->\nafter\n"
    )


@pytest.mark.parametrize("cls", CLASSES)
def test_every_field_has_a_row(cls):
    names = {f.name for f in dataclasses.fields(cls)}
    idle = set(settings.REFUSED[cls]) | set(settings.SUPERSEDED[cls])
    assert set(reference_facts.FELT_BY[cls]) == names - idle
    assert set(reference_facts.CALLER[cls]) <= names - idle
    made = reference.execution_table() if cls is PyTorchExecutionConfig else reference.fields_table(cls)
    assert [line.split("`")[1] for line in made.splitlines()[2:]] == [f.name for f in dataclasses.fields(cls)]
    if cls is PyTorchExecutionConfig:
        assert set(reference_facts.VALID) == names


def rows(cls):
    made = reference.execution_table() if cls is PyTorchExecutionConfig else reference.fields_table(cls)
    return {line.split("`")[1]: re.split(r" (?<!\\)\| ", line.strip("| ")) for line in made.splitlines()[2:]}


def test_a_row_says_what_it_should():
    assert rows(ModelConfig)["N"][:5] == ["`N`", "`int`", "`64`", "`N`", "caller"]
    assert rows(ModelConfig)["object_big"][3:5] == ["`object.big`", "acts"]
    assert rows(ModelConfig)["amp_activation"][4] == "acts (`cnn`)"
    assert rows(ModelConfig)["gaussian_smoothing_sigma"][4].startswith("refused")
    assert rows(TrainingConfig)["nphotons"][2] == "`1e9`" and rows(TrainingConfig)["model"][2:4] == [
        "required",
        "its fields",
    ]
    assert rows(TrainingConfig)["output_dir"][2:4] == ["`'training_outputs'`", "`output_prefix`"]
    assert rows(TrainingConfig)["probe_trainable"][4] == "superseded"
    assert rows(PyTorchExecutionConfig)["middle_trim"][4] == "superseded"
    assert rows(PyTorchExecutionConfig)["devices"][1:3] == ["`int \\| str`", "`1`"]


# ---------------------------------------------------------------------- who feels a setting is there


def named(text):
    """Dotted names, and names of classes, in backticks."""
    found = re.findall(r"`([A-Za-z_][\w.]*)`", text)
    return [name for name in found if "." in name or (name[0].isupper() and name != "PyTorchExecutionConfig")]


def exists(name):
    owner, _, rest = name.partition(".")
    if owner in ("Trainer", "DataLoader"):
        cls = pl.Trainer if owner == "Trainer" else torch.utils.data.DataLoader
        return not rest or rest in inspect.signature(cls).parameters
    if owner == "Module":
        return hasattr(torch.nn.Module, rest)
    if owner == "RawData":
        return hasattr(importlib.import_module("ptycho.raw_data").RawData, rest)
    if not rest:
        places = (pl.callbacks, torch.optim, torch.optim.lr_scheduler, importlib.import_module("ptycho_torch"))
        return any(hasattr(place, name) for place in places)
    module, _, attribute = (name if owner == "ptycho" else f"ptycho_torch.{name}").rpartition(".")
    try:
        return hasattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError:
        return name == "ptycho_torch.train"  # a command: `python -m`


@pytest.mark.parametrize(("cls", "field"), [(cls, name) for cls in CLASSES for name in reference_facts.FELT_BY[cls]])
def test_whoever_feels_a_setting_is_there(cls, field):
    missing = [name for name in named(reference_facts.FELT_BY[cls][field]) if not exists(name)]
    assert missing == []


def test_the_check_of_names_tells_them_apart():
    assert not exists("Trainer.nothing") and not exists("objective.nothing") and not exists("Nothing")
    assert not exists("nowhere.at_all") and exists("Trainer.devices") and exists("data.module.BlockDataModule")
    assert named("`objective.objective`: see `realspace_weight`, `SGD`") == ["objective.objective", "SGD"]


# ---------------------------------------------------------------------- what the execution config accepts

ACCEPTED = {
    "whole number >= 0": ([0, 3], [-1, 1.5, True, "1"]),
    "whole number >= 1": ([1, 3], [0, -1, 1.5, True, "1"]),
    "None": ([None], []),
    "> 0": ([1e-9, 2.0], [0, -1.0, float("nan"), "1"]),
    ">= 0": ([0, 0.5], [-0.1, float("inf"), "1"]),
    "name of a Lightning strategy": (["ddp"], ["", None]),
    "name of a metric": (["loss"], ["", None]),
    "list or tuple of whole numbers >= 0": ([[0, 5], (2,)], [[-1], [1.5], 3]),
    "None; 'none' becomes None": ([None, "none"], []),
}


def parts(text):
    """What a cell accepts, and what it names as refused."""
    good, bad = [], []
    for part in re.split(r", (?=None|whole|name|list|>|'|True|False)", text):
        if part in ACCEPTED:
            good += ACCEPTED[part][0]
            bad += ACCEPTED[part][1]
        else:
            accepted, _, refused = part.partition("; ")
            good.append({"True": True, "False": False}.get(accepted, accepted.strip("'")))
            bad += re.findall(r"'(\w+)' is refused", refused)
    return good, bad


@pytest.mark.parametrize("name", reference_facts.VALID)
def test_the_execution_config_accepts_what_the_page_says(name):
    good, bad = parts(reference_facts.VALID[name])
    resolved = {"auto": "cpu"} if name == "accelerator" else {"none": None}
    for value in good:
        found = getattr(PyTorchExecutionConfig(**{"accelerator": "cpu", name: value}), name)
        assert found == (resolved.get(value, value) if isinstance(value, str) else value)
    if good == [True, False]:  # the page says that switches are not checked
        return
    others = [value for value in (*bad, "nonsense", object()) if value not in good]
    if name in ("strategy", "checkpoint_monitor_metric"):
        others.remove("nonsense")
    for value in others:
        if value is None and None in good:
            continue
        with pytest.raises(ValueError, match=name.split("_")[0]):
            PyTorchExecutionConfig(**{"accelerator": "cpu", name: value})


def test_no_field_of_the_execution_config_has_a_legacy_key_of_its_own():
    twins = {"scheduler", "gradient_clip_val", "gradient_clip_algorithm"}
    names = {f.name for f in dataclasses.fields(PyTorchExecutionConfig)}
    others = {f.name for cls in CLASSES[:3] for f in dataclasses.fields(cls)}
    assert names & others == twins
    text = (SPECS / "ptychodus_api_spec.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in twins)


def test_aliases_of_overrides_are_on_the_page():
    from ptycho_torch.config_overrides import ALIASES

    text = " ".join((SPECS / "ptychodus_api_spec.md").read_text(encoding="utf-8").split())
    for alias, name in ALIASES.items():
        assert f"`{alias}`" in text and f"(`{name}`)" in text
