"""Values of JSON: how a text is parsed, and which values of an object are those of a row."""

from __future__ import annotations

import json
from itertools import islice
from typing import TYPE_CHECKING

from worker.manifest.column_names import find_url_of_picture
from worker.manifest.columns import CHOSEN, choose_names
from worker.manifest.excerpts import Repeated
from worker.manifest.raw_rows import FIRST_VALUES, Fields, RawRow, UnreadableRow

if TYPE_CHECKING:
    from collections.abc import Iterable

    from worker.manifest.columns import Columns
    from worker.settings import ManifestSettings

KEPT_CHOICES = 1000
"""Largest number of sets of keys for which the choice of columns is kept."""


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        for key in found:
            values = [value for name, value in pairs if name == key]
            if any(value != values[0] for value in values):
                found[key] = Repeated(values)
    return found


DECODER = json.JSONDecoder(object_pairs_hook=_object)

# Python refuses to convert a number of thousands of digits. Such a number may be the value of any key.
_PATIENT_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=str)


def parse_json(text: str) -> object:
    """Return the value of JSON. A key with several values has a Repeated. Raises ValueError for other text."""
    try:
        return DECODER.decode(text)
    except json.JSONDecodeError:
        raise
    except ValueError:
        return _PATIENT_DECODER.decode(text)
    except RecursionError as error:
        raise ValueError("the values are nested too deeply") from error


def first_objects(values: Iterable[object]) -> list[dict[str, object]]:
    """Return the objects among the first values."""
    return [value for value in islice(values, FIRST_VALUES) if isinstance(value, dict)]


def first_texts(values: Iterable[object]) -> list[str]:
    """Return the texts among the first values."""
    return [value for value in islice(values, FIRST_VALUES) if isinstance(value, str)]


def keys_of(values: Iterable[object]) -> list[str]:
    """Return the keys of the objects among the first values, each once, in their order."""
    return list(dict.fromkeys(key for value in first_objects(values) for key in value))


class ObjectFields:
    """Finds the values of a row in an object. Rows may differ in their keys."""

    def __init__(self, settings: ManifestSettings, columns: Columns | None) -> None:
        self._settings = settings
        self._columns = tuple(getattr(columns, name) for name in CHOSEN) if columns else ()
        self._chosen: dict[tuple[str, ...], tuple[str | None, ...]] = {}

    def row(self, value: object, where: str, text: str = "", *, is_utf8: bool = True) -> RawRow | UnreadableRow:
        """Return the row that a value stands for: an object with a URL, or a text that is the URL.

        `text` is the line of the value, where it has one of its own.
        """
        if isinstance(value, str):
            return RawRow(where, Fields(value), text, is_utf8)
        if not isinstance(value, dict):
            if text:
                hint = ", not Python's notation (json.dumps writes JSON)" if text.lstrip().startswith("{'") else ""
                return UnreadableRow(where, f"expected a JSON object or string{hint}", text)
            return RawRow(where, Fields(_only_url(value)))
        url, *others = (None if key is None else value[key] for key in self._keys(tuple(value)))
        return RawRow(where, Fields(_only_url(url), *others), text, is_utf8)

    def _keys(self, keys: tuple[str, ...]) -> tuple[str | None, ...]:
        chosen = self._chosen.get(keys)
        if chosen is None:
            chosen = choose_names(keys, self._settings)
            # The columns that most rows have come first. Only a row that lacks one is searched for a similar key.
            if self._columns:
                pairs = zip(self._columns, chosen, strict=True)
                chosen = tuple(column if column in keys else own for column, own in pairs)
            if len(self._chosen) < KEPT_CHOICES:
                self._chosen[keys] = chosen
        return chosen


def _only_url(value: object) -> object:
    """Return the URL in an object such as `{"src": "https://…"}`, or in a list of one such object.

    Other values are returned as they are.
    """
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        value = value[0]
    if isinstance(value, dict):
        key = find_url_of_picture(list(value))
        return value[key] if key is not None else value
    return value
