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
    decoders = Decoders(
        min(DECODERS, decode.decoder_count),
        decoder_settings(http, fetch, decode),
        times=StageTimes(decode_threads=1),
    )
    proxies = RelayedProxies(connect_timeout_seconds=http.connect_timeout_seconds)
    try:
        asyncio.run(_Service(decoders, proxies, fetch, http, decode, answers=answers).run())
    finally:
        decoders.close()
        proxies.close()
    return Finished("the queries have ended")


class _Service:
    def __init__(
        self,
        decoders: Decoders,
        proxies: RelayedProxies,
        fetch: FetchSettings,
        http: HttpSettings,
        decode: DecodeSettings,
        *,
        answers: BinaryIO,
    ) -> None:
        self._decoders, self._proxies = decoders, proxies
        self._settings = fetch, http, decode
        self._answers = answers
        self._source: Future[ModelSource] = Future()
        self._encoder: QueryEncoder | None = None
        # One thread for torch, which divides its work among the cores by itself.
        self._computing = ThreadPoolExecutor(1, thread_name_prefix="compute")
        # Not asyncio's own thread, for which its loop waits at the end: a model of the hub may take minutes to arrive.
        self._finding = ThreadPoolExecutor(1, thread_name_prefix="find")
        self._images: QueryImages | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        fetch, http, decode = self._settings
        self._computing.submit(_import_libraries)
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        with self._decoders.listening() as failed:
            self._images = QueryImages(self._decoders, proxies=self._proxies, fetch=fetch, http=http, decode=decode)
            threading.Thread(target=self._read, args=(loop, ended), name="read", daemon=True).start()
            waited: list[asyncio.Future[None]] = [failed, ended]
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            for each in waited:
                if each.done():
                    each.result()

    def _read(self, loop: asyncio.AbstractEventLoop, ended: asyncio.Future[None]) -> None:
        """Take the messages, in a thread of its own, until the client closes its end or dies."""
        error: Exception | None = None
        try:
            while (frame := read_frame(sys.stdin.buffer, max_payload_bytes=MAX_QUERY_BYTES)) is not None:
                loop.call_soon_threadsafe(self._take, frame)
        except Exception as broken:  # noqa: BLE001 - the program ends with it
            error = broken

        def end() -> None:
            if not ended.done():
                ended.set_exception(error) if error else ended.set_result(None)

        loop.call_soon_threadsafe(end)

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
        images = self._images
        if images is None:
            raise RuntimeError("no decoder listens")
        match frame.head:
            case {"kind": "model", "name": str(name), "revision": str(revision)}:
                return await self._find(name, revision)
            case {"kind": "text", "text": str(text)}:
                return await self._text(text)
            case {"kind": "image"}:
                size = (await self._model()).image_size
                return await self._vector(await images.square_of_bytes(frame.payload, size=size))
            case {"kind": "url", "url": str(url)}:
                size = (await self._model()).image_size
                return await self._vector(await images.square_of_url(url, size=size))
            case {"kind": "picture", "url": str(url), "side": int(side), "folder": folder}:
                data = await images.picture(url, side=side, folder=Path(folder) if folder else None)
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


def _failed(error: Exception) -> Frame:
    foreseen = error if isinstance(error, EmbedderError) else exhausted(error)
    if foreseen is None:
        log.error("bug", message="".join(traceback.format_exception(error)))
        return Frame(
            {"kind": "failed", "error": "", "message": f"a bug in the embedder: {type(error).__name__}: {error}"}
        )
    return Frame({"kind": "failed", "error": type(foreseen).__name__, "message": redact_urls(str(foreseen))})
