"""The names that columns have in the lists that people publish, and the choice among them.

Names are compared without case, spaces and punctuation: `Photo URL`, `photo-url` and `photoUrl` are one name.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

IMAGE_URL_NAMES = (
    "originalurl",  # Open Images
    "imageurl",
    "photoimageurl",  # Unsplash, whose photo_url is a page
    "imgurl",
    "pictureurl",
    "jpgurl",
    "jpegurl",
    "cocourl",
    "contenturl",  # schema.org
    "mediaurl",
    "fileurl",
    "downloadurl",  # YFCC100M
    "displayurl",
    "imurl",
    "primaryimage",
    "urloverriddenbydest",
    "photourl",
)
"""Names of columns with the URL of an image, the preferred name first. A column of this kind wins over `url`, which may
be the page that shows the image."""

FLICKR_SIZES = ("urlo", "url6k", "url5k", "url4k", "url3k", "urlk", "urlh", "urll", "urlc", "urlz")
"""Flickr's names of the URLs of a photo's sizes, the largest first, without the small ones."""

URL_NAMES = ("url", "uri", "urls", "imageurls", "flickrurl", *FLICKR_SIZES, "src")
"""Names of columns with a URL, of an image as far as the name tells."""

PICTURE_NAMES = ("image", "img", "images", "picture")
"""Names of columns with a URL or a path of an image."""

OBJECT_NAMES = ("src", "urls")
"""Names of objects with the URLs of one picture's sizes."""

SHARD_NAME = "__url__"
"""The name of the column in which WebDataset has the shard of a sample. It is no URL of the image."""

PATH_NAMES = (
    "filename",  # Hugging Face's folders of images, COCO
    "filepath",
    "imagepath",
    "imgpath",
    "imagefile",
    "imagefilename",
    "imagename",
    "path",
    "file",
    "filenames",
    "filepaths",
    "paths",
    *PICTURE_NAMES,
    "link",
    "href",
)
"""Names of columns with a path, then those of columns with a URL of no one knows what."""

SIZE_NAMES = ("original", "full", "raw", "large2x", "regular", "large", "medium", "small")
"""Names in an object with the URLs of one picture's sizes, the largest first, as Unsplash and Pexels have them."""

THUMBNAIL_URL_NAMES = ("thumbnailurl", "thumburl", "thumbnail", "thumb", "previewurl")
"""Names of columns with the URL of a small picture, which is taken where there is no other one."""

ID_NAMES = (
    "imageid",
    "photoid",
    "imgid",
    "pictureid",
    "sampleid",  # LAION
    "id",
    "key",
    "imageuuid",
    "photouuid",
    "uuid",
    "uid",
    "guid",
    "objectid",
    "identifier",
    "imageids",
    "ids",
    "keys",
)
"""Names of columns with an id of the image. `uid` comes late: in YFCC100M it is the photographer."""

_IMAGE_URL = re.compile(
    r".*(?:image|img|photo|picture|jpe?g).*(?:url|uri|link|href|src)s?|(?:url|uri|link)s?(?:of|to)?(?:image|img|photo)"
)
_URL_OF_IMAGE = re.compile(r"\s*https?://[^?#]*\.(?:jpe?g|png|gif|webp|bmp|tiff?|avif)\s*(?:[?#]|$)", re.IGNORECASE)
_FILE_OF_IMAGE = re.compile(r"[^,;|\t\"<>]+\.(?:jpe?g|png|gif|webp|bmp|tiff?|avif)\s*$", re.IGNORECASE)
_NOT_THE_IMAGE = re.compile(
    r"page|landing|listing|profile|author|user|owner|photographer|avatar|host|licen[cs]e|thumb|small|preview|icon|logo|"
    r"source|brand|credit"
)


def folded(name: str) -> str:
    """Return the name in lower case, without spaces and punctuation."""
    return re.sub(r"[\W_]+", "", name).lower()


def find_name(names: Sequence[str], wanted: Iterable[str]) -> str | None:
    """Return the first of the `wanted` names that is in `names`, as it is written there."""
    by_name: dict[str, str] = {}
    for fold in (folded, str.lower, str):  # the closer likeness overwrites the looser one
        by_name |= {fold(name): name for name in reversed(names)}
    return next((by_name[key] for each in wanted for key in (each, each.lower(), folded(each)) if key in by_name), None)


def find_url_name(names: Sequence[str], examples: Sequence[Mapping[str, object]] = ()) -> str | None:
    """Return the name in `names` that most likely holds the URL of the image, None where no name says so.

    `examples` are some rows by the names of their columns. They decide where `url` may be the page of an `image`.
    """
    names = [name for name in names if name.lower() != SHARD_NAME]
    found = find_name(names, IMAGE_URL_NAMES) or next((name for name in names if _is_image_url(folded(name))), None)
    if found is None:
        found, picture = find_name(names, URL_NAMES), find_name(names, (*PICTURE_NAMES, *OBJECT_NAMES))
        if found and picture and _are_images(picture, examples) and not _are_images(found, examples):
            return picture
    return found or find_name(names, (*PATH_NAMES, *THUMBNAIL_URL_NAMES))


def find_url_by_values(names: Sequence[str], examples: Sequence[Mapping[str, object]]) -> str | None:
    """Return the only name in `names` whose `examples` are URLs of images, or else names of their files."""
    for pattern in (_URL_OF_IMAGE, _FILE_OF_IMAGE):
        found = [name for name in names if not _NOT_THE_IMAGE.search(folded(name)) and _match(name, examples, pattern)]
        if found:
            return found[0] if len(found) == 1 else None
    return None


def find_url_of_picture(names: Sequence[str]) -> str | None:
    """Return the name of the URL in an object that stands for one picture and may have the URLs of its sizes."""
    found = find_url_name(names)
    if found is None or found == find_name(names, THUMBNAIL_URL_NAMES):
        return find_name(names, SIZE_NAMES) or found
    return found


def _are_images(name: str, examples: Sequence[Mapping[str, object]]) -> bool:
    """Return whether the column has only URLs that end as the names of images do."""
    return _match(name, examples, _URL_OF_IMAGE)


def _match(name: str, examples: Sequence[Mapping[str, object]], pattern: re.Pattern[str]) -> bool:
    values = [_url_in(value) for row in examples if (value := row.get(name))]
    return bool(values) and all(isinstance(value, str) and pattern.match(value) for value in values)


def _url_in(value: object) -> object:
    key = find_url_of_picture(list(value)) if isinstance(value, dict) else None
    return value if key is None or not isinstance(value, dict) else value[key]


def _is_image_url(name: str) -> bool:
    return _IMAGE_URL.fullmatch(name) is not None and _NOT_THE_IMAGE.search(name) is None
