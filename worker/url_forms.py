"""Forms in which lists write what should be the URL of an image: which are repaired, and what is wrong with others."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import NamedTuple

MAX_WRAPPERS = 4
"""Largest number of pairs of quotes or brackets that are removed around a text."""

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*):")
"""The scheme at the beginning of a URL (RFC 3986, section 3.1). A text without it is a path."""

NO_SCHEME = "it has no scheme such as https://"


TEXT_BEHIND = "more text follows the picture's name; write the name alone, or columns with a header line"
"""What may be wrong with a line such as `train/a.jpg 0`."""


class UrlForm(NamedTuple):
    """How the text of a list is understood that is not an ordinary URL."""

    text: str
    """The URL or path that the text means, after its repair. The text itself if it needs none."""
    problem: str = ""
    """Why the text names no image that can be fetched, unless there is a file of this name. Empty: it may name one."""
    doubt: str = ""
    """What is probably wrong with the text if its server has no such image. Empty: nothing."""


def odd_form(text: str) -> UrlForm | None:
    """Return how the text is understood, None for an ordinary URL or path, which means what it says."""
    return None if _is_ordinary(text) else _repaired(text)


def _is_ordinary(text: str) -> bool:
    # Without a regular expression, because every row of a list comes through here.
    return (
        text.startswith(("https://", "http://", "s3://"))
        and text.isascii()
        and text.isprintable()
        and text[-1].isalnum()
        and " " not in text
        and "|" not in text
        and text.find("//", 8) < 0
        and not text.startswith(("http:///", "https:///"))
        and not ("&" in text and _AMPERSAND.search(text))
    )


def _repaired(text: str) -> UrlForm | None:
    bare = _unwrapped(text)
    if match := _WEB.match(bare):
        form = _web(match[1].lower(), match[2], bare[match.end() :])
    elif problem := _problem(bare):
        form = UrlForm(bare.replace("\\", "/") if _WITH_BACKSLASHES.match(bare) else bare, problem)
    else:
        form = UrlForm(_HADOOPS_S3.sub("s3://", bare), doubt=_doubt(bare))
    return None if form == UrlForm(text) else form


def _doubt(text: str) -> str:
    """Return what may be wrong with a URL or path: a label or a caption behind it."""
    return TEXT_BEHIND if _TEXT_BEHIND_PICTURE.search(text) else ""


def _problem(bare: str) -> str:
    """Return what is wrong with a text that is no http or https URL, an empty text for nothing."""
    if not bare:
        return "it is empty"
    if bare.casefold() in _MISSING_VALUES:
        return f"{bare!r} stands for a value that is missing"
    scheme = _SCHEME.match(bare)
    for pattern, problem in _OTHER_TEXTS if scheme else (*_OTHER_TEXTS, *_PATHS):
        if pattern.match(bare):
            return problem
    return _problem_of_scheme(scheme[1].lower(), has_slashes=bool(scheme[2])) if scheme else ""


def _web(scheme: str, slashes: str, rest: str) -> UrlForm:
    """Return how an http or https URL is understood, whose `rest` follows the slashes."""
    is_like_a_host = slashes == "/" and _LIKE_A_HOST.match(rest)
    if slashes != "//" and not is_like_a_host:
        return UrlForm(f"{scheme}:{slashes}{rest}", f"it has {slashes[:10]} after {scheme}: instead of //")
    rest = _AMPERSAND.sub("&", rest)
    rest = _SEPARATORS_AFTER_PICTURE.sub(r"\1", rest)
    url = f"{scheme}://{rest}"
    if match := _SECOND_SCHEME.match(rest):
        return UrlForm(url, f"it has two schemes, {scheme}:// and {match[1].lower()}://")
    if _SEVERAL_URLS.search(rest):
        return UrlForm(url, "it has several URLs; write each in a row of its own")
    if invisible := _INVISIBLE.search(rest):
        problem = f"it has the invisible character U+{ord(invisible[0]):04X} in it"
        is_in_host = invisible.start() < len(_HOST.match(rest)[0])  # type: ignore[index] # it matches any text
        return UrlForm(url, problem) if is_in_host else UrlForm(url, doubt=problem)
    return UrlForm(url, doubt=_doubt(rest))


def _problem_of_scheme(scheme: str, *, has_slashes: bool) -> str:
    """Return what is wrong with a text that has a scheme, an empty text for nothing."""
    if scheme in {"file", "s3", "s3a", "s3n"}:
        return ""
    if scheme in _REMEDIES:
        return f"{scheme}: URLs are not fetched; {_REMEDIES[scheme]}"
    if not has_slashes:
        return ""  # a file's name may have a colon
    meant = get_close_matches(scheme, ["http", "https", "s3"], n=1)
    if scheme.startswith("hxxp"):
        meant = ["https" if scheme.endswith("s") else "http"]
    return f"its scheme {scheme[:40]}:// is not http, https or s3" + (f"; write {meant[0]}://" if meant else "")


def _unwrapped(text: str) -> str:
    """Return the text without the spaces, invisible characters, quotes and angle brackets around it."""
    text = text.strip(_AROUND)
    for _ in range(MAX_WRAPPERS):
        if len(text) > 1 and _WRAPPERS.get(text[0]) == text[-1]:
            text = text[1:-1].strip(_AROUND)
        elif _QUOTED_START.match(text):  # a quote that nothing closes
            text = text[1:].strip(_AROUND)
    return text


# Soft hyphens, spaces that are no plain space, zero-width characters, marks of direction, and the byte order mark. The
# two that join or part the letters of a name (U+200C, U+200D) are legitimate within a path.
_INVISIBLES = "".join(
    chr(number)
    for first, last in (
        *((0xA0, 0xA0), (0xAD, 0xAD), (0x34F, 0x34F), (0x61C, 0x61C), (0x115F, 0x1160), (0x1680, 0x1680)),
        *((0x180E, 0x180E), (0x2000, 0x200B), (0x200E, 0x200F), (0x2028, 0x202F), (0x205F, 0x206F)),
        *((0x3000, 0x3000), (0xFEFF, 0xFEFF)),
    )
    for number in range(first, last + 1)
)
_AROUND = " " + _INVISIBLES + "\u200c\u200d"
_INVISIBLE = re.compile(f"[{_INVISIBLES}]")
_HOST = re.compile(r"[^/?#]*")
_LIKE_A_HOST = re.compile(r"(?:localhost|\[|[^/?#\\]*[.:][^/?#\\]*(?:/|\Z))", re.IGNORECASE)

_WRAPPERS = {
    '"': '"',
    "'": "'",
    "`": "`",
    "<": ">",
    "\u201c": "\u201d",
    "\u201e": "\u201c",
    "\u2018": "\u2019",
    "\u00ab": "\u00bb",
}
_QUOTED_START = re.compile(r"""["'`<\u201c\u201d\u2018\u2019](?=https?:|s3:)""")

