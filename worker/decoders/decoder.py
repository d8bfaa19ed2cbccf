"""The worker's end of the connection to one decoder. If that decoder dies, the next one takes its place."""

from __future__ import annotations

import socket
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from common.errors import ResourceExhausted
from common.logs import log
from worker.decoders.job import Lost, cause
from worker.decoders.link import (
    PACKED_BYTES,
    PACKET_BYTES,
    Bug,
    Decoded,
    Died,
    Ended,
    Fetched,
    Large,
    Need,
    NoMemory,
    Orders,
    Ready,
    Room,
    Slots,
    Start,
    Undecodable,
    largest_size,
    reports_from_packet,
)
from worker.rows import ImageFailed, LargeImage

if TYPE_CHECKING:
    import asyncio
    import mmap
    from collections.abc import Callable

    from worker.decoders.job import Job
    from worker.decoders.link import Order, Report
    from worker.stage_times import StageTimes

SLOTS_AHEAD = 32
"""Number of slots that a decoder has before it needs them, so that it does not wait for the worker's event loop."""

PACKETS_AT_ONCE = 16
"""Number of packets that are read before the other tasks of the event loop have their turn."""

ENOUGH_IMAGES = 8
"""Number of images that wait in a decoder, from which its next orders may wait a little."""

COLLECT_SECONDS = 0.05
"""Longest time for which orders are collected, in seconds. A packet wakes the decoder's fetching thread up, which costs
both sides as much as several orders."""

MAX_EARLY_DEATHS = 10
"""Maximum number of decoders in a row that may die before they are ready."""


