"""The images whose bytes the worker itself reads, on their way to the decoders: in temporary files, a few at a time."""

from __future__ import annotations

import asyncio
import threading
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Self

from common.process.resources import temporary_folder, written_file
from common.process.thread_name import name_thread
from worker.rows import ByteRange, ImageFailed

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path
    from types import TracebackType
    from typing import BinaryIO

    from worker.rows import HeldContents, ImageContent

SPOOL_BYTES = 64 << 20
"""Number of bytes of images that lie on the disk: so many that the decoders do not wait for the reading of the next
ones, and few beside the disk of a pod."""

FILE_BYTES = 4 << 20
"""Size in bytes from which a file takes no further image. One file for each image would cost more than writing it."""

MOST_IMAGES = 4096
"""Number of rows whose images, or failures, are known ahead of their turn: more than are under way at a time."""

LOW_SHARE = 0.75
"""Share of the room that must be taken at most before a full spool is filled again, so that the reading thread and the
event loop do not wake each other up for every image."""

END_SECONDS = 2.0
"""Time in seconds for which the end of the reading thread is waited for. It may wait for a server."""


@dataclass(eq=False)
class _File:
    """A temporary file with some images that follow each other."""

    path: Path
    open_file: BinaryIO
    size: int = 0
    positions: set[int] = field(default_factory=set)
    """The rows whose images are in the file and still needed."""


class _Image(NamedTuple):
    place: ByteRange
    file: _File


class Spool:
    """Writes images to temporary files in the order of their rows, and gives them to the decoders. A HeldImages.

    `images` yields the position of each row, ascending, with its image or with the reason why there is none. A thread
    reads it, and waits when more than `most_bytes` lie in the files. Use it as a context manager, with one event loop.

    Rows are asked for roughly in their order. A row that is asked for and whose image is not written yet waits for the
    images before it. They go away when their rows are settled, and every row that has its image is settled without
    further images. So the thread may wait as long as any row has its image. If none has one, the images on the disk
    belong to rows that nobody has asked for yet, and which may never come as long as others wait: then the thread goes
    on, beyond `most_bytes`.
    """

    def __init__(
        self, images: Generator[tuple[int, ImageContent | ImageFailed]], *, most_bytes: int = SPOOL_BYTES
    ) -> None:
        self._images = images
        self._most_bytes = most_bytes
        self._changed = threading.Condition()
        self._found: dict[int, _Image | ImageFailed] = {}
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._settled_early: set[int] = set()
        """Rows that were settled before their images were read."""
        self._given: set[int] = set()
        """Rows that have been given their images and are not settled."""
        self._bytes = 0
        self._last_position = -1
        self._file_count = 0
        self._file: _File | None = None
        self._is_closed = self._is_read = False
        self._error: BaseException | None = None
        self._closing = ExitStack()

    def __enter__(self) -> Self:
        self._folder = self._closing.enter_context(temporary_folder("images"))
        self._thread = threading.Thread(target=self._run, name="spool", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join(END_SECONDS)
        if self._file is not None:
            self._file.open_file.close()
        self._closing.close()

    # For the event loop

    async def get(self, position: int) -> ByteRange:
        """Return where the row's image lies; see HeldImages."""
        with self._changed:
            if position in self._found or self._is_read:
                return self._give(position)
            waiting = self._waiting[position] = asyncio.get_running_loop().create_future()
            self._changed.notify()
        await waiting
        with self._changed:
            return self._give(position)

    def _give(self, position: int) -> ByteRange:
        found = self._found.get(position)
        if isinstance(found, _Image):
            self._given.add(position)
            return found.place
        if isinstance(found, ImageFailed):
            raise ImageFailed(found.reason, found.detail)
        raise self._error or LookupError(f"no image was read for row {position} of the chunk")

    def release(self, position: int) -> None:
        """Forget the row's image, because the row is settled."""
        with self._changed:
            found = self._found.pop(position, None)
            self._given.discard(position)
            if isinstance(found, _Image):
                self._forget(position, found.file)
            elif found is None and position > self._last_position:
                self._settled_early.add(position)
            if not self._given or self._has_room(0, share=LOW_SHARE):
                self._changed.notify()

    # The thread that reads

    def _run(self) -> None:
        name_thread("spool")
        try:
            with closing(self._images):
                for position, content in self._images:
                    if isinstance(content, ImageFailed):
                        if self._wait_for_room(position, 0):
                            self._note(position, content)
                    elif self._wait_for_room(position, len(content)):
                        self._note(position, self._write(position, content))
                    if self._is_closed:
                        return
            self._end(None)
        except BaseException as error:  # noqa: BLE001 - raised for whoever asks for an image
            self._end(error)

    def _end(self, error: BaseException | None) -> None:
        with self._changed:
            self._is_read, self._error = True, error
            for position in list(self._waiting):
                self._wake(position)

    def _wait_for_room(self, position: int, size: int) -> bool:
        """Wait until an image of `size` bytes may be written. Return False if nobody needs it any more."""
        with self._changed:
            share = 1.0
            while not (self._is_closed or position in self._settled_early or self._has_room(size, share=share)):
                share = LOW_SHARE
                self._changed.wait()
            if self._is_closed or position in self._settled_early:
                self._last_position = position
                self._settled_early.discard(position)
                return False
            self._bytes += size
            return True

    def _has_room(self, size: int, *, share: float) -> bool:
        if not self._found or (self._waiting and not self._given):
            return True
        return self._bytes + size <= share * self._most_bytes and len(self._found) < share * MOST_IMAGES

    def _note(self, position: int, found: _Image | ImageFailed) -> None:
        with self._changed:
            self._last_position = position
            if position in self._settled_early:  # it was settled while the image was written
                self._settled_early.discard(position)
                if isinstance(found, _Image):
                    self._forget(position, found.file)
                return
            self._found[position] = found
            if position in self._waiting:
                if isinstance(found, _Image):
                    self._given.add(position)
                self._wake(position)

    def _wake(self, position: int) -> None:
        with suppress(RuntimeError):  # the loop has ended before
            waiting = self._waiting.pop(position)
            waiting.get_loop().call_soon_threadsafe(_finish, waiting)

    def _write(self, position: int, content: ImageContent) -> _Image:
        with self._changed:
            if (file := self._file) is not None:
                file.positions.add(position)  # so that nobody removes the file meanwhile
        if file is None:
            file = self._file = self._new_file()
            file.positions.add(position)
        with written_file(file.path):
            file.open_file.write(content)
            file.open_file.flush()
        image = _Image(ByteRange(str(file.path), file.size, len(content)), file)
        file.size += len(content)
        if file.size >= FILE_BYTES:
            self._file = None
            file.open_file.close()
        return image

    def _new_file(self) -> _File:
        self._file_count += 1
        path = self._folder / str(self._file_count)
        with written_file(path):
            return _File(path, path.open("wb"))

    def _forget(self, position: int, file: _File) -> None:
        """Remove the file once no row needs it. Call it with the lock."""
        file.positions.discard(position)
        if not file.positions:
            if self._file is file:
                self._file = None
            self._bytes -= file.size
            file.open_file.close()
            file.path.unlink(missing_ok=True)


@contextmanager
def opened_spool(held: HeldContents | None, max_image_bytes: int) -> Iterator[Spool | None]:
    """Give a Spool of the images that a chunk holds, of at most `max_image_bytes` each; None if it holds none."""
    if held is None:
        yield None
        return
    with Spool(held(max_image_bytes)) as spool:
        yield spool


def _finish(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():  # else its task was cancelled
        waiting.set_result(None)
