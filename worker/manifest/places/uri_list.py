"""The files, folders and patterns that the text of EMBEDDER_MANIFEST_URI names: commas and braces are taken apart.

{00000..00002}.tar          00000.tar 00001.tar 00002.tar
s3://bucket/{train,test}/   s3://bucket/train/ s3://bucket/test/
a.csv, b.csv                a.csv b.csv
"""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING

from common.errors import ManifestError
from common.logs import redact_url

if TYPE_CHECKING:
    from collections.abc import Iterator

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_OTHER_PLACE = re.compile(r"\s*(?:[A-Za-z][A-Za-z0-9+.-]*://|/|~|\.{1,2}/)")
_BRACES = re.compile(r"\{([^{}]*)\}")
_NUMBERS = re.compile(r"([0-9]{1,18})\.\.([0-9]{1,18})(?:\.\.([0-9]{1,9}))?")
_LETTERS = re.compile(r"([a-z])\.\.([a-z])|([A-Z])\.\.([A-Z])")


def scheme_of(place: str) -> str:
    """Return the scheme of a place in lower case: `file` for a path."""
    match = _SCHEME.match(place)
    return match[0][: -len("://")].lower() if match else "file"


def redact_places(text: str) -> str:
    """Return `text` without passwords and signatures of the URLs in it."""
    return ",".join(piece if scheme_of(piece) == "file" else redact_url(piece) for piece in _split_at_commas(text))


def split_places(text: str, *, most: int) -> list[str]:
    """Return the places that `text` names. Raises ManifestError when braces stand for more than `most` of them."""
    places: list[str] = []
    for piece in _split_at_commas(text):
        places += islice(_expanded(piece), most + 1)
        if len(places) > most:
            raise ManifestError(
                f"{redact_url(piece)} stands for more than {most:,} files (EMBEDDER_MAX_LISTED_FILES); write the list "
                f"once with `embedder list`, and give its file in EMBEDDER_MANIFEST_URI"
            )
    return places


def _split_at_commas(text: str) -> list[str]:
    """Return the pieces between the commas outside of braces. In a URL, only a comma before another place counts."""
    pieces: list[str] = []
    start = depth = 0
    for position, character in enumerate(text):
        if character == "{":
            depth += 1
        elif character == "}":
            depth = max(0, depth - 1)
        elif character == "," and not depth:
            is_url = _SCHEME.match(text[start:].lstrip()) is not None
            if not is_url or _OTHER_PLACE.match(text, position + 1) or not text[position + 1 :].strip():
                pieces.append(text[start:position])
                start = position + 1
    pieces.append(text[start:])
    return [piece.strip() for piece in pieces if piece.strip()]


def _expanded(place: str) -> Iterator[str]:
    """Yield the places that the braces of one place stand for, the first braces varying slowest.

    Braces without a comma and without a range are part of a name. In a URL, so are those behind a question mark.
    """
    end = place.find("?") if scheme_of(place) in {"http", "https"} else -1
    for match in _BRACES.finditer(place, 0, end if end >= 0 else len(place)):
        choices = _choices(match[1])
        if choices is None:
            continue
        before, after = place[: match.start()], place[match.end() :]
        for choice in choices:
            yield from _expanded(f"{before}{choice}{after}")
        return
    yield place


def _choices(inside: str) -> Iterator[str] | None:
    """Return what may stand in place of braces with this text, None for a text that is no choice."""
    if numbers := _NUMBERS.fullmatch(inside):
        first, last, step = int(numbers[1]), int(numbers[2]), int(numbers[3] or 1) or 1
        # As in a shell, a leading zero means that all numbers have the same number of digits.
        is_padded = any(len(text) > 1 and text[0] == "0" for text in (numbers[1], numbers[2]))
        width = max(len(numbers[1]), len(numbers[2])) if is_padded else 0
        sign = 1 if first <= last else -1
        return (f"{number:0{width}}" for number in range(first, last + sign, sign * step))
    if letters := _LETTERS.fullmatch(inside):
        low, high = (ord(letter) for letter in letters.groups() if letter)
        sign = 1 if low <= high else -1
        return (chr(code) for code in range(low, high + sign, sign))
    return iter(inside.split(",")) if "," in inside else None
