"""The upload of a large file: S3 takes 5 GiB in one request, and an index of 10 million rows has 22 GB."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from common.errors import StoreUnavailable
from common.store.contract import ObjectReplaced

if TYPE_CHECKING:
    from pathlib import Path

    from common.store.contract import Assembly, ObjectStat, Store

ONE_REQUEST_BYTES = 64 << 20
"""Size in bytes up to which a file is sent in one request."""

PART_BYTES = 64 << 20
"""Size of a part in bytes. A file that would take more parts than the store allows is sent in larger ones."""

UPLOADS = 4
"""Number of parts that are sent at the same time. Each is held in memory meanwhile."""


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def put_large_file(
    store: Store,
    key: str,
    path: Path,
    *,
    replacing: ObjectStat | None,
    one_request_bytes: int = ONE_REQUEST_BYTES,
    part_bytes: int = PART_BYTES,
) -> ObjectStat:
    """Write a file of any size as the object, verified, and return the object. It replaces only `replacing`.

    Raises ObjectExists when another object is there, AssemblyGone when another program aborted the upload, and
    StoreUnavailable.
    """
    size = path.stat().st_size
    if size <= one_request_bytes:
        return store.put_file(key, path, overwrite=False, replacing=replacing)
    part_bytes = max(part_bytes, store.part_limits.min_bytes, -(-size // store.part_limits.max_count))
    starts = range(0, size, part_bytes)
    with store.assemble(key, size=size, replacing=replacing) as assembly:
        _send(assembly, path, starts, part_bytes)
        if assembly.is_readable:
            _compare(assembly, path, starts, part_bytes)
        stat = assembly.publish()
    if stat.size != size:
        raise ObjectReplaced(f"{store.location(key)} has {stat.size} bytes right after an upload of {size} bytes")
    return stat


def _send(assembly: Assembly, path: Path, starts: range, part_bytes: int) -> None:
    """Send all parts. A store checks each of them against its MD5."""

    def send(number: int, start: int) -> None:
        with path.open("rb") as file:
            file.seek(start)
            assembly.upload(number, start, file.read(part_bytes))

    pool = ThreadPoolExecutor(UPLOADS, thread_name_prefix="upload")
    try:
        for _ in pool.map(send, range(1, len(starts) + 1), starts):
            pass
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def _compare(assembly: Assembly, path: Path, starts: range, part_bytes: int) -> None:
    with path.open("rb") as file:
        for start in starts:
            data = file.read(part_bytes)
            if assembly.read(start, len(data)) != data:
                raise StoreUnavailable(f"{path} reads back with other bytes than were written; the disk is faulty")
