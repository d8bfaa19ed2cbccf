"""Decodes images in separate processes, so that a decoder that crashes or hangs costs one image."""

from __future__ import annotations

import asyncio
import mmap
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING

import numpy as np

from common.errors import ResourceExhausted
from common.format.reasons import Reason
from common.logs import log
from worker.decode.decoder_link import (
    MESSAGE_BYTES,
    Bug,
    Died,
    Done,
    Failed,
    Large,
    NoMemory,
    Ready,
    Request,
    answer_from_message,
    new_memory,
)
from worker.memory import DECODER_MALLOC
from worker.rows import ImageFailed, LargeImage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from concurrent.futures import Executor

    from numpy.typing import NDArray

    from worker.decode.decoder_link import Answer

KEPT_BYTES = 4 << 20
"""Size in bytes of the shared memory that a decoder keeps after an image. A larger image is copied in a thread, and the
memory beyond this size is given back in the thread, because both would hold up the event loop."""

GRACE_SECONDS = 2
"""Time in seconds that the decoders have to end before they are killed."""

MAX_EARLY_DEATHS = 10
"""Maximum number of decoders in a row that may die before they are ready."""

_KEPT_NAMES = {"PATH", "HOME", "LANG", "TMPDIR"}
_KEPT_PREFIXES = ("LC_", "LD_", "PYTHON", "OPENBLAS_", "OMP_", "MKL_")
"""Names, and first letters of names, of the environment variables that a decoder gets."""

_OUT_OF_TIME = {signal.SIGPROF, signal.SIGALRM}
"""Signals of the timers that `decoder_process` sets for each image."""


class Decoders:
    """A process that keeps `count` decoders running, for one event loop.

    Create it in a thread that lives as long as the worker: Linux ends the process together with that thread.
    """

    def __init__(self, count: int, *, max_image_bytes: int, timeout_seconds: float) -> None:
        self._idle: asyncio.Queue[Decoder] = asyncio.Queue()
        # Not the event loop's own executor, because file systems that hang may block all of its threads.
        self._copies = ThreadPoolExecutor(1, thread_name_prefix="copy")
        self.count = count
        self._decoders: list[Decoder] = []
        theirs: list[int] = []
        for _ in range(count):
            ours, their = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.settimeout(0)
            memory = new_memory(max_image_bytes)
            theirs += [their.detach(), memory]
            self._decoders.append(Decoder(ours, mmap.mmap(memory, 0), self._copies))
            self._idle.put_nowait(self._decoders[-1])
        try:
            self._server = subprocess.Popen(  # noqa: S603 - a part of this program
                [
                    sys.executable,
                    "-m",
                    "worker.decode.decoder_server",
                    str(timeout_seconds),
                    str(os.getpid()),
                    *map(str, theirs),
                ],
                pass_fds=theirs,
                stdin=subprocess.DEVNULL,
                env=_environment(),
            )
        finally:
            for descriptor in theirs:
                os.close(descriptor)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Let the running event loop receive the decoders' messages within the block."""
        loop = asyncio.get_running_loop()
        for decoder in self._decoders:
            decoder.listen(loop)
        try:
            yield
        finally:
            for decoder in self._decoders:
                decoder.stop_listening(loop)

    @asynccontextmanager
    async def idle(self) -> AsyncIterator[Decoder]:
        """Wait for an idle decoder and reserve it for the block."""
        decoder = await self._idle.get()
        try:
            yield decoder
        finally:
            # If the caller was cancelled, the decoder is still at work. It is not used again: its answer must not be
            # taken for the answer to another image.
            if not decoder.is_at_work:
                self._idle.put_nowait(decoder)

    def close(self) -> None:
        """End the decoders, even if they are at work."""
        for decoder in self._decoders:
            decoder.hang_up()
        try:
            self._server.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._server.kill()  # its decoders die with it
            self._server.wait()
        self._copies.shutdown(wait=False)
        for decoder in self._decoders:
            decoder.close()


