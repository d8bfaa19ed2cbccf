"""The ways in which a worker ends without an error."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, kw_only=True)
class Stored:
    """This worker has computed the chunk and stored it."""

    chunk: int
    location: str
    size: int
    """Size of the chunk file in bytes."""
    embedded: int
    failed: int
    deferred: int = 0
    """Number of the failed images that had no turn at their slow sites."""
    failures_by_reason: Mapping[str, int] = field(default_factory=dict)
    """Number of failed images for each reason, the most frequent reason first."""


@dataclass(frozen=True, kw_only=True)
class AlreadyStored:
    """The chunk was in the store already, made with the settings of this run."""

    chunk: int
    location: str
    embedded: int
    failed: int
    deferred: int = 0
    """Number of the failed images that had no turn at their slow sites."""


@dataclass(frozen=True, kw_only=True)
class AlreadyMerged:
    """The run is finished, and its result holds the chunk."""

    chunk: int
    result: str
    """Location of the result."""


@dataclass(frozen=True, kw_only=True)
class NothingToTopUp:
    """No row of the chunk failed for a reason that a top-up was asked for."""

    chunk: int
    location: str
    """Location of the chunk file, or of the result that holds the chunk."""
    embedded: int
    failed: int
    deferred: int = 0
    """Number of the failed images that had no turn at their slow sites."""


@dataclass(frozen=True, kw_only=True)
class ToppedUp:
    """This worker has computed some rows of an earlier chunk again and stored the chunk."""

    stored: Stored
    computed: int
    """Number of rows that were computed again."""
    failed_by_reason: Mapping[str, int]
    """Number of those that failed once more, for each reason, the most frequent reason first."""

    @property
    def gained(self) -> int:
        """Number of those that are embedded now."""
        return self.computed - sum(self.failed_by_reason.values())


AlreadyDone = AlreadyStored | AlreadyMerged
Outcome = Stored | ToppedUp | NothingToTopUp | AlreadyDone
