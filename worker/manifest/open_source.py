"""Which source a manifest's URI names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.errors import ManifestError
from common.logs import redact_url
from worker.manifest.local_source import LocalSource, local_path

if TYPE_CHECKING:
    from worker.manifest.byte_source import ByteSource
    from worker.settings import HttpSettings


def open_source(uri: str, http: HttpSettings) -> ByteSource:
    """Return the source at `uri`: a path, or a file://, http://, https:// or s3:// URL.

    Raises ManifestError where there is none, StoreAccessDenied where it is not ours to read, and SourceUnavailable
    where nobody can say.
    """
    scheme = uri.partition("://")[0].lower() if "://" in uri else "file"
    if scheme == "file":
        return LocalSource(local_path(uri))
    if scheme == "s3":
        # boto3 takes half a second to load, which other sources need not wait for.
        from worker.manifest.s3_source import S3Source  # noqa: PLC0415

        return S3Source(uri)
    if scheme in {"http", "https"}:
        # Imported here, so that neither the local path nor S3 loads the other's client.
        from worker.manifest.http_source import HttpSource  # noqa: PLC0415

        return HttpSource(
            uri,
            user_agent=http.user_agent,
            connect_timeout_seconds=http.connect_timeout_seconds,
            read_timeout_seconds=http.read_timeout_seconds,
            retry_after_limit_seconds=http.retry_after_limit_seconds,
        )
    raise ManifestError(f"{redact_url(uri)}: {scheme}:// is not read; use a path, http://, https:// or s3://")


def is_remote(uri: str) -> bool:
    return "://" in uri and not uri.lower().startswith("file://")
