"""Signed URLs have the same parameters and signatures as the SDK's."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import parse_qs, urlsplit

import pytest
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials

from common.store.s3.sigv4 import Key, Signer, server_of


@pytest.mark.parametrize("is_payer", [False, True])
@pytest.mark.parametrize("token", [None, "FwoGZXIvYXdzE+/=="])
@pytest.mark.parametrize(
    "url",
    [
        "https://photos.s3.eu-central-1.amazonaws.com/a/b.jpg",
        "http://127.0.0.1:9000/photos/a%20b/%C3%BC%2Bc%26d%3De.jpg",
        "https://Store.example:443/under/a/path/~tilde/%28x%29%27.jpg",
        "http://[::1]:8333/photos/a//b.jpg",
        "http://store.example:80/photos/%25.jpg",
        "HTTP://store.example:80/photos/a.jpg",
    ],
)
def test_a_url_is_signed_as_the_sdk_signs_it(url: str, token: str | None, is_payer: bool) -> None:
    payer = {"x-amz-request-payer": "requester"} if is_payer else {}
    request = AWSRequest(method="GET", url=url, params=payer)
    credentials = ReadOnlyCredentials("AKIDEXAMPLE", "wJalr/secret+KEY", token)
    S3SigV4QueryAuth(credentials, "s3", "eu-central-1", expires=3600).add_auth(request)
    expected = parse_qs(urlsplit(str(request.url)).query)
    now = datetime.strptime(expected["X-Amz-Date"][0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
    key = Key("AKIDEXAMPLE", "wJalr/secret+KEY", token)
    server = server_of(url)
    signer = Signer(key, region="eu-central-1", expires_seconds=3600, now=now, is_payer=is_payer)
    signed = signer.presigned_url(server, url.removeprefix(server.url))
    assert signed.startswith(f"{url}?")
    assert parse_qs(urlsplit(signed).query) == expected