class Decoder:
    """Sends orders to a decoder and hears its reports, in one event loop.

    `times` counts the decoder's work. `take_slot` returns a free slot, None if there is none, and `return_slot` takes
    back a slot that is not used. `fail` is told of an error for which no image is to blame.
    """

    def __init__(
        self,
        link: socket.socket,
        page: mmap.mmap,
        *,
        times: StageTimes,
        take_slot: Callable[[], int | None],
        return_slot: Callable[[int], object],
        fail: Callable[[BaseException], object],
    ) -> None:
        self._link = link
        self._now_decoding = np.frombuffer(page, np.uint64, count=1)
        self._times = times
        self._take_slot, self._return_slot = take_slot, return_slot
        self._fail = fail
        self._loop: asyncio.AbstractEventLoop | None = None
        self._room: Room | None = None
        self._orders: deque[Order] = deque()
        self._is_flush_soon = self._is_flush_later = self._is_blocked = False
        self._is_ready = False
        self._generation = 0
        self._early_deaths = 0
        self._unused_slots: set[int] = set()
        self._images_to_decode = 0
        self._worked_seconds = self._waited_seconds = 0.0
        self.jobs: dict[int, Job] = {}
        """The jobs that are not over."""
        self.images_decoded = 0
        """Number of images that the present decoder has decoded."""

    def listen(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        loop.add_reader(self._link, self._receive)

    def stop_listening(self) -> None:
        if self._loop is not None:
            with suppress(ValueError):  # the socket is closed
                self._loop.remove_reader(self._link)
                self._loop.remove_writer(self._link)

    def start(self, job: Job) -> None:
        """Have the job done. Its futures tell the rest."""
        self.jobs[job.number] = job
        self.order(Start(job.number, job.order))

    def open_room(self, room: Room) -> None:
        """Tell the decoder of the memory for squares."""
        self._room = room
        if self._is_ready:
            self.order(room)
            self.give_slots()

    def give_slots(self) -> None:
        """Give the decoder as many of the free slots as it should have."""
        if not self._is_ready or self._room is None:
            return
        is_short = len(self._unused_slots) <= SLOTS_AHEAD // 2
        given = []
        while len(self._unused_slots) < SLOTS_AHEAD and (slot := self._take_slot()) is not None:
            self._unused_slots.add(slot)
            given.append(slot)
        if given:
            self.order(Slots(given), is_urgent=is_short)

    def order(self, order: Order, *, is_urgent: bool = False) -> None:
        """Send an order, together with others: at once if the decoder may run out of work, else a little later."""
        self._orders.append(order)
        if not self._is_ready or self._loop is None or self._is_blocked:
            return
        if is_urgent or self._images_to_decode < ENOUGH_IMAGES:
            if not self._is_flush_soon:
                self._is_flush_soon = True
                self._loop.call_soon(self._flush)
        elif not (self._is_flush_soon or self._is_flush_later):
            self._is_flush_later = True
            self._loop.call_later(COLLECT_SECONDS, self._flush_later)

    def _flush_later(self) -> None:
        self._is_flush_later = False
        self._flush()

    def _flush(self) -> None:
        self._is_flush_soon = False
        while self._orders and self._is_ready:
            packed, size = [], 0
            while self._orders and size < PACKED_BYTES:
                packed.append(self._orders.popleft())
                size += largest_size(packed[-1])
            try:
                self._link.send(Orders(self._generation, packed).to_packet())
            except BlockingIOError:
                self._orders.extendleft(reversed(packed))
                self._wait_until_writable()
                return
            except OSError:
                self._fail(_decoders_ended())
                return

    def _wait_until_writable(self) -> None:
        loop = self._loop
        if loop is None:
            return
        self._is_blocked = True

        def flush() -> None:
            loop.remove_writer(self._link)
            self._is_blocked = False
            self._flush()

        loop.add_writer(self._link, flush)

    def _receive(self) -> None:
        try:
            for _ in range(PACKETS_AT_ONCE):
                packet = self._link.recv(PACKET_BYTES)
                if not packet:
                    self._lose_link()
                    return
                for report in reports_from_packet(packet):
                    self._hear(report)
                self._times.add(decode_worked=self._worked_seconds, decode_waited=self._waited_seconds)
                self._worked_seconds = self._waited_seconds = 0.0
                self.give_slots()
        except BlockingIOError:
            return
        except OSError:
            self._lose_link()
        except Exception as error:  # noqa: BLE001 - the pipeline ends with it
            self._fail(error)

    def _lose_link(self) -> None:
        self.stop_listening()
        self._fail(_decoders_ended())

    def _hear(self, report: Report) -> None:
        # The two reports that every image has. To unpack them is faster than to match patterns.
        if isinstance(report, Fetched):
            number, length = report
            self._images_to_decode += 1
            self.jobs[number].note_fetched(length)
        elif isinstance(report, Decoded):
            number, slot, worked, waited = report
            self._unused_slots.discard(slot)
            self._note_decoded(worked, waited)
            if not self.jobs.pop(number).note_decoded(slot):
                self._return_slot(slot)
        else:
            self._hear_rare(report)

    def _hear_rare(self, report: Report) -> None:
        match report:
            case Ended(number, outcome):
                self.jobs.pop(number).note_ended(outcome)
            case Undecodable(number, reason, detail, worked):
                self._note_decoded(worked, 0.0)
                self.jobs.pop(number).note_decoded(ImageFailed(reason, detail))
            case Need(number, size, is_first):
                self.jobs[number].note_need(size, is_first=is_first)
            case Large(number):
                self.jobs[number].note_decoded(LargeImage())
            case Ready(generation):
                self._begin(generation)
            case Died(exit_code):
                self._end(exit_code)
            case NoMemory():
                self._fail(MemoryError())
            case Bug(traceback):
                *_, last_line = traceback.rstrip().split("\n")
                error = RuntimeError(f"a decoder failed: {last_line}")
                error.add_note(traceback)
                self._fail(error)

    def _note_decoded(self, worked_seconds: float, waited_seconds: float) -> None:
        self._images_to_decode -= 1
        self.images_decoded += 1
        self._worked_seconds += worked_seconds
        self._waited_seconds += waited_seconds

    def _begin(self, generation: int) -> None:
        self._generation = generation
        self._is_ready, self._early_deaths = True, 0
        if self._room is not None:
            # Before the orders that came while no decoder was ready.
            self._orders.extendleft([Slots(sorted(self._unused_slots)), self._room])
            self.give_slots()
        self._flush()

    def _end(self, exit_code: int) -> None:
        """Give up what the dead decoder was doing. What it was not sent yet is for the next one."""
        if not self._is_ready:
            self._early_deaths += 1
            if self._early_deaths >= MAX_EARLY_DEATHS:
                last = f"the last of {cause(exit_code)}"
                self._fail(ResourceExhausted(f"{MAX_EARLY_DEATHS} decoders died before their first image, {last}"))
            return
        blamed = int(self._now_decoding[0])
        lost, self.jobs = self.jobs, {}
        image_bytes = lost[blamed].length if blamed in lost else None
        log.warning("decoder_died", of=cause(exit_code), image_bytes=image_bytes, images_begun_again=len(lost))
        self._is_ready, self.images_decoded, self._images_to_decode = False, 0, 0
        self._orders.clear()
        for number, job in lost.items():
            job.note_lost(
                Lost(
                    exit_code,
                    is_blamed=number == blamed,
                    is_suspect=blamed not in lost,
                    had_company=len(lost) > 1,
                )
            )

    def hang_up(self) -> None:
        """End the connection. The decoder then ends."""
        with suppress(OSError):  # the connection is closed already
            self._link.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._link.close()


def _decoders_ended() -> ResourceExhausted:
    return ResourceExhausted("the decoders have ended, probably for lack of memory; the log above may say why")
