"""The door to the S3 SDK: its clients and its credentials.

Only this module, `session` and `errors` import boto3 and botocore. The SDK's own environment variables and files
configure S3.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from common.errors import SettingsError
from common.settings import S3Settings, read_settings
from common.store.s3 import headers, list_answer
from common.store.s3.errors import PASSING_STATUSES
from common.store.s3.session import sdk
from common.store.s3.sigv4 import Key

if TYPE_CHECKING:
    from collections.abc import Callable

    from mypy_boto3_s3 import S3Client

CONNECT_SECONDS = 10
"""The longest time in seconds to connect to the store."""

READ_SECONDS = 60
"""The longest time in seconds without a byte of an answer, before the request counts as failed."""

POOL_CONNECTIONS = 72
"""The number of connections that stay open for the next request: a merge makes 32 copies, 32 reads and 4 uploads at a
time."""


_given_up: list[S3Client] = []
"""The clients in whose place `use_virtual_hosts` has put another one."""


@cache
def s3_client() -> S3Client:
    """Return this process's client; boto3 clients may be shared between threads."""
    config = Config(
        retries={"mode": "standard", "total_max_attempts": 1},  # `request.ask` repeats requests instead
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        max_pool_connections=POOL_CONNECTIONS,
        tcp_keepalive=True,
        # The SDK would add CRCs as trailers of the content. Google, Cloudflare R2, Backblaze B2 and older versions of
        # Ceph and MinIO refuse them, or store them as content. Each upload has an MD5 instead.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    settings = read_settings(S3Settings)
    try:
        client = sdk().client(config)
    except (BotoCoreError, ValueError) as error:
        raise SettingsError(f"S3 cannot be set up: {error}") from error
    headers.register(client, settings)
    list_answer.register(client)
    return client


@cache
def unsigned_client(*, region: str = "", addressing: str = "") -> S3Client:
    """Return a client that sends requests and makes URLs without a signature.

    Region and addressing style are the session's by default.
    """
    config = Config(
        signature_version=UNSIGNED,
        retries={"mode": "standard", "total_max_attempts": 1},  # as above
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
    )
    return sdk().client(config, region=region, addressing=addressing)


def region_of_bucket(bucket: str) -> str:
    """Return the region in which the bucket is, the session's region if S3 does not say another one.

    A list may name buckets of any region. S3 tells the region of a bucket to whoever asks, without any permission. An
    endpoint of one's own has one region. The bucket is in the request's path, so that no name in a list becomes a part
    of a host that cannot be resolved.
    """
    if sdk().endpoint:
        return sdk().region
    try:
        answer: Any = unsigned_client(addressing="path").head_bucket(Bucket=bucket)
    except ClientError as error:
        answer = error.response
        status = answer["ResponseMetadata"]["HTTPStatusCode"]
        if status >= 500 or status in PASSING_STATUSES:
            raise
    return str(answer["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region") or sdk().region)


def use_virtual_hosts() -> bool:
    """Put the bucket into the host of every later request. Return whether that is a change that no setting forbids."""
    if not sdk().use_virtual_hosts():
        return False
    _given_up.append(s3_client())
    s3_client.cache_clear()
    unsigned_client.cache_clear()
    return True


def current_client(client: S3Client) -> S3Client:
    """Return the client, or the one that has taken its place."""
    return s3_client() if any(client is each for each in _given_up) else client


class Credentials:
    """The credentials of this process as the SDK finds them. The SDK renews them when they are about to expire."""

    def __init__(self) -> None:
        self._found: Any = sdk().credentials
        self._refresh_needed: Callable[[], bool] | None = getattr(self._found, "refresh_needed", None)

    def key(self) -> Key | None:
        """Return the credentials as they are now, None when there are none. The call renews them when it must."""
        if self._found is None:
            return None
        frozen = self._found.get_frozen_credentials()
        return Key(frozen.access_key or "", frozen.secret_key or "", frozen.token)

    @property
    def must_be_renewed(self) -> bool:
        """Whether the next `key` waits for the network."""
        return self._refresh_needed is not None and bool(self._refresh_needed())


def clear_clients() -> None:
    """Forget the clients, so that the next call makes new ones from the environment at that time."""
    s3_client.cache_clear()
    unsigned_client.cache_clear()
    sdk.cache_clear()
    _given_up.clear()
