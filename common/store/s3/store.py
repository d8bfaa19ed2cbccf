"""A run in an S3 bucket."""

from __future__ import annotations

import base64
import hashlib
import io
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, BinaryIO

from common.errors import ConfigError, EmbedderError, StoreUnavailable
from common.store.contract import AssemblyGone, ObjectAbsent, ObjectExists, ObjectReplaced, ObjectStat, check_length
from common.store.object_reader import READ_AHEAD_BYTES, ObjectReader
from common.store.s3.assembly import S3_PART_LIMITS, abort_uploads, multipart_upload
from common.store.s3.client import PASSING_CODES, StoreFault
from common.store.s3.conditions import ConditionalWrites
from common.store.s3.object_range import read_object
from common.store.s3.prefix import S3Prefix
from common.store.s3.request import ask

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from common.store.s3.assembly import S3Assembly

MAX_PUT_BYTES = 5 * 1024**3
"""The largest size of one PUT in bytes, a limit of S3. A chunk file takes 2 kB an image, so 2.5 million fit."""

DELETE_BATCH = 1000
"""The largest number of keys in one DeleteObjects request, a limit of S3."""

COMPARE_BYTES = 8 << 20
"""The number of bytes that are read at a time to compare an object with a file."""

PROBE_KEY = ".access"
"""The key of the upload that shows the permission to write. It is aborted at once and never becomes an object."""

PROBE_AGE = timedelta(minutes=1)
"""The age of a probe's upload that shows that its program has died."""


class S3Store:
    """See `contract.Store`."""

    part_limits = S3_PART_LIMITS

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.prefix = S3Prefix(uri)
        self._client = self.prefix.client
        self._conditions = ConditionalWrites(self.prefix)

    def location(self, key: str) -> str:
        return str(self.prefix.location(key))

    def check_access(self) -> None:
        ask(
            self.location(""),
            lambda: self._client.list_objects_v2(Bucket=self.prefix.bucket, Prefix=self.prefix.path, MaxKeys=1),
        )
        # An upload that is begun and aborted shows the permission to write, and leaves no object.
        with (
            suppress(AssemblyGone, ObjectAbsent),
            multipart_upload(self.prefix, PROBE_KEY, conditions=self._conditions, replacing=None) as probe,
        ):
            probe.abort()
        # A worker need not have the permission to list uploads: another program clears up then.
        with suppress(EmbedderError):
            abort_uploads(self.prefix, PROBE_KEY, begun_before=datetime.now(UTC) - PROBE_AGE)

    def stat(self, key: str) -> ObjectStat | None:
        return self.prefix.stat(key)

    def list(self, prefix: str) -> Iterator[ObjectStat]:
        token = ""
        while True:
            found, token = ask(self.location(prefix), partial(self._page, self.prefix.full_key(prefix), token))
            yield from found
            if not token:
                return

    def _page(self, prefix: str, token: str) -> tuple[Sequence[ObjectStat], str]:
        """Return the objects of one page, and the token of the next page, "" after the last one."""
        following = {"ContinuationToken": token} if token else {}
        page = self._client.list_objects_v2(
            Bucket=self.prefix.bucket,
            Prefix=prefix,
            **following,  # type: ignore[arg-type]
        )
        found = [
            ObjectStat(each["Key"].removeprefix(self.prefix.path), each["Size"], each["ETag"].strip('"'))
            for each in page.get("Contents", [])
        ]
        return found, page["NextContinuationToken"] if page["IsTruncated"] else ""

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
        names = [{"Key": self.prefix.full_key(key)} for key in keys]
        for first in range(0, len(names), DELETE_BATCH):
            ask(self.location(""), partial(self._delete, names[first : first + DELETE_BATCH]))

    def _delete(self, names: Sequence[dict[str, str]]) -> None:
        answer = self._client.delete_objects(
            Bucket=self.prefix.bucket,
            Delete={"Objects": names, "Quiet": True},  # type: ignore[typeddict-item]
        )
        if errors := answer.get("Errors"):
            kind = StoreFault if errors[0].get("Code") in PASSING_CODES else StoreUnavailable
            raise kind(f"{self.location('')}: {len(errors)} objects were not deleted, the first: {errors[0]}")

    def open(self, key: str, size: int) -> BinaryIO:
        return io.BufferedReader(ObjectReader(self, key, size), READ_AHEAD_BYTES)

    def assemble(
        self,
        key: str,
        *,
        size: int,  # noqa: ARG002 - S3 needs it only at the end
        replacing: ObjectStat | None,
    ) -> AbstractContextManager[S3Assembly]:
        return multipart_upload(self.prefix, key, conditions=self._conditions, replacing=replacing)

    def abort_assemblies(self, key: str) -> int:
        return abort_uploads(self.prefix, key)

    def clear_up(self, keys: Iterable[str]) -> int:  # noqa: ARG002 - a PUT that breaks off leaves nothing
        # A program that probes at this moment ignores the abort.
        return abort_uploads(self.prefix, PROBE_KEY)

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
            self._client.put_object(
                Bucket=self.prefix.bucket,
                Key=self.prefix.full_key(key),
                Body=body,
                ContentLength=size,
                ContentMD5=base64.b64encode(md5.digest()).decode(),
                **condition,  # type: ignore[arg-type]
            )

        def send(condition: Mapping[str, str]) -> None:
            ask(self.location(key), lambda: put(condition))

        try:
            if overwrite:
                send({})
            else:
                self._conditions.write(key, send, replacing=replacing)
        except (ObjectExists, ObjectAbsent) as error:
            # The first PUT may have stored the object and lost its answer; the second one then finds that object.
            stored = self.stat(key)
            if stored is None or not self._is_same(stored, body, size=size, md5=md5.hexdigest()):
                raise ObjectExists(self.location(key)) from error
            return stored
        stored = self.stat(key)
        if stored is None or stored.size != size:
            found = "is absent" if stored is None else f"has {stored.size} bytes"
            raise ObjectReplaced(f"{self.location(key)} {found} right after an upload of {size} bytes")
        if not self._is_same(stored, body, size=size, md5=md5.hexdigest()):
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