_WEB = re.compile(r"(https?):([/\\]+)", re.IGNORECASE)
_SCHEME = re.compile(rf"{SCHEME.pattern}(//)?")
_HADOOPS_S3 = re.compile(r"s3[an]://", re.IGNORECASE)
_AMPERSAND = re.compile(r"&(?:amp;)+|&#0*38;|&#x0*26;", re.IGNORECASE)
_PICTURE = r"\.(?:jpe?g|jfif|png|gif|webp|bmp|tiff?|avif|heic|jp2|svg)"
_SEPARATORS_AFTER_PICTURE = re.compile(rf"({_PICTURE})[,;]+\Z", re.IGNORECASE)
_TEXT_BEHIND_PICTURE = re.compile(rf"{_PICTURE}\s+\S", re.IGNORECASE)
_SECOND_SCHEME = re.compile(r"(https?)(?::|%3a|//)", re.IGNORECASE)
_SEVERAL_URLS = re.compile(rf"(?:[\s|]|{_PICTURE}[,;]|\\n)\s{{0,9}}(?:https?|s3|ftp):/", re.IGNORECASE)

_MISSING_VALUES = {
    *("none", "nan", "null", "nil", "na", "n/a", "n.a.", "<na>", "nat", "undefined", "missing", "empty", "unknown"),
    *("-", "--", "?", "#n/a", "#na", "#ref!", "#value!", "#name?", "\\n", "(null)", "[]", "{}", "false", "true"),
}
"""Texts that programs and people write where there is no value, in lower case."""

