"""The stages of a chunk, overlapping: fetch and decode (processes, which an event loop directs), encode (a thread).

Two limits lie between the stages: bytes in flight before the decoding, and a fixed number of slots for squares before
the encoder. So a slow stage holds up the stage before it, and memory does not grow.
"""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from common.errors import EmbedderError
from common.format.reasons import Reason
from common.process.thread_name import name_thread
from worker.failure_report import ImagesFailed, report_on
from worker.fetch.image_fetcher import ImageFetcher
from worker.square_maker import SquareMaker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from worker.collector import Collector
    from worker.decode.sample_pictures import SamplePictures
    from worker.decoders.decoders import Decoders
    from worker.decoders.job import Job
    from worker.encode.batches import Batch, Batches
    from worker.encode.encoder import Encoder
    from worker.fetch.relayed_proxies import RelayedProxies
    from worker.fetch.sites import SiteState
    from worker.rows import HeldImages, ImageFailed, Row
    from worker.settings import FetchSettings, HttpSettings
    from worker.stage_times import StageTimes

UNANSWERED = {Reason.CONNECTION_FAILED, Reason.TIMEOUT}
"""The reasons that this pod's own network can cause. For every other reason the network is not to blame."""

ROWS_UNDER_WAY = 16
"""Number of rows under way for each request in flight. The others wait for a retry or for their square. There are many
of them, so that the rows of a failing host leave room for the rows of other hosts."""


LOOK_AT_DEVICE_SECONDS = 1.0
"""Time in seconds between two looks at how long the device takes for a batch."""


class _InFlight(NamedTuple):
    """A batch that the device computes."""

    batch: Batch
    vectors: Callable[[], NDArray[np.float32]]
    """Waits for the device and returns (rows, dimensions)."""


