"""How the parts of a run, its chunks and its merge, ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from common.errors import EmbedderError, ExitCode
from embedder.local.failure_lines import FailureLines

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt ended."""

    exit_code: int
    """The exit code that a container would have: 137 for a process killed by SIGKILL."""
    message: str
    """The program's last word, or what is known about a program that left none."""
    log_path: Path
    failures: FailureLines = field(default_factory=FailureLines)
    """Why its images failed, where the program has said so."""


@dataclass(kw_only=True)
class Outcome:
    """How a run ended that was neither stopped nor failed as a whole."""

    failed: dict[int, Ending] = field(default_factory=dict)
    """The last attempt of each chunk that failed, by the chunk's index."""
    merge: Ending | None = None
    """The last attempt of the merge, None when no merge was started."""
    has_nothing_to_fetch: bool = False
    """Whether a top-up found no row to fetch again and no chunk that is missing."""
    has_earlier_rows: bool = False
    """Whether every chunk that a top-up failed to compute keeps its earlier rows, so that the others are merged."""

    @property
    def exit_code(self) -> int:
        """Return 0 when nothing failed, 75 when every failure may pass, else the code of a failure that stays."""
        endings = [*self.failed.values(), *([self.merge] if self.merge else [])]
        codes = {ending.exit_code for ending in endings} - {ExitCode.OK}
        lasting = codes & {ExitCode.DATA_ERROR, ExitCode.CONFIG_ERROR}
        return max(lasting) if lasting else ExitCode.TEMPORARY_FAILURE if codes else ExitCode.OK


class JobFailed(EmbedderError):
    """A worker ended with exit code 78, so every other worker would end the same way."""

    exit_code = ExitCode.CONFIG_ERROR

    def __init__(self, index: int, ending: Ending, *, chunk_count: int) -> None:
        others = f"chunk {index}: {ending.message} (every other chunk would end the same way)"
        super().__init__(ending.message if chunk_count == 1 else others)
        self.log_path = ending.log_path
