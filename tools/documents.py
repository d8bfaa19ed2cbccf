"""The project's documents: where they are, and what they link to."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]

GENERATED = {"build", "models", "out", "site"}
"""Folders of the root that the make verbs create. They hold no documents of the project."""

_FENCE = re.compile(r"^ *(`{3,}|~{3,}).*?^ *\1 *$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]*`")
_LINK = re.compile(r"!?\[[^\]\[]*(?:\[[^\]]*\][^\]\[]*)*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)


def documents(root: Path = ROOT) -> list[Path]:
    """Return the paths of all Markdown files below `root`, relative to it and sorted."""
    return sorted(path.relative_to(root) for path in _markdown_files(root))


def replaced(text: str, name: str, content: str) -> str:
    """Return `text` with `content` between the two markers called `name`. Raises ValueError if a marker is missing."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    head, found_begin, rest = text.partition(begin)
    _, found_end, tail = rest.partition(end)
    if not (found_begin and found_end):
        raise ValueError(f"the document lacks {begin} or {end}")
    return f"{head}{begin}\n\n{content}\n\n{end}{tail}"


def local_links(text: str) -> list[str]:
    """Return the targets of all links and images in `text` that lead to files of the project, anchors included."""
    prose = _CODE.sub("", _FENCE.sub("", text))
    return [target for target in _LINK.findall(prose) if not _SCHEME.match(target)]


def anchors(text: str) -> set[str]:
    """Return the anchors of the headings in `text`, formed as GitHub forms them."""
    found: set[str] = set()
    for heading in _HEADING.findall(_FENCE.sub("", text)):
        plain = _LINK.sub("", heading).replace("`", "")
        anchor = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        number = 0
        while (name := f"{anchor}-{number}" if number else anchor) in found:
            number += 1
        found.add(name)
    return found


def linked_files(document: Path, root: Path = ROOT) -> Iterator[tuple[str, Path, str]]:
    """Yield the target, the file and the anchor of each link in the document. The file is relative to `root`."""
    for target in local_links((root / document).read_text("utf-8")):
        path, _, anchor = target.partition("#")
        joined = os.path.normpath(document.parent / path) if path else str(document)
        yield target, Path(joined), anchor


def broken_links(root: Path = ROOT) -> list[str]:
    """Return one line for every link of every document that leads to no file, to a folder, or to no heading."""
    problems: list[str] = []
    for document in documents(root):
        for target, path, anchor in linked_files(document, root):
            if not (root / path).is_file():
                problems.append(f"{document}: {target} is not a file")
            elif anchor and anchor not in _anchors_of(root / path):
                problems.append(f"{document}: {target} names a heading that {path} does not have")
    return problems


@cache
def _anchors_of(path: Path) -> set[str]:
    return anchors(path.read_text("utf-8"))


def _markdown_files(root: Path) -> Iterator[Path]:
    for folder, names, files in os.walk(root):
        here = Path(folder)
        names[:] = [name for name in names if not name.startswith(".") and (here != root or name not in GENERATED)]
        yield from (here / name for name in files if name.endswith(".md"))
