"""Indexes of runs in a bucket, kept on this machine: $XDG_CACHE_HOME/embedder/indexes, by default ~/.cache."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import StoreUnavailable
from common.process.leftovers import held, remove_if_left_over
from common.run.keys import INDEX_KEY

if TYPE_CHECKING:
    from common.store.contract import Store
    from results.current_index import CurrentIndex

BLOCK_BYTES = 16 << 20
"""Size in bytes of one read of the download."""

FREE_BYTES = 1 << 30
"""Bytes that a download leaves free on the disk."""


class NotCached(Exception):
    """The index cannot be kept on this machine. The message is a clause that says why."""


def cached_path(store: Store, index: CurrentIndex) -> Path:
    """Return where this version of the run's index is kept, whether or not it is there.

    Raises NotCached where this machine has no place for it.
    """
    version = re.sub(r"[^0-9A-Za-z-]", "_", index.stat.version)
    return _folder() / f"{_run_name(store)}-{version}.bin"


def keep_index(store: Store, index: CurrentIndex) -> Path:
    """Return the path of the index on this machine, after a download if it is not there.

    Other versions of the same run's index are removed. Raises NotCached where there is no room for it, and
    StoreUnavailable.
    """
    path = cached_path(store, index)
    if path.exists():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left_over in path.parent.glob(".*.part"):
            remove_if_left_over(left_over)
        if (free := shutil.disk_usage(path.parent).free) < index.stat.size + FREE_BYTES:
            raise NotCached(f"{path.parent} has {free} bytes free, and the index has {index.stat.size}")
        with held(lambda: _new_part(path)) as part:
            try:
                _download(store, index, part)
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
        for other in path.parent.glob(f"{_run_name(store)}-*.bin"):
            if other != path:
                other.unlink(missing_ok=True)
    except OSError as error:
        raise NotCached(f"{error.filename or path}: {error.strerror}") from error
    return path


def remove_cached(path: Path) -> None:
    """Remove a cached index that is damaged."""
    with suppress(OSError):
        path.unlink(missing_ok=True)


def _folder() -> Path:
    try:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError as error:
        raise NotCached("this user has no home folder, and XDG_CACHE_HOME is not set") from error
    return caches / "embedder" / "indexes"


def _run_name(store: Store) -> str:
    return hashlib.sha256(store.location(INDEX_KEY).encode()).hexdigest()[:16]


def _new_part(path: Path) -> Path:
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    part.touch(exist_ok=False)
    return part


def _download(store: Store, index: CurrentIndex, path: Path) -> None:
    with path.open("wb") as file:
        for start in range(0, index.stat.size, BLOCK_BYTES):
            file.write(store.read(INDEX_KEY, start, min(BLOCK_BYTES, index.stat.size - start)))
        file.flush()
        os.fsync(file.fileno())
    if store.stat(INDEX_KEY) != index.stat:
        raise StoreUnavailable(f"{store.location(INDEX_KEY)} was replaced while it was downloaded")