class Pipeline:
    """Fetches, decodes and encodes the rows of one chunk into a collector.

    `sources` are tried in their order. `folder` is where relative paths start, None for a manifest from the network.
    `held` gives the images that the worker itself reads from the manifest, None if there are none.
    `batches` and `encoder` are futures, because the model loads while the first images are fetched.
    `errors_are_answers` is as for ImageFetcher. `pictures` is given squares of embedded rows.
    """

    def __init__(
        self,
        collector: Collector,
        rows: Sequence[Row],
        *,
        sources: tuple[str, ...],
        folder: Path | None,
        held: HeldImages | None = None,
        decoders: Decoders,
        proxies: RelayedProxies,
        batches: Future[Batches],
        encoder: Future[Encoder],
        fetch: FetchSettings,
        http: HttpSettings,
        inflight_bytes: int,
        encode_timeout_seconds: float,
        max_failure_ratio: float,
        times: StageTimes,
        errors_are_answers: bool = False,
        pictures: SamplePictures | None = None,
    ) -> None:
        self._pictures = pictures
        self._errors_are_answers = errors_are_answers
        self._collector = collector
        self._rows = rows
        self._sources, self._folder, self._held = sources, folder, held
        self._decoders = decoders
        self._proxies = proxies
        self._batches = batches
        self._opened: Batches | None = None
        self._encoder = encoder
        self._fetch_settings, self._http, self._inflight_bytes = fetch, http, inflight_bytes
        self._encode_timeout_seconds = encode_timeout_seconds
        self._device_began: float | None = None
        self._max_failure_ratio = max_failure_ratio
        self.times = times
        self.batches_encoded = 0
        self.last_progress_time = time.time()
        """Unix time at which a row was settled last; at first, the time of the start."""
        self._fetcher: ImageFetcher[Job] | None = None
        self._squares: SquareMaker | None = None
        self._cancel_fetching: Callable[[], object] | None = None
        self._ended: Future[None] = Future()
        self._ending = threading.Lock()

    def start(self) -> None:
        """Start the stages. `wait` tells when they have ended."""
        self.times.start()
        for stage in (self._fetch, self._encode):
            threading.Thread(target=partial(self._run, stage), name=stage.__name__, daemon=True).start()

    def wait(self, seconds: float) -> bool:
        """Wait for `seconds` at most. Return whether every row is settled.

        Raises the error that ended the pipeline, ImagesFailed where too many images have failed, and DeviceUnavailable
        when the device takes too long for a batch.
        """
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            try:
                self._ended.result(timeout=min(left, LOOK_AT_DEVICE_SECONDS))
            except TimeoutError:
                # This thread raises the error, because the encoder's thread may never return from the device's driver.
                self._check_device()
            else:
                return True
        return False

    def _check_device(self) -> None:
        began = self._device_began
        limit = self._encode_timeout_seconds
        if began is not None and time.monotonic() - began > limit:
            raise self._encoder.result().too_slow(limit)

    @property
    def bytes_received(self) -> int:
        return self._fetcher.bytes_received if self._fetcher else 0

    @property
    def requests(self) -> int:
        return self._fetcher.requests if self._fetcher else 0

    @property
    def had_slow_sites(self) -> bool:
        """Whether any site was asked at a limited rate."""
        return self._fetcher is not None and self._fetcher.had_slow_sites

    def slow_sites(self) -> list[SiteState]:
        """Return the slow sites for which rows are left, those with the most rows first."""
        return self._fetcher.slow_sites() if self._fetcher else []

    def stop(self) -> None:
        """End the stages early. Rows that are not settled yet stay unsettled."""
        self._end(EmbedderError("the pipeline was stopped"))

    def _run(self, stage: Callable[[], None]) -> None:
        name_thread(stage.__name__.strip("_"))
        try:
            stage()
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
            self._end(error)

    def _end(self, error: BaseException | None) -> None:
        with self._ending:
            # The first error counts: later ones are its consequences.
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

    # Fetching and decoding, as an event loop tells the decoders

    def _fetch(self) -> None:
        self._check_failures()
        asyncio.run(self._settle_rows())
        self._batches.result().close()

    async def _settle_rows(self) -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        if task is not None:
            self._cancel_fetching = lambda: loop.call_soon_threadsafe(task.cancel)
        self._fetcher = ImageFetcher(
            self._decoders,
            self._fetch_settings,
            self._http,
            inflight_bytes=self._inflight_bytes,
            sources=self._sources,
            folder=self._folder,
            proxies=self._proxies,
            held=self._held,
            times=self.times,
            errors_are_answers=self._errors_are_answers,
        )
        self.times.watch_loop()
        try:
            with self._decoders.listening() as failed:
                failed.add_done_callback(lambda failed: self._end(failed.exception()))
                self._batches.add_done_callback(partial(self._open_room_in, loop))
                async with self._fetcher as fetcher:
                    self._squares = SquareMaker(
                        fetcher,
                        self._rows,
                        most_under_way=self._fetch_settings.fetch_concurrency * ROWS_UNDER_WAY,
                        put=self._put,
                        fail=self._fail,
                        end=self._end,
                    )
                    await self._squares.settle_all()
        finally:
            self.times.forget_loop()
            self._cancel_fetching = None

    def _open_room_in(self, loop: asyncio.AbstractEventLoop, _: Future[Batches]) -> None:
        """Let the decoders write squares, now that the memory for them is there. Called from any thread."""
        with suppress(RuntimeError):  # the loop has ended before
            loop.call_soon_threadsafe(self._open_room)

    def _open_room(self) -> None:
        if (error := self._batches.exception()) is not None:
            self._end(error)
            return
        batches = self._opened = self._batches.result()
        batches.on_free = self._decoders.give_slots
        self._decoders.open_room(batches)

    def _put(self, position: int, slot: int) -> None:
        (self._opened or self._batches.result()).put(position, slot)

    def _fail(self, position: int, failed: ImageFailed) -> None:
        self._collector.fail(position, failed)
        self.last_progress_time = time.time()
        self._check_failures()

    # Encoding, in a thread

    def _encode(self) -> None:
        """Encode batch after batch, one behind: a batch's vectors are collected after the next batch was started.

            start 1 ─ start 2 ─ collect 1 ─ start 3 ─ collect 2 ─ ...

        So the device always has its next work. When no further batch is ready, the vectors are collected at once.
        """
        with self.times.measure("model_waited"):
            encoder, batches = self._encoder.result(), self._batches.result()
        in_flight: _InFlight | None = None
        is_last = False
        while not is_last:
            if not batches.is_ready:
                self._collect(in_flight)
                in_flight = None
            with self.times.measure("encode_waited"):
                batch = batches.get()
            is_last = batch is None
            with self._on_device():
                started = None if batch is None else _InFlight(batch, encoder.start(batch.pieces))
            self._collect(in_flight)
            in_flight = started
        self._check_failures()
        self._end(None)

    def _collect(self, in_flight: _InFlight | None) -> None:
        """Wait for the batch that the device computes, if any, and settle its rows."""
        if in_flight is None:
            return
        with self._on_device():
            vectors = in_flight.vectors()
        with self.times.measure("encode_worked"):
            self._collector.embed(in_flight.batch.positions, vectors)
            self._sample(in_flight.batch)
            self._batches.result().give_back(in_flight.batch)
        self.batches_encoded += 1
        self.last_progress_time = time.time()

    def _sample(self, batch: Batch) -> None:
        """Keep those squares of the batch that pictures are made of."""
        if self._pictures is None:
            return
        for position in self._pictures.wanted(batch.positions):
            if self._collector.is_embedded(position):
                self._pictures.keep(position, batch.square_of(position))

    @contextmanager
    def _on_device(self) -> Iterator[None]:
        """Measure a call that may wait for the device, and let `wait` watch over it."""
        self._device_began = time.monotonic()
        try:
            with self.times.measure("encode_worked"):
                yield
        finally:
            self._device_began = None

    # Failures

    def _check_failures(self) -> None:
        collector = self._collector
        failed, requested = collector.failed - collector.deferred, collector.requested
        if failed > self._max_failure_ratio * requested:
            report = report_on(
                self._collector.failures(), requested=requested, max_failure_ratio=self._max_failure_ratio
            )
            has_answer = bool(self._squares and self._squares.fetched) or bool(
                self._fetcher and self._fetcher.has_faulty_host
            )
            is_unanswered = not has_answer and {cause.reason for cause in report.causes} <= UNANSWERED
            raise ImagesFailed(report, is_unanswered=is_unanswered)
