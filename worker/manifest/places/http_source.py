"""A manifest behind http:// or https://, read by range requests.

The first request is a GET and not a HEAD, because a presigned URL allows one method only. The size and the tag of the
first answer must be those of all later answers.

A server without range requests sends all of the content. The source keeps this answer open and reads on in it. It makes
a new request only for bytes that it has read past. Threads read in turn there, because they share this one answer.
"""

from __future__ import annotations

import threading
import weakref
from contextlib import nullcontext
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from common.errors import SourceUnavailable
from common.logs import log
from common.retry import GivenUp, RetryPolicy, call
from worker.manifest.places.byte_source import BLOCK_BYTES, HEAD_BYTES, content_changed, sampled_hash
from worker.manifest.places.http_answer import HttpFault
from worker.manifest.places.range_client import RangeClient

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.manifest.places.http_answer import HttpAnswer
    from worker.settings import HttpSettings

ATTEMPTS = 12
"""Largest number of requests for one range."""

FIRST_PAUSE_SECONDS = 0.5
"""Pause in seconds before the second request, doubled for each further one."""

MAX_TAG_CHARS = 200
"""Length of the longest ETag that a decoder is told. Those of all known servers are shorter."""

RETRY = RetryPolicy(first_pause_seconds=FIRST_PAUSE_SECONDS, longest_pause_seconds=8, attempts=ATTEMPTS)
"""The retries of one range. The eleven pauses take 32 to 64 s together, so a network or a name server that comes after
the pod is waited for. The Job's retries cover a longer fault: a worker that cannot read its list has done no work that
would be lost."""

SMALL_HEAD_BYTES = 4096
"""Size in bytes of the head of a source beside many others. Each of them may be looked at for its size alone."""

Answer = TypeVar("Answer")


class _Head(NamedTuple):
    data: bytes
    """The first bytes of the content, or all of it if it is smaller."""
    size: int
    """Size of the whole content in bytes."""
    tag: str
    """The content's ETag, else the date of its last change, else an empty text."""


class _Whole:
    """The open answer of a server without range requests, if there is one."""

    def __init__(self) -> None:
        self.answer: HttpAnswer | None = None

    def close(self) -> None:
        if self.answer is not None:
            self.answer.close()
            self.answer = None


class HttpSource:
    """`token` is a bearer token for the URL's server.

    `is_one_of_many` is for a source beside many others: its head is smaller, and no connection stays open after the
    head or after the last byte. A source that nobody uses any more closes its connections itself.
    """

    def __init__(
        self,
        uri: str,
        settings: HttpSettings,
        *,
        token: str = "",
        retry: RetryPolicy = RETRY,
        is_one_of_many: bool = False,
    ) -> None:
        self._client = RangeClient(uri, settings, token=token)
        self._is_one_of_many = is_one_of_many
        self._head_bytes = SMALL_HEAD_BYTES if is_one_of_many else HEAD_BYTES
        self.name, self.uri = self._client.name, uri
        self._retry = retry
        self._whole = _Whole()
        self._of_whole = threading.Lock()
        weakref.finalize(self, self._whole.close).atexit = False
        self._identity: str | None = None
        self._head = self._retried(self._receive_head)
        self.size = self._head.size
        self.has_ranges = self._whole.answer is None
        """Whether the server sends parts of the content."""
        self.is_direct = self.has_ranges and not self._client.has_credentials
        if is_one_of_many:
            self.close()

    def close(self) -> None:
        """Close all connections. A later read opens another one."""
        self._whole.close()
        self._client.close()

    @property
    def tag(self) -> str:
        kind, _, etag = self._head.tag.partition(" ")
        return etag if kind == "etag" and len(etag) <= MAX_TAG_CHARS else ""

    @property
    def identity(self) -> str:
        if self._identity is None:
            self._identity = f"{self.size} bytes {self._head.tag or f'sha256 {sampled_hash(self)}'}"
        return self._identity

    def read(self, start: int, length: int) -> bytes:
        data = bytearray(self._head.data[start : start + length])
        if len(data) < length:
            # Looked at once: another thread may find meanwhile that the server has stopped to send ranges.
            is_alone = self.has_ranges
            with nullcontext() if is_alone else self._of_whole:
                self._retried(lambda: self._receive(data, start, start + length, is_alone=is_alone), is_alone=is_alone)
                if self._is_one_of_many and start + length >= self.size:
                    self.close()
        return bytes(data)

    def _retried(self, receive: Callable[[], Answer], *, is_alone: bool = False) -> Answer:
        try:
            return call(
                receive,
                self._retry,
                may_pass=lambda error: isinstance(error, HttpFault),
                asked_seconds=lambda error: error.asked_seconds if isinstance(error, HttpFault) else 0.0,
                before_pause=lambda _: None if is_alone else self._whole.close(),
            )
        except GivenUp as given_up:
            raise SourceUnavailable(f"{self.name}: {given_up.error} ({given_up.attempts} attempts)") from given_up.error

    def _receive_head(self) -> _Head:
        answer = self._client.get(0, self._head_bytes)
        data = bytearray()
        while len(data) < self._head_bytes and (block := answer.read(self._head_bytes - len(data))):
            data += block
        size = answer.size
        if size is None:
            answer.skip_to_end()
            size = answer.position
        expected = min(self._head_bytes, size)
        if len(data) != expected:
            raise HttpFault(f"the answer broke off after {len(data)} bytes of {expected}")
        if answer.is_whole:
            self._whole.answer = answer
            if size > self._head_bytes:
                self._warn_of_no_ranges()
        return _Head(bytes(data), size, answer.tag)

    def _warn_of_no_ranges(self) -> None:
        log.warning(
            "manifest_without_ranges",
            manifest=self.name,
            message="the server ignores Range, so the worker reads all bytes before its chunk; put the manifest on a "
            "server with range requests, on S3 or on a volume",
        )

    def _receive(self, data: bytearray, start: int, end: int, *, is_alone: bool) -> None:
        """Append the content up to `end` to `data`, which holds the content from `start` on.

        `is_alone` is true if other threads may read at the same time; then no answer is shared with them.

        After a fault, `data` keeps what was received, and the next attempt goes on from there.
        """
        position = start + len(data)
        answer = self._answer_at(position, end - position, is_alone=is_alone)
        while answer.position < end:
            data += answer.read_next(min(BLOCK_BYTES, end - answer.position))
        if not answer.is_whole:
            answer.check_end()
        elif is_alone:
            # From now on the threads read in turn.
            answer.close()
            self.has_ranges = False

    def _answer_at(self, position: int, length: int, *, is_alone: bool) -> HttpAnswer:
        """Return an answer whose next byte is the content's byte `position`."""
        answer = None if is_alone else self._whole.answer
        if answer is None or answer.position > position:
            if not is_alone:
                self._whole.close()
            answer = self._client.get(position, length)
            self._check_unchanged(answer)
            if answer.is_whole and not is_alone:
                self._whole.answer = answer
        answer.skip_to(position)
        return answer

    def _check_unchanged(self, answer: HttpAnswer) -> None:
        if answer.tag != self._head.tag or answer.size not in {self.size, None}:
            answer.close()
            raise content_changed(self.name, f"{answer.size} bytes {answer.tag}", f"{self.size} bytes {self._head.tag}")
