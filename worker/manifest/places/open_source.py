"""Opens the place that a manifest's URI names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.errors import ManifestError
from common.logs import redact_url
from worker.manifest.places.byte_source import MANIFEST_SETTING
from worker.manifest.places.http_source import RETRY, HttpSource
from worker.manifest.places.local_source import LocalSource, local_path
from worker.manifest.places.uri_list import scheme_of

if TYPE_CHECKING:
    from common.retry import RetryPolicy
    from worker.manifest.places.byte_source import ByteSource
    from worker.settings import HttpSettings


def open_source(
    uri: str,
    http: HttpSettings,
    *,
    http_retry: RetryPolicy = RETRY,
    token: str = "",
    is_one_of_many: bool = False,
    setting: str = MANIFEST_SETTING,
) -> ByteSource:
    """Return the source at `uri`: a path, or a file://, http://, https:// or s3:// URL. Errors name `setting`.

    `token` and `is_one_of_many` are for http:// and https://, see HttpSource.

    Raises ManifestError when there is no such source, StoreAccessDenied when it may not be read, and
    SourceUnavailable when its server does not answer.
    """
    scheme = scheme_of(uri)
    if scheme == "file":
        return LocalSource(local_path(uri), setting=setting)
    if scheme == "s3":
        # boto3 takes 90 ms and 10 MB, which no other source needs.
        from worker.manifest.places.s3_source import S3Source  # noqa: PLC0415

        return S3Source(uri, setting=setting)
    if scheme in {"http", "https"}:
        return HttpSource(uri, http, token=token, retry=http_retry, is_one_of_many=is_one_of_many)
    raise ManifestError(
        f"{redact_url(uri)}: {scheme}:// is not supported; use a path, http://, https://, s3://, gs:// or "
        "hf://datasets/"
    )
