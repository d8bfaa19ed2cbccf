"""Why an image is in the ledger instead of the result: a closed set, explained in the README."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    # The row
    MALFORMED_ROW = "malformed_row"
    URL_TOO_LONG = "url_too_long"
    INVALID_URL = "invalid_url"
    NO_SOURCE = "no_source"
    # The source
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
    TOO_MANY_PIXELS = "too_many_pixels"
    DECODE_TIMEOUT = "decode_timeout"
    DECODER_DIED = "decoder_died"
    NOT_FINITE = "not_finite"


REASON_HELP: dict[Reason, str] = {
    Reason.MALFORMED_ROW: "the manifest's row cannot be read: wrong number of columns, broken quotes, not UTF-8, "
    "no URL, a rotation that is no multiple of 90",
    Reason.URL_TOO_LONG: "the URL is longer than EMBEDDER_MAX_URL_BYTES",
    Reason.INVALID_URL: "the URL has no host, a scheme other than http, https or s3, or control characters; or it "
    "names a file in a manifest that is none itself",
    Reason.NO_SOURCE: "the row has no URL for any of the sources asked for",
    Reason.FORBIDDEN_HOST: "the host is, or resolves to, a private, loopback or link-local address, or the port is "
    "not 80 or 443 (EMBEDDER_ALLOW_PRIVATE_HOSTS opens both)",
    Reason.NOT_FOUND: "404 or 410, or no such file",
    Reason.ACCESS_DENIED: "401, 403 or 451",
    Reason.RATE_LIMITED: "still 429 after all attempts",
    Reason.SERVER_ERROR: "still a 5xx status after all attempts",
    Reason.HTTP_ERROR: "any other status that is not 200",
    Reason.TOO_MANY_REDIRECTS: "more than 5 redirects, or a redirect to nowhere",
    Reason.TIMEOUT: "no complete answer in time, after all attempts",
    Reason.CONNECTION_FAILED: "no such host, connection refused or reset, or TLS failed, after all attempts",
    Reason.UNAVAILABLE_PLACEHOLDER: "the source answered with its picture that says the photo is gone",
    Reason.TOO_LARGE: "more bytes than EMBEDDER_MAX_IMAGE_BYTES",
    Reason.NOT_AN_IMAGE: "the bytes are no image in a format that is read",
    Reason.TRUNCATED: "the image ends too early",
    Reason.CORRUPT: "the image's data cannot be decoded",
    Reason.TOO_MANY_PIXELS: "the header announces more pixels than EMBEDDER_MAX_IMAGE_PIXELS",
    Reason.DECODE_TIMEOUT: "decoding took more than EMBEDDER_DECODE_TIMEOUT_SECONDS of CPU time",
    Reason.DECODER_DIED: "a decoder's process died of it, twice, as of a fault in a library",
    Reason.NOT_FINITE: "the model's output is not finite or has no length",
}
