"""The thread that writes checkpoints of a chunk: now and then, the vectors that no checkpoint has yet.

A checkpoint is never worth the chunk. Whatever goes wrong here is a warning, and the rows wait for the next checkpoint.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from common.errors import StoreUnavailable
from common.format.checkpoint_file import Checkpoint, checkpoint_bytes, rows_at_once
from common.logs import log
from common.process.resources import exhausted
from common.process.thread_name import name_thread
from common.run.keys import checkpoint_key, checkpoint_number, checkpoints_prefix
from common.store.contract import ObjectExists

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from common.format.chunk_times import Attempt
    from common.format.provenance import Provenance
    from common.store.contract import Store
    from worker.collector import Collector

STOP_SECONDS = 1.0
"""Longest time in seconds that `stop` waits for a checkpoint that is being written. A stopped worker has seconds to end
in, and a store that does not answer takes longer."""

PUT_ATTEMPTS = 5
"""Number of numbers that a checkpoint is stored under, one after the other, while other pods take them."""


class CheckpointWriter:
    """Writes checkpoints of chunk `index`, `seconds` after one another, from `start` to `stop`.

    `provenance` and `dimensions` wait until the model is loaded. They are called once rows are embedded. `attempt` is
    given the number of the chunk's embedded rows, and returns this attempt up to now.
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
        self._attempt = attempt
        self._store, self._index, self._seconds = store, index, seconds
        self._provenance, self._dimensions = provenance, dimensions
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self.next_number = 0
        """The number of the next checkpoint, unless another pod takes it."""

    def start(self, collector: Collector) -> None:
        """Begin to write what is embedded from now on."""
        try:
            is_kept = collector.embedded_mask()
            thread = threading.Thread(target=self._run, args=(collector, is_kept), name="checkpoints", daemon=True)
            thread.start()
        except Exception as error:  # noqa: BLE001 - see the module
            _warn(error)
        else:
            self._thread = thread

    def stop(self) -> None:
        """Begin no further checkpoint. The vectors are not read after this."""
        self._stopped.set()
        self.wait(STOP_SECONDS)

    def wait(self, seconds: float) -> None:
        """Wait for the end of a stopped writer, for `seconds` at most."""
        if self._thread is not None:
            self._thread.join(seconds)

    def _run(self, collector: Collector, is_kept: NDArray[np.bool_]) -> None:
        try:
            name_thread("checkpoints")
            while not self._stopped.wait(self._seconds):
                try:
                    self._write(collector, is_kept)
                except Exception as error:  # noqa: BLE001 - see the module
                    _warn(error)
        except Exception as error:  # noqa: BLE001 - see the module
            _warn(error)

    def _write(self, collector: Collector, is_kept: NDArray[np.bool_]) -> None:
        """Write the embedded rows that are not kept yet, as one checkpoint or several, and note them as kept."""
        rows = np.flatnonzero(collector.embedded_mask() & ~is_kept)
        if not rows.size:
            return
        began = time.monotonic()
        dimensions, provenance = self._dimensions(), self._provenance()
        at_once = rows_at_once(dimensions)
        attempt = None if self._attempt is None else self._attempt(collector.embedded)
        for start in range(0, len(rows), at_once):
            some = rows[start : start + at_once]
            data = checkpoint_bytes(
                Checkpoint(
                    index=self._index,
                    requested=collector.requested,
                    rows=some.astype(np.int64),
                    vectors=collector.vectors_of(some, dimensions=dimensions),
                    provenance=provenance,
                    attempt=attempt,
                )
            )
            # After `stop` the vectors may be gone, and what was just read may be something else.
            if self._stopped.is_set():
                return
            self._put(data)
            is_kept[some] = True
        log.info("checkpoint", rows=len(rows), kept=int(is_kept.sum()), seconds=time.monotonic() - began)

    def _put(self, data: bytes) -> None:
        for _ in range(PUT_ATTEMPTS):
            number, self.next_number = self.next_number, self.next_number + 1
            try:
                self._store.put_bytes(checkpoint_key(self._index, number), data, overwrite=False)
            except ObjectExists:  # another pod computes the chunk too
                taken = [checkpoint_number(found.key) for found in self._store.list(checkpoints_prefix(self._index))]
                self.next_number = max([self.next_number, *(each + 1 for each in taken if each is not None)])
            else:
                return
        raise StoreUnavailable(f"other pods took {PUT_ATTEMPTS} numbers of checkpoints of chunk {self._index}")


def _warn(error: Exception) -> None:
    # Where memory is used up, not even a warning may be possible.
    with suppress(Exception):
        said = exhausted(error) or error
        log.warning("no_checkpoint", error=f"{type(said).__name__}: {said}")
