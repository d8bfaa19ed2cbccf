"""Generates the tables of settings and of failure reasons from the code. `make docs` writes them into the documents."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.reasons import REASON_HELP
from common.settings import RunSettings, setting_name
from k8s.gate_settings import GateSettings
from k8s.run_settings import LocalRunSettings
from merger.settings import MergerSettings
from tools.documents import ROOT, replaced
from worker.settings import WorkerSettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pydantic.fields import FieldInfo
    from pydantic_settings import BaseSettings

SETTINGS = ROOT / "docs" / "settings.md"
RESULT = ROOT / "docs" / "result.md"

Section = tuple[str, "type[BaseSettings]"]
"""A heading and a class of settings. An empty heading gives a table without one."""

PROGRAMS: dict[str, Sequence[Section]] = {
    "of every program": [("", RunSettings)],
    "of the worker": [("", WorkerSettings)],
    "of the merger": [("", MergerSettings)],
    "of the gate": [("", GateSettings)],
    "of embedder run": [("", LocalRunSettings)],
}
"""The sections of each pair of markers in the document, in the order in which they are shown."""


def settings_tables(sections: Sequence[Section]) -> str:
    """Return a Markdown table for each section, below its heading."""
    return "\n\n".join(
        f"### {heading}\n\n{settings_table(kind)}" if heading else settings_table(kind) for heading, kind in sections
    )


def settings_table(kind: type[BaseSettings]) -> str:
    """Return the Markdown table of the settings of `kind`, without those that it only inherits from RunSettings."""
    lines = ["| variable | default | what it is |", "| --- | --- | --- |"]
    for name, field in _own_fields(kind):
        description = " ".join((field.description or "").split()).replace("|", "\\|")
        lines.append(f"| `{setting_name(kind, name)}` | {_default(field)} | {description} |")
    return "\n".join(lines)


def reasons_table() -> str:
    """Return the Markdown table of the reasons why an image is in the ledger."""
    lines = ["| reason | what it means |", "| --- | --- |"]
    return "\n".join([*lines, *(f"| `{reason}` | {meaning} |" for reason, meaning in REASON_HELP.items())])


def with_settings(text: str) -> str:
    """Return `text` with the tables of settings between their markers. Raises ValueError if a marker is missing."""
    for name, sections in PROGRAMS.items():
        text = replaced(text, f"settings {name}", settings_tables(sections))
    return text


def with_reasons(text: str) -> str:
    """Return `text` with the table of reasons between its markers. Raises ValueError if a marker is missing."""
    return replaced(text, "reasons", reasons_table())


def _own_fields(kind: type[BaseSettings]) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in kind.model_fields.items():
        if kind is RunSettings or name not in RunSettings.model_fields or field.default != _shared_default(name):
            yield name, field


def _shared_default(name: str) -> object:
    return RunSettings.model_fields[name].default


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default in ("", None):
        return ""
    return f"`{str(field.default).lower() if isinstance(field.default, bool) else field.default}`"


if __name__ == "__main__":
    SETTINGS.write_text(with_settings(SETTINGS.read_text("utf-8")), "utf-8")
    RESULT.write_text(with_reasons(RESULT.read_text("utf-8")), "utf-8")
