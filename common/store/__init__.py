"""The store of a run: a folder, or a prefix in an S3 bucket. `contract` says what both promise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.store.folder import FolderStore

if TYPE_CHECKING:
    from common.store.contract import Store


def open_store(uri: str) -> Store:
    """Return the store at `uri`: `s3://bucket/prefix`, a folder's path, or `file://` and a path."""
    if not uri.startswith("s3://"):
        return FolderStore(uri)
    # boto3 doubles the time that a program takes to start, and a run in a folder does not need it.
    from common.store.s3.store import S3Store  # noqa: PLC0415

    return S3Store(uri)
