"""MkDocs hook: pages that live outside docs/ come into the site, and links are made to fit.

The documents are written to be read in the repository: they link to each other, to specs/, README.md and plans/, and
now and then to sources. In the site

- README.md, CHANGELOG.md, benchmarks/README.md, specs/*.md and plans/**/*.md are pages too;
- a link to a page, or to a picture, goes to where that is in the site;
- a link to anything else in the repository, a source or a test, becomes its text;
- a link to nothing is left as it is, so that a strict build fails with it;
- lists are indented as Python-Markdown wants them (4 spaces), whatever their marker is wide;
- pages that the navigation in mkdocs.yml leaves out are added to it.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]

# Pattern in the repository -> where its matches are in the site. README.md would be a second index.
OUTSIDE: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("README.md", lambda path: "overview.md"),
    ("CHANGELOG.md", lambda path: "changelog.md"),
    ("benchmarks/README.md", lambda path: "benchmarks/overview.md"),
    ("specs/*.md", lambda path: path),
    ("plans/**/*.md", lambda path: path),
)
# Folder of the site -> title of the section that its pages go to when mkdocs.yml does not name them.
SECTIONS = {"specs": "Specifications", "api": "API reference", "plans": "Plans", "benchmarks": "Benchmarks"}
PICTURES = (".png", ".svg", ".jpg", ".jpeg", ".gif")

_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(<?([^()\s>]+)>?((?:\s+\"[^\"]*\")?)\)")
_DEFINITION = re.compile(r"^( {0,3}\[[^\]]+\]:\s*)(\S+)(.*)$")
_CODE = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)", re.DOTALL)
_FENCE = re.compile(r"^(\s*)(```+|~~~+)")
_ITEM = re.compile(r"^(\s*)([-*+]|\d+[.)])(\s+)(?=\S)")


def _site_paths() -> dict[str, str]:
    """Path in the repository -> path in the site, of the pages outside docs/."""
    found: dict[str, str] = {}
    for pattern, place in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            found[name] = place(name)
    return found


def _in_site(path: str) -> str | None:
    """Where a path of the repository is in the site; None if it is not."""
    if path.startswith("docs/"):
        inside = path.removeprefix("docs/")
        is_shown = path.endswith((".md", *PICTURES)) and not inside.startswith("_hooks/")
        return inside if is_shown and (ROOT / path).is_file() else None
    if path.endswith(PICTURES) and (ROOT / path).is_file():
        return path
    return _site_paths().get(path)


def _in_repository(site_path: str) -> str:
    """The inverse, for a page."""
    return next((path for path, there in _site_paths().items() if there == site_path), f"docs/{site_path}")


# ---------------------------------------------------------------------- files and navigation


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages outside docs/ and the pictures they show, and complete the navigation."""
    for path, there in _site_paths().items():
        text = (ROOT / path).read_text(encoding="utf-8")
        files.append(File.generated(config, there, abs_src_path=str(ROOT / path)))
        for _, target in _targets(text):
            picture = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
            known = files.get_file_from_path(picture) is not None
            if picture.endswith(PICTURES) and not picture.startswith("docs/") and _in_site(picture) and not known:
                files.append(File.generated(config, picture, abs_src_path=str(ROOT / picture)))
    config.nav = _complete(config.nav or [], [file.src_uri for file in files.documentation_pages()])
    return files


def _complete(nav: list[Any], pages: list[str]) -> list[Any]:
    """The navigation without pages that are not there, and with all that are."""
    nav = _only(nav, set(pages))
    named = set(_named(nav))
    for page in sorted(set(pages) - named):
        title = SECTIONS.get(page.partition("/")[0], "More")
        section = next((entry[title] for entry in nav if isinstance(entry, dict) and title in entry), None)
        if not isinstance(section, list):
            section = []
            nav.append({title: section})
        section.append(page)
    return nav


def _only(nav: Any, pages: set[str]) -> Any:
    """A navigation, or a part of one, without the entries of pages that are not there."""
    if isinstance(nav, list):
        kept = [_only(entry, pages) for entry in nav]
        return [entry for entry in kept if entry]
    if isinstance(nav, dict):
        return {title: part for title, entry in nav.items() if (part := _only(entry, pages))}
    return nav if nav in pages or "://" in nav else None


