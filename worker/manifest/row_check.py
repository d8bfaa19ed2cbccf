"""Checks a raw row: the result is a Row, or a failure for the ledger."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.format.chunk_file import Failure
from common.format.reasons import Reason
from worker.manifest.excerpts import excerpt, kind_in_words
from worker.manifest.ids import id_text
from worker.manifest.image_ids import SUBSETS, parse_image_id
from worker.manifest.raw_rows import RawRow, UnreadableRow
from worker.rows import ImageFailed, Row, url_on_mirror
from worker.url_forms import SCHEME, odd_form

if TYPE_CHECKING:
    from worker.manifest.left_out import LeftOut

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")

_BASE64_IMAGES = ("/9j/", "iVBORw0KGgo", "R0lGOD", "UklGR")
"""How JPEG, PNG, GIF and WebP begin in base64."""

_NO_ROTATION = {"", "nan", "none", "null"}
"""Texts in lower case with which programs write that there is no value."""


@dataclass(frozen=True, kw_only=True)
class RowCheck:
    is_remote: bool
    """Whether the manifest came over a network. A remote manifest must not name files of this machine."""
    max_url_bytes: int
    """Largest size of a URL and of an id, in bytes of UTF-8."""
    subset: str = ""
    """Open Images' subset of the rows that name none."""
    mirror_url: str = ""
    """The mirror of Open Images, for a list whose rows are ids; an empty text for a list of URLs."""

    def check(self, raw: RawRow | UnreadableRow, position: int, left_out: LeftOut) -> Row | Failure:
        """Return the row at `position` of its chunk, or the failure that takes its place.

        A row goes without an id, a subset or a thumbnail that cannot be used, which is noted in `left_out`.
        """
        if isinstance(raw, UnreadableRow):
            url, identifier = (each if self._fits(each) else "" for each in (raw.url, raw.id))
            return Failure(position, url, raw.reason, f"{raw.where}: {raw.problem}{_quote(raw.text)}", identifier)
        url = identifier = ""
        try:
            if self.mirror_url:
                identifier = self._id(raw, left_out)
                return self._row_of_id(raw, position, left_out)
            url, is_named = self._url_or_name(raw)
            identifier = self._id(raw, left_out)
            row = self._row(raw, position, url, identifier, left_out)
            return row._replace(is_named=True) if is_named else row
        except ImageFailed as failed:
            # The detail of an invalid URL shows the URL. For other problems it shows the row.
            quote = _quote(raw.text) if failed.reason is Reason.MALFORMED_ROW else ""
            return Failure(position, url, failed.reason, f"{raw.where}: {failed.detail}{quote}", identifier)

    def _row(self, raw: RawRow, position: int, url: str, identifier: str, left_out: LeftOut) -> Row:
        if not raw.is_utf8 and _count_foreign(raw.text) > _count_foreign(raw.fields.id):
            raise ImageFailed(Reason.MALFORMED_ROW, "the line is not UTF-8")
        if raw.held is not None:
            return Row(position, url, identifier, held=raw.held)
        if not raw.name:
            self._check_address(url)
        thumbnail = self._thumbnail(raw, left_out)
        subset = _optional(raw, raw.fields.subset, "subset", left_out) or self.subset
        return Row(position, url, identifier, subset, thumbnail, _rotation(raw.fields.rotation))

    def _row_of_id(self, raw: RawRow, position: int, left_out: LeftOut) -> Row:
        """Return the row of an id of Open Images, whose image is on the mirror."""
        text = _text(raw.fields.url, "id")
        parsed = parse_image_id(text)
        if parsed is None:
            raise ImageFailed(
                Reason.MALFORMED_ROW,
                f"expected an id of Open Images, 16 hexadecimal digits as in train/0001eeaf4aed83f9, found "
                f"{excerpt(text) or 'none'}",
            )
        own_subset, image_id = parsed
        subset = own_subset or _text(raw.fields.subset, "subset").lower() or self.subset
        if subset not in SUBSETS:
            found = f"has the subset {excerpt(subset)}" if subset else "has no subset (EMBEDDER_SUBSET)"
            raise ImageFailed(Reason.MALFORMED_ROW, f"the image {image_id} {found}, expected {', '.join(SUBSETS)}")
        url = url_on_mirror(self.mirror_url, subset=subset, image_id=image_id)
        thumbnail = self._thumbnail(raw, left_out)
        return Row(position, url, image_id, subset, thumbnail, _rotation(raw.fields.rotation))

    def _thumbnail(self, raw: RawRow, left_out: LeftOut) -> str:
        thumbnail = _optional(raw, raw.fields.thumbnail, "thumbnail URL", left_out)
        if self.is_remote and _is_file_url(thumbnail):
            raise _file_elsewhere(thumbnail)
        return thumbnail

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
            _check_is_no_image(url)
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
        if not SCHEME.match(meant):
            raise ImageFailed(Reason.INVALID_URL, f"the URL has no scheme such as https://: {excerpt(url)}")

    def _id(self, raw: RawRow, left_out: LeftOut) -> str:
        if raw.fields.id is None:
            return ""
        try:
            return id_text(raw.fields.id, max_bytes=self.max_url_bytes)
        except ValueError as error:
            left_out.add("id", raw.where, f"the id {error}")
            return ""


