"""The progress of a merge, which is logged every few seconds."""

from __future__ import annotations

import time
from enum import StrEnum
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, Self

from common.logs import log
from merger.plan import CopyPart

if TYPE_CHECKING:
    from collections.abc import Sequence

    from merger.plan import Part


class Traffic:
    """Counters of the bytes moved. All threads may add to them."""

    def __init__(self) -> None:
        self._lock = Lock()
        self.copied_by_store = 0
        self.uploaded = 0
        self.read = 0
        """Bytes read from the store, from chunks and from the result."""

    def add(self, *, copied_by_store: int = 0, uploaded: int = 0, read: int = 0) -> None:
        with self._lock:
            self.copied_by_store += copied_by_store
            self.uploaded += uploaded
            self.read += read


class Step(StrEnum):
    """The steps of a merge, in their order."""

    HEADERS = "headers"
    """Reading the headers of the chunks."""
    EARLIER_RESULT = "earlier_result"
    """Copying the earlier result, after a top-up."""
    FAILURES = "failures"
    """Reading the failures of the chunks."""
    PARTS = "parts"
    """Copying and uploading the parts of the result."""
    PUBLISHING = "publishing"
    VERIFYING = "verifying"
    LEDGER = "ledger"
    REPORT = "report"
    SUMMARY = "summary"
    CLEARING_UP = "clearing_up"


class Progress:
    """The progress of one attempt: its step, and how many parts of the result are done.

    As a context manager it logs the progress every `interval_seconds`, in every step.
    """

    def __init__(self, *, interval_seconds: float) -> None:
        self.step = Step.HEADERS
        self.traffic = Traffic()
        self._interval_seconds = interval_seconds
        self._lock = Lock()
        self._count = self._size = self._parts_done = self._bytes_done = 0
        self._began = self._parts_began = time.monotonic()
        self._is_over = Event()

    @property
    def seconds(self) -> float:
        """Duration of the attempt so far."""
        return time.monotonic() - self._began

    def __enter__(self) -> Self:
        Thread(target=self._log_until_over, name="progress", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()

    def _log_until_over(self) -> None:
        while not self._is_over.wait(self._interval_seconds):
            self.log()

    def begin(self, parts: Sequence[Part]) -> None:
        """Begin to count the parts of an assembly."""
        self.step = Step.PARTS
        self._count, self._size = len(parts), sum(part.size for part in parts)
        self._parts_done = self._bytes_done = 0
        self._parts_began = time.monotonic()
        self.log()

    def part_done(self, part: Part) -> None:
        with self._lock:
            self._parts_done += 1
            self._bytes_done += part.size
        if isinstance(part, CopyPart):
            self.traffic.add(copied_by_store=part.size)
        else:
            self.traffic.add(uploaded=part.size)

    def log(self) -> None:
        seconds = time.monotonic() - self._parts_began
        rate = self._bytes_done / seconds if seconds else 0
        log.info(
            "merging",
            step=self.step,
            parts_done=self._parts_done,
            of=self._count,
            bytes_copied_by_store=self.traffic.copied_by_store,
            bytes_uploaded=self.traffic.uploaded,
            bytes_read=self.traffic.read,
            eta_s=round((self._size - self._bytes_done) / rate) if rate else "unknown",
        )
