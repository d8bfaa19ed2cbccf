"""The files that are the manifest: those that EMBEDDER_MANIFEST_URI names, in the order of their names."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from common.errors import ManifestError
from common.logs import MANIFEST_FILES, log, redact_url
from common.run.keys import is_key
from worker.manifest.checked_source import CheckedSource
from worker.manifest.manifest_format import check_content, find_format
from worker.manifest.part_choice import choose_parts, in_words
from worker.manifest.places.cloud_files import SCHEMES, Clouds, CloudSource
from worker.manifest.places.files_identity import files_identity
from worker.manifest.places.http_source import RETRY
from worker.manifest.places.listed_file import ListedFile, Listing, refuse_more, sorted_once
from worker.manifest.places.local_listing import real_path
from worker.manifest.places.local_source import FileVersion, LocalSource, local_path
from worker.manifest.places.openimages import published_list
from worker.manifest.places.place_files import PlaceFiles, named_places
from worker.manifest.places.uri_list import redact_places, scheme_of
from worker.manifest.tar.rows import check_shards

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from common.retry import RetryPolicy
    from worker.manifest.manifest_format import Format
    from worker.manifest.places.byte_source import ByteSource
    from worker.settings import HttpSettings, ManifestSettings

PLACES_AT_ONCE = 16
"""Number of places that are looked at together. Each of them waits for a server."""


@dataclass(frozen=True)
class ManifestFiles:
    name: str
    """What the user wrote, for logs and errors, without passwords and signatures."""
    format: Format
    sources: Sequence[ByteSource]
    """The files; none for a manifest of pictures."""
    pictures: Sequence[Picture]
    """The files of a manifest of pictures."""
    folder: Path | None
    """The folder that relative paths start from; None if a file came over a network."""
    identity: str
    """A text that changes when a file changes, comes or goes."""
    size: int
    """Size of all files in bytes."""
    count: int
    """Number of files."""
    skipped: str = ""
    """Which files of the listed places are no part of the manifest, in words; empty if there are none."""


class Picture(NamedTuple):
    url: str
    """The path below the manifest's folder, or the URL."""
    file: ListedFile
    source: ByteSource | None
    """What reads the picture, None if a decoder reads it by itself."""


def find_files(
    settings: ManifestSettings, *, http: HttpSettings, http_retry: RetryPolicy = RETRY, run_uri: str = ""
) -> ManifestFiles:
    """Return the files that the settings name. What a run has written to `run_uri` does not count.

    Raises ManifestError when there is nothing that can be used, StoreAccessDenied when it may not be read, and
    SourceUnavailable when its server does not answer.
    """
    most, token = settings.max_listed_files, settings.manifest_token.get_secret_value()
    named = named_places(settings.manifest_uri, most=most)
    places = list(dict.fromkeys(published_list(place, settings.openimages_url) for place in named))
    if not places:
        raise ManifestError("EMBEDDER_MANIFEST_URI names no file; give a list of images, a folder or a URL")
    _check_one_server(places, token)
    clouds = Clouds(token)
    finder = PlaceFiles(
        http=http, http_retry=http_retry, token=token, clouds=clouds, most=most, are_many=len(places) > 1
    )
    if len(places) == 1:
        found = [finder.find(places[0])]
    else:
        with ThreadPoolExecutor(PLACES_AT_ONCE, thread_name_prefix="places") as pool:
            found = list(pool.map(finder.find, places))
    first = found[0]
    if len(found) == 1 and not isinstance(first, Listing):
        kind = find_format(places[0], settings.manifest_format, name=first.name)
        if kind != "images":
            check_content(first, kind)
            folder = local_path(places[0]).parent if scheme_of(places[0]) == "file" else None
            return ManifestFiles(first.name, kind, [first], [], folder, first.identity, first.size, 1)
    return _several(found, settings, clouds=clouds, run_uri=run_uri)


def _check_one_server(places: Iterable[str], token: str) -> None:
    servers = {urlsplit(place)[:2] for place in places if scheme_of(place) in {"http", "https"}}
    if token and len(servers) > 1:
        raise ManifestError(
            f"EMBEDDER_MANIFEST_URI names {len(servers)} servers, and EMBEDDER_MANIFEST_TOKEN is for one; give the "
            "files of one server, or unset the token"
        )


