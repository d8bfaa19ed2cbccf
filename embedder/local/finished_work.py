"""What an earlier `embedder run` has left in the store, so that workers start only for chunks that need one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO

from common.errors import ChunkInvalid, StoreUnavailable
from common.format.chunk_file import read_header
from common.format.result_file import read_result
from common.run.keys import CHUNKS_PREFIX, EARLIER_RESULT_KEY, RESULT_KEY, chunk_index
from common.run.state import find_finished

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from common.format.chunk_file import ChunkHeader
    from common.run.state import FinishedRun
    from common.store.contract import ObjectStat, Store


@dataclass(frozen=True, slots=True)
class FinishedChunk:
    fingerprint: str
    rows: int
    """Number of rows of the manifest in the chunk."""
    chunk_count: int
    failures_by_reason: Mapping[str, int] = field(default_factory=dict)
    """Number of its failed rows by reason; empty where nobody asked for it."""


@dataclass(frozen=True, slots=True)
class FinishedWork:
    chunks: dict[int, FinishedChunk]
    """The chunk files in the store whose header is whole, by index."""
    run: FinishedRun | None
    """The finished run, None if the run is not finished."""
    has_interrupted_merge: bool = False
    """Whether a merge after a top-up was killed. The chunks without a file are in a result that is not finished, so
    they must not be computed: another merge completes it."""

    @property
    def has_result(self) -> bool:
        """Whether the run is finished and its result holds every chunk."""
        return self.run is not None and self.run.is_complete

    def failures_by_reason(self, indexes: Collection[int]) -> Counter[str]:
        """Return the number of failed rows by reason in the chunk files of `indexes`."""
        counts: Counter[str] = Counter()
        for index in self.chunks.keys() & set(indexes):
            counts.update(self.chunks[index].failures_by_reason)
        return counts

    def reference_chunk(self, indexes: Collection[int]) -> int | None:
        """Return a chunk whose worker can tell at once whether the settings have changed, None where there is none."""
        return min(self.chunks.keys() & set(indexes), default=min(indexes) if self.has_result else None)

    def same_run_as(self, reference_chunk: int, indexes: Collection[int]) -> dict[int, int | None]:
        """Return those of `indexes` that are finished, with their numbers of rows where these are known.

        The worker of the reference chunk must have succeeded. This worker has compared the fingerprint of its settings
        with the fingerprint of its chunk, so the settings also fit every chunk with the same fingerprint. A worker
        without a chunk file has compared its settings with the result, which holds every chunk.
        """
        known = self.chunks.get(reference_chunk)
        if known is None:
            return dict.fromkeys(indexes) if self.has_result else {}
        same: dict[int, int | None] = {}
        if self.run is not None and self.has_result and self.run.provenance.fingerprint == known.fingerprint:
            same = {index: None for index in indexes if index not in self.chunks}
        return same | {
            index: chunk.rows
            for index, chunk in self.chunks.items()
            if index in indexes and chunk.fingerprint == known.fingerprint
        }


def find_finished_work(store: Store, *, with_reasons: bool = False) -> FinishedWork:
    """Return what is in the store. A chunk file with a damaged header is left out, so its worker deals with it.

    Reads 16 KiB of each chunk file, and `with_reasons` the reasons of its failed rows. Raises StoreUnavailable and
    StoreAccessDenied.
    """
    chunks = {}
    for found in store.list(CHUNKS_PREFIX):
        index = chunk_index(found.key)
        if index is not None and (chunk := _read_chunk(store, found, index, with_reasons=with_reasons)) is not None:
            chunks[index] = chunk
    run = find_finished(store)
    return FinishedWork(chunks, run, has_interrupted_merge=_has_interrupted_merge(store, chunks, run))


def _read_chunk(store: Store, found: ObjectStat, index: int, *, with_reasons: bool) -> FinishedChunk | None:
    try:
        with store.open(found.key, found.size) as file:
            header = read_header(file, name=store.location(found.key))
            reasons = _count_reasons(file, header) if with_reasons else {}
    except ChunkInvalid:
        return None
    except StoreUnavailable:
        if store.stat(found.key) is not None:
            raise
        return None  # it was deleted, and the list still shows it
    if header.index != index:
        return None
    return FinishedChunk(header.fingerprint, header.requested, header.provenance.chunk_count, reasons)


def _count_reasons(file: BinaryIO, header: ChunkHeader) -> Counter[str]:
    span = header.spans["failures/reason"]
    file.seek(span.offset)
    texts = file.read(span.rows * span.row_bytes)
    starts = range(0, len(texts), max(1, span.row_bytes))
    return Counter(texts[start : start + span.row_bytes].rstrip(b"\0").decode("utf-8", "replace") for start in starts)


def _has_interrupted_merge(store: Store, chunks: Mapping[int, FinishedChunk], run: FinishedRun | None) -> bool:
    if store.stat(EARLIER_RESULT_KEY) is not None:
        return True
    result = store.stat(RESULT_KEY)
    if run is not None or result is None:
        return False
    try:
        with store.open(RESULT_KEY, result.size) as file:
            header = read_result(file, name=store.location(RESULT_KEY))
    except ChunkInvalid:
        return False
    held = set(range(header.provenance.chunk_count)) - set(header.missing)
    is_of_this_run = any(chunk.fingerprint == header.provenance.fingerprint for chunk in chunks.values())
    return is_of_this_run and not held <= chunks.keys()
