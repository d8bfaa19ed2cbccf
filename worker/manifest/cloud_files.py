"""Files that only a library reaches: gs:// by gcsfs, hf://datasets/ by the file system of the hub's client.

The libraries are loaded when the first such file is named, because they take a second.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from common.certificates import refusal
from common.errors import EmbedderError, ManifestError, SourceUnavailable, StoreAccessDenied
from worker.manifest.byte_source import HEAD_BYTES, MANIFEST_SETTING, content_changed
from worker.manifest.excerpts import excerpt
from worker.manifest.glob_pattern import everything_in
from worker.manifest.listed_file import ListedFile, Listing, refuse_more

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.manifest.glob_pattern import GlobPattern

SCHEMES = frozenset({"gs", "gcs", "hf"})
"""The schemes of URLs that are read here."""

_DENIED = {401, 403}


class CloudFiles(Protocol):
    """The files of one service. Every method raises what its library raises."""

    def look(self, uri: str) -> ListedFile | None:
        """Return the file, None when there is no such file."""

    def list_below(self, folder: str, start: str, *, most: int) -> list[ListedFile]:
        """Return the files below the folder whose paths begin with `start`, or the first `most` and one."""

    def read(self, file: ListedFile, start: int, end: int) -> bytes:
        """Return the bytes from `start` to `end` of that version of the file."""


class GoogleFiles:
    """Objects of Google Cloud Storage. A version is a generation."""

    def __init__(self) -> None:
        import fsspec  # noqa: PLC0415 - see the module

        self._files: Any = fsspec.filesystem("gs", use_listings_cache=False, session_kwargs={"trust_env": True})

    def look(self, uri: str) -> ListedFile | None:
        try:
            found = self._files.info(_path(uri))
        except FileNotFoundError:
            return None
        return _of_google(found, _path(uri)) if found["type"] == "file" else None

    def list_below(self, folder: str, start: str, *, most: int) -> list[ListedFile]:
        path = _path(folder)
        try:
            found = self._files.ls(path, detail=True, prefix=start, delimiter="", max_results=most + 1)
        except FileNotFoundError:
            return []
        return [_of_google(each, path) for each in found if each["type"] == "file" and each["name"] != path.rstrip("/")]

    def read(self, file: ListedFile, start: int, end: int) -> bytes:
        return bytes(self._files.cat_file(_path(file.uri), start, end, generation=file.version))


def _path(uri: str) -> str:
    return uri.partition("://")[2]


def _of_google(found: dict[str, Any], folder: str) -> ListedFile:
    name = str(found["name"])
    return ListedFile(f"gs://{name}", name.removeprefix(folder), int(found["size"]), str(found["generation"]))


class HubFiles:
    """Files of dataset repositories of the Hugging Face hub. A version is the git hash of the content.

    All files of a repository are read at the commit that its revision had when it was named first.
    """

    def __init__(self, token: str) -> None:
        from huggingface_hub import HfApi, HfFileSystem  # noqa: PLC0415 - see the module

        endpoint = os.environ.get("HF_ENDPOINT") or None
        self._api = HfApi(endpoint=endpoint, token=token or None)
        self._files: Any = HfFileSystem(endpoint=endpoint, token=token or None)
        self._commits: dict[str, str] = {}

    def look(self, uri: str) -> ListedFile | None:
        root, pinned, path = self._pinned(uri)
        try:
            found = self._files.info(f"{pinned}/{path}" if path else pinned)
        except FileNotFoundError:
            return None
        return _of_hub(found, root, pinned, uri) if found["type"] == "file" else None

    def list_below(self, folder: str, start: str, *, most: int) -> list[ListedFile]:
        root, pinned, path = self._pinned(folder)
        place = f"{pinned}/{path}".rstrip("/")
        found = self._files.find(place, detail=True).values()
        listed = [_of_hub(each, root, pinned, folder) for each in found if each["type"] == "file"]
        return [file for file in listed if file.uri.startswith(folder + start)][: most + 1]

    def read(self, file: ListedFile, start: int, end: int) -> bytes:
        _, pinned, path = self._pinned(file.uri)
        return bytes(self._files.cat_file(f"{pinned}/{path}", start, end, cache_type="none"))

    def _pinned(self, uri: str) -> tuple[str, str, str]:
        """Return the repository's URL as it was named, its path at one commit, and the path in it."""
        parts = _path(uri).split("/", 3)
        if len(parts) < 3 or parts[0] != "datasets" or not all(parts[1:3]):
            raise ManifestError(f"{uri} names no files of a data set; write hf://datasets/owner/name/path")
        root = "/".join(parts[:3])
        name, _, revision = f"{parts[1]}/{parts[2]}".partition("@")
        if root not in self._commits:
            info = self._api.repo_info(name, repo_type="dataset", revision=revision.replace("%2F", "/") or None)
            self._commits[root] = str(info.sha)
        return f"hf://{root}", f"datasets/{name}@{self._commits[root]}", parts[3] if len(parts) > 3 else ""


