"""The messages that the program takes and gives, and who answers them.

    from the client                        to the client
    model: name, revision           -->
                                    <--    model: name, revision, weights, dimensions, …; or failed, without an id
    text: id, text                  -->
    image: id + bytes               -->
    url: id, url                    -->
                                    <--    vector: id, is_cut + float32
    picture: id, url, side, folder  -->
                                    <--    picture: id, media_type + bytes
                                    <--    failed: id, error, message

Queries may come before the model is named, and wait for it. Answers come in any order.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import traceback
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from common.errors import EmbedderError, QueryRefused
from common.logs import configure_logs, log, redact_urls
from common.process.frames import Frame, read_frame, write_frame
from common.process.program import Finished
from common.process.resources import exhausted
from common.settings import TlsSettings, read_settings
from worker.decode.geometry import PREPROCESSING_VERSION
from worker.decoders.decoders import Decoders
from worker.decoders.settings import decoder_settings
from worker.encode.model import UNTRAINED, find_model
from worker.fetch.relayed_proxies import RelayedProxies
from worker.query.images import QueryImages
from worker.settings import DecodeSettings, FetchSettings, HttpSettings
from worker.stage_times import StageTimes

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from worker.encode.model import ModelSource
    from worker.encode.query_encoder import QueryEncoder

Computed = TypeVar("Computed")

MAX_QUERY_BYTES = 256 << 20
"""Size in bytes of the largest message. The client refuses larger images."""

DECODERS = 3
"""Number of decoders at most. A page shows some dozens of pictures at a time."""


def serve_queries() -> Finished:
    """Answer what comes on standard input until it ends."""
    configure_logs("warning")
    # A library that prints must not write between two messages.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    read_settings(TlsSettings)
    http, fetch, decode = read_settings(HttpSettings), read_settings(FetchSettings), read_settings(DecodeSettings)
    asyncio.run(_Service(fetch, http, decode, answers=answers).run())
    return Finished("the queries have ended")


class _Service:
    """Create it in the main thread, and let its event loop run there: decoders end with the thread that starts them."""

    def __init__(self, fetch: FetchSettings, http: HttpSettings, decode: DecodeSettings, *, answers: BinaryIO) -> None:
        self._fetch, self._http, self._decode = fetch, http, decode
        self._answers = answers
        self._source: Future[ModelSource] = Future()
        self._encoder: QueryEncoder | None = None
        # One thread for torch, which divides its work among the cores by itself.
        self._computing = ThreadPoolExecutor(1, thread_name_prefix="compute")
        # Not asyncio's own thread, for which its loop waits at the end: a model of the hub may take minutes to arrive.
        self._finding = ThreadPoolExecutor(1, thread_name_prefix="find")
        self._opened = ExitStack()
        self._started: QueryImages | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended: asyncio.Future[None] | None = None

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        ended = self._ended = loop.create_future()
        self._computing.submit(_import_libraries)
        threading.Thread(target=self._read, args=(loop,), name="read", daemon=True).start()
        with self._opened:
            await ended

    def _end(self, error: BaseException | None = None) -> None:
        if self._ended is None or self._ended.done():
            return
        if error is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(error)

    def _images(self) -> QueryImages:
        """Return what makes squares and pictures. Its processes are started when the first image comes: a search for a
        text needs none, and their imports would take the cores that load the model."""
        if self._started is None:
            decoders = Decoders(
                min(DECODERS, self._decode.decoder_count),
                decoder_settings(self._http, self._fetch, self._decode),
                times=StageTimes(decode_threads=1),
            )
            self._opened.callback(decoders.close)
            failed = self._opened.enter_context(decoders.listening())
            failed.add_done_callback(lambda failed: None if failed.cancelled() else self._end(failed.exception()))
            proxies = RelayedProxies(connect_timeout_seconds=self._http.connect_timeout_seconds)
            self._opened.callback(proxies.close)
            self._started = QueryImages(
                decoders, proxies=proxies, fetch=self._fetch, http=self._http, decode=self._decode
            )
            self._opened.callback(self._started.close)
        return self._started

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take the messages, in a thread of its own, until the client closes its end or dies."""
        error: Exception | None = None
        try:
            while (frame := read_frame(sys.stdin.buffer, max_payload_bytes=MAX_QUERY_BYTES)) is not None:
                loop.call_soon_threadsafe(self._take, frame)
        except Exception as broken:  # noqa: BLE001 - the program ends with it
            error = broken
        with suppress(RuntimeError):  # the loop has ended before
            loop.call_soon_threadsafe(self._end, error)

    def _take(self, frame: Frame) -> None:
        task = asyncio.create_task(self._obey(frame))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _obey(self, frame: Frame) -> None:
        head = frame.head
        number = head.get("id")
        try:
            answer = await self._answer(frame)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - the client raises it
            answer = _failed(error)
        self._send(Frame({**answer.head, "id": number}, answer.payload))

    async def _answer(self, frame: Frame) -> Frame:
        match frame.head:
            case {"kind": "model", "name": str(name), "revision": str(revision)}:
                return await self._find(name, revision)
            case {"kind": "text", "text": str(text)}:
                return await self._text(text)
            case {"kind": "image"}:
                images, size = self._images(), (await self._model()).image_size
                return await self._vector(await images.square_of_bytes(frame.payload, size=size))
            case {"kind": "url", "url": str(url)}:
                images, size = self._images(), (await self._model()).image_size
                return await self._vector(await images.square_of_url(url, size=size))
            case {"kind": "picture", "url": str(url), "side": int(side), "folder": folder}:
                data = await self._images().picture(url, side=side, folder=Path(folder) if folder else None)
                return Frame({"kind": "picture", "media_type": "image/jpeg"}, data)
        raise QueryRefused("the program was sent a query that it does not know")

    # The model

    async def _find(self, name: str, revision: str) -> Frame:
        """Find the model, whose towers are loaded when they are needed."""
        try:
            source = await asyncio.get_running_loop().run_in_executor(
                self._finding, lambda: find_model(name, revision=revision)
            )
        except Exception as error:
            self._source.set_exception(error)
            self._source.exception()
            raise
        self._source.set_result(source)
        return Frame(
            {
                "kind": "model",
                "name": source.name,
                "revision": source.revision,
                "weights": source.weights,
                "is_untrained": source.name == UNTRAINED,
                "dimensions": source.dimensions,
                "preprocessing": PREPROCESSING_VERSION,
            }
        )

    async def _model(self) -> ModelSource:
        return await asyncio.wrap_future(self._source)

    async def _text(self, text: str) -> Frame:
        found = await self._compute(lambda encoder: encoder.text_vector(text))
        return Frame({"kind": "vector", "is_cut": found.is_cut}, found.vector.tobytes())

    async def _vector(self, square: NDArray[np.uint8]) -> Frame:
        vector = await self._compute(lambda encoder: encoder.image_vector(square))
        return Frame({"kind": "vector", "is_cut": False}, vector.tobytes())

    async def _compute(self, work: Callable[[QueryEncoder], Computed]) -> Computed:
        """Return what `work` computes with the model, in the thread for it."""
        source = await self._model()

        def compute() -> Computed:
            from worker.encode.query_encoder import QueryEncoder  # noqa: PLC0415 - it imports torch

            if self._encoder is None:
                self._encoder = QueryEncoder(source)
            return work(self._encoder)

        return await asyncio.get_running_loop().run_in_executor(self._computing, compute)

    def _send(self, frame: Frame) -> None:
        try:
            write_frame(self._answers, frame)
        except OSError:
            log.warning("no_reader", message="nobody reads the answers any more")


def _import_libraries() -> None:
    """Import torch and transformers while the client opens its result: that takes seconds."""
    import worker.encode.query_encoder  # noqa: F401, PLC0415


def _failed(error: Exception) -> Frame:
    foreseen = error if isinstance(error, EmbedderError) else exhausted(error)
    if foreseen is None:
        log.error("bug", message="".join(traceback.format_exception(error)))
        return Frame(
            {"kind": "failed", "error": "", "message": f"a bug in the embedder: {type(error).__name__}: {error}"}
        )
    return Frame({"kind": "failed", "error": type(foreseen).__name__, "message": redact_urls(str(foreseen))})
