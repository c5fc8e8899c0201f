"""Tables of documents that are made from the code: how a table is written, and how it is put into its page.

A page has a pair of markers for each of its tables, `<!-- name: begin -->` and `<!-- name: end -->`; what stands
between them is made anew. `ptycho.cli.reference` and `ptycho_torch.reference` make the tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

__all__ = ["code", "line", "rewrite", "table", "with_tables"]

Tables = Mapping[str, Callable[[], str]]
"""Name of a table -> what makes it."""


def code(names: Iterable[object]) -> str:
    """Names as code, with commas between them."""
    return ", ".join(f"`{name}`" for name in names)


def line(*cells: str) -> str:
    """A row of a table; a bar inside a cell does not end it."""
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of Markdown."""
    titles = tuple(header)
    return "\n".join([line(*titles), "|---" * len(titles) + "|", *(line(*row) for row in rows)])


def with_tables(text: str, tables: Tables) -> str:
    """A document with its tables made anew; ValueError when a marker is missing."""
    for name, make in tables.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        head, found, rest = text.partition(begin)
        _, closed, tail = rest.partition(end)
        if not (found and closed):
            raise ValueError(f"found no pair of {begin} and {end} in the document, expected one")
        text = f"{head}{begin}\n{make()}\n{end}{tail}"
    return text


def rewrite(page: str | Path, tables: Tables) -> None:
    """Put the tables of a page into it."""
    file = Path(page)
    file.write_text(with_tables(file.read_text(encoding="utf-8"), tables), encoding="utf-8")
