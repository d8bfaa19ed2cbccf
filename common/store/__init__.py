"""The store of a run: a folder, or a prefix in an S3 bucket. `contract` says what both promise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.errors import SettingsError
from common.logs import redact_url
from common.store.folder import FolderStore

if TYPE_CHECKING:
    from common.store.contract import Store


def open_store(uri: str) -> Store:
    """Return the store at `uri`: `s3://bucket/prefix`, a folder's path, or `file://` and a path.

    Raises SettingsError for any other URL.
    """
    scheme, separator, _ = uri.partition("://")
    if separator and scheme not in {"s3", "file"}:
        raise SettingsError(f"{redact_url(uri)} is not a place for a run; give s3://bucket/prefix or a folder's path")
    if scheme != "s3" or not separator:
        return FolderStore(uri)
    # boto3 doubles the time that a program takes to start, and a run in a folder does not need it.
    from common.store.s3.store import S3Store  # noqa: PLC0415

    return S3Store(uri)
