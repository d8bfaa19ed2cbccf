"""The list of the objects below a prefix, also from stores whose pages are not quite those of S3."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote, unquote_plus

from common.errors import StoreUnavailable
from common.logs import log
from common.store.contract import ObjectAbsent, ObjectStat
from common.store.s3.errors import RequestRefused, StoreFault
from common.store.s3.prefix import version_of
from common.store.s3.request import ask

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from common.store.s3.prefix import S3Prefix


_ALWAYS_THERE = {"Contents", "IsTruncated", "KeyCount", "MaxKeys", "Name"}
"""The fields of which at least one is in every list. Without them, an answer of another server is not an empty list."""


class Listed(NamedTuple):
    stat: ObjectStat
    modified: datetime | None
    """The time of the last write, None where the store does not say it."""


class _Page(NamedTuple):
    objects: Sequence[Listed]
    following: Mapping[str, str]
    """The arguments that ask for the next page, empty after the last page."""


def list_objects(prefix: S3Prefix, start: str, *, most: int | None = None) -> Iterator[Listed]:
    """Return an iterator over the objects whose keys, relative to `prefix`, begin with `start`.

    The first page is asked for at once. With `most` the list ends after one page of that many objects.
    """
    pages = _Pages(prefix, start, most)
    first = pages.ask({})

    def each() -> Iterator[Listed]:
        page = first
        yield from page.objects
        while page.following and most is None:
            before = page.following
            page = pages.ask(before)
            if page.following == before:
                raise StoreUnavailable(f"{prefix.location(start)}: the store lists the same page again and again")
            yield from page.objects

    return each()


class _Pages:
    def __init__(self, prefix: S3Prefix, start: str, most: int | None) -> None:
        self._prefix, self._start = prefix, start
        self._limit = {} if most is None else {"MaxKeys": most}

    def ask(self, following: Mapping[str, str]) -> _Page:
        try:
            return self._ask(following)
        except ObjectAbsent:  # the answer of a store that has nothing to list
            return _Page([], {})

    def _ask(self, following: Mapping[str, str]) -> _Page:
        location = self._prefix.location(self._start)
        if "ContinuationToken" in following:
            return ask(location, lambda: self._second_version(following))
        if self._prefix.has_list_objects_v2 and not following:
            try:
                return ask(location, lambda: self._second_version({}))
            except RequestRefused as refused:
                page = ask(location, lambda: self._first_version({}))
                log.warning("store_without_list_objects_v2", error=str(refused))
                self._prefix.has_list_objects_v2 = False
                return page
        return ask(location, lambda: self._first_version(following))

    def _second_version(self, following: Mapping[str, str]) -> _Page:
        page: Any = self._prefix.client.list_objects_v2(**self._arguments(following))
        objects = self._objects(page)
        token = page.get("NextContinuationToken") or ""
        if not page.get("IsTruncated", bool(token)):
            return _Page(objects, {})
        if token:
            return _Page(objects, {"ContinuationToken": token})
        # A store that answers as to the first version of the request. Its next page begins after the last key.
        self._prefix.has_list_objects_v2 = False
        return _Page(objects, self._after(page))

    def _first_version(self, following: Mapping[str, str]) -> _Page:
        page: Any = self._prefix.client.list_objects(**self._arguments(following))
        return _Page(self._objects(page), self._after(page) if page.get("IsTruncated") else {})

    def _arguments(self, following: Mapping[str, str]) -> dict[str, Any]:
        return {
            "Bucket": self._prefix.bucket,
            "Prefix": self._prefix.full_key(self._start),
            **self._limit,
            **following,
        }

    def _after(self, page: Mapping[str, Any]) -> Mapping[str, str]:
        contents = page.get("Contents", [])
        # Without a delimiter, S3 sends no next marker and expects the last key. Other stores send markers of their own.
        marker = contents[-1]["Key"] if contents else page.get("NextMarker")
        if not marker:
            raise StoreFault(f"{self._prefix.location(self._start)}: the list is truncated, and nothing says where")
        return {"Marker": marker}

    def _objects(self, page: Mapping[str, Any]) -> Sequence[Listed]:
        if not _ALWAYS_THERE & page.keys():
            raise StoreFault(f"{self._prefix.location(self._start)}: not a list of S3")
        return [
            Listed(
                ObjectStat(self._relative(each["Key"]), each["Size"], version_of(each)),
                each.get("LastModified"),
            )
            for each in page.get("Contents", [])
        ]

    def _relative(self, key: str) -> str:
        """Return a listed key without the run's prefix. Stores differ in how they encode the keys of a list."""
        path = self._prefix.path
        for decode in (str, unquote, unquote_plus):
            name = decode(key)
            if name.startswith(path):
                return name.removeprefix(path)
        raise StoreUnavailable(f"{self._prefix.location('')}: the store lists {key!r}, which is not below this prefix")
