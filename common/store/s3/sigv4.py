"""URLs of S3 objects with a signature in their query string, by AWS Signature Version 4.

The SDK's own signer takes several times as long, and a worker signs a URL for every image of an `s3://` list.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote

_ALGORITHM = "AWS4-HMAC-SHA256"
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


class Key(NamedTuple):
    """Credentials, as the SDK gives them at one moment."""

    access_key: str
    secret_key: str
    token: str | None
    """The session token of temporary credentials."""


def presigned_url(url: str, key: Key, *, region: str, expires_seconds: int, now: float) -> str:
    """Return `url` with a signature that lets anybody GET it for `expires_seconds` from `now`.

    `url` is percent-encoded and has no query. `now` is Unix time in seconds. The signature is described in
    https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html
    """
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    host = host.lower().removesuffix(_DEFAULT_PORTS.get(scheme.lower(), ""))
    query, heading, signing_key = _of_second(key, region, expires_seconds, int(now))
    request = f"GET\n{slash}{path}\n{query}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD"
    text = f"{heading}\n{hashlib.sha256(request.encode()).hexdigest()}"
    return f"{url}?{query}&X-Amz-Signature={_hmac(signing_key, text).hex()}"


class _OfSecond(NamedTuple):
    """What all signatures of one second have in common."""

    query: str
    heading: str
    """The first lines of the text that is signed."""
    signing_key: bytes


@lru_cache(maxsize=8)
def _of_second(key: Key, region: str, expires_seconds: int, now: int) -> _OfSecond:
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    date = moment[:8]
    scope = f"{date}/{region}/s3/aws4_request"
    token = f"&X-Amz-Security-Token={quote(key.token, safe='')}" if key.token else ""
    query = (
        f"X-Amz-Algorithm={_ALGORITHM}&X-Amz-Credential={quote(f'{key.access_key}/{scope}', safe='')}"
        f"&X-Amz-Date={moment}&X-Amz-Expires={expires_seconds}{token}&X-Amz-SignedHeaders=host"
    )
    heading = f"{_ALGORITHM}\n{moment}\n{scope}"
    return _OfSecond(query, heading, _signing_key(key.secret_key, date, region))


@lru_cache(maxsize=8)
def _signing_key(secret_key: str, date: str, region: str) -> bytes:
    found = f"AWS4{secret_key}".encode()
    for part in (date, region, "s3", "aws4_request"):
        found = _hmac(found, part)
    return found


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")
