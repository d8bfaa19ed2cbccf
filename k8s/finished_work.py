"""What an earlier `embedder run` has left in the store, so that no worker is started only to find its work done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.chunk_file import read_header
from common.errors import ChunkInvalid
from common.keys import CHUNKS_PREFIX, RESULT_KEY, SUMMARY_KEY, chunk_index

if TYPE_CHECKING:
    from collections.abc import Collection

    from common.store import ObjectStat, Store


@dataclass(frozen=True, slots=True)
class FinishedChunk:
    fingerprint: str
    rows: int


@dataclass(frozen=True, slots=True)
class FinishedWork:
    chunks: dict[int, FinishedChunk]
    """By index: the whole chunk files in the store."""
    has_result: bool
    """Whether a merge has finished."""

    def __bool__(self) -> bool:
        return self.has_result or bool(self.chunks)

    def witness(self, indexes: Collection[int]) -> int:
        """Return the chunk whose worker can tell at once whether this is the same run."""
        return min(self.chunks.keys() & set(indexes), default=min(indexes))

    def vouched_for(self, witness: int, indexes: Collection[int]) -> dict[int, int | None]:
        """Return the chunks that need no worker, each with its rows if known, once that of `witness` has succeeded.

        It has compared its settings' fingerprint with its own chunk's, so they also fit every chunk of the same
        fingerprint. Where it had no chunk it has found them to fit the result, which no chunk is missing from then: a
        merge that goes without some keeps the files of the others.
        """
        known = self.chunks.get(witness)
        if known is None:
            return dict.fromkeys(indexes) if self.has_result else {}
        return {
            index: chunk.rows
            for index, chunk in self.chunks.items()
            if index in indexes and chunk.fingerprint == known.fingerprint
        }


def find_finished_work(store: Store) -> FinishedWork:
    """Return what is in the store; a chunk file that is damaged is left for its worker to deal with.

    Costs a read of 64 KiB per chunk. Raises StoreUnavailable and StoreAccessDenied.
    """
    chunks = {}
    for found in store.list(CHUNKS_PREFIX):
        index = chunk_index(found.key)
        chunk = _finished_chunk(store, found) if index is not None else None
        if index is not None and chunk is not None:
            chunks[index] = chunk
    # The summary is written last: a result without one may yet be withdrawn.
    is_merged = store.stat(RESULT_KEY) is not None and store.stat(SUMMARY_KEY) is not None
    return FinishedWork(chunks, has_result=is_merged)


def _finished_chunk(store: Store, found: ObjectStat) -> FinishedChunk | None:
    with store.open(found.key, found.size) as file:
        try:
            header = read_header(file, name=store.location(found.key))
        except ChunkInvalid:
            return None
    return FinishedChunk(header.fingerprint, header.requested)
