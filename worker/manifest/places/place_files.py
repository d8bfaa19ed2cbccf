"""Finds the files that one place of EMBEDDER_MANIFEST_URI names: a file, or those of a folder or a pattern."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from common.errors import ManifestError, StoreAccessDenied
from worker.manifest.places.byte_source import MANIFEST_SETTING
from worker.manifest.places.cloud_files import SCHEMES, CloudSource
from worker.manifest.places.glob_pattern import everything_in, glob_pattern, has_wildcard
from worker.manifest.places.local_listing import list_local
from worker.manifest.places.local_source import local_path
from worker.manifest.places.open_source import open_source
from worker.manifest.places.uri_list import scheme_of, split_places

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from common.retry import RetryPolicy
    from worker.manifest.places.byte_source import ByteSource
    from worker.manifest.places.cloud_files import Clouds
    from worker.manifest.places.glob_pattern import GlobPattern
    from worker.manifest.places.listed_file import Listing
    from worker.settings import HttpSettings


def named_places(text: str, *, most: int) -> list[str]:
    """Return the places that the setting names, as `split_places` does. A file's own name may have commas in it."""
    return [text] if scheme_of(text) == "file" and _is_one_path(text) else split_places(text, most=most)


def _is_one_path(text: str) -> bool:
    path = str(local_path(text))
    if os.path.lexists(path):
        return True
    folder = glob_pattern(path).folder if has_wildcard(path) else ""
    return any(mark in folder for mark in ",{") and os.path.isdir(folder)  # noqa: PTH112 - never raises


class PlaceFiles:
    """Looks at places. `token` is for http:// and https:// alone; `most` limits the files of a place."""

    def __init__(
        self, *, http: HttpSettings, http_retry: RetryPolicy, token: str, clouds: Clouds, most: int, are_many: bool
    ) -> None:
        self._http, self._http_retry, self._token = http, http_retry, token
        self._clouds = clouds
        self._most = most
        self._are_many = are_many

    def find(self, place: str) -> ByteSource | Listing:
        """Return the file at `place`, or the list of the files there.

        Raises ManifestError when there is nothing, StoreAccessDenied when it may not be read, and SourceUnavailable
        when its server does not answer.
        """
        scheme = scheme_of(place)
        if scheme == "file":
            return self._local(local_path(place), place)
        if scheme == "s3":
            return self._in_bucket(place)
        if scheme in SCHEMES:
            return self._in_cloud(place)
        return self._open(place)

    def _open(self, place: str) -> ByteSource:
        return open_source(
            place, self._http, http_retry=self._http_retry, token=self._token, is_one_of_many=self._are_many
        )

    def _local(self, path: Path, place: str) -> ByteSource | Listing:
        text = str(path)
        if os.path.isdir(text):  # noqa: PTH112 - Path.is_dir raises some errors
            return list_local(everything_in(f"{text.rstrip('/')}/"), most=self._most)
        if has_wildcard(text) and not os.path.lexists(text):
            return list_local(glob_pattern(text + "/" * place.endswith("/")), most=self._most)
        return self._open(place)

    def _in_bucket(self, place: str) -> ByteSource | Listing:
        # boto3 takes 90 ms and 10 MB, which no other place needs.
        from worker.manifest.places.s3_listing import list_bucket, look_up  # noqa: PLC0415

        def listed(pattern: GlobPattern) -> Listing:
            return list_bucket(pattern, most=self._most)

        def look() -> ByteSource:
            return look_up(place) if self._are_many else self._open(place)

        return _file_or_folder(place, look=look, listed=listed, is_bucket="/" not in place[len("s3://") :])

    def _in_cloud(self, place: str) -> ByteSource | Listing:
        def look() -> ByteSource:
            found = self._clouds.look(place)
            if found is None:
                raise ManifestError(f"{place} does not exist; is {MANIFEST_SETTING} right?")
            return CloudSource(self._clouds.files(place), found)

        return _file_or_folder(
            place,
            look=look,
            listed=lambda pattern: self._clouds.list(pattern, most=self._most),
            is_bucket="/" not in place.partition("://")[2],
        )


def _file_or_folder(
    place: str, *, look: Callable[[], ByteSource], listed: Callable[[GlobPattern], Listing], is_bucket: bool
) -> ByteSource | Listing:
    """Return the file at `place`, or the list where `place` is a pattern, ends with a slash or is a bucket's name.

    A name that no file has may be a folder's.
    """
    if has_wildcard(place):
        return listed(glob_pattern(place))
    if place.endswith("/") or is_bucket:
        return listed(everything_in(place if place.endswith("/") else f"{place}/"))
    try:
        return look()
    except ManifestError as absent:
        try:
            found = listed(everything_in(f"{place}/"))
        except StoreAccessDenied:
            raise absent from None
        if not found.files:
            raise
        return found
