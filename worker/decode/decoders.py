"""Decodes images in processes of their own, so that a crash or a hang of a decoder costs one image."""

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
from worker.decode.decoder_link import MESSAGE_BYTES, Answer, Kind, Request, new_memory
from worker.rows import ImageFailed, LargeImage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from concurrent.futures import Executor

    from numpy.typing import NDArray

KEPT_BYTES = 4 << 20
"""Of an image's bytes in shared memory; what a larger one takes more is given back after it. That, and to copy so many
bytes, would hold up the event loop, so a thread does it."""

GRACE_SECONDS = 2
"""For what is being decoded when the decoders are to end."""

MAX_DEATHS = 10
"""In a row, of decoders that have not even begun."""

_KEPT_NAMES = {"PATH", "HOME", "LANG", "TMPDIR"}
_KEPT_PREFIXES = ("LC_", "LD_", "PYTHON", "OPENBLAS_", "OMP_", "MKL_")

_OUT_OF_TIME = {signal.SIGPROF, signal.SIGALRM}


class Decoders:
    """A process that keeps `count` decoders, for one event loop.

    Start it from a thread that lives as long as the worker does: Linux ends the process with that thread.
    """

    def __init__(self, count: int, *, max_image_bytes: int, timeout_seconds: float) -> None:
        self._idle: asyncio.Queue[Decoder] = asyncio.Queue()
        # Not asyncio's own: file systems that hang may have all of that one's threads.
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
            self._server = subprocess.Popen(  # noqa: S603 - this very program
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
        """Have the running event loop hear the decoders within the block."""
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
        """Wait for a decoder that has nothing to do, and give it for the block."""
        decoder = await self._idle.get()
        try:
            yield decoder
        finally:
            # Whoever is cancelled leaves it at work, and its answer must not be taken for another image's.
            if not decoder.is_at_work:
                self._idle.put_nowait(decoder)

    def close(self) -> None:
        """End the decoders, whatever they are at."""
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
    """The worker's end of one decoder, and of those that take its place."""

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
        """Return the pixels that the model sees, uint8 (size, size, 3), as `preprocess.image_square` makes them.

        They are good until the next are asked for. Raises ImageFailed also where the decoder dies of the image or takes
        too long, LargeImage where it is large and may not be, and ResourceExhausted where it is this machine's fault.
        """
        request = Request(0, len(data), rotation, size, max_pixels, may_be_large)
        answer = await self._ask(data, request)
        if answer.kind is Kind.DIED:
            # It may have been the fault of an image before, and then it is not that of a decoder that has seen none.
            log.warning("decoder_died", of=_death(answer), image_bytes=len(data))
            answer = await self._ask(data, request)
        if len(data) > KEPT_BYTES:
            surplus = len(self._memory) - KEPT_BYTES
            await self._in_thread(self._memory.madvise, mmap.MADV_REMOVE, KEPT_BYTES, surplus)
        match answer.kind:
            case Kind.SQUARE:
                return self._bytes[: 3 * size**2].reshape(size, size, 3)
            case Kind.FAILED:
                reason, _, detail = answer.text.partition(" ")
                raise ImageFailed(Reason(reason), detail)
            case Kind.LARGE:
                raise LargeImage
            case Kind.NO_MEMORY:
                raise MemoryError
            case Kind.DIED:
                raise _blame(answer)
        raise RuntimeError(f"a decoder failed:\n{answer.text}")

    async def _ask(self, data: bytes | bytearray, request: Request) -> Answer:
        self.is_at_work = True
        if not self._is_ready:
            await self._wait_until_ready()
        # Of decoders that died while they had nothing to do.
        self._receive(asyncio.get_running_loop())
        while not self._messages.empty():
            if (await self._answer()).kind is Kind.DIED:
                await self._wait_until_ready()
        place, image = self._bytes[: len(data)], np.frombuffer(data, np.uint8)
        if len(data) > KEPT_BYTES:
            await self._in_thread(np.copyto, place, image)
        else:
            np.copyto(place, image)
        try:
            self._link.send(request._replace(generation=self._generation).to_message())
        except OSError as error:
            raise _gone() from error
        answer = await self._answer()
        if answer.kind is Kind.DIED:
            await self._wait_until_ready()
        self.is_at_work = False
        return answer

    async def _in_thread(self, work: Callable[..., None], *arguments: object) -> None:
        await asyncio.get_running_loop().run_in_executor(self._copies, work, *arguments)

    async def _wait_until_ready(self) -> None:
        for _ in range(MAX_DEATHS):
            answer = await self._answer()
            if answer.kind is Kind.READY:
                self._generation, self._is_ready = int(answer.text), True
                return
        raise ResourceExhausted(f"{MAX_DEATHS} decoders died before their first image, the last of {_death(answer)}")

    async def _answer(self) -> Answer:
        message = await self._messages.get()
        if not message:
            raise _gone()
        return Answer.from_message(message)

    def listen(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.add_reader(self._link, self._receive, loop)

    def stop_listening(self, loop: asyncio.AbstractEventLoop) -> None:
        with suppress(ValueError):  # closed meanwhile
            loop.remove_reader(self._link)

    def _receive(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take in every message that there is."""
        message = b"something"
        while message:
            try:
                message = self._link.recv(MESSAGE_BYTES)
            except BlockingIOError:
                return
            except OSError:
                message = b""
            self._messages.put_nowait(message)
        self.stop_listening(loop)

    def hang_up(self) -> None:
        """End the decoder, and what its answer is waited for by."""
        with suppress(OSError):  # not connected any more
            self._link.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._link.close()


def _environment() -> dict[str, str]:
    """Return what a decoder needs of this process's environment: nothing that is secret."""
    kept = {name: value for name, value in os.environ.items() if name in _KEPT_NAMES or name.startswith(_KEPT_PREFIXES)}
    # A team of threads in each would be in the others' way.
    return kept | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def _blame(death: Answer) -> Exception:
    number = int(death.text)
    if number in _OUT_OF_TIME:
        return ImageFailed(Reason.DECODE_TIMEOUT, "it took longer than EMBEDDER_DECODE_TIMEOUT_SECONDS")
    if number == signal.SIGKILL:
        return ResourceExhausted("a decoder was killed, as for want of memory; raise the memory limit")
    return ImageFailed(Reason.DECODER_DIED, f"the decoder died of it, twice: {_death(death)}")


def _death(answer: Answer) -> str:
    number = int(answer.text)
    return signal.Signals(number).name if number > 0 else f"exit code {-number}"


def _gone() -> ResourceExhausted:
    return ResourceExhausted("the decoders have ended, as for want of memory; the log above may say why")
