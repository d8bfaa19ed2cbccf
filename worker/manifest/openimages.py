"""The lists that Open Images publishes, by name."""

from __future__ import annotations

from common.errors import ManifestError

PREFIX = "openimages:"

_LISTS = {
    "train": "2018_04/train/train-images-boxable-with-rotation.csv",
    "validation": "2018_04/validation/validation-images-with-rotation.csv",
    "test": "2018_04/test/test-images-with-rotation.csv",
    "all": "2018_04/image_ids_and_rotation.csv",
}


def published_list(uri: str, base_url: str) -> str:
    """Return the URL of the list that `openimages:train` and its like name. Any other text is returned unchanged."""
    if not uri.startswith(PREFIX):
        return uri
    name = uri.removeprefix(PREFIX)
    if name not in _LISTS:
        raise ManifestError(
            f"{uri} is none of Open Images' lists; choose from {', '.join(PREFIX + each for each in _LISTS)}"
        )
    return f"{base_url.rstrip('/')}/{_LISTS[name]}"
