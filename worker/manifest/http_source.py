"""A manifest behind http:// or https://, read by range requests.

The first request is a GET and not a HEAD, since a presigned URL allows one method only. What its answer says of the
whole content, all further answers must repeat.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, NamedTuple, TypeVar
from urllib.parse import unquote, urlsplit

import urllib3
from urllib3.exceptions import HTTPError, InvalidHeader, LocationValueError, MaxRetryError, ResponseError
from yarl import URL

from common.errors import ManifestError, SourceUnavailable, StoreAccessDenied
from common.format.provenance import program_version
from common.logs import log, redact_url
from worker.manifest.byte_source import BLOCK_BYTES, HEAD_BYTES, content_changed, sampled_hash
from worker.proxy import EnvironmentProxies

if TYPE_CHECKING:
    from collections.abc import Callable

    from urllib3 import BaseHTTPResponse

ATTEMPTS = 6
"""Requests for one range. With the default backoff they span 15 s; what lasts longer is left to the Job's retries."""

BACKOFF_SECONDS = 0.5
"""Before the second request; doubled each time."""

_MAY_PASS = {408, 425, 429}
_DENIED = {401, 403, 407, 451}
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18})")
_CONTENT_LENGTH = re.compile(r"[0-9]{1,18}")
_NOT_ENCODED = {"", "identity", "aws-chunked"}
"""S3 keeps `aws-chunked`, a property of an upload, in the headers of some objects; their content is plain."""

# Redirects are left to urllib3, attempts are not: its retries end where the body begins.
_REDIRECTS_ONLY = urllib3.Retry(
    total=None,
    connect=0,
    read=0,
    status=0,
    other=0,
    redirect=5,
    raise_on_status=False,
    respect_retry_after_header=False,
)

Answer = TypeVar("Answer")


class _Fault(Exception):
    """Something went wrong that may pass."""

    def __init__(self, message: str, *, wait_seconds: float | None = None) -> None:
        super().__init__(message)
        self.wait_seconds = wait_seconds


class _Head(NamedTuple):
    data: bytes
    """The content's first HEAD_BYTES, or all of it where it is smaller."""
    size: int
    """Bytes of the whole content."""
    tag: str
    """The ETag, else the date of the last change, else ""."""


