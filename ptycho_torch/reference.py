"""The generated tables of specs/ptychodus_api_spec.md and specs/scaling.md, from the dataclasses and `.settings`.

`python -m ptycho_torch.reference specs/ptychodus_api_spec.md specs/scaling.md` writes them anew between their markers.
What a field does is said in :mod:`.reference_facts`; whether it acts at all, and why not, in
:mod:`ptycho_torch.settings`.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePath
from typing import Any

from ptycho import documents, params
from ptycho.config.config import KEY_MAPPINGS, InferenceConfig, ModelConfig, PyTorchExecutionConfig, TrainingConfig
from ptycho.documents import code, table
from ptycho_torch.reference_facts import BACKENDS_OWN, CALLER, ENTRY_POINTS, FELT_BY, PUBLIC, VALID
from ptycho_torch.settings import OPTIONS_OF, REFUSED, SUPERSEDED

_WIDTH = 116


def state(cls: type, name: str) -> tuple[str, str]:
    """What becomes of a field of a public configuration, and who feels it, or why nobody does."""
    for word, reasons in (("refused", REFUSED[cls]), ("superseded", SUPERSEDED[cls])):
        if name in reasons:
            return word, reasons[name]
    felt = FELT_BY[cls][name]
    if name in CALLER[cls]:
        return "caller", felt
    # the public names of options are those of the backend's
    owner = next((a for a, options in OPTIONS_OF.items() if cls is ModelConfig and name in options), None)
    return ("acts" if owner is None else f"acts (`{owner}`)"), felt


def default_of(field: dataclasses.Field[Any]) -> str:
    """The default of a field, as it is written in code."""
    value = field.default
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    if value is dataclasses.MISSING:
        return "required"
    if isinstance(value, float) and value >= 1e6:
        return code([f"{value:g}".replace("e+0", "e")])
    return code([repr(str(value) if isinstance(value, PurePath) else value)])


def legacy_key(field: dataclasses.Field[Any]) -> str:
    """Where the legacy dictionary has a field; those of the model stand beside the others."""
    return "its fields" if field.name == "model" else code([KEY_MAPPINGS.get(field.name, field.name)])


def fields_table(cls: type) -> str:
    """Every field of a public configuration."""
    header = ("field", "type", "default", "legacy key", "state", "felt by, or why not")
    rows = (
        (code([f.name]), code([f.type]), default_of(f), legacy_key(f), *state(cls, f.name))
        for f in dataclasses.fields(cls)
    )
    return table(header, rows)


def execution_table() -> str:
    """Every field of the execution config; none has a legacy key (CONFIG-002)."""
    header = ("field", "type", "default", "accepted", "state", "felt by, or why not")
    cls = PyTorchExecutionConfig
    rows = (
        (code([f.name]), code([f.type]), default_of(f), VALID[f.name], *state(cls, f.name))
        for f in dataclasses.fields(cls)
    )
    return table(header, rows)


def mapping_table() -> str:
    """The fields that the legacy dictionary knows by another name."""
    names = {cls: {f.name for f in dataclasses.fields(cls)} for cls in PUBLIC}
    rows = (
        (code([field]), code([key]), code(cls.__name__ for cls in PUBLIC if field in names[cls]))
        for field, key in KEY_MAPPINGS.items()
    )
    return table(("field", "legacy key", "of"), rows)


def legacy_only_list() -> str:
    """Keys of the legacy dictionary that no configuration writes."""
    written = {KEY_MAPPINGS.get(f.name, f.name) for cls in PUBLIC for f in dataclasses.fields(cls)}
    return code(sorted(set(params.DEFAULT_CFG) - written))


def _by_reason() -> dict[str, dict[type, list[str]]]:
    """Reason -> configuration -> fields, in the order of the tables."""
    found: dict[str, dict[type, list[str]]] = {}
    for cls, reasons in SUPERSEDED.items():
        for name, reason in reasons.items():
            found.setdefault(reason, {}).setdefault(cls, []).append(name)
    return found


def superseded_table() -> str:
    """The superseded settings, by what does their job."""
    public = (*PUBLIC, PyTorchExecutionConfig)
    rows = (
        (reason, _named(of, public), _named(of, BACKENDS_OWN)) for reason, of in _by_reason().items()
    )  # fmt: skip
    return table(("what happens instead", "public field", "field of the backend's own"), rows)


def _named(of: dict[type, list[str]], classes: tuple[type, ...]) -> str:
    return "; ".join(f"{cls.__name__}: {code(of[cls])}" for cls in classes if cls in of) or "-"


def refused_table() -> str:
    """The refused settings."""
    return table(("field", "of", "reason"), _refused_rows())


def _refused_rows() -> Iterator[tuple[str, str, str]]:
    for cls, reasons in REFUSED.items():
        side = "the backend's " if cls in BACKENDS_OWN else ""
        for name, reason in reasons.items():
            yield code([name]), side + cls.__name__, reason


def options_table() -> str:
    """The options that only one architecture has."""
    return table(("architecture", "options"), ((code([name]), code(options)) for name, options in OPTIONS_OF.items()))


def signatures(entry_points: dict[str, tuple[str, ...]]) -> str:
    """A block of code with the signatures of these functions, methods and constructors."""
    parts = []
    for module, names in entry_points.items():
        owner = importlib.import_module(module)
        stubs = [_stub(name, inspect.signature(_attribute(owner, name))) for name in names]
        parts.append("\n".join([f"# {module}", *stubs]))
    return "```text\n" + "\n\n".join(parts) + "\n```"


def backend_protocol() -> str:
    """A block of code with the methods that a provider of a backend has."""
    from ptycho.workflows.backend_selector import Backend

    names = [name for name, value in vars(Backend).items() if inspect.isfunction(value) and not name.startswith("_")]
    stubs = [_stub(name, inspect.signature(getattr(Backend, name))) for name in names]
    return "```text\n" + "\n".join(stubs) + "\n```"


def _attribute(owner: Any, dotted: str) -> Any:
    for part in dotted.split("."):
        owner = getattr(owner, part)
    return owner


def _stub(name: str, signature: inspect.Signature) -> str:
    """One signature, broken between parameters where it is long."""
    parameters = _parameters([p for p in signature.parameters.values() if p.name != "self"])
    returned = "" if signature.return_annotation in (inspect.Signature.empty, None, "None") else (
        f" -> {signature.return_annotation}"
    )  # fmt: skip
    whole = f"{name}({', '.join(parameters)}){returned}"
    if len(whole) <= _WIDTH:
        return whole
    lines = [""]
    for parameter in parameters:
        if lines[-1] and len(lines[-1]) + len(parameter) + 6 > _WIDTH:
            lines.append("")
        lines[-1] += f"{parameter}, "
    return "\n".join([f"{name}(", *(f"    {text.rstrip()}" for text in lines), f"){returned}"])


def _parameters(parameters: Sequence[inspect.Parameter]) -> list[str]:
    found = []
    named_only = False
    for parameter in parameters:
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and not named_only:
            named_only = True
            found.append("*")
        text = ("**" if parameter.kind is inspect.Parameter.VAR_KEYWORD else "") + parameter.name
        if parameter.annotation is not inspect.Parameter.empty:
            text += f": {parameter.annotation}"
        if parameter.default is not inspect.Parameter.empty:
            text += " = ..." if "<factory>" in repr(parameter.default) else f" = {parameter.default!r}"
        found.append(text)
    return found


PAGES: dict[str, documents.Tables] = {
    "ptychodus_api_spec.md": {
        "execution-fields": execution_table,
        "model-fields": lambda: fields_table(ModelConfig),
        "training-fields": lambda: fields_table(TrainingConfig),
        "inference-fields": lambda: fields_table(InferenceConfig),
        "key-mappings": mapping_table,
        "legacy-only": legacy_only_list,
        **{name: partial(signatures, of) for name, of in ENTRY_POINTS.items()},
        "backend-protocol": backend_protocol,
    },
    "scaling.md": {"superseded": superseded_table, "refused": refused_table, "options": options_table},
}
"""Name of a page -> its tables."""


if __name__ == "__main__":
    for page in sys.argv[1:]:
        documents.rewrite(page, PAGES[Path(page).name])
