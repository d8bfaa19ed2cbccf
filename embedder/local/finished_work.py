"""What an earlier `embedder run` has left in the store, so that workers start only for chunks that need one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.errors import ChunkInvalid, StoreUnavailable
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
    """Number of rows of the manifest in the chunk."""


@dataclass(frozen=True, slots=True)
class FinishedWork:
    chunks: dict[int, FinishedChunk]
    """The chunk files in the store whose header is whole, by index."""
    has_result: bool
    """Whether the run is finished and its result holds every chunk."""

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
        return {
            index: chunk.rows
            for index, chunk in self.chunks.items()
            if index in indexes and chunk.fingerprint == known.fingerprint
        }


def find_finished_work(store: Store) -> FinishedWork:
    """Return what is in the store. A chunk file with a damaged header is left out, so its worker deals with it.

    Reads 16 KiB of each chunk file. Raises StoreUnavailable and StoreAccessDenied.
    """
    chunks = {}
    for found in store.list(CHUNKS_PREFIX):
        index = chunk_index(found.key)
        if index is not None and (chunk := _read_finished_chunk(store, found, index)) is not None:
            chunks[index] = chunk
    finished = find_finished(store)
    return FinishedWork(chunks, has_result=finished is not None and finished.is_complete)


def _read_finished_chunk(store: Store, found: ObjectStat, index: int) -> FinishedChunk | None:
    try:
        with store.open(found.key, found.size) as file:
            header = read_header(file, name=store.location(found.key))
    except ChunkInvalid:
        return None
    except StoreUnavailable:
        if store.stat(found.key) is not None:
            raise
        return None  # it was deleted, and the list still shows it
    return FinishedChunk(header.fingerprint, header.requested) if header.index == index else None
