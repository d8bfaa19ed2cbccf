"""Why an image is in the ledger instead of the result: a closed set, explained in docs/result.md."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """The value of the column `reason` of the ledger."""

    # The row
    MALFORMED_ROW = "malformed_row"
    URL_TOO_LONG = "url_too_long"
    INVALID_URL = "invalid_url"
    NO_SOURCE = "no_source"
    # The source
    DEFERRED = "deferred"
    FORBIDDEN_HOST = "forbidden_host"
    NOT_FOUND = "not_found"
    ACCESS_DENIED = "access_denied"
    RATE_LIMITED = "rate_limited"
    SERVER_ERROR = "server_error"
    HTTP_ERROR = "http_error"
    TOO_MANY_REDIRECTS = "too_many_redirects"
    TIMEOUT = "timeout"
    CONNECTION_FAILED = "connection_failed"
    UNAVAILABLE_PLACEHOLDER = "unavailable_placeholder"
    TOO_LARGE = "too_large"
    # The image
    NOT_AN_IMAGE = "not_an_image"
    TRUNCATED = "truncated"
    CORRUPT = "corrupt"
    UNSUPPORTED_PIXELS = "unsupported_pixels"
    TOO_MANY_PIXELS = "too_many_pixels"
    DECODE_TIMEOUT = "decode_timeout"
    DECODER_DIED = "decoder_died"
    NOT_FINITE = "not_finite"


REASON_HELP: dict[Reason, str] = {
    Reason.MALFORMED_ROW: "the row of the manifest cannot be read: wrong number of columns, broken quotes, "
    "not UTF-8, no URL, or a rotation that is not a multiple of 90; or a tar is damaged, or a picture in it is a link",
    Reason.URL_TOO_LONG: "the URL is longer than EMBEDDER_MAX_URL_BYTES",
    Reason.INVALID_URL: "the text is not the URL of an image; the detail says what is wrong: no scheme or host, a "
    "scheme other than http, https or s3, a Windows path, several URLs, control characters; or it names a local "
    "file, and the manifest is not a local file itself",
    Reason.NO_SOURCE: "the row has no URL for any source in EMBEDDER_SOURCES",
    Reason.DEFERRED: "the image's site serves slowly, and the chunk ended before the image's turn came; a top-up "
    "fetches it",
    Reason.FORBIDDEN_HOST: "the host is a private, loopback or link-local address or resolves to one, or the port is "
    "not 80 or 443 (EMBEDDER_ALLOW_PRIVATE_HOSTS allows both)",
    Reason.NOT_FOUND: "the source answered with status 404 or 410, or there is no such file",
    Reason.ACCESS_DENIED: "the source answered with status 401, 403 or 451",
    Reason.RATE_LIMITED: "the source answered with status 429 to the last attempt",
    Reason.SERVER_ERROR: "the source answered with a 5xx status to the last attempt",
    Reason.HTTP_ERROR: "the source answered with another status that has no picture, or with a part of it",
    Reason.TOO_MANY_REDIRECTS: "the source redirected more than 5 times, or without a target",
    Reason.TIMEOUT: "no attempt got a complete answer in time",
    Reason.CONNECTION_FAILED: "no attempt got a usable answer: no such host, connection refused or reset, TLS or "
    "its certificate failed, or the answer is not HTTP or broke off",
    Reason.UNAVAILABLE_PLACEHOLDER: "the source answered with its placeholder picture for a removed photo",
    Reason.TOO_LARGE: "the image has more bytes than EMBEDDER_MAX_IMAGE_BYTES, as it is sent or once it is inflated",
    Reason.NOT_AN_IMAGE: "the bytes are not an image in a supported format",
    Reason.TRUNCATED: "the image file ends too early",
    Reason.CORRUPT: "the data of the image cannot be decoded, or not inflated",
    Reason.UNSUPPORTED_PIXELS: "nobody knows which values are black and white, the pixels are of a kind that cannot be "
    "read, or the picture is in its transparency alone",
    Reason.TOO_MANY_PIXELS: "the header of the image announces more pixels than EMBEDDER_MAX_IMAGE_PIXELS",
    Reason.DECODE_TIMEOUT: "decoding took more than EMBEDDER_DECODE_TIMEOUT_SECONDS of CPU time",
    Reason.DECODER_DIED: "the decoder process crashed twice on this image, for example by a fault in a library",
    Reason.NOT_FINITE: "the vector that the model returned is not finite, or has length 0",
}

MAY_PASS = frozenset(
    {Reason.DEFERRED, Reason.RATE_LIMITED, Reason.SERVER_ERROR, Reason.TIMEOUT, Reason.CONNECTION_FAILED}
)
"""The reasons that say more about a moment than about the image: the images that a top-up fetches by default."""

HELD_BACK = frozenset({Reason.DEFERRED, Reason.RATE_LIMITED})
"""The reasons of images whose site serves them at a pace of its own."""