class HttpSource:
    def __init__(
        self,
        uri: str,
        *,
        user_agent: str,
        connect_timeout_seconds: float,
        read_timeout_seconds: float,
        retry_after_limit_seconds: float,
        backoff_seconds: float = BACKOFF_SECONDS,
    ) -> None:
        self.name = redact_url(uri)
        self._url, headers = _split_credentials(uri)
        headers["User-Agent"] = user_agent.replace("{version}", program_version())
        headers["Accept-Encoding"] = "identity"  # ranges of a compressed transfer are no ranges of the content
        timeout = urllib3.Timeout(connect=connect_timeout_seconds, read=read_timeout_seconds)
        self._pool = _pool(self._url, headers, timeout)
        self._retry_after_limit_seconds = retry_after_limit_seconds
        self._backoff_seconds = backoff_seconds
        # The answer of a server that ignores Range stays open and is read on from `_stream_position`.
        self._stream: BaseHTTPResponse | None = None
        self._stream_position = 0
        self._identity: str | None = None
        self._head = self._attempt(self._receive_head)
        self.size = self._head.size

    @property
    def identity(self) -> str:
        if self._identity is None:
            self._identity = f"{self.size} bytes {self._head.tag or f'sha256 {sampled_hash(self)}'}"
        return self._identity

    def read(self, start: int, length: int) -> bytes:
        data = bytearray(self._head.data[start : start + length])
        if len(data) < length:
            self._attempt(lambda: self._receive(data, start, start + length))
        return bytes(data)

    def _attempt(self, receive: Callable[[], Answer]) -> Answer:
        attempt = 1
        while True:
            try:
                return receive()
            except _Fault as fault:
                self._close_stream()
                if attempt == ATTEMPTS:
                    raise SourceUnavailable(f"{self.name}: {fault} ({attempt} attempts)") from fault
                backoff_seconds = self._backoff_seconds * 2 ** (attempt - 1)
                time.sleep(backoff_seconds if fault.wait_seconds is None else fault.wait_seconds)
                attempt += 1

    def _receive_head(self) -> _Head:
        response = self._get(0, HEAD_BYTES)
        if response.status == 416:  # the range from byte 0 is unsatisfiable when there is no byte
            response.close()
            return _Head(b"", 0, _tag(response))
        if response.status == 200:
            self._stream, self._stream_position = response, 0
            size = _content_length(response)
        else:
            size = _range_size(response, 0)
        data = bytearray()
        while len(data) < HEAD_BYTES and (block := _read(response, HEAD_BYTES - len(data))):
            data += block
        self._stream_position = len(data)
        if size is None:
            while block := _read(response, BLOCK_BYTES):
                self._stream_position += len(block)
            size = self._stream_position
        if len(data) != min(HEAD_BYTES, size):
            raise _Fault(f"the answer broke off after {len(data)} bytes of {min(HEAD_BYTES, size)}")
        if response.status == 200 and size > HEAD_BYTES:
            log.warning(
                "manifest_without_ranges",
                manifest=self.name,
                message="its server ignores Range, so this chunk's rows are found by reading all that comes before "
                "them; a server with range requests, S3 or a volume would spare that",
            )
        return _Head(bytes(data), size, _tag(response))

    def _receive(self, data: bytearray, start: int, end: int) -> None:
        """Append to `data`, which holds the content from `start` on, until it reaches `end`."""
        response = self._response_at(start + len(data), end)
        while (position := start + len(data)) < end:
            block = _read(response, min(BLOCK_BYTES, end - position))
            if not block:
                raise _Fault(f"the answer broke off at byte {position}")
            data += block
            if response is self._stream:
                self._stream_position += len(block)
        if response is not self._stream and _read(response, 1):
            response.close()
            raise _Fault("the answer is longer than the range asked for")

    def _response_at(self, position: int, end: int) -> BaseHTTPResponse:
        """Return an answer whose next byte is the content's byte `position`."""
        if self._stream is None or self._stream_position > position:
            self._close_stream()
            response = self._get(position, end - position)
            if response.status != 200:
                self._check_unchanged(response, _range_size(response, position))
                return response
            self._check_unchanged(response, _content_length(response))
            self._stream, self._stream_position = response, 0
        while self._stream_position < position:
            block = _read(self._stream, min(BLOCK_BYTES, position - self._stream_position))
            if not block:
                raise _Fault(f"the answer broke off at byte {self._stream_position}")
            self._stream_position += len(block)
        return self._stream

    def _check_unchanged(self, response: BaseHTTPResponse, size: int | None) -> None:
        if _tag(response) != self._head.tag or size not in {self.size, None}:
            response.close()
            raise content_changed(self.name, f"{size} bytes {_tag(response)}", f"{self.size} bytes {self._head.tag}")

    def _close_stream(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _get(self, start: int, length: int) -> BaseHTTPResponse:
        """Return an answer of status 200, 206 or 416, its body unread."""
        try:
            response = self._pool.request(
                "GET",
                self._url,
                headers={**self._pool.headers, "Range": f"bytes={start}-{start + length - 1}"},
                preload_content=False,
                retries=_REDIRECTS_ONLY,
            )
        except LocationValueError as error:
            raise ManifestError(f"{self.name} is no URL that can be fetched, or leads to none") from error
        except MaxRetryError as error:
            if isinstance(error.reason, ResponseError):
                raise ManifestError(f"{self.name} redirects more than {_REDIRECTS_ONLY.redirect} times") from error
            # The error's own text has the URL's path and query, its reason has not.
            raise _Fault(str(error.reason)) from error
        except HTTPError as error:
            raise _Fault(type(error).__name__) from error
        status = response.status
        if status in {200, 206, 416}:
            encoding = response.headers.get("Content-Encoding", "")
            if encoding.strip().lower() not in _NOT_ENCODED:
                response.close()
                raise ManifestError(f"{self.name} is sent compressed ({encoding}); store it there uncompressed")
            return response
        response.close()
        if status in {404, 410}:
            raise ManifestError(f"{self.name} does not exist (HTTP {status}); is its URL right?")
        if status in _DENIED:
            raise StoreAccessDenied(
                f"{self.name} may not be read (HTTP {status}); are its credentials right and valid?"
            )
        if status in _MAY_PASS or status >= 500:
            raise _Fault(f"HTTP {status}", wait_seconds=self._wait_seconds(response))
        raise ManifestError(f"{self.name} cannot be fetched: HTTP {status}")

    def _wait_seconds(self, response: BaseHTTPResponse) -> float | None:
        try:
            asked = _REDIRECTS_ONLY.parse_retry_after(response.headers.get("Retry-After", ""))
        except InvalidHeader:
            return None
        return min(asked, self._retry_after_limit_seconds)


def _pool(url: str, headers: dict[str, str], timeout: urllib3.Timeout) -> urllib3.PoolManager:
    try:
        proxy = EnvironmentProxies().proxy_for(URL(url))
    except ValueError as error:
        raise ManifestError(f"{redact_url(url)} is no URL that can be fetched") from error
    if proxy is None:
        return urllib3.PoolManager(maxsize=1, headers=headers, timeout=timeout)
    user = f"{proxy.user or ''}:{proxy.password or ''}" if proxy.user or proxy.password else None
    return urllib3.ProxyManager(
        str(proxy.with_user(None)),
        maxsize=1,
        headers=headers,
        timeout=timeout,
        proxy_headers=urllib3.make_headers(proxy_basic_auth=user),
    )


def _split_credentials(uri: str) -> tuple[str, dict[str, str]]:
    """Return the URL without user and password, and these as a header."""
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise ManifestError(f"{redact_url(uri)} is no URL that can be fetched") from error
    user, at, host = parts.netloc.rpartition("@")
    if not at:
        return uri, {}
    return parts._replace(netloc=host).geturl(), urllib3.make_headers(basic_auth=unquote(user))


def _read(response: BaseHTTPResponse, length: int) -> bytes:
    """Return up to `length` bytes of the body, none at its end."""
    try:
        return response.read(length, decode_content=False)
    except HTTPError as error:
        response.close()
        raise _Fault(f"the answer broke off: {type(error).__name__}") from error


def _range_size(response: BaseHTTPResponse, start: int) -> int:
    """Return the whole content's size from an answer that must be a range from `start` on."""
    header = response.headers.get("Content-Range", "")
    match = _CONTENT_RANGE.fullmatch(header.strip())
    if response.status != 206 or match is None or int(match[1]) != start:
        response.close()
        raise _Fault(f"asked for bytes from {start} on, the answer is HTTP {response.status} with range {header!r}")
    return int(match[2])


def _content_length(response: BaseHTTPResponse) -> int | None:
    length = response.headers.get("Content-Length", "")
    return int(length) if _CONTENT_LENGTH.fullmatch(length) else None


def _tag(response: BaseHTTPResponse) -> str:
    if etag := response.headers.get("ETag", "").removeprefix("W/").strip('"'):
        return f"etag {etag}"
    if date := response.headers.get("Last-Modified"):
        return f"modified {date}"
    return ""
