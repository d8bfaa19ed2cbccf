"""A run in an S3 bucket."""

from __future__ import annotations

import base64
import hashlib
import io
from typing import TYPE_CHECKING, BinaryIO

from common.errors import ConfigError, StoreAccessDenied, StoreUnavailable
from common.logs import log
from common.store.contract import ObjectAbsent, ObjectExists, ObjectReplaced, ObjectStat, StoreAbilities, check_length
from common.store.object_reader import READ_AHEAD_BYTES, ObjectReader
from common.store.s3.access import AccessCheck, leftovers_of_checks
from common.store.s3.assembly import S3_PART_LIMITS, abort_uploads, multipart_upload
from common.store.s3.conditions import ConditionalWrites
from common.store.s3.deletion import Deletion
from common.store.s3.listing import list_objects
from common.store.s3.object_range import read_object
from common.store.s3.prefix import S3Prefix
from common.store.s3.request import ask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from common.store.s3.assembly import S3Assembly

MAX_PUT_BYTES = 5 * 1024**3
"""The largest size of one PUT in bytes, a limit of S3. A chunk file takes 2 kB an image, so 2.5 million fit."""

COMPARE_BYTES = 8 << 20
"""The number of bytes that are read at a time to compare an object with a file."""


class S3Store:
    """See `contract.Store`."""

    part_limits = S3_PART_LIMITS

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.prefix = S3Prefix(uri)
        self._puts = ConditionalWrites(self.prefix, "PutObject")
        self._completions = ConditionalWrites(self.prefix, "CompleteMultipartUpload")
        self._deletion = Deletion(self.prefix)
        self._access = AccessCheck(self.prefix, puts=self._puts, deletion=self._deletion)

    def location(self, key: str) -> str:
        return str(self.prefix.location(key))

    def check_access(self) -> StoreAbilities:
        return self._access.run()

    def stat(self, key: str) -> ObjectStat | None:
        return self.prefix.stat(key)

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        for found in list_objects(self.prefix, prefix):
            yield found.stat

    def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        if length == 0:
            return b""
        try:
            answer = read_object(self.prefix.location(key), start=start, length=length)
        except ObjectAbsent as absent:
            raise StoreUnavailable(f"{self.location(key)} is absent: it was deleted") from absent
        return check_length(self.location(key), answer.data, answer.size - start if length is None else length)

    def put_file(
        self, key: str, path: Path, *, overwrite: bool = True, replacing: ObjectStat | None = None
    ) -> ObjectStat:
        with path.open("rb") as file:
            return self._put(key, file, size=path.stat().st_size, overwrite=overwrite, replacing=replacing)

    def put_bytes(
        self, key: str, data: bytes, *, overwrite: bool = True, replacing: ObjectStat | None = None
    ) -> ObjectStat:
        return self._put(key, io.BytesIO(data), size=len(data), overwrite=overwrite, replacing=replacing)

    def delete(self, keys: Iterable[str]) -> None:
        self._deletion.delete(keys)

    def open(self, key: str, size: int) -> BinaryIO:
        return io.BufferedReader(ObjectReader(self, key, size), READ_AHEAD_BYTES)

    def assemble(
        self,
        key: str,
        *,
        size: int,  # noqa: ARG002 - S3 needs it only at the end
        replacing: ObjectStat | None,
    ) -> AbstractContextManager[S3Assembly]:
        return multipart_upload(self.prefix, key, conditions=self._completions, replacing=replacing)

    def abort_assemblies(self, key: str) -> int:
        return abort_uploads(self.prefix, key)

    def clear_up(self, keys: Iterable[str]) -> int:  # noqa: ARG002 - a PUT that breaks off leaves nothing
        # A program that checks its access at this moment sees that its object is gone, and tries another one.
        leftovers = [found.key for found in leftovers_of_checks(self.prefix)]
        try:
            self.delete(leftovers)
        except StoreAccessDenied as error:
            log.warning("leftovers_stay", objects=len(leftovers), error=str(error))
            return 0
        return len(leftovers)

    def discard_unfinished(self, prefix: str) -> int:  # noqa: ARG002 - a PUT that breaks off leaves nothing
        return 0

    def _put(
        self,
        key: str,
        body: io.BufferedReader | io.BytesIO,
        *,
        size: int,
        overwrite: bool,
        replacing: ObjectStat | None,
    ) -> ObjectStat:
        if size > MAX_PUT_BYTES:
            raise ConfigError(
                f"{self.location(key)} would have {size} bytes, and one upload holds at most {MAX_PUT_BYTES}; "
                "raise EMBEDDER_CHUNK_COUNT"
            )
        md5 = hashlib.file_digest(body, lambda: hashlib.md5(usedforsecurity=False))

        def put(condition: Mapping[str, str]) -> None:
            body.seek(0)
            self.prefix.client.put_object(
                Bucket=self.prefix.bucket,
                Key=self.prefix.full_key(key),
                Body=body,
                ContentLength=size,
                ContentMD5=base64.b64encode(md5.digest()).decode(),
                **condition,  # type: ignore[arg-type]
            )

        def send(condition: Mapping[str, str]) -> None:
            ask(self.location(key), lambda: put(condition))

        def is_same(found: ObjectStat | None) -> bool:
            return found is not None and self._is_same(found, body, size=size, md5=md5.hexdigest())

        try:
            if overwrite:
                send({})
            else:
                self._puts.write(key, send, replacing=replacing)
        except (ObjectExists, ObjectAbsent, StoreAccessDenied) as error:
            # The first PUT may have stored the object and lost its answer; the second one then finds that object, or is
            # denied where objects cannot be replaced.
            stored = self.stat(key)
            if stored is not None and is_same(stored):
                return stored
            if isinstance(error, StoreAccessDenied):
                raise
            raise ObjectExists(self.location(key)) from error
        return self._written(key, is_same, size=size, replacing=replacing, overwrite=overwrite)

    def _written(
        self,
        key: str,
        is_same: Callable[[ObjectStat | None], bool],
        *,
        size: int,
        replacing: ObjectStat | None,
        overwrite: bool,
    ) -> ObjectStat:
        """Return the object that was just written. Raises ObjectReplaced when another one, or none, is there."""

        def is_settled(found: ObjectStat | None) -> bool:
            return found not in (None, replacing) and (not overwrite or is_same(found))

        stored = self.prefix.stat_when(key, is_settled)
        if stored is None or stored.size != size:
            found = "is absent" if stored is None else f"has {stored.size} bytes"
            raise ObjectReplaced(f"{self.location(key)} {found} right after an upload of {size} bytes")
        if not is_same(stored):
            raise ObjectReplaced(f"{self.location(key)} differs from what was uploaded")
        return stored

    def _is_same(self, stored: ObjectStat, body: io.BufferedReader | io.BytesIO, *, size: int, md5: str) -> bool:
        """Return whether the object in the store has the bytes of `body`."""
        # With some server-side encryption an ETag is not the MD5 of the content: then the bytes are compared.
        return stored.size == size and (stored.version == md5 or self._holds(stored.key, body))

    def _holds(self, key: str, body: io.BufferedReader | io.BytesIO) -> bool:
        body.seek(0)
        start = 0
        while block := body.read(COMPARE_BYTES):
            if self.read(key, start, len(block)) != block:
                return False
            start += len(block)
        return True
