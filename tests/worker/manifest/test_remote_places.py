"""What EMBEDDER_MANIFEST_URI may name in a bucket and on HTTP servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import ManifestError, SourceUnavailable, StoreAccessDenied
from tests.manifest_server import ManifestServer, manifest_server
from tests.s3_proxy import S3Proxy, s3_proxy
from tests.worker.manifest.manifests import everything, opened, rows_of, settings_for
from worker.manifest.manifest import open_manifest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mypy_boto3_s3 import S3Client
