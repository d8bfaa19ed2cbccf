"""How far the merge is, in the log every few seconds."""

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
    """Bytes moved, counted by all threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self.copied_by_store = 0
        self.uploaded = 0
        self.read = 0

    def add(self, *, copied_by_store: int = 0, uploaded: int = 0, read: int = 0) -> None:
        with self._lock:
            self.copied_by_store += copied_by_store
            self.uploaded += uploaded
            self.read += read


class Step(StrEnum):
    """What a merge does, one after the other."""

    HEADERS = "headers"
    """Reading what the chunks say of themselves."""
    FAILURES = "failures"
    """Reading the chunks' failures."""
    PARTS = "parts"
    """Copying and uploading the parts of the result."""
    PUBLISHING = "publishing"
    VERIFYING = "verifying"
    LEDGER = "ledger"
    SUMMARY = "summary"
    CLEARING_UP = "clearing_up"


class Progress:
    """How far one attempt of a merge is: its step, and the parts done of the assembly.

    As a context manager it logs that every few seconds, whatever the step.
    """

    def __init__(self, *, interval_seconds: float) -> None:
        self.step = Step.HEADERS
        self.traffic = Traffic()
        self._interval_seconds = interval_seconds
        self._lock = Lock()
        self._count = self._size = self._parts_done = self._bytes_done = 0
        self._started = time.monotonic()
        self._is_over = Event()

    def __enter__(self) -> Self:
        Thread(target=self._log_until_over, name="progress", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()

    def _log_until_over(self) -> None:
        while not self._is_over.wait(self._interval_seconds):
            self.log()

    def begin(self, parts: Sequence[Part]) -> None:
        """Count the parts of an assembly, from none done."""
        self.step = Step.PARTS
        self._count, self._size = len(parts), sum(part.size for part in parts)
        self._parts_done = self._bytes_done = 0
        self._started = time.monotonic()
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
        seconds = time.monotonic() - self._started
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
