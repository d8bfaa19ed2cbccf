"""How far the merge is, in the log every few seconds."""

from __future__ import annotations

import time
from enum import StrEnum
from threading import Lock
from typing import TYPE_CHECKING

from common.logs import log
from merger.plan import CopyPart

if TYPE_CHECKING:
    from collections.abc import Sequence

    from merger.plan import Part


class Traffic:
    """Bytes moved, counted by all threads, over every attempt of one merge."""

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
    """How far one attempt of a merge is: its step, and the parts done of the assembly."""

    def __init__(self, traffic: Traffic, *, interval_seconds: float) -> None:
        self.step = Step.HEADERS
        self._traffic = traffic
        self._interval_seconds = interval_seconds
        self._lock = Lock()
        self._count = self._size = self._parts_done = self._bytes_done = 0
        self._started = self._logged = time.monotonic()

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
            self._traffic.add(copied_by_store=part.size)
        else:
            self._traffic.add(uploaded=part.size)

    def log_if_due(self) -> None:
        if time.monotonic() - self._logged >= self._interval_seconds:
            self.log()

    def log(self) -> None:
        self._logged = time.monotonic()
        seconds = self._logged - self._started
        rate = self._bytes_done / seconds if seconds else 0
        log.info(
            "merging",
            step=self.step,
            parts_done=self._parts_done,
            of=self._count,
            bytes_copied_by_store=self._traffic.copied_by_store,
            bytes_uploaded=self._traffic.uploaded,
            bytes_read=self._traffic.read,
            eta_s=round((self._size - self._bytes_done) / rate) if rate else "unknown",
        )
