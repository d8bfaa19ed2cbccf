"""Opens the place that a manifest's URI names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.errors import ManifestError
from common.logs import redact_url
from worker.manifest.byte_source import MANIFEST_SETTING
from worker.manifest.http_source import RETRY, HttpSource
from worker.manifest.local_source import LocalSource, local_path

if TYPE_CHECKING:
    from common.retry import RetryPolicy
    from worker.manifest.byte_source import ByteSource
    from worker.settings import HttpSettings


def open_source(
    uri: str, http: HttpSettings, *, http_retry: RetryPolicy = RETRY, setting: str = MANIFEST_SETTING
) -> ByteSource:
    """Return the source at `uri`: a path, or a file://, http://, https:// or s3:// URL. Errors name `setting`.

    Raises ManifestError when there is no such source, StoreAccessDenied when it may not be read, and
    SourceUnavailable when its server does not answer.
    """
    scheme = uri.partition("://")[0].lower() if "://" in uri else "file"
    if scheme == "file":
        return LocalSource(local_path(uri), setting=setting)
    if scheme == "s3":
        # boto3 takes 90 ms and 10 MB, which no other source needs.
        from worker.manifest.s3_source import S3Source  # noqa: PLC0415

        return S3Source(uri, setting=setting)
    if scheme in {"http", "https"}:
        return HttpSource(uri, http, retry=http_retry)
    raise ManifestError(f"{redact_url(uri)}: {scheme}:// is not supported; use a path, http://, https:// or s3://")


def is_remote(uri: str) -> bool:
    """Return whether `uri` names no file of this machine."""
    return "://" in uri and not uri.lower().startswith("file://")
