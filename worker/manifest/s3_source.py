"""A manifest in an S3 bucket."""

from __future__ import annotations

from common.errors import ManifestError, SourceUnavailable, StoreUnavailable
from common.store.contract import ObjectAbsent
from common.store.s3.location import parse_s3_uri
from common.store.s3.object_range import ObjectRange, read_object
from worker.manifest.byte_source import HEAD_BYTES, MANIFEST_SETTING, content_changed


class S3Source:
    def __init__(self, uri: str, *, setting: str = MANIFEST_SETTING) -> None:
        self._setting = setting
        self._location = parse_s3_uri(uri)
        self.name = self.uri = str(self._location)
        self.is_direct = True
        if not self._location.key:
            raise ManifestError(f"{self.name} names a bucket; {setting} takes an object, s3://bucket/key")
        head = self._read(0, HEAD_BYTES)
        self._head, self.size, self._etag = head.data, head.size, head.etag

    @property
    def tag(self) -> str:
        return self._etag

    @property
    def identity(self) -> str:
        return f"{self.size} bytes etag {self._etag}"

    def read(self, start: int, length: int) -> bytes:
        data = self._head[start : start + length]
        if len(data) == length:
            return data
        answer = self._read(start + len(data), length - len(data))
        if (answer.size, answer.etag) != (self.size, self._etag):
            raise content_changed(self.name, f"{answer.size} bytes etag {answer.etag}", self.identity)
        if len(data) + len(answer.data) != length:
            raise SourceUnavailable(f"{self.name}: the store sent {len(answer.data)} bytes of {length - len(data)}")
        return data + answer.data

    def _read(self, start: int, length: int) -> ObjectRange:
        try:
            return read_object(self._location, start=start, length=length)
        except ObjectAbsent as absent:
            raise ManifestError(f"{self.name} does not exist; is {self._setting} right?") from absent
        except StoreUnavailable as error:
            raise SourceUnavailable(str(error)) from error
