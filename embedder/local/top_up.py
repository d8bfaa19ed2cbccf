"""What a top-up has to compute again: the chunks with failed rows whose reason may pass."""

from __future__ import annotations

import csv
import io
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.errors import ChunkInvalid, SettingsError
from common.format.chunk_file import read_header
from common.format.failures_csv import COLUMNS
from common.indexes import format_indexes
from common.run.keys import CHUNKS_PREFIX, FAILURES_KEY, chunk_index
from common.run.state import find_finished

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from common.store.contract import Store
    from embedder.local.finished_work import FinishedWork
    from embedder.local.settings import LocalRunSettings


@dataclass(frozen=True, kw_only=True)
class TopUp:
    """The work of a top-up."""

    again: Mapping[int, Mapping[str, int]]
    """The rows that are fetched again: by the index of the chunk, their number by reason."""
    missing: Sequence[int]
    """The chunks that are neither in the store nor in the result. They are computed whole."""

    @property
    def indexes(self) -> list[int]:
        """The chunks that need a worker."""
        return sorted({*self.again, *self.missing})

    @property
    def rows(self) -> int:
        return sum(sum(reasons.values()) for reasons in self.again.values())

    def sentence(self, *, is_undivided: bool) -> str:
        """Return what is about to be done. It names no chunk where the run `is_undivided`."""
        parts = []
        if self.again:
            by_reason: Counter[str] = sum((Counter(each) for each in self.again.values()), Counter())
            named = ", ".join(f"{reason} {count:,}" for reason, count in by_reason.most_common())
            of = "" if is_undivided else f", of {_chunks(self.again)}"
            are = "image is" if self.rows == 1 else "images are"
            parts.append(f"{self.rows:,} {are} fetched again ({named}){of}")
        if self.missing:
            parts.append(f"not in the store, so computed whole: {_chunks(self.missing)}")
        return "; ".join(parts)


def _chunks(indexes: Collection[int]) -> str:
    return f"{'chunk' if len(indexes) == 1 else 'chunks'} {format_indexes(indexes)}"


def plan_top_up(store: Store, finished: FinishedWork, *, indexes: Collection[int], reasons: Collection[str]) -> TopUp:
    """Return what is to be done for `indexes`. `finished` must have the reasons of the chunk files.

    A chunk file is newer than the result: a merge deletes the files that it has merged. Raises ChunkInvalid when the
    ledger of the finished run is not whole.
    """
    counts: dict[int, Counter[str]] = {}
    run = finished.run
    if run is not None and any(run.summary.failures_by_reason.get(reason) for reason in reasons):
        counts = _read_ledger(store, failed=run.summary.rows_failed)
    counts |= {index: Counter(chunk.failures_by_reason) for index, chunk in finished.chunks.items()}
    again = {
        index: {reason: count for reason, count in counts[index].items() if reason in reasons}
        for index in sorted(counts.keys() & set(indexes))
    }
    return TopUp(
        again={index: each for index, each in again.items() if each},
        missing=[
            index for index in indexes if index not in finished.chunks and not (run is not None and run.holds(index))
        ],
    )


def with_chunk_count_of_run(settings: LocalRunSettings, store: Store) -> LocalRunSettings:
    """Return the settings with the number of chunks of the run in the store, which a top-up need not be told.

    Raises SettingsError when the store holds no run, or one with another number of chunks than the settings name.
    """
    found = _chunk_count(store)
    if found is None:
        raise SettingsError(
            f"{store.uri} holds no run that could be topped up: neither a chunk file nor a finished result; check the "
            "place, or leave out --top-up to compute the run"
        )
    if "chunk_count" in settings.model_fields_set and settings.chunk_count != found:
        raise SettingsError(
            f"EMBEDDER_CHUNK_COUNT is {settings.chunk_count}, and the run in {store.uri} has {found} chunks; leave out "
            "--chunks: a top-up takes the number from the run"
        )
    return settings.model_copy(update={"chunk_count": found})


def _chunk_count(store: Store) -> int | None:
    run = find_finished(store)
    if run is not None:
        return run.provenance.chunk_count
    for found in store.list(CHUNKS_PREFIX):
        if chunk_index(found.key) is None:
            continue
        try:
            with store.open(found.key, found.size) as file:
                return read_header(file, name=store.location(found.key)).provenance.chunk_count
        except ChunkInvalid:
            continue
    return None


def _read_ledger(store: Store, *, failed: int) -> dict[int, Counter[str]]:
    """Return the numbers of failed rows by chunk and reason.

    Raises ChunkInvalid unless the ledger has `failed` rows.
    """
    counts: dict[int, Counter[str]] = {}
    rows = 0
    try:
        for chunk, reason in _ledger_rows(store):
            counts.setdefault(chunk, Counter())[reason] += 1
            rows += 1
    except (ValueError, IndexError, csv.Error) as error:
        raise ChunkInvalid(
            f"{store.location(FAILURES_KEY)} is not the ledger of a run: {error}; put the run's own file back"
        ) from error
    if rows != failed:
        raise ChunkInvalid(
            f"{store.location(FAILURES_KEY)} has {rows} rows, and summary.json counts {failed} failed images; put the "
            "run's own file back"
        )
    return counts


def _ledger_rows(store: Store) -> Iterator[tuple[int, str]]:
    """Yield chunk and reason of each row of the ledger."""
    found = store.stat(FAILURES_KEY)
    if found is None:
        return
    with (
        store.open(FAILURES_KEY, found.size) as file,
        io.TextIOWrapper(file, encoding="utf-8", newline="") as text,
    ):
        rows = csv.reader(text)
        if (header := next(rows, [])) != list(COLUMNS):
            raise ValueError(f"its first line is {','.join(header)[:100]!r}")
        chunk, reason = COLUMNS.index("chunk"), COLUMNS.index("reason")
        for row in rows:
            yield int(row[chunk]), row[reason]
