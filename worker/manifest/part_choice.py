"""Which of the files that a place holds are the manifest, and in which format they are."""

from __future__ import annotations

from collections import Counter
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from common.errors import ManifestError
from common.logs import printable
from worker.manifest.manifest_format import COMPRESSED_ENDINGS, compressed, ending_of, format_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Literal

    from worker.manifest.manifest_format import Format
    from worker.manifest.places.listed_file import ListedFile

NAMED_ENDINGS = 6
"""Largest number of endings that a sentence names."""

_HOLDING_IMAGES: tuple[Format, ...] = ("tar", "images", "parquet")
"""The formats of files that may hold images."""

_BESIDE = {"dataset_info.json", "dataset_infos.json", "state.json"}
_TEXTS_BESIDE = {"readme", "licence", "license", "notice", "changelog"}


class Parts(NamedTuple):
    format: Format
    files: list[ListedFile]
    skipped: Counter[str]
    """The number of files that are no parts of the manifest, by their ending."""


def choose_parts(files: Sequence[ListedFile], wanted: Format | Literal["auto"], *, place: str) -> Parts:
    """Return the files of a listed place that are the manifest.

    For `auto` these are the tar shards; else the pictures; else the lists, which must be of one format. Raises
    ManifestError when no file can be used, and when the lists are of several formats.
    """
    kinds = [None if _is_beside(file.path) else format_of(file.path) for file in files]
    found = Counter(kind for kind in kinds if kind is not None)
    chosen = _one_format(found, place) if wanted == "auto" else wanted
    if wanted == "auto" and chosen in _HOLDING_IMAGES:
        _check_is_most(files, kinds, chosen, place)
    if chosen is not None and not found[chosen]:
        # The setting speaks for names whose ending says nothing, such as Spark's part-00000.
        kinds = [chosen if _is_unknown(file.path) else kind for kind, file in zip(kinds, files, strict=True)]
    parts = [file for kind, file in zip(kinds, files, strict=True) if kind is not None and kind == chosen]
    skipped = Counter(
        ending_of(file.path) for kind, file in zip(kinds, files, strict=True) if kind is None or kind != chosen
    )
    if chosen is None or not parts:
        raise _nothing_usable(files, wanted, place)
    # Spark writes empty parts. But a picture without bytes is a row that fails, and such a Parquet file is damaged.
    if chosen in {"csv", "tsv", "jsonl", "txt"} and any(file.size for file in parts):
        skipped["empty"] += sum(file.size == 0 for file in parts)
        parts = [file for file in parts if file.size != 0]
    return Parts(chosen, parts, +skipped)


def in_words(counts: Counter[str], *, hidden: int = 0) -> str:
    """Return counts by ending as text: `12 .txt, 3 without an ending`. `hidden` names begin with `.` or `_`."""
    found = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    named = [f"{count:,} {printable(ending) or 'without an ending'}" for ending, count in found[:NAMED_ENDINGS]]
    rest = sum(count for _, count in found[NAMED_ENDINGS:])
    others = [f"{rest:,} with other endings"] if rest else []
    names = [f"{hidden:,} whose {'names begin' if hidden > 1 else 'name begins'} with . or _"] if hidden else []
    return ", ".join([*named, *others, *names])


def _one_format(found: Counter[Format], place: str) -> Format | None:
    if found["tar"]:
        return "tar"
    if found["images"]:
        return "images"
    if len(found) > 1:
        named = ", ".join(f"{count:,} of {kind}" for kind, count in sorted(found.items()))
        raise ManifestError(
            f"{place} holds lists of several formats ({named}), and they cannot be one manifest; name the one that is "
            "meant in EMBEDDER_MANIFEST_FORMAT, or give its files alone, as in photos/*.csv"
        )
    return next(iter(found), None)


def _check_is_most(files: Sequence[ListedFile], kinds: Sequence[Format | None], chosen: Format, place: str) -> None:
    """Raise ManifestError where the files of the chosen format are the smaller part of all that may hold images.

    A data set may have a picture for its page, and a folder of photos a tar with other things.
    """
    sizes: Counter[Format] = Counter()
    for kind, file in zip(kinds, files, strict=True):
        if kind in _HOLDING_IMAGES:
            sizes[kind] += file.size or 0
    larger = max(sizes, key=lambda kind: sizes[kind])
    if sizes[larger] > sizes[chosen]:
        counts = Counter(kinds)
        named = ", ".join(f"{counts[kind]:,} of {kind} with {sizes[kind]:,} bytes" for kind in sorted(sizes))
        raise ManifestError(
            f"{place} holds files of several formats that may be the images ({named}); name the one that is meant in "
            f"EMBEDDER_MANIFEST_FORMAT ({chosen} or {larger}), or give its files alone, as in data/*.parquet"
        )


def _is_beside(path: str) -> bool:
    """Return whether a file describes the data beside it: img2dataset's statistics, a repository's texts."""
    name = PurePosixPath(path).name.lower()
    return name in _BESIDE or name.endswith("_stats.json") or name.partition(".")[0] in _TEXTS_BESIDE


def _is_unknown(path: str) -> bool:
    """Return whether the ending of a file says nothing about what it holds."""
    ending = ending_of(path)
    return format_of(path) is None and ending not in COMPRESSED_ENDINGS and not _is_beside(path) and ending != ".crc"


def _nothing_usable(files: Sequence[ListedFile], wanted: str, place: str) -> ManifestError:
    squeezed = next((file for file in files if ending_of(file.path) in COMPRESSED_ENDINGS), None)
    if squeezed is not None:
        return compressed(squeezed.uri, ending_of(squeezed.path))
    endings = Counter(ending_of(file.path) for file in files)
    there = f"its files are {in_words(endings)}" if files else "nothing was found"
    what = (
        "no pictures, no lists of images and no tar shards" if wanted == "auto" else f"no files of the format {wanted}"
    )
    return ManifestError(
        f"{place} has {what} ({there}; names that begin with . or _ do not count); give another EMBEDDER_MANIFEST_URI, "
        "or name the format of the files in EMBEDDER_MANIFEST_FORMAT"
    )
