"""What helps against failed images: one piece of advice for each reason, with the setting that fits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.format.reasons import Reason
from worker.url_forms import SCHEME

if TYPE_CHECKING:
    from collections.abc import Collection

_WITHOUT_THEM = "or raise EMBEDDER_MAX_FAILURE_RATIO to go on without these images"

ADVICE: dict[Reason, str] = {
    Reason.MALFORMED_ROW: "look at these rows of the list; EMBEDDER_MANIFEST_FORMAT names its format, and "
    "EMBEDDER_URL_COLUMN the column of its URLs",
    Reason.URL_TOO_LONG: "raise EMBEDDER_MAX_URL_BYTES, or name the column of the URLs in EMBEDDER_URL_COLUMN if this "
    "is another one",
    Reason.INVALID_URL: "repair these rows as their details say; a list on this machine may name files by their paths, "
    "any other list needs whole URLs; if this is the wrong column, name the right one in EMBEDDER_URL_COLUMN",
    Reason.NO_SOURCE: "choose sources in EMBEDDER_SOURCES that these rows have; the mirror needs an id and a subset "
    "(EMBEDDER_SUBSET)",
    Reason.DEFERRED: "these images had no turn before the chunk ended: fetch them with a top-up",
    Reason.FORBIDDEN_HOST: "private addresses and unusual ports are not fetched from; if the hosts are your own, set "
    "EMBEDDER_ALLOW_PRIVATE_HOSTS to true (worker.allowPrivateHosts in the chart)",
    Reason.NOT_FOUND: f"the list is old or has wrong addresses: take a newer list, {_WITHOUT_THEM}",
    Reason.ACCESS_DENIED: "use URLs that need no login, or for s3:// credentials that may read the objects; some sites "
    "refuse programs that EMBEDDER_USER_AGENT does not introduce",
    Reason.RATE_LIMITED: "a worker finds the pace that a site bears by itself: fetch from a mirror (EMBEDDER_SOURCES, "
    "EMBEDDER_MIRROR_URL), run fewer pods at the same time, or fetch these images later with a top-up",
    Reason.SERVER_ERROR: "these hosts are overloaded or broken: run fewer pods at the same time, fetch from a mirror "
    "(EMBEDDER_SOURCES, EMBEDDER_MIRROR_URL), or fetch these images later with a top-up",
    Reason.HTTP_ERROR: f"open an example in a browser and repair the URLs in the list, {_WITHOUT_THEM}",
    Reason.TOO_MANY_REDIRECTS: f"write the addresses at which the images lie into the list, {_WITHOUT_THEM}",
    Reason.TIMEOUT: "raise EMBEDDER_FETCH_TIMEOUT_SECONDS, EMBEDDER_READ_TIMEOUT_SECONDS or EMBEDDER_FETCH_ATTEMPTS, "
    "or lower EMBEDDER_FETCH_CONCURRENCY_PER_HOST",
    Reason.CONNECTION_FAILED: "check that these hosts exist and can be reached from here (a proxy: HTTPS_PROXY); if "
    "their certificates are refused, EMBEDDER_CA_BUNDLE names a private authority, and "
    "EMBEDDER_VERIFY_IMAGE_CERTIFICATES=false accepts any certificate",
    Reason.UNAVAILABLE_PLACEHOLDER: "the owners have removed these photos: fetch from a mirror (EMBEDDER_SOURCES), "
    f"{_WITHOUT_THEM}",
    Reason.TOO_LARGE: "raise EMBEDDER_MAX_IMAGE_BYTES",
    Reason.NOT_AN_IMAGE: "open an example in a browser: if the URLs lead to pages, name the column of the image URLs "
    f"in EMBEDDER_URL_COLUMN, {_WITHOUT_THEM}",
    Reason.TRUNCATED: f"copy these images again from where they come from, {_WITHOUT_THEM}",
    Reason.CORRUPT: f"copy these images again from where they come from, {_WITHOUT_THEM}",
    Reason.UNSUPPORTED_PIXELS: f"convert these images to 8-bit JPEG or PNG, {_WITHOUT_THEM}",
    Reason.TOO_MANY_PIXELS: "raise EMBEDDER_MAX_IMAGE_PIXELS, and the memory of the worker with it",
    Reason.DECODE_TIMEOUT: "raise EMBEDDER_DECODE_TIMEOUT_SECONDS",
    Reason.DECODER_DIED: "raise the memory limit of the worker, or lower EMBEDDER_MAX_IMAGE_PIXELS or "
    "EMBEDDER_DECODE_THREADS",
    Reason.NOT_FINITE: "compute in a wider type: EMBEDDER_DTYPE=float32",
}

LOCAL_ADVICE: dict[Reason, str] = {
    Reason.NOT_FOUND: "paths in the list are relative to the folder of the list: check that the files lie there, or "
    f"write absolute paths, {_WITHOUT_THEM}",
    Reason.ACCESS_DENIED: "give this user the permission to read the files",
    Reason.NOT_AN_IMAGE: f"take the files that are no pictures out of the list, {_WITHOUT_THEM}",
}
"""The advice for images that are files of this machine, where it differs."""


def advice_for(reason: Reason, urls: Collection[str]) -> str:
    """Return what helps against the failures for `reason`. `urls` are those of the failed images, as the list has them.

    The URL of a row that could not be read is an empty text.
    """
    local = sum(bool(url) and _is_local(url) for url in urls)
    return LOCAL_ADVICE.get(reason, ADVICE[reason]) if 2 * local > len(urls) else ADVICE[reason]


def _is_local(url: str) -> bool:
    scheme = SCHEME.match(url)
    return scheme is None or scheme[1].lower() == "file"