def _of_hub(found: dict[str, Any], root: str, pinned: str, folder: str) -> ListedFile:
    uri = f"{root}{str(found['name']).removeprefix(pinned)}"
    return ListedFile(uri, uri.removeprefix(folder), int(found["size"]), str(found["blob_id"]))


class Clouds:
    """The services that a manifest's URLs name, each opened once."""

    def __init__(self, token: str) -> None:
        self._token = token
        self._opened: dict[str, CloudFiles] = {}

    def files(self, uri: str) -> CloudFiles:
        scheme = "hf" if uri.lower().startswith("hf:") else "gs"
        if scheme not in self._opened:
            try:
                self._opened[scheme] = HubFiles(self._token) if scheme == "hf" else GoogleFiles()
            except ImportError as error:
                raise ManifestError(
                    f"{uri} needs a Python package that is not installed ({error.name}); install the embedder with its "
                    "extra `worker`"
                ) from error
        return self._opened[scheme]

    def look(self, uri: str) -> ListedFile | None:
        """Return the file at `uri`, None when there is none. Raises StoreAccessDenied and SourceUnavailable."""
        with errors_of(uri):
            return self.files(uri).look(uri)

    def list(self, pattern: GlobPattern, *, most: int) -> Listing:
        """Return the files that the pattern means, else those in the folders that it means. Raises as `look`."""
        with errors_of(pattern.folder):
            found = self.files(pattern.folder).list_below(pattern.folder, pattern.start, most=most)
        if len(found) > most:
            raise refuse_more(pattern.folder, most)
        direct = [file for file in found if pattern.matches(file.path)]
        return Listing(pattern.folder, direct or [file for file in found if pattern.has_above(file.path)])


class CloudSource:
    """A file of such a service, at the version that was listed. Its head is read with the first read."""

    is_direct = False

    def __init__(self, files: CloudFiles, listed: ListedFile) -> None:
        self.name = self.uri = listed.uri
        self.size = listed.size or 0
        self.identity = f"{self.size} bytes version {listed.version}"
        self._files, self._listed = files, listed
        self._head = b""

    def read(self, start: int, length: int) -> bytes:
        if start < min(HEAD_BYTES, self.size) and not self._head:
            self._head = self._read(0, min(HEAD_BYTES, self.size))
        data = self._head[start : start + length]
        return data if len(data) == length else data + self._read(start + len(data), length - len(data))

    def _read(self, start: int, length: int) -> bytes:
        try:
            with errors_of(self.name):
                data = self._files.read(self._listed, start, start + length)
        except ManifestError as error:
            raise content_changed(self.name, "no such version any more", self.identity) from error
        if len(data) != length:
            raise SourceUnavailable(f"{self.name}: {len(data)} bytes arrived of {length}")
        return data


@contextmanager
def errors_of(name: str) -> Iterator[None]:
    """Turn the libraries' errors about the file or folder `name` into ours."""
    try:
        yield
    except EmbedderError:
        raise
    except FileNotFoundError as error:
        raise ManifestError(f"{name} does not exist; is {MANIFEST_SETTING} right?") from error
    except Exception as error:  # the libraries' HTTP clients have many errors, and change them
        raise _fault(name, error) from error


def _fault(name: str, error: Exception) -> EmbedderError:
    said = excerpt(f"{type(error).__name__}: {error}")
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if refused := refusal(error, name):
        return refused
    if "OfflineModeIsEnabled" in kinds:
        return ManifestError(f"{name} lies on the hub, and HF_HUB_OFFLINE forbids to ask it; unset HF_HUB_OFFLINE")
    if kinds & {"RepositoryNotFoundError", "RevisionNotFoundError", "HFValidationError", "HfUriError"}:
        return ManifestError(
            f"{name} does not exist, or may be read only with a token ({said}); give HF_TOKEN or "
            "EMBEDDER_MANIFEST_TOKEN"
        )
    status = getattr(getattr(error, "response", None), "status_code", getattr(error, "code", None))
    if status in _DENIED or isinstance(error, PermissionError) or kinds & {"DefaultCredentialsError", "RefreshError"}:
        return StoreAccessDenied(f"{name} may not be read ({said}); are the credentials right and valid?")
    if isinstance(error, OSError) and str(error).startswith("Forbidden"):  # gcsfs has no error of its own for it
        return StoreAccessDenied(f"{name} may not be read ({said}); may this identity list and read it?")
    return SourceUnavailable(f"{name} cannot be read: {said}")


def everything_below(uri: str) -> GlobPattern:
    """Return the pattern of all files below a folder, with or without a slash at its end."""
    return everything_in(uri if uri.endswith("/") else f"{uri}/")