class Decoder:
    """The worker's end of the connection to one decoder. If that decoder dies, the next one takes its place."""

    def __init__(self, link: socket.socket, memory: mmap.mmap, copies: Executor) -> None:
        self._link = link
        self._memory = memory
        self._copies = copies
        self._bytes = np.frombuffer(memory, np.uint8)
        self._messages: asyncio.Queue[bytes] = asyncio.Queue()
        self._generation = 0
        self._is_ready = False
        self.is_at_work = False

    async def square(
        self, data: bytes | bytearray, *, rotation: int, size: int, max_pixels: int, may_be_large: bool
    ) -> NDArray[np.uint8]:
        """Return the pixels that the model sees, uint8 (size, size, 3), as `preprocess.image_square` does.

        The array is valid until the next call. Raises ImageFailed also when two decoders crash on the image or need too
        much time for it, LargeImage if the image is large and `may_be_large` is false, and ResourceExhausted if this
        machine is at fault.
        """
        request = Request(0, len(data), rotation, size, max_pixels, may_be_large)
        answer = await self._ask(data, request)
        if isinstance(answer, Died):
            # An earlier image may have damaged that decoder. The next decoder has seen no other image.
            log.warning("decoder_died", of=_cause(answer), image_bytes=len(data))
            answer = await self._ask(data, request)
        if len(data) > KEPT_BYTES:
            surplus = len(self._memory) - KEPT_BYTES
            await self._in_thread(self._memory.madvise, mmap.MADV_REMOVE, KEPT_BYTES, surplus)
        match answer:
            case Done():
                return self._bytes[: 3 * size**2].reshape(size, size, 3)
            case Failed(reason, detail):
                raise ImageFailed(reason, detail)
            case Large():
                raise LargeImage
            case NoMemory():
                raise MemoryError
            case Died():
                raise _error_of_death(answer)
            case Bug(traceback):
                raise RuntimeError(f"a decoder failed:\n{traceback}")
            case Ready():
                raise RuntimeError("a decoder said that it is ready instead of answering a request")

    async def _ask(self, data: bytes | bytearray, request: Request) -> Answer:
        """Have the image decoded, and return the decoder's answer, or its death once the next decoder is ready."""
        self.is_at_work = True
        if not self._is_ready:
            await self._wait_until_ready()
        # Decoders may have died while they were idle.
        self._receive(asyncio.get_running_loop())
        while not self._messages.empty():
            if isinstance(await self._answer(), Died):
                await self._wait_until_ready()
        place, image = self._bytes[: len(data)], np.frombuffer(data, np.uint8)
        if len(data) > KEPT_BYTES:
            await self._in_thread(np.copyto, place, image)
        else:
            np.copyto(place, image)
        try:
            self._link.send(request._replace(generation=self._generation).to_message())
        except OSError as error:
            raise _decoders_ended() from error
        answer = await self._answer()
        if isinstance(answer, Died):
            await self._wait_until_ready()
        self.is_at_work = False
        return answer

    async def _in_thread(self, work: Callable[..., None], *arguments: object) -> None:
        await asyncio.get_running_loop().run_in_executor(self._copies, work, *arguments)

    async def _wait_until_ready(self) -> None:
        for _ in range(MAX_EARLY_DEATHS):
            answer = await self._answer()
            if isinstance(answer, Ready):
                self._generation, self._is_ready = answer.generation, True
                return
        cause = f", the last of {_cause(answer)}" if isinstance(answer, Died) else ""
        raise ResourceExhausted(f"{MAX_EARLY_DEATHS} decoders died before their first image{cause}")

    async def _answer(self) -> Answer:
        message = await self._messages.get()
        if not message:
            raise _decoders_ended()
        return answer_from_message(message)

    def listen(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.add_reader(self._link, self._receive, loop)

    def stop_listening(self, loop: asyncio.AbstractEventLoop) -> None:
        with suppress(ValueError):  # the socket is closed
            loop.remove_reader(self._link)

    def _receive(self, loop: asyncio.AbstractEventLoop) -> None:
        """Move all messages that have arrived into the queue. An empty message says that the decoders have ended."""
        while True:
            try:
                message = self._link.recv(MESSAGE_BYTES)
            except BlockingIOError:
                return
            except OSError:
                message = b""
            self._messages.put_nowait(message)
            if not message:
                self.stop_listening(loop)
                return

    def hang_up(self) -> None:
        """End the connection. The decoder then ends, and a call that waits for its answer gets an error."""
        with suppress(OSError):  # the connection is closed already
            self._link.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._link.close()


def _environment() -> dict[str, str]:
    """Return the part of this process's environment that a decoder needs, which contains no secret."""
    kept = {name: value for name, value in os.environ.items() if name in _KEPT_NAMES or name.startswith(_KEPT_PREFIXES)}
    # One thread for each decoder: more threads would compete with the other decoders for the cores.
    return kept | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"} | DECODER_MALLOC


def _error_of_death(death: Died) -> Exception:
    """Return the error for an image on which two decoders in a row have died."""
    number = -death.exit_code
    if number in _OUT_OF_TIME:
        return ImageFailed(Reason.DECODE_TIMEOUT, "decoding took longer than EMBEDDER_DECODE_TIMEOUT_SECONDS")
    if number == signal.SIGKILL:
        return ResourceExhausted("a decoder was killed, probably for lack of memory; raise the memory limit")
    return ImageFailed(Reason.DECODER_DIED, f"the decoder crashed twice on this image: {_cause(death)}")


def _cause(death: Died) -> str:
    return signal.Signals(-death.exit_code).name if death.exit_code < 0 else f"exit code {death.exit_code}"


def _decoders_ended() -> ResourceExhausted:
    return ResourceExhausted("the decoders have ended, probably for lack of memory; the log above may say why")
