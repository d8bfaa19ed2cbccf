"""One decoder: fetches images in one thread, and decodes them one after the other in another.

It knows no key and no password of the worker. It is told which URL to ask for, and which addresses the URL's host has.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import threading
import time
import traceback
from queue import SimpleQueue
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import numpy as np
import torch

from common.process.resources import is_lack_of_memory
from common.process.thread_name import name_thread
from worker.decode.picture import picture_as_array, small_picture
from worker.decode.preprocess import image_square
from worker.decoders.link import (
    MAX_LOCATION_CHARS,
    PACKET_BYTES,
    Bug,
    Decoded,
    DecodeLarge,
    Ended,
    Fetched,
    Grant,
    Large,
    Need,
    NoMemory,
    Orders,
    Ready,
    Room,
    Slots,
    Start,
    Undecodable,
    reports_to_packets,
    sendable,
)
from worker.fetch.file_reads import FileReads
from worker.fetch.transfer import TransferLimits
from worker.fetch.transfers import Transfers
from worker.fetch.transport import Answered, Broken, Get, ReadFile
from worker.rows import ImageFailed, LargeImage

if TYPE_CHECKING:
    import socket

    from numpy.typing import NDArray

    from worker.decoders.link import Connection, Order, Report
    from worker.decoders.settings import DecoderSettings

REAL_SECONDS_PER_CPU_SECOND = 20
"""Limit on an image's time by the clock, as a multiple of the limit on its CPU time. It allows for a busy machine."""

COLLECT_SECONDS = 0.1
"""Longest time for which reports are collected, in seconds: some forty images of 1,024 pixels."""

COLLECTED_REPORTS = 32
"""Number of reports that are sent at once. Half of them are of decoded images, fewer than SLOTS_AHEAD."""

KEPT_BYTES = 8 << 20
"""Size in bytes of the largest image whose memory a decoder keeps for the next ones."""

ROUND_SECONDS = 0.02
"""Longest pause of the fetching thread between two rounds while images wait to be decoded, in seconds. Meanwhile the
kernel receives, so that each round has more to do and there are fewer of them."""

IMAGES_IN_AVERAGE = 16
"""Number of images over which the time of an image is averaged."""

SHARE_OF_WORK = 0.5
"""Longest pause as a share of the time that the waiting images will take to be decoded, so that they do not run out.
With pauses of 0.01 s whatever waits, 12 requests at a time for small photos gave 600 images/s instead of 1,400."""


class _Image(NamedTuple):
    job: int
    pieces: list[bytes]
    order: Get | ReadFile
    may_be_large: bool


class _Outbox:
    """Sends reports to the worker, from any thread.

    While images wait to be decoded, the decoder has work enough, and the worker need not hear of each image at once. So
    reports are collected for a short time. Each time that the worker's event loop wakes up costs it as much as several
    reports, because the decoders have used its core's cache in between.
    """

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._lock = threading.Lock()
        self._reports: list[Report] = []
        self._flushed_at = 0.0

    def send(self, *reports: Report) -> None:
        """Send the reports at once, after those that were collected."""
        with self._lock:
            self._reports += reports
            self._flush()

    def collect(self, *reports: Report, has_work: bool) -> None:
        """Send the reports soon, or at once unless the decoder `has_work`."""
        with self._lock:
            self._reports += reports
            is_late = time.monotonic() - self._flushed_at >= COLLECT_SECONDS
            if self._reports and (not has_work or is_late or len(self._reports) >= COLLECTED_REPORTS):
                self._flush()

    def flush(self) -> None:
        """Send what was collected."""
        with self._lock:
            if self._reports:
                self._flush()

    def fail(self, error: BaseException) -> None:
        """Tell the worker of an error that no image may cause."""
        self.send(NoMemory() if is_lack_of_memory(error) else Bug(_trace(error)))

    def _flush(self) -> None:
        for packet in reports_to_packets(self._reports):
            self._link.sendall(packet)
        self._reports.clear()
        self._flushed_at = time.monotonic()


class _Shared:
    """What the threads of a decoder hand to each other."""

    def __init__(self) -> None:
        self.images: SimpleQueue[_Image] = SimpleQueue()
        """Images to decode."""
        self.slots: SimpleQueue[int] = SimpleQueue()
        """Slots for squares."""
        self.has_room = threading.Event()
        """Set once `squares` is."""
        self.squares: NDArray[np.uint8] = np.empty((0, 0, 0, 3), np.uint8)
        """The slots of the shared memory, uint8 (slots, size, size, 3)."""
        self.decode_seconds = 0.0
        """Time that an image takes to be decoded, an average in which the latest images count most."""
        self.large: dict[int, _Image] = {}
        """Large images that wait for their turn, by their jobs."""


