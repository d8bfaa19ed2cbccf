"""How a worker's work on its chunk ended well."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, kw_only=True)
class Stored:
    """This worker has stored the chunk."""

    chunk: int
    location: str
    size: int
    """Bytes of the chunk file."""
    embedded: int
    failed: int
    failures_by_reason: Mapping[str, int] = field(default_factory=dict)
    """The most frequent reason first."""


@dataclass(frozen=True, kw_only=True)
class AlreadyStored:
    """The chunk was in the store, and this run's settings made it."""

    chunk: int
    location: str
    embedded: int
    failed: int


@dataclass(frozen=True, kw_only=True)
class AlreadyMerged:
    """The run is finished, and its result holds the chunk."""

    chunk: int
    result: str
    """Location of the result."""


AlreadyDone = AlreadyStored | AlreadyMerged
Outcome = Stored | AlreadyDone
