"""The worker's settings, section by section, so that one wrong setting does not hide the faults of other parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from common.errors import SettingsError
from common.settings import Section, TlsSettings, read_settings, sections_of
from worker.settings import WorkerSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

AnySection = TypeVar("AnySection", bound=Section)


@dataclass(frozen=True)
class Sections:
    read: Mapping[type[Section], Section]
    """The sections without a wrong setting."""
    problem: str
    """The settings that are wrong; empty if none is."""
    can_trust: bool
    """Whether the certificates that connections need can be read."""

    def get(self, kind: type[AnySection]) -> AnySection | None:
        """Return the section, None if one of its settings is wrong."""
        found = self.read.get(kind)
        return found if isinstance(found, kind) else None


def read_sections() -> Sections:
    """Return the worker's settings from the environment."""
    read: dict[type[Section], Section] = {}
    problems: dict[str, None] = {}
    for section in sections_of(WorkerSettings).values():
        try:
            read[section] = read_settings(section)
        except SettingsError as error:
            problems[str(error)] = None
    return Sections(read, "; ".join(problems), can_trust=_can_trust())


def _can_trust() -> bool:
    try:
        read_settings(TlsSettings)
    except SettingsError:
        return False
    return True
