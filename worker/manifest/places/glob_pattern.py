"""Patterns of names, as a shell has them: `*`, `?`, `[a-z]`, and `**` for folders of any depth.

A wildcard does not stand for the `.` or `_` at the beginning of a name, since such files are not meant as data
(`_SUCCESS`, `.part-00000.crc`).
"""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple

_WILDCARD = re.compile(r"[*?]|\[[^/]+\]")
_NAME = r"(?![._])[^/]+"


def has_wildcard(text: str) -> bool:
    """Return whether `text` is a pattern, and not the name of one file."""
    return _WILDCARD.search(text) is not None


class GlobPattern(NamedTuple):
    folder: str
    """The part of the pattern before the first name with a wildcard: empty, or a text that ends with a slash."""
    start: str
    """The start of every name below `folder` that can match."""
    names: tuple[str, ...]
    """The names of the pattern behind `folder`, with and without wildcards."""
    is_folder: bool
    """Whether the pattern ends with a slash, so that it means folders alone."""

    def matches(self, path: str) -> bool:
        """Return whether a file with this path below `folder` is meant."""
        if self.is_folder:
            return False
        # A file may have the pattern itself as its name: photos[1].csv.
        return path == "/".join(self.names) or _regex(self.names).fullmatch(path) is not None

    def has_above(self, path: str) -> bool:
        """Return whether the pattern means a folder in which the file with this path lies, at any depth."""
        return _regex(self.names, tail=rf"(?:/{_NAME})+").fullmatch(path) is not None

    def may_be_in(self, path: str) -> bool:
        """Return whether a folder with this path below `folder` can hold files that are meant."""
        names = path.split("/")
        reached = self.names[: len(names)]
        if "**" in reached:
            reached = reached[: reached.index("**") + 1]
        tail = rf"(?:/{_NAME})*" if len(names) > len(reached) or reached[-1] == "**" else ""
        return _regex(reached, tail=tail).fullmatch(path) is not None

    def hides(self, path: str, *, is_folder: bool = False) -> bool:
        """Return whether a file or folder that is not meant would be meant, were it not for a name with `.` or `_`."""
        shown = re.sub(r"(^|/)[._]+(?=[^/])", r"\1x", path)
        if shown == path:
            return False
        return self.may_be_in(shown) if is_folder else self.matches(shown) or self.has_above(shown)


def everything_in(folder: str) -> GlobPattern:
    """Return the pattern of all files in `folder`, a text that ends with a slash or is empty, and in its folders."""
    return GlobPattern(folder, "", ("**",), False)


def glob_pattern(text: str) -> GlobPattern:
    """Return the pattern in `text`, which has a wildcard."""
    first = _WILDCARD.search(text)
    cut = text.rindex("/", 0, first.start()) + 1 if first and "/" in text[: first.start()] else 0
    names = tuple(name for name in text[cut:].split("/") if name)
    start = text[cut : first.start()] if first else text[cut:]
    # `photos/**/` means what lies in the folders of any depth, and so does `photos/**`.
    return GlobPattern(text[:cut], start, names, text.endswith("/") and names[-1] != "**")


@cache
def _regex(names: tuple[str, ...], *, tail: str = "") -> re.Pattern[str]:
    pieces: list[str] = []
    for position, name in enumerate(names):
        is_last = position == len(names) - 1
        if name == "**":
            pieces.append(rf"{_NAME}(?:/{_NAME})*" if is_last else rf"(?:{_NAME}/)*")
        else:
            pieces.append(_name_regex(name) + ("" if is_last else "/"))
    return re.compile("".join(pieces) + tail, re.DOTALL)


def _name_regex(name: str) -> str:
    """Return the expression for one name of a pattern."""
    found = r"(?![._])" if name[0] in "*?[" else ""
    position = 0
    while position < len(name):
        character = name[position]
        closing = name.find("]", position + 2) if character == "[" else -1
        if character == "*":
            found += "[^/]*"
        elif character == "?":
            found += "[^/]"
        elif closing > 0:
            found += _class_regex(name[position + 1 : closing])
            position = closing
        else:
            found += re.escape(character)
        position += 1
    return found


def _class_regex(inside: str) -> str:
    is_negated = inside[0] in "!^"
    members = inside[1:] if is_negated else inside
    escaped = re.sub(r"([\\\[\]^&~|])", r"\\\1", members)
    try:
        re.compile(f"[{escaped}]")
    except re.error:  # a range that ends before it begins, which matches nothing in a shell
        return r"(?!)"
    return rf"(?!/)[{'^' if is_negated else ''}{escaped}]"