class _Requests:
    """The Sink of the transfers. It collects what happened in one round of them."""

    def __init__(self) -> None:
        self._orders: dict[int, Get] = {}
        self._reports: list[Report] = []
        self._images: list[_Image] = []
        self._is_urgent = False

    def note_start(self, job: int, order: Get) -> None:
        self._orders[job] = order

    def need(self, job: int, size: int, *, is_first: bool) -> None:
        self._reports.append(Need(job, size, is_first))
        self._is_urgent = True

    def fetched(self, job: int, pieces: list[bytes]) -> None:
        self._reports.append(Fetched(job, sum(map(len, pieces))))
        self._images.append(_Image(job, pieces, self._orders.pop(job), may_be_large=False))

    def ended(self, job: int, outcome: Answered | Broken) -> None:
        del self._orders[job]
        self._reports.append(Ended(job, _short(outcome)))
        self._is_urgent = True

    def hand_over(self, outbox: _Outbox, images: SimpleQueue[_Image]) -> None:
        """Report what happened in the round, then pass on its images.

        The worker hears of an image before it is decoded.
        """
        has_work = not images.empty()
        outbox.collect(*self._reports, has_work=has_work and not self._is_urgent)
        for image in self._images:
            images.put(image)
        self._reports.clear()
        self._images.clear()
        self._is_urgent = False


class _Files:
    """The sink of the file reads, called from their threads."""

    def __init__(self, outbox: _Outbox, images: SimpleQueue[_Image]) -> None:
        self._outbox = outbox
        self._images = images

    def need(self, job: int, size: int, *, is_first: bool) -> None:
        self._outbox.send(Need(job, size, is_first))

    def fetched(self, job: int, body: bytes, order: ReadFile) -> None:
        self._outbox.send(Fetched(job, len(body)))
        self._images.put(_Image(job, [body], order, may_be_large=False))

    def ended(self, job: int, outcome: Broken) -> None:
        self._outbox.send(Ended(job, _short(outcome)))

    def failed(self, error: BaseException) -> None:
        self._outbox.fail(error)


class _Fetching:
    """The fetching thread: takes the worker's orders, and passes images on to the decoding thread."""

    def __init__(
        self,
        connection: Connection,
        generation: int,
        outbox: _Outbox,
        shared: _Shared,
        settings: DecoderSettings,
        *,
        squares: int,
    ) -> None:
        self._link, self._outbox, self._shared = connection.link, outbox, shared
        self._generation = generation
        self._squares_descriptor = squares
        self._requests = _Requests()
        limits = TransferLimits(
            connect_seconds=settings.connect_seconds,
            read_seconds=settings.read_seconds,
            request_seconds=settings.request_seconds,
            max_bytes=settings.max_bytes,
            user_agent=settings.user_agent,
        )
        self._transfers = Transfers(limits, self._requests)
        self._files = FileReads(_Files(outbox, shared.images), max_bytes=settings.max_bytes)

    def run(self) -> None:
        name_thread("fetch")
        try:
            self._transfers.watch(self._link.fileno(), self._receive)
            while True:
                # With a limit, so that reports which were collected do not wait for the next event.
                self._transfers.run_once(longest_pause_seconds=COLLECT_SECONDS)
                self._requests.hand_over(self._outbox, self._shared.images)
                if pause := pause_seconds(self._shared.images.qsize(), self._shared.decode_seconds):
                    time.sleep(pause)
        except (BrokenPipeError, ConnectionResetError):
            os._exit(os.EX_OK)  # the worker has closed the connection
        except BaseException as error:  # noqa: BLE001 - the worker raises it again
            self._outbox.fail(error)

    def _receive(self) -> None:
        packet = self._link.recv(PACKET_BYTES)
        if not packet:
            os._exit(os.EX_OK)  # the worker has closed the connection
        received = Orders.from_packet(packet)
        if received.generation == self._generation:
            for order in received.orders:
                self._obey(order)

    def _obey(self, order: Order) -> None:
        match order:
            case Start(job, Get() as get):
                self._requests.note_start(job, get)
                self._transfers.start(job, get)
            case Start(job, ReadFile() as read):
                self._files.start(job, read)
            case Slots(slots):
                for slot in slots:
                    self._shared.slots.put(slot)
            case Grant(job, size):
                self._transfers.grant(job, size)
                self._files.grant(job, size)
            case DecodeLarge(job):
                self._shared.images.put(self._shared.large.pop(job)._replace(may_be_large=True))
            case Room(slots, size):
                memory = mmap.mmap(self._squares_descriptor, slots * 3 * size**2)
                self._shared.squares = np.frombuffer(memory, np.uint8).reshape(slots, size, size, 3)
                self._shared.has_room.set()


