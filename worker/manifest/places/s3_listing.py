"""Objects of a bucket that are named one by one, or that a pattern means."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.errors import ManifestError, SourceUnavailable, StoreUnavailable
from common.store.s3.listing import list_objects
from common.store.s3.location import parse_s3_uri
from common.store.s3.prefix import S3Prefix
from worker.manifest.places.byte_source import MANIFEST_SETTING
from worker.manifest.places.listed_file import ListedFile, Listing, refuse_more
from worker.manifest.places.s3_source import S3Source

if TYPE_CHECKING:
    from worker.manifest.places.glob_pattern import GlobPattern


def look_up(uri: str) -> S3Source:
    """Return the object without reading its head, for one of many. Raises ManifestError if there is no such object."""
    location = parse_s3_uri(uri)
    try:
        stat = S3Prefix(f"s3://{location.bucket}").stat(location.key)
    except StoreUnavailable as error:
        raise SourceUnavailable(str(error)) from error
    if stat is None:
        raise ManifestError(f"{location} does not exist; is {MANIFEST_SETTING} right?")
    return S3Source(uri, listed=(stat.size, stat.version))


def list_bucket(pattern: GlobPattern, *, most: int) -> Listing:
    """Return the objects that the pattern means, else those below the prefixes that it means.

    Raises ManifestError when more than `most` keys begin as the pattern does, StoreAccessDenied when the bucket may
    not be listed, and SourceUnavailable when the store does not answer.
    """
    location = parse_s3_uri(pattern.folder)
    bucket = f"s3://{location.bucket}"
    start = location.key + pattern.start
    direct: list[ListedFile] = []
    below: list[ListedFile] = []
    hidden: list[str] = []
    try:
        for number, listed in enumerate(list_objects(S3Prefix(bucket), start), start=1):
            if number > most:
                raise refuse_more(f"{bucket}/{start}", most)
            key = listed.stat.key
            if not key.startswith(start) or key.endswith("/"):  # an object that stands for a folder
                continue
            path = key.removeprefix(location.key)
            file = ListedFile(f"{bucket}/{key}", path, listed.stat.size, listed.stat.version)
            if pattern.matches(path):
                direct.append(file)
            elif pattern.has_above(path):
                below.append(file)
            elif pattern.hides(path):
                hidden.append(file.uri)
    except StoreUnavailable as error:
        raise SourceUnavailable(str(error)) from error
    return Listing(pattern.folder, direct or below, hidden)