def _named(nav: Any) -> Iterator[str]:
    """The pages of a navigation."""
    if isinstance(nav, str):
        yield nav
    else:
        for entry in nav.values() if isinstance(nav, dict) else nav:
            yield from _named(entry)


# ---------------------------------------------------------------------- the text of a page


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links that lead to the right place, and lists that Python-Markdown reads as they are meant."""
    source = _in_repository(page.file.src_uri)
    return with_indented_lists(with_links(markdown, source, page.file.src_uri))


def with_links(text: str, source: str, page: str) -> str:
    """Text with its links changed.

    Args:
        text: Markdown.
        source: path of its file in the repository.
        page: path of the page in the site.
    """

    def changed(target: str) -> str | None:
        """The target in the site; None for one that is in the repository but not in the site."""
        if "://" in target or target.startswith(("#", "/", "mailto:")):
            return target
        path, mark, anchor = target.partition("#")
        wanted = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        there = _in_site(wanted)
        if there is not None:
            return posixpath.relpath(there, posixpath.dirname(page) or ".") + mark + anchor
        return None if (ROOT / wanted).exists() else target

    def link(match: re.Match[str]) -> str:
        picture, words, target, title = match.groups()
        new = changed(target)
        return words if new is None else f"{picture}[{words}]({new}{title})"

    def definition(line: str) -> str:
        match = _DEFINITION.match(line)
        new = changed(match.group(2)) if match else None
        return line if match is None or new is None else match.group(1) + new + match.group(3)

    return "".join(part if is_code else "\n".join(map(definition, _outside_code(part, link).split("\n")))
                   for is_code, part in _parts(text))  # fmt: skip


def _parts(text: str) -> Iterator[tuple[bool, str]]:
    """The text cut into blocks of fenced code (True) and what lies between them (False)."""
    fence, part = "", ""
    for line in text.splitlines(keepends=True):
        match = _FENCE.match(line)
        if match and not fence:
            yield False, part
            fence, part = match.group(2), line
        elif match and match.group(2).startswith(fence) and line.strip() == match.group(2):
            yield True, part + line
            fence, part = "", ""
        else:
            part += line
    yield bool(fence), part


def _outside_code(text: str, link: Callable[[re.Match[str]], str]) -> str:
    """Links replaced but where they stand in `code`; the words of a link may be code."""
    kept: list[str] = []

    def put_away(match: re.Match[str]) -> str:
        kept.append(match.group(0))
        return f"\0{len(kept) - 1}\0"

    changed = _LINK.sub(link, _CODE.sub(put_away, text))
    return re.sub("\0(\\d+)\0", lambda match: kept[int(match.group(1))], changed)


def _targets(text: str) -> Iterator[tuple[str, str]]:
    """(words, target) of the links outside code."""
    for is_code, part in _parts(text):
        if not is_code:
            for match in _LINK.finditer(_CODE.sub("", part)):
                yield match.group(2), match.group(3)


def with_indented_lists(text: str) -> str:
    """Text in which whatever belongs to a list item is indented by 4 per level, and lists begin after a blank line."""
    lines: list[str] = []
    offsets: list[int] = []  # where the text of the open items begins in the source
    shift: int | None = None  # of a fenced block
    fence = ""
    for line in text.split("\n"):
        if shift is not None:
            lines.append(_moved(line, shift))
            if line.strip() == fence:
                shift = None
            continue
        if not line.strip():
            lines.append(line)
            continue
        indent = len(line) - len(line.lstrip())
        while offsets and indent < offsets[-1]:
            offsets.pop()
        by = 4 * len(offsets) - (offsets[-1] if offsets else 0)
        item, opened = _ITEM.match(line), _FENCE.match(line)
        if opened:
            fence, shift = opened.group(2), by
        elif item and (offsets or indent < 4):
            if not offsets and lines and lines[-1].strip() and not _was_list(lines):
                lines.append("")
            lines.append(" " * (indent + by) + item.group(2) + " " + line[item.end() :])
            offsets.append(item.end())
            continue
        lines.append(_moved(line, by))
    return "\n".join(lines)


def _moved(line: str, by: int) -> str:
    return " " * by + line if by > 0 and line.strip() else line


def _was_list(lines: list[str]) -> bool:
    """Whether the paragraph that ends with the last line belongs to a list."""
    for line in reversed(lines):
        if not line.strip():
            return False
        if _ITEM.match(line):
            return True
    return False
