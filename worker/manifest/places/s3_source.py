"""A manifest in an S3 bucket."""

from __future__ import annotations

from common.errors import ManifestError, SourceUnavailable, StoreUnavailable
from common.store.contract import ObjectAbsent
from common.store.s3.location import parse_s3_uri
from common.store.s3.object_range import ObjectRange, read_object
from worker.manifest.places.byte_source import HEAD_BYTES, MANIFEST_SETTING, KeptHead, content_changed


class S3Source:
    """An object. Its head is read when the source is opened, or with the first read if a list says size and ETag."""

    def __init__(self, uri: str, *, setting: str = MANIFEST_SETTING, listed: tuple[int, str] | None = None) -> None:
        self._setting = setting
        self._location = parse_s3_uri(uri)
        self.name = self.uri = str(self._location)
        self.is_direct = True
        if not self._location.key:
            raise ManifestError(f"{self.name} names a bucket; {setting} takes an object, s3://bucket/key")
        if listed is not None:
            self.size, self._etag = listed
            self._content = KeptHead(self._unchanged, self.size)
            return
        head = self._read(0, HEAD_BYTES)
        self.size, self._etag = head.size, head.etag
        self._content = KeptHead(self._unchanged, self.size, head=head.data)

    @property
    def tag(self) -> str:
        return self._etag

    @property
    def identity(self) -> str:
        return f"{self.size} bytes etag {self._etag}"

    def read(self, start: int, length: int) -> bytes:
        return self._content.read(start, length)

    def _unchanged(self, start: int, length: int) -> bytes:
        """Return a range of the object that was opened or listed. Raises SourceUnavailable when it has changed."""
        try:
            answer = self._read(start, length)
        except ManifestError as absent:
            raise content_changed(self.name, "no content", self.identity) from absent
        if (answer.size, answer.etag) != (self.size, self._etag):
            raise content_changed(self.name, f"{answer.size} bytes etag {answer.etag}", self.identity)
        if len(answer.data) != length:
            raise SourceUnavailable(f"{self.name}: the store sent {len(answer.data)} bytes of {length}")
        return answer.data

    def _read(self, start: int, length: int) -> ObjectRange:
        try:
            return read_object(self._location, start=start, length=length)
        except ObjectAbsent as absent:
            raise ManifestError(f"{self.name} does not exist; is {self._setting} right?") from absent
        except StoreUnavailable as error:
            raise SourceUnavailable(str(error)) from error