class _Decoding:
    """The decoding thread, which is the main one."""

    def __init__(self, outbox: _Outbox, shared: _Shared, settings: DecoderSettings, *, page: int) -> None:
        self._outbox, self._shared = outbox, shared
        self._cpu_seconds, self._max_pixels = settings.decode_cpu_seconds, settings.max_pixels
        self._now_decoding = np.frombuffer(mmap.mmap(page, mmap.PAGESIZE), np.uint64, count=1)
        self._now_decoding[0] = 0

    def run(self) -> NoReturn:
        name_thread("decode")
        self._shared.has_room.wait()
        while True:
            self._decode(self._shared.images.get())

    def _decode(self, image: _Image) -> None:
        """Write the image's square into a slot, or report why not."""
        self._now_decoding[0] = image.job
        # No signal has a handler, so the kernel ends this process even if native code does not return. The CPU time is
        # that of the process: fetching counts too, but what it may fetch meanwhile is bounded and takes far less.
        signal.setitimer(signal.ITIMER_PROF, self._cpu_seconds)
        signal.setitimer(signal.ITIMER_REAL, self._cpu_seconds * REAL_SECONDS_PER_CPU_SECOND)
        began = time.monotonic()
        square = self._square(image)
        worked_seconds = time.monotonic() - began
        self._shared.decode_seconds += (worked_seconds - self._shared.decode_seconds) / IMAGES_IN_AVERAGE
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        self._now_decoding[0] = 0
        if not isinstance(square, LargeImage):
            # Before the worker hears of the image, which then holds no bytes any more.
            size = sum(map(len, image.pieces))
            image.pieces.clear()
            if size > KEPT_BYTES:
                _trim_heap()
        match square:
            case np.ndarray():
                if self._shared.slots.empty():
                    self._outbox.flush()  # slots come back only for images that the worker has heard of
                slot = self._shared.slots.get()
                room = self._shared.squares[slot].reshape(-1)[: square.size]
                np.copyto(room.reshape(square.shape), square)
                waited_seconds = time.monotonic() - began - worked_seconds
                self._report(Decoded(image.job, slot, worked_seconds, waited_seconds))
            case ImageFailed():
                self._report(Undecodable(image.job, square.reason, sendable(square.detail), worked_seconds))
            case LargeImage():
                self._shared.large[image.job] = image
                self._outbox.send(Large(image.job))
            case _:
                self._outbox.fail(square)

    def _report(self, report: Report) -> None:
        self._outbox.collect(report, has_work=not self._shared.images.empty())

    def _square(self, image: _Image) -> NDArray[np.uint8] | Exception:
        """Return the square, uint8 (size, size, 3), or the picture as `picture_as_array`, or why there is none."""
        try:
            # The pieces are joined by the thread that decodes, so that they are in its core's cache.
            data = image.pieces[0] if len(image.pieces) == 1 else b"".join(image.pieces)
            if side := image.order.picture_side:
                return picture_as_array(
                    small_picture(data, side=side, max_pixels=self._max_pixels, may_be_large=image.may_be_large)
                )
            return image_square(
                data,
                rotation=image.order.rotation,
                size=image.order.square_size or self._shared.squares.shape[1],
                max_pixels=self._max_pixels,
                may_be_large=image.may_be_large,
            ).numpy()
        except ImageFailed as failed:
            # Not the exception itself: its traceback would hold the image's bytes until it is forgotten.
            return ImageFailed(failed.reason, failed.detail)
        except LargeImage:
            return LargeImage()
        except Exception as error:  # noqa: BLE001 - the worker hears of it
            return error


def work(connection: Connection, generation: int, *, settings: DecoderSettings, squares: int) -> None:
    """Fetch and decode images until the worker closes the connection. `squares` is the memory for squares."""
    torch.set_num_threads(1)
    outbox, shared = _Outbox(connection.link), _Shared()
    fetching = _Fetching(connection, generation, outbox, shared, settings, squares=squares)
    decoding = _Decoding(outbox, shared, settings, page=connection.now_decoding)
    outbox.send(Ready(generation))
    threading.Thread(target=fetching.run, name="fetch", daemon=True).start()
    try:
        decoding.run()
    except (BrokenPipeError, ConnectionResetError):
        raise
    except BaseException as error:
        # The worker ends with it, which dying alone would not tell.
        outbox.fail(error)
        raise


def pause_seconds(waiting_images: int, decode_seconds: float) -> float:
    """Return the pause before the next round, while images wait that take `decode_seconds` each."""
    return min(ROUND_SECONDS, SHARE_OF_WORK * waiting_images * decode_seconds)


def _trim_heap() -> None:
    """Give freed memory back to the kernel. The pieces of a large body lie in the heap, which glibc keeps."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _short(outcome: Answered | Broken) -> Answered | Broken:
    match outcome:
        case Answered():
            return outcome._replace(location=outcome.location[:MAX_LOCATION_CHARS])
        case Broken():
            return outcome._replace(detail=sendable(outcome.detail))


def _trace(error: BaseException) -> str:
    return sendable("".join(traceback.format_exception(error)))
