"""The layouts in which JSON holds a list: an array of rows, and objects around arrays as programs write them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from worker.manifest.column_names import find_name
from worker.manifest.columns import choose_names
from worker.manifest.json.values import DECODER, keys_of, parse_json
from worker.manifest.places.byte_source import HEAD_BYTES

if TYPE_CHECKING:
    from worker.manifest.manifest_format import Format
    from worker.manifest.places.byte_source import ByteSource
    from worker.settings import ManifestSettings

LIST_KEYS = ("images", "photos", "pictures", "rows", "data", "items", "records", "results", "entries")
"""Names of the list of images in an object that has several lists, the preferred one first."""

MAX_LEVELS = 3
"""Largest number of objects, one in the other, in which a list of images is searched for."""

SEEN = 100
"""Number of values of an array that tell what it holds."""

_SPACE = re.compile(r"[ \t\r\n]*")
_PLACE = re.compile(r"https?://|s3://|.*\.(?:jpe?g|png|gif|webp|bmp|tiff?|avif)$", re.IGNORECASE)

EXPECTED = 'expected an array: ["https://…", …] or [{"url": "https://…", "id": "…"}, …]'
"""What errors say of the layout."""


def json_format(source: ByteSource, expected: Format) -> Format:
    """Return `jsonl` where a source that is called `json` holds one value a line, and `json` for an array in `jsonl`.

    Other formats are returned as they are. Only the head is read.
    """
    if expected not in {"json", "jsonl"}:
        return expected
    head = source.read(0, min(HEAD_BYTES, source.size)).decode("utf-8-sig", errors="replace").strip()
    first, _, rest = head.partition("\n")
    is_first_whole = _is_json(first)
    if expected == "json":
        is_lines = is_first_whole and first[:1] in {"{", '"'} and rest.lstrip()[:1] in {"{", '"'}
        return "jsonl" if is_lines else "json"
    if head[:1] != "[" or (is_first_whole and rest.strip()):
        return "jsonl"
    if first_elements(head):
        return "json"
    # The first element is longer than the head, or the first line is damaged and others are not.
    return "json" if source.size > HEAD_BYTES and not _is_json(rest.partition("\n")[0]) else "jsonl"


def _is_json(text: str) -> bool:
    try:
        parse_json(text)
    except ValueError:
        return False
    return True


def first_elements(text: str) -> list[object]:
    """Return the whole elements at the beginning of a text that begins as an array."""
    found: list[object] = []
    position = text.find("[") + 1
    while position:
        try:
            value, end = DECODER.raw_decode(text, _after_space(text, position))
        except (ValueError, RecursionError):
            break
        comma = _after_space(text, end)
        if text[comma : comma + 1] not in {",", "]"}:
            break  # a number may be cut off
        found.append(value)
        position = comma + 1 if text[comma] == "," else 0
    return found


def _after_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


def rows_in(value: object, settings: ManifestSettings) -> list[object] | None:
    """Return the rows in a value of JSON: objects, or texts that are URLs. None for a layout that is not known."""
    if isinstance(value, list):
        return value
    if not isinstance(value, dict):
        return None
    for layout in (_single_row, _split, _columns, _named_list, _records_by_id, _mapping, _inner_list):
        rows = layout(value, settings)
        if rows:
            return rows
    return None


def _single_row(value: dict[str, object], settings: ManifestSettings) -> list[object] | None:
    url = choose_names(list(value), settings)[0]
    return [value] if url is not None and isinstance(value[url], str) else None


def _split(value: dict[str, object], _: ManifestSettings) -> list[object] | None:
    """Return the rows of `{"columns": ["url", …], "data": [["https://…", …], …]}`, pandas' layout `split`."""
    names, rows = value.get("columns"), value.get("data")
    if not isinstance(names, list) or not isinstance(rows, list):
        return None
    return [dict(zip(names, row, strict=False)) if isinstance(row, list) else row for row in rows]


def _columns(value: dict[str, object], settings: ManifestSettings) -> list[object] | None:
    """Return the rows of `{"url": ["https://…", …], "id": […]}`, or of pandas' objects in place of the arrays."""
    names = [name for name in choose_names(list(value), settings) if name is not None]
    url = choose_names(list(value), settings)[0]
    urls = None if url is None else value[url]
    if isinstance(urls, dict):
        columns = {name: column for name in names if isinstance(column := value[name], dict)}
        return [{name: column.get(key) for name, column in columns.items()} for key in urls]
    if not isinstance(urls, list) or any(isinstance(each, dict) for each in urls[:SEEN]):
        return None
    arrays = {name: column for name in names if isinstance(column := value[name], list)}
    for name, column in arrays.items():
        if len(column) != len(urls):
            raise ValueError(f"{url} has {len(urls)} values and {name} {len(column)}")
    return [dict(zip(arrays, row, strict=True)) for row in zip(*arrays.values(), strict=True)]


def _named_list(value: dict[str, object], settings: ManifestSettings) -> list[object] | None:
    """Return the list of images in an object that has other values too, such as COCO's `{"info": …, "images": […]}`."""
    lists = {key: each for key, each in value.items() if isinstance(each, list) and each}
    found = {key: each for key, each in lists.items() if choose_names(keys_of(each), settings)[0] is not None} or {
        key: each
        for key, each in lists.items()
        if all(isinstance(url, str) and _PLACE.match(url) for url in each[:SEEN])
    }
    key = next(iter(found)) if len(found) == 1 else find_name(list(found), LIST_KEYS)
    return None if key is None else found[key]


def _records_by_id(value: dict[str, object], settings: ManifestSettings) -> list[object] | None:
    """Return the rows of `{"id": {"url": "https://…", …}, …}`."""
    names = choose_names(keys_of(value.values()), settings)
    if names[0] is None or not all(isinstance(record, dict) for record in value.values()):
        return None
    are_numbers = list(value) == [str(number) for number in range(len(value))]  # pandas' layout `index`
    if names[1] is not None or are_numbers:
        return list(value.values())
    return [{"id": key, **record} for key, record in value.items() if isinstance(record, dict)]


def _mapping(value: dict[str, object], _: ManifestSettings) -> list[object] | None:
    """Return the rows of `{"id": "https://…", …}`, or of `{"https://…": "a caption", …}`."""
    if all(isinstance(each, str) and _PLACE.match(each) for each in value.values()):
        return [{"id": key, "url": url} for key, url in value.items()]
    return list(value) if all(map(_PLACE.match, value)) else None


def _inner_list(value: dict[str, object], settings: ManifestSettings) -> list[object] | None:
    """Return the only list of images in the objects of an object, such as Flickr's `{"photos": {"photo": […]}}`."""
    waiting = [(each, MAX_LEVELS) for each in value.values() if isinstance(each, dict)]
    found: list[list[object]] = []
    for each, levels in waiting:
        if rows := _named_list(each, settings):
            found.append(rows)
        elif levels > 1:
            waiting += [(inner, levels - 1) for inner in each.values() if isinstance(inner, dict)]
    return found[0] if len(found) == 1 else None
