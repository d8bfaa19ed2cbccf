"""The lists that Open Images publishes, by the names that this program gives them."""

from __future__ import annotations

from common.errors import ManifestError

SCHEME = "openimages:"

LISTS = {
    "train": "2018_04/train/train-images-boxable-with-rotation.csv",
    "validation": "2018_04/validation/validation-images-with-rotation.csv",
    "test": "2018_04/test/test-images-with-rotation.csv",
    "all": "2018_04/image_ids_and_rotation.csv",
}
"""The published lists by the names that this program gives them, below EMBEDDER_OPENIMAGES_URL."""


def published_list(uri: str, base_url: str) -> str:
    """Return the URL of the list that a URI such as `openimages:train` names. Other URIs are returned as they are.

    Raises ManifestError for a name that no list has.
    """
    if not uri.lower().startswith(SCHEME):
        return uri
    name = uri[len(SCHEME) :].strip("/").lower()
    if name not in LISTS:
        names = ", ".join(SCHEME + each for each in LISTS)
        raise ManifestError(f"{uri} names no list of Open Images; choose from {names}")
    return f"{base_url.rstrip('/')}/{LISTS[name]}"
