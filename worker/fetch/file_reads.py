"""Reads local images in threads, so that a file system that hangs delays no request."""

from __future__ import annotations

import errno
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from common.format.reasons import Reason
from worker.fetch.local_image import FileChanged, image_size, read_image, read_range
from worker.fetch.transport import Broken, Verdict
from worker.rows import ImageFailed

if TYPE_CHECKING:
    from worker.fetch.transport import ReadFile

READER_THREADS = 8
"""Number of files that one decoder reads at the same time. On a network file system each read waits for a server."""


class FileSink(Protocol):
    """Whoever is told, from the reading threads, what becomes of the reads."""

    def need(self, job: int, size: int, *, is_first: bool) -> None:
        """The file has `size` bytes, of which none is read yet. The read begins again with `FileReads.grant`."""

    def fetched(self, job: int, body: bytes, order: ReadFile) -> None:
        """The whole file is in memory."""

    def ended(self, job: int, outcome: Broken) -> None:
        """The file cannot be read."""

    def failed(self, error: BaseException) -> None:
        """An error that no image may cause."""


class FileReads:
    """The reads of one decoder."""

    def __init__(self, sink: FileSink, *, max_bytes: int) -> None:
        self._sink = sink
        self._max_bytes = max_bytes
        self._threads = ThreadPoolExecutor(READER_THREADS, thread_name_prefix="read")
        self._waiting: dict[int, ReadFile] = {}
        """Reads that wait for bytes. None waits in a thread: reads that have their bytes could not begin, and give back
        none."""

    def start(self, job: int, order: ReadFile) -> None:
        """Begin a read."""
        self._threads.submit(self._read, job, order)

    def grant(self, job: int, size: int) -> None:
        """Let the file be read that needs more bytes than it was granted, now that it may have `size` bytes."""
        order = self._waiting.pop(job, None)
        if order is not None:
            self.start(job, order._replace(granted_bytes=size))

    def _size(self, order: ReadFile) -> int:
        size = order.length or image_size(Path(order.path))
        if size > self._max_bytes:
            raise ImageFailed(Reason.TOO_LARGE, f"{size} bytes, the limit is {self._max_bytes}")
        return size

    def _read(self, job: int, order: ReadFile) -> None:
        try:
            size = self._size(order)
            if size > order.granted_bytes:
                self._waiting[job] = order
                self._sink.need(job, size, is_first=True)
                return
            path = Path(order.path)
            data = read_range(path, order.first, size, tag=order.tag) if order.length else read_image(path, size)
        except ImageFailed as failed:
            self._sink.ended(job, Broken(Verdict.FINAL, failed.reason, failed.detail, 0))
        except FileChanged:
            detail = f"{order.path} changed while the run read it; a run needs files that do not change"
            self._sink.ended(job, Broken(Verdict.CHANGED, Reason.CONNECTION_FAILED, detail, 0))
        except OSError as error:
            what = errno.errorcode.get(error.errno or 0, "an error")
            detail = f"the file system does not give the images: {what}"
            self._sink.ended(job, Broken(Verdict.MACHINE, Reason.CONNECTION_FAILED, detail, 0))
        except BaseException as error:  # noqa: BLE001 - else whoever waits for the image would wait for ever
            self._sink.failed(error)
        else:
            self._sink.fetched(job, data, order)
