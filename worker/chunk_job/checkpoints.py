"""What a chunk keeps in the store before it is finished: `chunks/checkpoint_<index>_<number>.h5`.

A pod that is killed has written its last checkpoint some time before. The next attempt at the chunk, in any pod, takes
over the rows of all sound checkpoints and computes the rest. Failures are not kept: they are tried again.

Each checkpoint has a number of its own, and none is replaced, so two pods on one chunk do each other no harm. Whoever
stores the chunk, or finds it stored, deletes its checkpoints; the merge deletes those that are left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from common.errors import ChunkInvalid, EmbedderError, StoreAccessDenied, StoreUnavailable
from common.format.checkpoint_file import MAX_CHECKPOINT_BYTES, read_checkpoint
from common.format.rows import slices
from common.logs import ROWS_RESUMED, log
from common.run.keys import checkpoint_index, checkpoint_number, checkpoints_prefix
from worker.chunk_job.checkpoint_writer import CheckpointWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from common.format.checkpoint_file import Checkpoint
    from common.format.chunk_times import Attempt
    from common.format.provenance import Provenance
    from common.store.contract import ObjectStat, Store
    from worker.collector import Collector

MOST_UNREADABLE = 2
"""Number of checkpoints that the store may fail to give before the others are left alone: each takes minutes."""

LAST_WRITE_SECONDS = 5.0
"""Longest time in seconds that a finished chunk waits for the checkpoint that is being written, to delete it too. The
merge deletes a later one."""


class Checkpoints:
    """The checkpoints of chunk `index` of the run in `store`. With `seconds` 0, none is written or read.

    `provenance` and `dimensions`, of the vectors, wait until the model is loaded. `attempt` is as for CheckpointWriter.
    """

    def __init__(
        self,
        store: Store,
        index: int,
        *,
        seconds: float,
        provenance: Callable[[], Provenance],
        dimensions: Callable[[], int],
        attempt: Callable[[int], Attempt] | None = None,
    ) -> None:
        self._store, self._index = store, index
        self._is_on = seconds > 0
        self._provenance, self._dimensions = provenance, dimensions
        self._prefix = checkpoints_prefix(index)
        self._writer = CheckpointWriter(
            store, index, seconds=seconds, provenance=provenance, dimensions=dimensions, attempt=attempt
        )
        self.earlier: list[Attempt] = []
        """The earlier attempts whose rows were taken over, once for each checkpoint."""

    def resume(self, collector: Collector) -> None:
        """Settle the rows that earlier attempts have embedded. The checkpoints are read one by one.

        Raises ResourceExhausted when the disk has no room for the vectors. A store that does not give the checkpoints
        is no error: the rows are computed again.
        """
        if not self._is_on:
            return
        try:
            found = self._list()
        except EmbedderError as error:
            log.warning("checkpoints_not_listed", error=str(error))
            return
        if not found:
            return
        self._writer.next_number = max(found) + 1
        is_wanted = np.zeros(collector.requested, dtype=bool)
        is_wanted[[row.position for row in collector.unsettled_rows()]] = True
        before = collector.embedded
        for checkpoint in self._sound([stat for _, stat in sorted(found.items())], requested=collector.requested):
            for start, vectors in slices(checkpoint.vectors):
                rows = checkpoint.rows[start : start + len(vectors)]
                wanted = is_wanted[rows]
                collector.embed(rows[wanted].tolist(), vectors[wanted])
            is_wanted[checkpoint.rows] = False
            if checkpoint.attempt is not None:
                self.earlier.append(checkpoint.attempt)
        log.info(ROWS_RESUMED, rows=collector.embedded - before, of=collector.requested, checkpoints=len(found))

    def start(self, collector: Collector) -> None:
        """Begin to write checkpoints of the rows that are embedded from now on."""
        if self._is_on:
            self._writer.start(collector)

    def stop(self) -> None:
        """Write no further checkpoint. The vectors are not read after this."""
        self._writer.stop()

    def remove(self) -> None:
        """Delete all checkpoints of the chunk, because it is in the store."""
        self._writer.wait(LAST_WRITE_SECONDS)
        try:
            if found := self._list():
                self._store.delete([stat.key for stat in found.values()])
            self._store.discard_unfinished(self._prefix)
        except EmbedderError as error:  # the merge deletes what is left
            log.warning("checkpoints_stay", checkpoints=f"{self._store.location(self._prefix)}*", error=str(error))

    def _list(self) -> dict[int, ObjectStat]:
        """Return the chunk's checkpoints in the store by number."""
        numbered = ((checkpoint_number(stat.key), stat) for stat in self._store.list(self._prefix))
        return {
            number: stat
            for number, stat in numbered
            if number is not None and checkpoint_index(stat.key) == self._index
        }

    def _sound(self, stats: Iterable[ObjectStat], *, requested: int) -> Iterator[Checkpoint]:
        """Yield the checkpoints that can be believed, and log why the others cannot."""
        unreadable = 0
        for stat in stats:
            location = self._store.location(stat.key)
            try:
                yield self._read(stat, requested=requested)
            except ChunkInvalid as error:
                log.warning("checkpoint_ignored", checkpoint=location, error=str(error))
            except (StoreUnavailable, StoreAccessDenied) as error:
                if self._is_gone(stat):  # another pod has finished the chunk
                    continue
                log.warning("checkpoint_unreadable", checkpoint=location, error=str(error))
                unreadable += 1
                if unreadable == MOST_UNREADABLE:
                    return

    def _read(self, stat: ObjectStat, *, requested: int) -> Checkpoint:
        """Return a checkpoint of this chunk, made with this run's settings. Raises ChunkInvalid if it is not one."""
        name = self._store.location(stat.key)
        if stat.size > MAX_CHECKPOINT_BYTES:
            raise ChunkInvalid(f"{name} has {stat.size} bytes, a checkpoint has {MAX_CHECKPOINT_BYTES} at most")
        checkpoint = read_checkpoint(self._store.read(stat.key, 0, stat.size), name=name)
        ours, theirs = self._provenance().fingerprint, checkpoint.provenance.fingerprint
        if theirs != ours:
            raise ChunkInvalid(
                f"{name} was made with other settings (fingerprints {theirs[:12]} and {ours[:12]}); it is deleted once "
                "the chunk is stored"
            )
        if (checkpoint.index, checkpoint.requested) != (self._index, requested):
            raise ChunkInvalid(
                f"{name} is of chunk {checkpoint.index} with {checkpoint.requested} rows, expected chunk {self._index} "
                f"with {requested} rows"
            )
        if checkpoint.vectors.shape[1] != self._dimensions():
            raise ChunkInvalid(
                f"{name} has vectors of {checkpoint.vectors.shape[1]} dimensions, the model has {self._dimensions()}"
            )
        return checkpoint

    def _is_gone(self, stat: ObjectStat) -> bool:
        try:
            return self._store.stat(stat.key) is None
        except EmbedderError:
            return False
