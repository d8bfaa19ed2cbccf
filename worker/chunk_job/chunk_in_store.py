"""The chunk's place in the store: what is there already, and how the computed chunk gets there.

Two pods may work on one chunk at the same time. A chunk is put only if the store has none, so the second pod finds the
chunk of the first. After a pod has stored its chunk, it looks at the store again, because meanwhile two things may have
happened:

    the run was merged with the other pod's chunk     no later merge would delete this pod's chunk, so this pod deletes
                                                      it
    another pod stored a chunk with other settings    this pod deletes its chunk and ends with FingerprintMismatch
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.errors import ChunkInvalid, FingerprintMismatch, StoreAccessDenied, StoreUnavailable
from common.format.chunk_file import count_reasons, read_header, verify_chunk
from common.format.reasons import Reason
from common.format.result_file import read_result
from common.logs import log
from common.run.keys import CHUNKS_PREFIX, RESULT_KEY, chunk_index, chunk_key
from common.run.state import find_finished
from common.store.contract import ObjectExists, ObjectReplaced
from worker.chunk_job.outcome import AlreadyMerged, AlreadyStored

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Set as AbstractSet
    from pathlib import Path

    from common.format.chunk_file import ChunkHeader
    from common.format.provenance import Provenance
    from common.store.contract import ObjectStat, Store
    from worker.chunk_job.outcome import AlreadyDone

PUT_ATTEMPTS = 5
"""Number of attempts to store a chunk that other pods store or delete at the same time."""


class ChunkInStore:
    """Chunk `index` of the run in `store`. `provenance` waits until the run's provenance is known, and returns it."""

    def __init__(self, store: Store, index: int, provenance: Callable[[], Provenance]) -> None:
        self._store, self._index, self._provenance = store, index, provenance
        self._key = chunk_key(index)
        self.location = store.location(self._key)

    def find(self) -> AlreadyDone | None:
        """Return why the chunk need not be computed, None if it must be.

        Raises FingerprintMismatch when the store holds a run with other settings, and ChunkInvalid when the chunk or
        the result is damaged in two reads.
        """
        try:
            return self._find_once()
        except ChunkInvalid as error:
            # One wrong byte in one answer of the store looks like damage too, so everything is read a second time.
            log.warning("looking_again", error=str(error))
            return self._find_once()

    def check_peers(self, *, unknown: AbstractSet[str] = frozenset()) -> None:
        """Raise FingerprintMismatch when another chunk of the run was made with other settings.

        The first chunk that can be read is enough: every worker makes this check. The fields of the provenance in
        `unknown` are not compared.
        """
        provenance = self._provenance()
        for peer in self._store.list(CHUNKS_PREFIX):
            if peer.key == self._key or chunk_index(peer.key) is None:
                continue
            try:
                with self._store.open(peer.key, peer.size) as file:
                    header = read_header(file, name=self._store.location(peer.key))
            except ChunkInvalid as error:
                log.warning("damaged_peer", message=str(error))
                continue
            except StoreUnavailable:
                if self._store.stat(peer.key) is not None:
                    raise
                continue  # a merge has deleted it meanwhile
            provenance.check_same(header.provenance, name=self._store.location(peer.key), unknown=unknown)
            return

    def put(self, path: Path, *, overwrite: bool) -> ObjectStat | AlreadyDone:
        """Store the file as the chunk. Return the stored object, or why the chunk was there already.

        `overwrite` replaces a damaged chunk. Raises FingerprintMismatch as `find` does, and StoreUnavailable.
        """
        for _ in range(PUT_ATTEMPTS):
            try:
                stored = self._store.put_file(self._key, path, overwrite=overwrite)
            except (ObjectExists, ObjectReplaced) as error:
                log.info("another_pod_was_first", message=str(error))
            else:
                return self._look_once_more(stored) or stored
            try:
                if (done := self.find()) is not None:
                    return done
                overwrite = False
            except ChunkInvalid as error:
                log.warning("damaged_chunk", message=f"{error}; it is replaced")
                overwrite = True
        raise StoreUnavailable(f"other pods replaced or deleted {self.location} {PUT_ATTEMPTS} times")

    def take_back(self, stored: ObjectStat) -> None:
        """Delete the chunk that this pod has stored, unless another one is there meanwhile."""
        if self._store.stat(self._key) == stored:
            try:
                self._store.delete([self._key])
            except StoreAccessDenied as error:  # the merge can delete it, if it runs once more
                log.warning("not_taken_back", key=self._key, error=str(error))
            else:
                log.info("taken_back", key=self._key)

    def _find_once(self) -> AlreadyDone | None:
        chunk = self._store.stat(self._key)
        if chunk is None:
            return self._find_merged()
        try:
            header, deferred = self._verified(chunk.size)
        except (ChunkInvalid, StoreUnavailable):
            if self._store.stat(self._key) is not None:
                raise
            return self._find_merged()  # a merge has deleted the chunk while it was read
        self._provenance().check_same(header.provenance, name=self.location)
        return AlreadyStored(
            chunk=self._index,
            location=self.location,
            embedded=header.embedded,
            failed=header.failed,
            deferred=deferred,
        )

    def _verified(self, size: int) -> tuple[ChunkHeader, int]:
        """Return the header of the chunk file, every byte of which is whole, and its number of deferred images."""
        with self._store.open(self._key, size) as file:
            header = verify_chunk(file, name=self.location)
            deferred = count_reasons(file, header, name=self.location)[Reason.DEFERRED]
        if header.index != self._index:
            raise ChunkInvalid(f"{self.location} holds chunk {header.index}, expected chunk {self._index}")
        return header, deferred

    def _find_merged(self) -> AlreadyMerged | None:
        """Return the finished run that holds the chunk, None if there is none.

        Raises FingerprintMismatch when the result was made with other settings, and ChunkInvalid when it is damaged.
        """
        result = self._store.stat(RESULT_KEY)
        if result is None:
            return None
        name = self._store.location(RESULT_KEY)
        with self._store.open(RESULT_KEY, result.size) as file:
            header = read_result(file, name=name)
        self._provenance().check_same(header.provenance, name=name)
        # A result without its summary has not been verified, and the merge still needs every chunk.
        finished = find_finished(self._store)
        if finished is None or not finished.holds(self._index):
            return None
        return AlreadyMerged(chunk=self._index, result=name)

    def _look_once_more(self, stored: ObjectStat) -> AlreadyMerged | None:
        """Return the finished run that holds the other pod's chunk, None if there is none.

        Deletes the stored chunk when there is one, and when another pod used other settings. See the module.
        """
        try:
            try:
                merged = self._find_merged()
            except ChunkInvalid as error:
                log.warning("damaged_result", message=str(error))
                merged = None
            self.check_peers()
        except FingerprintMismatch:
            self.take_back(stored)
            raise
        if merged is not None:
            self.take_back(stored)
        return merged
