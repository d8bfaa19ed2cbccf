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

REQUEST_PAYER = ("x-amz-request-payer", "requester")
"""The header, or the parameter of a signed URL, that says that the one who asks pays for the request."""

_ALGORITHM = "AWS4-HMAC-SHA256"
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
_INNER, _OUTER = (bytes(byte ^ pad for byte in range(256)) for pad in (0x36, 0x5C))
"""What the bytes of a key become in the two hashes of an HMAC."""


class Key(NamedTuple):
    """Credentials, as the SDK gives them at one moment."""

    access_key: str
    secret_key: str
    token: str | None
    """The session token of temporary credentials."""


class Server(NamedTuple):
    """The part of a URL before its path."""

    url: str
    host: str
    """The value of the header Host."""


def server_of(url: str) -> Server:
    scheme, _, rest = url.partition("://")
    name = rest.partition("/")[0]
    host = name.lower().removesuffix(_DEFAULT_PORTS.get(scheme.lower(), ""))
    return Server(f"{scheme}://{name}", host)


class Signer:
    """Signs URLs with one key, from one moment on. Many URLs of the same second need one Signer.

    A signature lets anybody GET its URL for `expires_seconds` from `now`, a Unix time in seconds. It is described in
    https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html

    With `is_payer` the URLs say that the owner of the key pays for the requests (requester pays).
    """

    def __init__(self, key: Key, *, region: str, expires_seconds: int, now: float, is_payer: bool = False) -> None:
        moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
        date = moment[:8]
        scope = f"{date}/{region}/s3/aws4_request"
        token = f"&X-Amz-Security-Token={quote(key.token, safe='')}" if key.token else ""
        payer = f"&{'='.join(REQUEST_PAYER)}" if is_payer else ""
        self._query = (
            f"X-Amz-Algorithm={_ALGORITHM}&X-Amz-Credential={quote(f'{key.access_key}/{scope}', safe='')}"
            f"&X-Amz-Date={moment}&X-Amz-Expires={expires_seconds}{token}&X-Amz-SignedHeaders=host{payer}"
        )
        # An HMAC by its definition in RFC 2104. Its two hashes begin alike for all URLs of the second, and a copy of a
        # hash takes half the time of an HMAC object.
        signing_key = _signing_key(key.secret_key, date, region).ljust(hashlib.sha256().block_size, b"\0")
        self._inner = hashlib.sha256(signing_key.translate(_INNER) + f"{_ALGORITHM}\n{moment}\n{scope}\n".encode())
        self._outer = hashlib.sha256(signing_key.translate(_OUTER))

    def presigned_url(self, server: Server, path: str) -> str:
        """Return the signed URL of a path on a server. The path is percent-encoded and has no query."""
        request = f"GET\n{path}\n{self._query}\nhost:{server.host}\n\nhost\nUNSIGNED-PAYLOAD"
        inner, signature = self._inner.copy(), self._outer.copy()
        inner.update(hashlib.sha256(request.encode()).hexdigest().encode())
        signature.update(inner.digest())
        return f"{server.url}{path}?{self._query}&X-Amz-Signature={signature.hexdigest()}"


@lru_cache(maxsize=8)
def _signing_key(secret_key: str, date: str, region: str) -> bytes:
    found = f"AWS4{secret_key}".encode()
    for part in (date, region, "s3", "aws4_request"):
        found = _hmac(found, part)
    return found


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")
