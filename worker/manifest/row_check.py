"""Checks a raw row: the result is a Row, or a failure for the ledger."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from common.format.chunk_file import Failure
from common.format.reasons import Reason
from worker.manifest.excerpts import excerpt, kind_in_words
from worker.manifest.raw_rows import RawRow, UnreadableRow
from worker.rows import ImageFailed, Row
from worker.url_forms import odd_form

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:")


@dataclass(frozen=True, kw_only=True)
class RowCheck:
    is_remote: bool
    """Whether the manifest came over a network. A remote manifest must not name files of this machine."""
    max_url_bytes: int
    """Largest size of a URL and of an id, in bytes of UTF-8."""

    def check(self, raw: RawRow | UnreadableRow, position: int) -> Row | Failure:
        """Return the row at `position` of its chunk, or the failure that takes its place."""
        if isinstance(raw, UnreadableRow):
            url, identifier = (each if self._fits(each) else "" for each in (raw.url, raw.id))
            return Failure(position, url, raw.reason, f"{raw.where}: {raw.problem}{_quote(raw.text)}", identifier)
        url = identifier = ""
        try:
            url, is_named = self._url_or_name(raw)
            identifier = self._id(raw.fields.id)
            row = self._row(raw, position, url, identifier)
            return row._replace(is_named=True) if is_named else row
        except ImageFailed as failed:
            # The detail of an invalid URL shows the URL. For other problems it shows the row.
            quote = _quote(raw.text) if failed.reason is Reason.MALFORMED_ROW else ""
            return Failure(position, url, failed.reason, f"{raw.where}: {failed.detail}{quote}", identifier)

    def _row(self, raw: RawRow, position: int, url: str, identifier: str) -> Row:
        if not raw.is_utf8:
            raise ImageFailed(Reason.MALFORMED_ROW, "the line is not UTF-8")
        if raw.held is not None:
            return Row(position, url, identifier, held=raw.held)
        if not raw.name:
            self._check_address(url)
        thumbnail = _text(raw.fields.thumbnail, "thumbnail URL")
        if self.is_remote and _is_file_url(thumbnail):
            raise _file_elsewhere(thumbnail)
        subset = _text(raw.fields.subset, "subset")
        return Row(position, url, identifier, subset, thumbnail, _rotation(raw.fields.rotation))

    def _fits(self, text: str) -> bool:
        return len(text.encode()) <= self.max_url_bytes

    def _url_or_name(self, raw: RawRow) -> tuple[str, bool]:
        """Return the URL, or the row's name and True where it has a name and no URL that a result can hold."""
        if not raw.name:
            return self._url(raw.fields.url), False
        try:
            url = self._url(raw.fields.url)
        except ImageFailed:
            return self._url(raw.name), True
        return (self._url(raw.name), True) if _CONTROL.search(url) else (url, False)

    def _url(self, value: object) -> str:
        url = _text(value, "URL")
        if not url:
            raise ImageFailed(Reason.MALFORMED_ROW, "the row has no URL")
        size = len(url.encode())
        if size > self.max_url_bytes:
            limit = f"the URL has {size} bytes, EMBEDDER_MAX_URL_BYTES is {self.max_url_bytes}: {excerpt(url)}"
            raise ImageFailed(Reason.URL_TOO_LONG, limit)
        return url

    def _check_address(self, url: str) -> None:
        if _CONTROL.search(url):
            raise ImageFailed(Reason.INVALID_URL, f"the URL has control characters in it: {excerpt(url)}")
        if not self.is_remote:
            return  # a file may have any name
        form = odd_form(url)
        if form is not None and form.problem:
            raise ImageFailed(Reason.INVALID_URL, f"{form.problem}: {excerpt(url)}")
        meant = url if form is None else form.text
        if _is_file_url(meant):
            raise _file_elsewhere(url)
        if not _SCHEME.match(meant):
            raise ImageFailed(Reason.INVALID_URL, f"the URL has no scheme such as https://: {excerpt(url)}")

    def _id(self, value: object) -> str:
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        identifier = _text(value, "id")
        size = len(identifier.encode())
        if size > self.max_url_bytes:
            # Every row of the result is as wide as the widest id.
            raise ImageFailed(
                Reason.MALFORMED_ROW, f"the id has {size} bytes, EMBEDDER_MAX_URL_BYTES is {self.max_url_bytes}"
            )
        return identifier


def _text(value: object, what: str) -> str:
    """Return the value without surrounding whitespace; None is an empty text.

    Raises ImageFailed, which calls the value `what`, when the value is not Unicode text.
    """
    if value is None:
        return ""
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError as error:
            raise ImageFailed(Reason.MALFORMED_ROW, f"the {what} is not UTF-8: {excerpt(repr(value))}") from error
    if not isinstance(value, str):
        raise ImageFailed(Reason.MALFORMED_ROW, f"the {what} is {kind_in_words(value)}, expected text")
    if "\0" in value:
        raise ImageFailed(Reason.MALFORMED_ROW, f"the {what} has a NUL character: {excerpt(value)}")
    if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
        raise ImageFailed(Reason.MALFORMED_ROW, f"the {what} is not Unicode text: {excerpt(value)}")
    return value.strip()


def _file_elsewhere(url: str) -> ImageFailed:
    # Such a row fails alone, because the author of a remote list must not be able to end the run.
    return ImageFailed(
        Reason.INVALID_URL, f"files can be named only in a manifest that is itself a file, not {excerpt(url)}"
    )


def _is_file_url(text: str) -> bool:
    return text[:5].lower() == "file:"


def _rotation(value: object) -> int:
    """Return the rotation in degrees, 0 to 270. The value is a multiple of 90 such as `90.0` or `-90`, or empty."""
    if isinstance(value, bytes | str):
        value = _text(value, "rotation")
    if value is None or value == "":
        return 0
    try:
        degrees = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        degrees = math.nan
    if not math.isfinite(degrees) or degrees % 90:
        raise ImageFailed(Reason.MALFORMED_ROW, f"the rotation is {excerpt(str(value))}, expected a multiple of 90")
    return int(degrees) % 360


def _quote(text: str) -> str:
    return f", in {excerpt(text)}" if text else ""
