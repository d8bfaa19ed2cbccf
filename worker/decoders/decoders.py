"""Processes that fetch and decode images, so that neither the worker's event loop nor a bad image stops the others."""

from __future__ import annotations

import asyncio
import json
import mmap
import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING, Protocol

from common.errors import ResourceExhausted
from common.format.reasons import Reason
from worker.child_process import clean_environment
from worker.decoders.decoder import SLOTS_AHEAD, Decoder
from worker.decoders.job import Job, cause
from worker.decoders.link import SOCKET_BYTES, Room
from worker.memory import DECODER_MALLOC
from worker.rows import ImageFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.decoders.job import Lost, Outcome
    from worker.decoders.settings import DecoderSettings
    from worker.fetch.byte_budget import Reservation
    from worker.fetch.transport import Broken, Get, ReadFile
    from worker.stage_times import StageTimes

GRACE_SECONDS = 2
"""Time in seconds that the decoders have to end before they are killed."""


class Slots(Protocol):
    """The slots of the memory for squares."""

    slot_count: int
    image_size: int
    """Side length of a square in pixels."""

    def take_slot(self) -> int | None:
        """Return a free slot, None if there is none."""

    def return_slot(self, slot: int) -> None:
        """Take back a slot that is not used."""


class Decoders:
    """A process that keeps `count` decoders running, for one event loop.

    Create it in a thread that lives as long as the worker: Linux ends the process together with that thread. It is the
    Transport of an ImageFetcher, whose images are Jobs. `server` is the module that runs as the process.
    """

    def __init__(
        self,
        number_of_decoders: int,
        settings: DecoderSettings,
        *,
        times: StageTimes,
        server: str = "worker.decoders.server",
    ) -> None:
        self.count = number_of_decoders
        self.squares = os.memfd_create("embedder-squares")
        """File descriptor of the memory for squares, which is empty until `open_room`."""
        self._numbers = count(1)
        self._slots: Slots | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._failed: asyncio.Future[None] | None = None
        self._decoders: list[Decoder] = []
        theirs: list[int] = []
        for _ in range(number_of_decoders):
            ours, their = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            for end in (ours, their):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
            ours.setblocking(False)
            page = os.memfd_create("embedder-now-decoding")
            os.ftruncate(page, mmap.PAGESIZE)
            theirs += [their.detach(), page]
            self._decoders.append(
                Decoder(
                    ours,
                    mmap.mmap(page, mmap.PAGESIZE),
                    times=times,
                    take_slot=self._take_slot,
                    return_slot=self._return_slot,
                    fail=self._fail,
                )
            )
        try:
            self._server = subprocess.Popen(  # noqa: S603 - a part of this program
                [
                    *(sys.executable, "-m", server, str(os.getpid())),
                    *(json.dumps(settings._asdict()), str(self.squares)),
                    *map(str, theirs),
                ],
                pass_fds=[self.squares, *theirs],
                stdin=subprocess.DEVNULL,
                env=_environment(),
            )
        finally:
            for descriptor in theirs:
                os.close(descriptor)

    @property
    def spare_slots(self) -> int:
        """Number of slots beyond those of the batches that the memory for squares needs, so that no decoder waits for
        the slots of another one."""
        return self.count * SLOTS_AHEAD

    @contextmanager
    def listening(self) -> Iterator[asyncio.Future[None]]:
        """Let the running event loop hear the decoders within the block.

        Yield a future that gets an error when no image is to blame for a failure.
        """
        loop = self._loop = asyncio.get_running_loop()
        self._failed = loop.create_future()
        for decoder in self._decoders:
            decoder.listen(loop)
        try:
            yield self._failed
        finally:
            for decoder in self._decoders:
                decoder.stop_listening()

    def open_room(self, slots: Slots) -> None:
        """Let the decoders write squares into the memory `squares`, which now has room for these slots."""
        self._slots = slots
        for decoder in self._decoders:
            decoder.open_room(Room(slots.slot_count, slots.image_size))

    def _take_slot(self) -> int | None:
        return self._slots.take_slot() if self._slots is not None else None

    def _return_slot(self, slot: int) -> None:
        if self._slots is not None:
            self._slots.return_slot(slot)

    def give_slots(self) -> None:
        """Give the decoders the slots that have become free."""
        for decoder in self._decoders:
            decoder.give_slots()

    async def get(self, order: Get, reservation: Reservation | None) -> Job | Outcome:
        """Have a decoder make the request; see `worker.fetch.transport`. Raises Lost."""
        if self._loop is None:
            raise RuntimeError("nobody listens to the decoders")
        decoder = self._least_busy()
        job = Job(next(self._numbers), order, reservation, loop=self._loop, send=decoder.order)
        decoder.start(job)
        try:
            outcome = await job.fetched
        except asyncio.CancelledError:
            job.abandon()
            raise
        return job if outcome is None else outcome

    async def read(self, order: ReadFile, reservation: Reservation) -> Job | Broken:
        """Have a decoder read the file; see `worker.fetch.transport`. Raises Lost."""
        return await self.get(order, reservation)  # type: ignore[arg-type, return-value]  # no server answers

    def _least_busy(self) -> Decoder:
        """Return the decoder with the fewest jobs.

        Among several, return the one that has decoded the fewest images: if an image has killed a decoder, a new one is
        the best to try it again.
        """
        best = self._decoders[0]
        fewest = len(best.jobs)
        for decoder in self._decoders:
            count = len(decoder.jobs)
            if count < fewest or (count == fewest and decoder.images_decoded < best.images_decoded):
                best, fewest = decoder, count
        return best

    def _fail(self, error: BaseException) -> None:
        if self._failed is not None and not self._failed.done():
            self._failed.set_exception(error)

    def close(self) -> None:
        """End the decoders, even if they are at work."""
        for decoder in self._decoders:
            decoder.hang_up()
        try:
            self._server.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._server.kill()  # its decoders die with it
            self._server.wait()
        for decoder in self._decoders:
            decoder.close()


def error_of(lost: Lost) -> Exception:
    """Return the error for an image with which decoders have died again and again, the last time as `lost`."""
    if lost.is_out_of_time:
        return ImageFailed(Reason.DECODE_TIMEOUT, "decoding took longer than EMBEDDER_DECODE_TIMEOUT_SECONDS")
    if -lost.exit_code == signal.SIGKILL:
        return ResourceExhausted("a decoder was killed, probably for lack of memory; raise the memory limit")
    when = "twice on this image" if lost.is_blamed else "again and again while it fetched this image"
    return ImageFailed(Reason.DECODER_DIED, f"the decoder crashed {when}: {cause(lost.exit_code)}")


def _environment() -> dict[str, str]:
    # One thread for each decoder: more threads would compete with the other decoders for the cores.
    return clean_environment() | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"} | DECODER_MALLOC
