"""From a raw row to a Row, or to its record in the ledger."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from common.format.chunk_file import Failure
from common.format.reasons import Reason
from worker.manifest.excerpts import shown
from worker.manifest.raw_rows import RawRow, UnreadableRow
from worker.rows import ImageFailed, Row

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:")


@dataclass(frozen=True, kw_only=True)
class RowCheck:
    is_remote: bool
    """Whether the manifest came over a network: then it must name no files of this machine."""
    max_url_bytes: int

    def check(self, raw: RawRow | UnreadableRow, position: int) -> Row | Failure:
        """Return the row at `position` of its chunk, or why it is none."""
        if isinstance(raw, UnreadableRow):
            return Failure(position, "", raw.reason, _detail(raw.where, raw.problem, raw.text))
        url = identifier = ""
        try:
            url = self._url(raw.fields.url)
            identifier = self._id(raw.fields.id)
            return self._row(raw, position, url, identifier)
        except ImageFailed as failed:
            # What is wrong with a URL is seen in the URL; else the whole row is shown.
            text = raw.text if failed.reason is Reason.MALFORMED_ROW else ""
            return Failure(position, url, failed.reason, _detail(raw.where, failed.detail, text), identifier)

    def _row(self, raw: RawRow, position: int, url: str, identifier: str) -> Row:
        if raw.problem:
            raise ImageFailed(Reason.MALFORMED_ROW, raw.problem)
        self._check_address(url)
        thumbnail = _text(raw.fields.thumbnail, "thumbnail URL")
        if self.is_remote and _is_file_url(thumbnail):
            raise _file_elsewhere(thumbnail)
        subset = _text(raw.fields.subset, "subset")
        return Row(position, url, identifier, subset, thumbnail, _rotation(raw.fields.rotation))

    def _url(self, value: object) -> str:
        url = _text(value, "URL")
        if not url:
            raise ImageFailed(Reason.MALFORMED_ROW, "the row has no URL")
        size = len(url.encode())
        if size > self.max_url_bytes:
            limit = f"the URL has {size} bytes, EMBEDDER_MAX_URL_BYTES is {self.max_url_bytes}: {shown(url)}"
            raise ImageFailed(Reason.URL_TOO_LONG, limit)
        return url

    def _check_address(self, url: str) -> None:
        if _CONTROL.search(url):
            raise ImageFailed(Reason.INVALID_URL, f"the URL has control characters in it: {shown(url)}")
        if not self.is_remote:
            return
        if _is_file_url(url):
            raise _file_elsewhere(url)
        if not _SCHEME.match(url):
            raise ImageFailed(Reason.INVALID_URL, f"the URL has no scheme such as https://: {shown(url)}")

    def _id(self, value: object) -> str:
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        identifier = _text(value, "id")
        size = len(identifier.encode())
        if size > self.max_url_bytes:
            # As wide as the widest id is every row of the result.
            raise ImageFailed(
                Reason.MALFORMED_ROW, f"the id has {size} bytes, EMBEDDER_MAX_URL_BYTES is {self.max_url_bytes}"
            )
        return identifier


def _text(value: object, what: str) -> str:
    """Return the value without surrounding whitespace, "" for None. Raises ImageFailed unless it is Unicode text."""
    if value is None:
        return ""
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError as error:
            raise ImageFailed(Reason.MALFORMED_ROW, f"the {what} is not UTF-8: {shown(repr(value))}") from error
    if not isinstance(value, str):
        raise ImageFailed(Reason.MALFORMED_ROW, f"the {what} is {type(value).__name__}, expected text")
    if "\0" in value:
        raise ImageFailed(Reason.MALFORMED_ROW, f"the {what} has a NUL character: {shown(value)}")
    if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
        raise ImageFailed(Reason.MALFORMED_ROW, f"the {what} is not Unicode text: {shown(value)}")
    return value.strip()


def _file_elsewhere(url: str) -> ImageFailed:
    # The list of somebody else must not name files of this machine; one row of it must not end the run either.
    return ImageFailed(
        Reason.INVALID_URL, f"files can be named only in a manifest that is itself a file, not {shown(url)}"
    )


def _is_file_url(text: str) -> bool:
    return text[:5].lower() == "file:"


def _rotation(value: object) -> int:
    """Return the degrees, 0 to 270, that a value such as `90.0`, `-90` or nothing means."""
    if isinstance(value, bytes | str):
        value = _text(value, "rotation")
    if value is None or value == "":
        return 0
    problem = f"the rotation is {shown(str(value))}, expected a multiple of 90"
    try:
        degrees = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        degrees = math.nan
    if not math.isfinite(degrees) or degrees % 90:
        raise ImageFailed(Reason.MALFORMED_ROW, problem)
    return int(degrees) % 360


def _detail(where: str, problem: str, text: str) -> str:
    return f"{where}: {problem}, in {shown(text)}" if text else f"{where}: {problem}"
