"""The README's tables of settings and of reasons, generated from the code. `make docs` writes them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from common.format.reasons import REASON_HELP
from common.settings import RunSettings, Setting, settings_of
from embedder.local.settings import LocalRunSettings
from k8s.gate.settings import GateSettings
from merger.settings import MergerSettings
from worker.settings import WorkerSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic.fields import FieldInfo

README = Path(__file__).parents[1] / "README.md"

TABLES: dict[str, type[object]] = {
    "of every program": RunSettings,
    "of the worker": WorkerSettings,
    "of the merger": MergerSettings,
    "of the gate": GateSettings,
    "of embedder run": LocalRunSettings,
}


def settings_table(kind: type[object]) -> str:
    """Return the Markdown table of the settings that `kind` has of its own."""
    lines = ["| variable | default | what it is |", "| --- | --- | --- |"]
    for setting in _own_settings(kind):
        field = setting.field
        description = " ".join((field.description or "").split()).replace("|", "\\|")
        lines.append(f"| `{setting.variable}` | {_default(field)} | {description} |")
    return "\n".join(lines)


def reasons_table() -> str:
    lines = ["| reason | what it means |", "| --- | --- |"]
    return "\n".join([*lines, *(f"| `{reason}` | {meaning} |" for reason, meaning in REASON_HELP.items())])


def with_tables(text: str) -> str:
    """Return the document's text with what stands between the markers made anew. Raises ValueError without them."""
    for name, kind in TABLES.items():
        text = _replaced(text, f"settings {name}", settings_table(kind))
    return _replaced(text, "reasons", reasons_table())


def _replaced(text: str, name: str, table: str) -> str:
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    head, found_begin, rest = text.partition(begin)
    _, found_end, tail = rest.partition(end)
    if not (found_begin and found_end):
        raise ValueError(f"the document lacks {begin} or {end}")
    return f"{head}{begin}\n{table}\n{end}{tail}"


def _own_settings(kind: type[object]) -> Iterator[Setting]:
    for name, setting in settings_of(kind).items():
        if (
            kind is RunSettings
            or name not in RunSettings.model_fields
            or setting.field.default != _shared_default(name)
        ):
            yield setting


def _shared_default(name: str) -> object:
    return RunSettings.model_fields[name].default


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default in ("", None):
        return ""
    return f"`{str(field.default).lower() if isinstance(field.default, bool) else field.default}`"


if __name__ == "__main__":
    README.write_text(with_tables(README.read_text("utf-8")), "utf-8")
