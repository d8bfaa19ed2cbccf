"""Generates the tables of settings and of failure reasons from the code. `make docs` writes them into the documents."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.format.reasons import REASON_HELP, Reason
from common.settings import RunSettings, S3Settings, Section, Setting, settings_of
from embedder.local.settings import LocalRunSettings
from k8s.gate.settings import GateSettings
from merger.settings import MergerSettings
from results.index.settings import IndexSettings
from tools.documents import ROOT, replaced
from worker.failure_advice import ADVICE, LOCAL_ADVICE
from worker.settings import (
    ChunkSettings,
    DecodeSettings,
    EncodeSettings,
    FetchSettings,
    HttpSettings,
    ManifestSettings,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pydantic.fields import FieldInfo

SETTINGS = ROOT / "docs" / "settings.md"
RESULT = ROOT / "docs" / "result.md"

Table = tuple[str, type[Section]]
"""A heading and a section of settings. An empty heading gives a table without one."""

PROGRAMS: dict[str, Sequence[Table]] = {
    "of every program": [("", RunSettings), ("S3", S3Settings)],
    "of the worker": [
        ("The chunk", ChunkSettings),
        ("The manifest", ManifestSettings),
        ("HTTP", HttpSettings),
        ("Fetching", FetchSettings),
        ("Decoding", DecodeSettings),
        ("Encoding", EncodeSettings),
    ],
    "of the merger": [("", MergerSettings)],
    "of the index program": [("", IndexSettings)],
    "of the gate": [("", GateSettings)],
    "of embedder run": [("", LocalRunSettings)],
}
"""The tables of each pair of markers in the document, in the order in which they are shown."""


def settings_tables(tables: Sequence[Table]) -> str:
    """Return the Markdown tables, each below its heading."""
    return "\n\n".join(
        f"### {heading}\n\n{settings_table(kind)}" if heading else settings_table(kind) for heading, kind in tables
    )


def settings_table(kind: type[Section]) -> str:
    """Return the Markdown table of the settings of `kind`, without those that it only inherits."""
    lines = ["| variable | default | what it is |", "| --- | --- | --- |"]
    for setting in _own_settings(kind):
        description = " ".join((setting.field.description or "").split()).replace("|", "\\|")
        lines.append(f"| `{setting.variable}` | {_default(setting.field)} | {description} |")
    return "\n".join(lines)


def reasons_table() -> str:
    """Return the Markdown table of the reasons why an image is in the ledger."""
    lines = ["| reason | what it means | what helps against many of them |", "| --- | --- | --- |"]
    rows = [f"| `{reason}` | {meaning} | {_advice(reason)} |" for reason, meaning in REASON_HELP.items()]
    return "\n".join([*lines, *rows])


def _advice(reason: Reason) -> str:
    """Return what a chunk that fails for this reason advises, with the advice for files where it differs."""
    local = LOCAL_ADVICE.get(reason)
    return ADVICE[reason] + (f". For files of the worker's machine: {local}" if local else "")


def with_settings(text: str) -> str:
    """Return `text` with the tables of settings between their markers. Raises ValueError if a marker is missing."""
    for name, tables in PROGRAMS.items():
        text = replaced(text, f"settings {name}", settings_tables(tables))
    return text


def with_reasons(text: str) -> str:
    """Return `text` with the table of reasons between its markers. Raises ValueError if a marker is missing."""
    return replaced(text, "reasons", reasons_table())


def _own_settings(kind: type[Section]) -> Iterator[Setting]:
    inherited = {
        name: field
        for base in kind.__mro__[1:]
        if issubclass(base, Section)
        for name, field in base.model_fields.items()
    }
    for name, setting in settings_of(kind).items():
        shared = inherited.get(name)
        if shared is None or setting.field.default != shared.default:
            yield setting


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default in ("", None):
        return ""
    return f"`{str(field.default).lower() if isinstance(field.default, bool) else field.default}`"


if __name__ == "__main__":
    SETTINGS.write_text(with_settings(SETTINGS.read_text("utf-8")), "utf-8")
    RESULT.write_text(with_reasons(RESULT.read_text("utf-8")), "utf-8")
