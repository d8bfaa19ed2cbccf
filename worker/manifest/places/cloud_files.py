"""Files at gs:// and hf://datasets/, which only the worker itself can read."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from common.certificates import refusal
from common.errors import EmbedderError, ManifestError, SourceUnavailable, StoreAccessDenied
from worker.manifest.excerpts import excerpt
from worker.manifest.places.byte_source import MANIFEST_SETTING, KeptHead, content_changed
from worker.manifest.places.cloud_services import GoogleFiles, HubFiles
from worker.manifest.places.listed_file import Listing, refuse_more

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.manifest.places.cloud_services import CloudFiles
    from worker.manifest.places.glob_pattern import GlobPattern
    from worker.manifest.places.listed_file import ListedFile

SCHEMES = frozenset({"gs", "gcs", "hf"})
"""The schemes of URLs that are read here."""

_DENIED = {401, 403}


class Clouds:
    """The services that a manifest's URLs name, each opened once."""

    def __init__(self, token: str) -> None:
        self._token = token
        self._opened: dict[str, CloudFiles] = {}
        self._lock = threading.Lock()

    def files(self, uri: str) -> CloudFiles:
        scheme = "hf" if uri.lower().startswith("hf:") else "gs"
        with self._lock:
            if scheme not in self._opened:
                try:
                    self._opened[scheme] = HubFiles(self._token) if scheme == "hf" else GoogleFiles()
                except ImportError as error:
                    raise ManifestError(
                        f"{uri} needs a Python package that is not installed ({error.name}); install the embedder with "
                        "its extra `worker`"
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
        below = [file for file in found if pattern.has_above(file.path)]
        hidden = [file.uri for file in found if pattern.hides(file.path)]
        return Listing(pattern.folder, direct or below, hidden)


class CloudSource:
    """A file of such a service, at the version that was listed. Its head is read with the first read, and kept.

    `keeps_head` is False for one of many files of which each is read once.
    """

    is_direct = False
    tag = ""

    def __init__(self, files: CloudFiles, listed: ListedFile, *, keeps_head: bool = True) -> None:
        self.name = self.uri = listed.uri
        self.size = listed.size or 0
        self.identity = f"{self.size} bytes version {listed.version}"
        self._files, self._listed = files, listed
        self._content = KeptHead(self._read, self.size) if keeps_head else None

    def read(self, start: int, length: int) -> bytes:
        return self._content.read(start, length) if self._content else self._read(start, length)

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
