"""The stages of a chunk, overlapping: fetch and hand over (an event loop), decode (processes), encode (a thread).

Between them lie bounds: the fetcher's bytes in flight before the decoders, a fixed number of batch buffers before the
encoder. A stage that is slow holds up the one before it, and nothing grows.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from common.errors import EmbedderError, SourceUnavailable, TooManyFailures
from common.format.reasons import Reason
from worker.fetch.image_fetcher import ImageFetcher
from worker.rows import ImageFailed, LargeImage
from worker.stage_times import StageTimes

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from worker.collector import Collector
    from worker.decode.decoders import Decoders
    from worker.encode.batches import Batch, Batches
    from worker.encode.encoder import Encoder
    from worker.manifest.manifest import Manifest, ManifestChunk
    from worker.rows import Row
    from worker.settings import WorkerSettings

UNANSWERED = {Reason.CONNECTION_FAILED, Reason.TIMEOUT}
"""The reasons that may lie in this pod's network. With any other, somebody has answered."""

ROWS_AHEAD = 16
"""Rows under way per request in flight. Most wait, for their host or after a Retry-After, and hold nothing: so many
of them keep the other hosts' requests going."""


class Pipeline:
    """Fetches, decodes and encodes the rows of one chunk into a collector.

    `batches` and `encoder` are promises: the model loads while the first images are fetched.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        manifest: Manifest,
        chunk: ManifestChunk,
        collector: Collector,
        *,
        decoders: Decoders,
        batches: Future[Batches],
        encoder: Future[Encoder],
    ) -> None:
        self._settings = settings
        self._manifest = manifest
        self._rows = chunk.rows
        self._collector = collector
        self._batches = batches
        self._encoder = encoder
        self._decoders = decoders
        self._large_image = asyncio.Lock()
        self._has_batches = asyncio.Event()
        self.times = StageTimes(decode_threads=decoders.count)
        self._fetcher: ImageFetcher | None = None
        self._fetched = 0
        self._cancel_fetching: Callable[[], object] | None = None
        self._ended: Future[None] = Future()
        self._ending = threading.Lock()

    def start(self) -> None:
        """Begin; `wait` tells when it is over."""
        for stage in (self._fetch_and_decode, self._encode):
            threading.Thread(target=partial(self._run, stage), name=stage.__name__, daemon=True).start()

    def wait(self, seconds: float) -> bool:
        """Wait at most so long, and return whether every row is settled. Raises what ended the pipeline early."""
        try:
            self._ended.result(timeout=seconds)
        except TimeoutError:
            return False
        return True

    @property
    def bytes_received(self) -> int:
        return self._fetcher.bytes_received if self._fetcher else 0

    @property
    def requests(self) -> int:
        return self._fetcher.requests if self._fetcher else 0

    def stop(self) -> None:
        """End the stages early; rows that are not settled stay so."""
        self._end(EmbedderError("the pipeline was stopped"))

    def _run(self, stage: Callable[[], None]) -> None:
        try:
            stage()
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
            self._end(error)

    def _end(self, error: BaseException | None) -> None:
        with self._ending:
            # The first word counts: what fails after it fails because of it.
            if self._ended.done():
                return
            if error is None:
                self._ended.set_result(None)
                return
            self._ended.set_exception(error)
        cancel_fetching = self._cancel_fetching
        if cancel_fetching is not None:
            with suppress(RuntimeError):  # the loop has just ended by itself
                cancel_fetching()
        if self._batches.done() and self._batches.exception() is None:
            self._batches.result().abandon()

    def _fetch_and_decode(self) -> None:
        self._check_failures()
        asyncio.run(self._settle_rows())
        self._batches.result().close()

    async def _settle_rows(self) -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        if task is not None:
            self._cancel_fetching = lambda: loop.call_soon_threadsafe(task.cancel)

        def tell(_: Future[Batches]) -> None:
            with suppress(RuntimeError):  # the loop has ended before
                loop.call_soon_threadsafe(self._has_batches.set)

        self._batches.add_done_callback(tell)
        ahead = asyncio.Semaphore(self._settings.fetch.fetch_concurrency * ROWS_AHEAD)
        self._fetcher = ImageFetcher(
            self._settings.fetch,
            self._settings.http,
            inflight_bytes=self._settings.decode.inflight_bytes,
            sources=self._manifest.sources,
            folder=self._manifest.folder,
            times=self.times,
        )
        self.times.watch_loop()
        try:
            with self._decoders.listening():
                async with self._fetcher as fetcher, asyncio.TaskGroup() as tasks:
                    for row in self._rows:
                        await ahead.acquire()
                        tasks.create_task(self._settle(fetcher, row)).add_done_callback(lambda _: ahead.release())
        finally:
            self.times.forget_loop()
            self._cancel_fetching = None

    async def _settle(self, fetcher: ImageFetcher, row: Row) -> None:
        try:
            try:
                async with fetcher.image(row) as data:
                    self._fetched += 1
                    await self._decode(row, data)
            except ImageFailed as failed:
                self._collector.fail(row.position, failed)
                self._check_failures()
        except Exception as error:  # noqa: BLE001 - handed to the thread that waits
            self._end(error)

    async def _decode(self, row: Row, data: bytes | bytearray) -> None:
        try:
            await self._decode_as(row, data, may_be_large=False)
        except LargeImage:
            # Who waits here keeps no decoder from the others.
            async with self._large_image:
                await self._decode_as(row, data, may_be_large=True)

    async def _decode_as(self, row: Row, data: bytes | bytearray, *, may_be_large: bool) -> None:
        await self._has_batches.wait()
        batches = self._batches.result()
        async with self._decoders.idle() as decoder:
            with self.times.measure("decode_worked"):
                square = await decoder.square(
                    data,
                    rotation=row.rotation,
                    size=batches.image_size,
                    max_pixels=self._settings.decode.max_image_pixels,
                    may_be_large=may_be_large,
                )
            with self.times.measure("decode_waited"):
                await batches.put(row.position, square)

    def _encode(self) -> None:
        with self.times.measure("model_waited"):
            encoder, batches = self._encoder.result(), self._batches.result()
        begun: tuple[Batch, Callable[[], NDArray[np.float32]]] | None = None

        def finish_begun() -> None:
            if begun is not None:
                done, vectors = begun
                self._collector.embed(done.positions, vectors())
                batches.give_back(done)

        while True:
            if not batches.is_ready:
                # The device has work still, and so long nothing waits for a batch.
                with self.times.measure("encode_worked"):
                    finish_begun()
                begun = None
            with self.times.measure("encode_waited"):
                batch = batches.get()
            with self.times.measure("encode_worked"):
                following = None if batch is None else (batch, encoder.start(batch.pixels))
                # One batch behind: the device has its next work before anybody waits for the last.
                finish_begun()
            begun = following
            if batch is None:
                break
        self._check_failures()
        self._end(None)

    def _check_failures(self) -> None:
        failed, requested = self._collector.failed, self._collector.requested
        if failed > self._settings.chunk.max_failure_ratio * requested:
            raise self._too_many_failures()

    def _too_many_failures(self) -> EmbedderError:
        counts = self._collector.count_by_reason()
        reasons = ", ".join(f"{reason} {count}" for reason, count in counts.most_common())
        if not self._fetched and counts.keys() <= UNANSWERED:
            return SourceUnavailable(f"no source answered for any of {self._collector.failed} images ({reasons})")
        return TooManyFailures(
            f"{self._collector.failed} of {self._collector.requested} images failed so far, the limit is "
            f"{self._settings.chunk.max_failure_ratio:.0%}: {reasons}; look at the manifest and its sources, or raise "
            "EMBEDDER_MAX_FAILURE_RATIO"
        )
