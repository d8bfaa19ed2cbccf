"""The failures of a run by reason, by site and by chunk, with examples, from a ledger of any length."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from common.format.failures_csv import original, read_failures
from common.run.keys import FAILURES_KEY
from common.site_names import site_name
from common.store.object_reader import ObjectReader

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from common.store.contract import Store

READ_BYTES = 4 << 20
"""Size of one read of the ledger in bytes."""

EXAMPLES = 3
"""Largest number of examples of a reason and of a site."""

SITES = 1_000
"""Number of sites that are counted at the same time; see `Frequent`. A report shows far fewer."""

CHUNKS = 10_000
"""Number of chunks that are counted at the same time."""

TEXT_LIMIT = 2_048
"""Largest number of characters that an example keeps of a text."""

LONGEST_HOST = 253
"""Largest number of characters of a name in the DNS."""

NO_SITE = "(no site)"
"""Stands for the site of a row without the URL of a host."""


class FailedImage(NamedTuple):
    """A row of the ledger."""

    chunk: int
    row: int
    """The row's number in its chunk, from 0."""
    url: str
    reason: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class FailureGroup:
    """Failures that have something in common: their reason, their site or their chunk."""

    name: str
    count: int
    by_reason: Mapping[str, int]
    examples: Sequence[FailedImage]
    """The first of them in the ledger's order."""


@dataclass(frozen=True, kw_only=True)
class FailureDigest:
    """What a report says about failures. Every sequence begins with the largest group."""

    count: int = 0
    """Number of rows of the ledger."""
    by_reason: Sequence[FailureGroup] = ()
    by_site: Sequence[FailureGroup] = ()
    """The sites with the most failures, by the manifest's URLs."""
    by_chunk: Sequence[FailureGroup] = ()
    """The chunks with the most failures. A group's name is the chunk's index."""
    site_error: int = 0
    """By how much the count of a site may be too low. 0 unless the ledger has very many sites."""
    chunk_error: int = 0


@dataclass(slots=True)
class _Counts:
    count: int = 0
    by_reason: Counter[str] = field(default_factory=Counter)
    examples: list[FailedImage] = field(default_factory=list)

    def add(self, failed: FailedImage) -> None:
        self.count += 1
        self.by_reason[failed.reason] += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(failed)


class Frequent:
    """Counts groups and keeps the largest ones, with memory for `capacity` groups.

    The algorithm is that of J. Misra and D. Gries, "Finding repeated elements" (1982), with many decrements done at
    once: when too many groups are counted, all counts are lowered by the count of the last group to keep.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._groups: dict[str, _Counts] = {}
        self.error = 0
        """By how much a count may be too low."""

    def add(self, name: str, failed: FailedImage) -> None:
        group = self._groups.get(name)
        if group is None:
            if len(self._groups) >= 2 * self._capacity:
                self._lower()
            group = self._groups[name] = _Counts()
        group.add(failed)

    def _lower(self) -> None:
        by = sorted((group.count for group in self._groups.values()), reverse=True)[self._capacity]
        self.error += by
        for name, group in list(self._groups.items()):
            group.count -= by
            if group.count <= 0:
                del self._groups[name]

    def groups(self) -> list[FailureGroup]:
        """Return the groups, the largest first, and of equal ones the one that was seen first."""
        return [
            FailureGroup(name=name, count=each.count, by_reason=each.by_reason, examples=each.examples)
            for name, each in sorted(self._groups.items(), key=lambda item: -item[1].count)
        ]


class FailureCounter:
    """Takes the rows of a ledger, one by one, with bounded memory."""

    def __init__(self) -> None:
        self._count = 0
        self._reasons = Frequent(100)
        self._sites = Frequent(SITES)
        self._chunks = Frequent(CHUNKS)

    def add(self, cells: Sequence[str]) -> None:
        """Take a row, with a cell for each of `common.format.failures_csv.COLUMNS`."""
        chunk, row, _, url, reason, detail = cells
        failed = FailedImage(_number(chunk), _number(row), url[:TEXT_LIMIT], reason[:100], detail[:TEXT_LIMIT])
        self._count += 1
        self._reasons.add(failed.reason, failed)
        self._sites.add(site_of(url), failed)
        self._chunks.add(str(failed.chunk), failed)

    def digest(self) -> FailureDigest:
        return FailureDigest(
            count=self._count,
            by_reason=self._reasons.groups(),
            by_site=self._sites.groups(),
            by_chunk=self._chunks.groups(),
            site_error=self._sites.error,
            chunk_error=self._chunks.error,
        )


def digest_failures(store: Store) -> FailureDigest:
    """Return the digest of the run's ledger in the store, an empty one where the run has none."""
    stat = store.stat(FAILURES_KEY)
    if stat is None:
        return FailureDigest()
    with io.BufferedReader(ObjectReader(store, FAILURES_KEY, stat.size), READ_BYTES) as file:
        return digest_ledger(file)


def digest_ledger(file: Iterable[bytes]) -> FailureDigest:
    """Return the digest of a failures.csv, which is open in binary mode."""
    return digest_rows(read_failures(file))


def digest_rows(rows: Iterable[Sequence[str]]) -> FailureDigest:
    """Return the digest of rows as `common.format.failures_csv.read_failures` yields them."""
    counter = FailureCounter()
    for cells in rows:
        counter.add([original(cell) for cell in cells])
    return counter.digest()


def site_of(url: str) -> str:
    """Return the site of a URL as `common.site_names` has it, s3:// and the bucket, or NO_SITE where there is none."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return NO_SITE
    if not host or len(host) > LONGEST_HOST:
        return NO_SITE
    return f"s3://{host}" if parts.scheme == "s3" else _site(host, port or (80 if parts.scheme == "http" else 443))


@lru_cache(maxsize=10_000)
def _site(host: str, port: int) -> str:
    return site_name(host, port)


def _number(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 19 else -1