_OTHER_TEXTS = [
    (re.compile(r"!?\[[^\]]*\]\("), "it is a link in Markdown; write the URL alone"),
    (re.compile(r"[\[{(]\s*[\"'{\[]"), "it is a list or an object; write one URL in each row"),
    (re.compile(r"<?(?:img|a|source|picture)\s[^>]*(?:src|href)", re.IGNORECASE), "it is HTML; write the URL alone"),
    (re.compile(r"(?:https?|s3)%3a", re.IGNORECASE), "its scheme is percent-encoded; write https:// or http://"),
    (re.compile(r"[A-Za-z]:[\\/]"), "it is a path of Windows with a drive; name the files relative to the list"),
    (
        re.compile(r"file:/*[A-Za-z]:[\\/]", re.IGNORECASE),
        "it names a drive of Windows; name the files relative to the list",
    ),
    (re.compile(r"\\\\[^\\]"), "it is a network path of Windows; mount the share and name its files by their paths"),
    (re.compile(r"(?:localhost|[\w-]+(?:\.[\w-]+)+):[0-9]{1,5}(?:[/?]|\Z)"), NO_SCHEME),
]
"""Texts that are no URL although some begin like one, and what is wrong with them."""

_REMEDIES = {
    "data": "put the pictures into files, or their bytes into a column of a Parquet file",
    "blob": "they have a meaning only in the browser that made them",
    "gs": "write https://storage.googleapis.com/<bucket>/<name>, or read the bucket by s3:// with AWS_ENDPOINT_URL_S3",
    "gcs": "write https://storage.googleapis.com/<bucket>/<name>",
    "hf": "write https://huggingface.co/datasets/<name>/resolve/main/<file>",
    "ipfs": "write the URL of a gateway, such as https://ipfs.io/ipfs/<id>",
    "ipns": "write the URL of a gateway, such as https://ipfs.io/ipns/<name>",
    "ar": "write https://arweave.net/<id>",
    "r2": "write s3:// and set AWS_ENDPOINT_URL_S3 to the bucket's endpoint",
    "oss": "write https://, or s3:// with AWS_ENDPOINT_URL_S3",
    **dict.fromkeys(
        ("ftp", "ftps", "sftp", "scp", "rsync", "smb", "nfs"), "serve the files over https://, or mount them"
    ),
    **dict.fromkeys(("az", "abfs", "abfss", "wasb", "wasbs", "adl"), "write the blob's https:// URL"),
    **dict.fromkeys(("hdfs", "dbfs", "webhdfs", "viewfs"), "mount the file system and name the files by their paths"),
    **dict.fromkeys(
        ("mailto", "javascript", "about", "cid", "content", "urn", "chrome-extension"), "they name no picture"
    ),
}
"""Schemes that lists use and that are not fetched, and what to write instead."""

_PATHS = [
    (re.compile(r"//"), "it has no scheme; write https:// or http:// in front"),
    (re.compile(r":?//|:/", re.IGNORECASE), NO_SCHEME),
    (re.compile(r"(?:https?|s3)[;.,]?[/\\]{2}", re.IGNORECASE), "its scheme has no colon; write https:// or http://"),
    (re.compile(r"www[0-9]?\.", re.IGNORECASE), NO_SCHEME),
    (
        re.compile(
            r"(?:[\w-]+\.)+(?:com|org|net|edu|gov|io|de|uk|fr|nl|jp)"
            r"(?:[/?]|\Z)",
            re.IGNORECASE,
        ),
        NO_SCHEME,
    ),
    (re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}/"), NO_SCHEME),
    (re.compile(r"[^/]*\\"), "it has backslashes, as paths of Windows have; write slashes"),
    (re.compile(r"~[\w-]*/"), "~ is not replaced; write the whole path"),
]
"""Texts without a scheme that are clearly no path as this program looks it up, and what is wrong with them."""

_WITH_BACKSLASHES = re.compile(r"[^/\\][^/]*\\")