def _optional(raw: RawRow, value: object, what: str, left_out: LeftOut) -> str:
    """Return the text of a value that the row can go without: an empty text for a value that is not text."""
    if value is None:
        return ""
    try:
        return _text(value, what)
    except ImageFailed as failed:
        left_out.add(what, raw.where, failed.detail)
        return ""


def _text(value: object, what: str) -> str:
    """Return the value without surrounding whitespace; None and NaN are an empty text.

    Raises ImageFailed, which calls the value `what`, when the value is not Unicode text.
    """
    if value is None or value != value:  # noqa: PLR0124 - pandas writes NaN where there is no value
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
    if not value.isascii() and _SURROGATE.search(value):
        raise ImageFailed(Reason.MALFORMED_ROW, f"the {what} is not Unicode text: {excerpt(value)}")
    return value.strip()


def _count_foreign(value: object) -> int:
    """Return the number of bytes in a text that were not UTF-8."""
    return len(_SURROGATE.findall(value)) if isinstance(value, str) else 0


def _file_elsewhere(url: str) -> ImageFailed:
    # Such a row fails alone, because the author of a remote list must not be able to end the run.
    return ImageFailed(
        Reason.INVALID_URL, f"files can be named only in a manifest that is itself a file, not {excerpt(url)}"
    )


def _check_is_no_image(url: str) -> None:
    """Raise ImageFailed (invalid_url) for the image itself in place of its URL, which no larger limit makes a URL."""
    form = odd_form(url[:100])
    if url.lower().startswith("data:") and form is not None:
        raise ImageFailed(Reason.INVALID_URL, f"{form.problem}: {excerpt(url)}")
    if url.startswith(_BASE64_IMAGES):
        problem = "it is an image in base64, not a URL; put the bytes into a column of a Parquet file"
        raise ImageFailed(Reason.INVALID_URL, f"{problem}: {excerpt(url)}")


def _is_file_url(text: str) -> bool:
    return text[:5].lower() == "file:"


def _rotation(value: object) -> int:
    """Return the rotation in degrees, 0 to 270. The value is a multiple of 90 such as `90.0` or `-90`, or empty.

    Raises ImageFailed for any other value: a picture that is turned in the wrong way has a wrong vector.
    """
    if value is None:
        return 0
    if isinstance(value, bytes | str):
        value = _text(value, "rotation")
        if value.lower() in _NO_ROTATION:
            return 0
    if value != value:  # noqa: PLR0124 - pandas writes NaN where there is no value
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
