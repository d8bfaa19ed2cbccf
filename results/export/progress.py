"""How far an export is."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol


class Step(StrEnum):
    """The steps of an export, in their order."""

    MEASURING = "measuring"
    """Looking for the largest numbers, for int8."""
    WRITING = "writing"
    SAVING = "saving"
    """Writing an index that was built in memory to the disk."""
    VERIFYING = "verifying"
    UPLOADING = "uploading"
    """Its unit is the byte, that of the others the row."""


class Progress(Protocol):
    def begin(self, step: Step, total: int) -> None:
        """Begin a step with so many units; 0 where nobody knows how far it is."""

    def advance(self, units: int) -> None:
        """Count units of the step that are done."""
