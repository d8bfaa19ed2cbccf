"""The endpoint of S3 that a person has set, and what follows from it. Nothing here loads the SDK, which takes 0.3 s."""

from __future__ import annotations

import os
import re
from pathlib import Path

DEFAULT_REGION = "us-east-1"
"""The region of requests to an endpoint of one's own, where none is set: the one that most stores take."""

_REGION_IN_HOST = re.compile(
    r"//(?:.+\.)?s3[.-](?:fips\.|dualstack\.)*([a-z]{2}(?:-[a-z]+)+-[0-9]+)\.(?:vpce\.)?"
    r"(?:amazonaws\.com|amazonaws\.com\.cn|backblazeb2\.com|wasabisys\.com)(?:[:/]|$)"
)
"""Hosts of AWS and of other public stores that name their region, and refuse signatures for another one."""

_VIRTUAL_HOSTS_ONLY = re.compile(r"//[a-z0-9.-]+\.(?:aliyuncs\.com|myqcloud\.com|tencentcos\.cn|volces\.com)(?:[:/]|$)")
"""Hosts of public stores that take the bucket's name only in the host."""


def endpoint_of_environment() -> str | None:
    """Return the URL that takes the place of AWS's own endpoint, an empty text if there is none.

    It comes from AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL, in this order. With AWS_IGNORE_CONFIGURED_ENDPOINT_URLS there
    is none. Returns None if only the SDK's profile can tell.
    """
    if os.environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true":
        return ""
    named = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    path = os.environ.get("AWS_CONFIG_FILE") or "~/.aws/config"
    return named or (None if Path(path).expanduser().exists() else "")


def has_virtual_hosts_only(endpoint: str) -> bool:
    """Return whether the endpoint is of a public store that takes the bucket's name only in the host."""
    return bool(_VIRTUAL_HOSTS_ONLY.search(endpoint.lower()))


def region_in(endpoint: str) -> str:
    """Return the region that the endpoint's host names, an empty text if it names none."""
    match = _REGION_IN_HOST.search(endpoint.lower())
    return match[1] if match else ""