def _several(
    found: Sequence[ByteSource | Listing], settings: ManifestSettings, *, clouds: Clouds, run_uri: str
) -> ManifestFiles:
    """Return the manifest of the files that lists show and of those that are named one by one."""
    name = redact_places(settings.manifest_uri)
    named = {_uri(each): each for each in found if not isinstance(each, Listing)}
    listed = [file for each in found if isinstance(each, Listing) for file in _without_run(each, run_uri)]
    files = sorted_once([*(file for file in listed if file.uri not in named), *map(_as_listed, named.values())])
    if len(files) > settings.max_listed_files:
        raise refuse_more(name, settings.max_listed_files)
    kinds = {uri: find_format(uri, settings.manifest_format, name=each.name) for uri, each in named.items()}
    parts = choose_parts(files, settings.manifest_format, place=name)
    for uri, kind in kinds.items():
        if kind != parts.format:
            raise ManifestError(
                f"{named[uri].name} is {kind} and other files of the manifest are {parts.format}; give files of one "
                "format, or name it in EMBEDDER_MANIFEST_FORMAT"
            )
    hidden = sum(len(_hidden(each, run_uri)) for each in found if isinstance(each, Listing))
    skipped = in_words(parts.skipped, hidden=hidden)
    log.info(
        MANIFEST_FILES,
        manifest=name,
        format=parts.format,
        files=len(parts.files),
        **({"skipped": skipped} if skipped else {}),
    )
    folder = _common_folder(found)
    names = [_name(file, folder, is_row=parts.format == "images") for file in parts.files]
    local = [file for file in parts.files if scheme_of(file.uri) == "file"]
    pairs = list(zip(names, parts.files, strict=True))
    sources: list[ByteSource] = []
    pictures: list[Picture] = []
    if parts.format == "images":
        pictures = [Picture(url, file, _reader_here(file, named, clouds)) for url, file in pairs]
    else:
        sources = [_source(file, each, named, clouds) for each, file in pairs]
    if parts.format == "tar":
        check_shards(sources)
    elif sources:
        sources = [CheckedSource(source, parts.format) for source in sources]
        sources[0].read(0, min(8, sources[0].size))
    return ManifestFiles(
        name=name,
        format=parts.format,
        sources=sources,
        pictures=pictures,
        folder=folder,
        identity=files_identity(pairs, local=local),
        size=sum(file.size or 0 for file in parts.files),
        count=len(parts.files),
        skipped=skipped,
    )


def _uri(source: ByteSource) -> str:
    return real_path(source.uri) if isinstance(source, LocalSource) else source.uri


def _as_listed(source: ByteSource) -> ListedFile:
    """Return a file that was opened by its name as a list would show it."""
    if isinstance(source, LocalSource):
        return ListedFile(_uri(source), source.uri, source.size, "", source.version.modified_ns)
    return ListedFile(source.uri, source.uri, source.size, source.identity)


def _source(file: ListedFile, name: str, named: dict[str, ByteSource], clouds: Clouds) -> ByteSource:
    scheme = scheme_of(file.uri)
    if scheme == "file":
        version = None if file.size is None else FileVersion(file.size, file.modified_ns)
        return LocalSource(Path(file.uri), name=name, listed=version)
    if file.uri in named:
        return named[file.uri]
    if scheme == "s3":
        from worker.manifest.places.s3_source import S3Source  # noqa: PLC0415 - the SDK, which no other place needs

        return S3Source(file.uri, listed=(file.size or 0, file.version))
    return CloudSource(clouds.files(file.uri), file)


def _common_folder(found: Sequence[ByteSource | Listing]) -> Path | None:
    """Return the deepest folder of this machine that holds all folders and files, None if some lie elsewhere."""
    folders = [each.folder if isinstance(each, Listing) else _uri(each).rpartition("/")[0] + "/" for each in found]
    if any(scheme_of(folder) != "file" for folder in folders):
        return None
    return Path(os.path.commonpath(folders))


def _reader_here(file: ListedFile, named: dict[str, ByteSource], clouds: Clouds) -> ByteSource | None:
    """Return what reads a picture that no decoder can read by itself."""
    is_direct = named[file.uri].is_direct if file.uri in named else scheme_of(file.uri) not in SCHEMES
    if is_direct:
        return None
    return CloudSource(clouds.files(file.uri), file, keeps_head=False) if file.uri not in named else named[file.uri]


def _name(file: ListedFile, folder: Path | None, *, is_row: bool) -> str:
    """Return what rows call the file: its path below `folder`, or its URL, with its secrets only if it is a row."""
    if scheme_of(file.uri) == "file":
        return file.uri if folder is None else file.uri.removeprefix(f"{str(folder).rstrip('/')}/")
    return redact_url(file.uri) if scheme_of(file.uri) in {"http", "https"} and not is_row else file.uri


def _without_run(listing: Listing, run_uri: str) -> Iterable[ListedFile]:
    """Return the files that no run has written to `run_uri`, which may be the listed folder or lie in it."""
    if not run_uri:
        return listing.files
    run = _run_folder(run_uri)
    is_run = listing.folder.startswith(run)
    return [
        file
        for file in listing.files
        if not file.uri.startswith(run) or (is_run and not is_key(file.uri.removeprefix(run)))
    ]


def _hidden(listing: Listing, run_uri: str) -> Sequence[str]:
    """Return the files and folders that their names leave out, without what a run is writing to `run_uri`."""
    run = _run_folder(run_uri) if run_uri else ""
    return [uri for uri in listing.hidden if not (run and uri.startswith(run))]


def _run_folder(run_uri: str) -> str:
    """Return the run's folder or prefix, with a slash at its end."""
    run = run_uri if scheme_of(run_uri) != "file" else os.path.realpath(local_path(run_uri))
    return f"{run.rstrip('/')}/"
