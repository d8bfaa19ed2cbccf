"""What an earlier `embedder run` has left in the store, so that no worker is started only to find its work done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.errors import ChunkInvalid
from common.format.chunk_file import read_header
from common.run.keys import CHUNKS_PREFIX, chunk_index
from common.run.state import find_finished

if TYPE_CHECKING:
    from collections.abc import Collection

    from common.store.contract import ObjectStat, Store


@dataclass(frozen=True, slots=True)
class FinishedChunk:
    fingerprint: str
    rows: int


@dataclass(frozen=True, slots=True)
class FinishedWork:
    chunks: dict[int, FinishedChunk]
    """By index: the whole chunk files in the store."""
    has_result: bool
    """Whether a merge of all chunks has finished."""

    def witness(self, indexes: Collection[int]) -> int | None:
        """Return the chunk whose worker can tell at once whether this is the same run, None where none can."""
        return min(self.chunks.keys() & set(indexes), default=min(indexes) if self.has_result else None)

    def vouched_for(self, witness: int, indexes: Collection[int]) -> dict[int, int | None]:
        """Return the chunks that are finished, each with its rows if known, once the worker of `witness` has succeeded.

        It has compared its settings' fingerprint with its own chunk's, so they also fit every chunk of the same
        fingerprint. Where it had no chunk it has found them to fit the result, which holds all chunks.
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

    Costs a read of 16 KiB per chunk. Raises StoreUnavailable and StoreAccessDenied.
    """
    chunks = {}
    for found in store.list(CHUNKS_PREFIX):
        index = chunk_index(found.key)
        chunk = _finished_chunk(store, found, index) if index is not None else None
        if index is not None and chunk is not None:
            chunks[index] = chunk
    finished = find_finished(store)
    return FinishedWork(chunks, has_result=finished is not None and finished.is_complete)


def _finished_chunk(store: Store, found: ObjectStat, index: int) -> FinishedChunk | None:
    with store.open(found.key, found.size) as file:
        try:
            header = read_header(file, name=store.location(found.key))
        except ChunkInvalid:
            return None
    return FinishedChunk(header.fingerprint, header.requested) if header.index == index else None
