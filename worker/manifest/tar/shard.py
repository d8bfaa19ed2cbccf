"""Reads the members of tar shards, several shards at a time, and makes a row of each picture."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import PurePosixPath
from queue import SimpleQueue
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from common.errors import ManifestError
from worker.manifest.manifest_format import PICTURE_ENDINGS, compression_of
from worker.manifest.places.uri_list import scheme_of
from worker.manifest.raw_rows import Fields, RawRow, UnreadableRow
from worker.manifest.row_name import file_name
from worker.manifest.tar.content import LOCAL, REMOTE, TarContent
from worker.manifest.tar.members import Damaged, Joined, Member, tar_members
from worker.rows import ByteRange

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from worker.manifest.places.byte_source import ByteSource

MEMBERS_PER_ROW = 4
"""Number of members for each of `most_rows` up to which a shard is read: pictures have texts and JSON beside them."""

READERS = 8
"""Number of shards that are read at the same time. Each holds one block of at most 4 MiB."""

FIRST_ROWS_AT_ONCE = 8
"""Number of rows that a reader hands over at first. Whoever wants to see a few rows waits for no more."""

ROWS_AT_ONCE = 256
"""Largest number of rows that a reader hands over at once."""

_UNSHOWABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")

Found = RawRow | UnreadableRow


class ChunkLimit:
    """Counts what all readers of a chunk find."""

    def __init__(self, most_rows: int, shards: Sequence[ByteSource]) -> None:
        self._most_rows = most_rows
        self._shards = shards
        self._lock = Lock()
        self._rows = 0
        self.stop = Event()
        """Set when nobody wants further rows."""
        self.skipped: Counter[str] = Counter()
        """The members that are no pictures, by their ending."""
        self.joined: dict[str, None] = {}
        """The names of the shards of several tars, in the order in which they were found."""

    def note(self, source: ByteSource, *, rows: int, members: int) -> None:
        """Note how many rows were found, and how many members a shard has so far. Raises ManifestError for too many."""
        with self._lock:
            self._rows += rows
        if self._rows <= self._most_rows and members <= MEMBERS_PER_ROW * self._most_rows:
            return
        if len(self._shards) > 1 and self._rows > self._most_rows:
            raise ManifestError(
                f"{self._shards[0].name} and the {len(self._shards) - 1} shards after it are one chunk and hold more "
                f"than {self._most_rows:,} images, the most of a chunk; raise EMBEDDER_CHUNK_COUNT"
            )
        raise ManifestError(
            f"{source.name} holds more than {self._most_rows:,} images or {MEMBERS_PER_ROW * self._most_rows:,} "
            "members, and a shard is not divided; write more and smaller shards, of about 10,000 images each"
        )

    def note_joined(self, source: ByteSource) -> None:
        with self._lock:
            self.joined[source.name] = None

    def note_skipped(self, endings: Counter[str]) -> None:
        with self._lock:
            self.skipped += endings


class _End(NamedTuple):
    error: BaseException | None


class Shard:
    """One shard, read by a thread of its own once it is started."""

    def __init__(self, source: ByteSource, limit: ChunkLimit) -> None:
        self._source = source
        self._name = _showable(file_name(source))
        self._limit = limit
        self._queue: SimpleQueue[list[Found] | _End] = SimpleQueue()

    def start(self) -> None:
        Thread(target=self._run, name="read-shard", daemon=True).start()

    def stop(self) -> None:
        self._limit.stop.set()

    def handed_over(self) -> Iterator[list[Found]]:
        """Yield the rows that the thread finds, some at a time. Raises what it raised."""
        while not isinstance(found := self._queue.get(), _End):
            yield found
        if found.error is not None:
            raise found.error

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            rows: list[Found] = []
            at_once = FIRST_ROWS_AT_ONCE
            for each in self.rows():
                if each is not None:
                    rows.append(each)
                if len(rows) == at_once:
                    self._queue.put(rows)
                    rows, at_once = [], min(2 * at_once, ROWS_AT_ONCE)
            self._queue.put(rows)
        except BaseException as raised:  # noqa: BLE001 - handed to the thread that waits
            error = raised
        self._queue.put(_End(error))

    def rows(self, *, until: int | None = None) -> Iterator[Found | None]:
        """Yield a row for each picture and None for each other member, up to the first header from byte `until` on."""
        source = self._source
        content = TarContent(source, LOCAL if scheme_of(source.uri) == "file" else REMOTE)
        tag = source.tag if source.is_direct else ""
        skipped: Counter[str] = Counter()
        members = rows = noted = 0
        for found in tar_members(content.read, source.size):
            if isinstance(found, Joined):
                self._limit.note_joined(source)
                continue
            if self._limit.stop.is_set() or (until is not None and found.header >= until):
                break
            members += 1
            row = self._damaged(found, content) if isinstance(found, Damaged) else self._row(found, tag)
            rows += row is not None
            if row is None and isinstance(found, Member) and not found.problem:
                skipped[PurePosixPath(found.name).suffix.lower() or "without an ending"] += 1
            if members % ROWS_AT_ONCE == 0:
                self._limit.note(source, rows=rows - noted, members=members)
                noted = rows
            yield row
        self._limit.note(source, rows=rows - noted, members=members)
        self._limit.note_skipped(skipped)

    def _row(self, member: Member, tag: str) -> Found | None:
        """Return the row of a member, None unless its name is that of a picture."""
        folder, slash, name = member.name.rpartition("/")
        key, dot, _ = name.partition(".")
        # As for WebDataset, a name that begins with a dot is that of no sample: macOS writes ._photo.jpg beside photos.
        if not key or not dot or f".{name.rpartition('.')[2].lower()}" not in PICTURE_ENDINGS:
            return None
        where = f"member at byte {member.header}"
        url, identifier = self._url(member.name), _showable(folder + slash + key)
        if member.problem:
            problem = f"it is {member.problem}, which has no picture of its own"
            return UnreadableRow(where, problem, "", url=url, id=identifier)
        held = ByteRange(self._source.uri, member.first, member.size, tag)
        return RawRow(where, Fields(url, identifier), held=held)

    def _damaged(self, found: Damaged, content: TarContent) -> UnreadableRow:
        compression = compression_of(content.read(0, 8))
        problem = f"the file is compressed ({compression})" if compression else f"the tar is damaged: {found.problem}"
        where = f"member at byte {found.header} of {self._source.size}"
        return UnreadableRow(where, f"{problem}; no member from here on can be read", "", url=self._url(found.name))

    def _url(self, name: str) -> str:
        return f"{self._name}#{_showable(name)}"


def in_order(shards: Sequence[Shard]) -> Iterator[Found]:
    """Yield the rows of shard after shard, while later ones are read already.

    Later ones are begun once rows of the first are wanted that follow its first ones.
    """
    started = 0

    def start_until(end: int) -> None:
        nonlocal started
        for shard in shards[started:end]:
            shard.start()
            started += 1

    try:
        for number, shard in enumerate(shards):
            start_until(number + 1)
            for rows in shard.handed_over():
                yield from rows
                start_until(number + READERS)
    finally:
        if shards:
            shards[0].stop()


def _showable(name: str) -> str:
    """Return the name with percent-encoding for what a line of text cannot show: control characters, other bytes."""
    return _UNSHOWABLE.sub(lambda found: quote(found[0].encode("utf-8", "surrogateescape"), safe=""), name)
