"""Generates what repeats values.yaml: the table in charts/README.md, and charts/defaults.yaml. `make docs` writes both.

Templates read the defaults of a group that is null from defaults.yaml, because Helm gives them no other access.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from tools.documents import ROOT, replaced

if TYPE_CHECKING:
    from collections.abc import Iterator

VALUES = ROOT / "charts" / "values.yaml"
DOCUMENT = ROOT / "charts" / "README.md"
DEFAULTS = ROOT / "charts" / "defaults.yaml"

_KEY = re.compile(r"( *)([A-Za-z0-9]+):")


class Value(NamedTuple):
    path: str
    """The value's name with dots between its parts, as --set takes it."""
    description: str
    default: Any


def documented_values(text: str | None = None) -> list[Value]:
    """Return the values that have a `# --` comment, in the file's order."""
    text = VALUES.read_text("utf-8") if text is None else text
    defaults = yaml.safe_load(text)
    values: list[Value] = []
    parents: list[tuple[int, str]] = []
    comment: list[str] = []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("# --"):
            comment = [stripped.removeprefix("# --").strip()]
        elif stripped.startswith("#") and comment:
            comment.append(stripped.removeprefix("#").strip())
        elif key := _KEY.match(line):
            indent = len(key[1])
            parents = [*((column, name) for column, name in parents if column < indent), (indent, key[2])]
            if comment:
                path = ".".join(name for _, name in parents)
                values.append(Value(path, " ".join(comment), value_at(defaults, path)))
            comment = []
    return values


def value_at(values: dict[str, Any], path: str) -> Any:  # noqa: ANN401 - any YAML
    """Return the value at the dotted path. Raises KeyError if there is none."""
    found: Any = values
    for name in path.split("."):
        found = found[name]
    return found


def leaves(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the dotted path of every value that is not a mapping, and of every empty mapping."""
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def table() -> str:
    """Return the reference as a Markdown table."""
    rows = [
        f"| `{value.path}` | {_default(value.default)} | {_cell(value.description)} |" for value in documented_values()
    ]
    return "\n".join(["| value | default | what it is |", "| --- | --- | --- |", *rows])


def defaults() -> str:
    """Return values.yaml without its comments."""
    head = (
        "# The defaults of values.yaml, for values that are null. `make docs` writes this file; changes belong there.\n"
    )
    return head + yaml.safe_dump(yaml.safe_load(VALUES.read_text("utf-8")), sort_keys=False, width=120)


def with_table(text: str) -> str:
    """Return `text` with the table between its markers. Raises ValueError if a marker is missing."""
    return replaced(text, "values", table())


def _default(value: object) -> str:
    return "" if value in (None, "", [], {}) else f"`{json.dumps(value)}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    DOCUMENT.write_text(with_table(DOCUMENT.read_text("utf-8")), "utf-8")
    DEFAULTS.write_text(defaults(), "utf-8")
