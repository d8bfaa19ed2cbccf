"""The store of a run: a folder, or a prefix in an S3 bucket. `contract` says what both promise."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from common.store.contract import Store


def open_store(uri: str) -> Store:
    """Return the store at `uri`: `s3://bucket/prefix`, a folder's path, or `file://` and a path."""
    # The two are imported here, so that a run in a folder loads no boto3.
    if uri.startswith("s3://"):
        from common.store.s3.store import S3Store  # noqa: PLC0415

        return S3Store(uri)
    from common.store.folder import FolderStore  # noqa: PLC0415

    return FolderStore(uri)
