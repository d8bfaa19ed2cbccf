"""Services whose files a library reaches: gs:// by gcsfs, hf://datasets/ by the file system of the hub's client.

The libraries are loaded when the first such file is named, because they take a second.
"""

from __future__ import annotations

import os
import threading
from typing import Any, Protocol

from common.certificates import client_context, is_configured, trusted_file
from common.errors import ManifestError
from worker.manifest.places.listed_file import ListedFile


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
        # Else gcsfs loads gRPC and asks for the kind of each bucket, which a public bucket does not tell.
        os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        from gcsfs import GCSFileSystem  # noqa: PLC0415 - see the module

        self._files: Any = GCSFileSystem(
            use_listings_cache=False, skip_instance_cache=True, session_kwargs=_connections()
        )

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


def _connections() -> dict[str, Any]:
    """Return what gcsfs makes its HTTP client with: the environment's proxies, and the authorities that are trusted."""
    if not is_configured():
        return {"trust_env": True}
    from aiohttp import TCPConnector  # noqa: PLC0415 - the client of gcsfs
    from fsspec.asyn import get_loop, sync  # noqa: PLC0415

    async def connector() -> TCPConnector:
        return TCPConnector(ssl=client_context())

    # Google's own client, which fetches the tokens, reads its authorities from the environment alone.
    os.environ.setdefault("REQUESTS_CA_BUNDLE", trusted_file())
    return {"trust_env": True, "connector": sync(get_loop(), connector)}


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

        from worker.hub_client import hub_http_library  # noqa: PLC0415 - it loads the hub's client too

        hub_http_library()
        endpoint = os.environ.get("HF_ENDPOINT") or None
        self._api = HfApi(endpoint=endpoint, token=token or None)
        self._files: Any = HfFileSystem(endpoint=endpoint, token=token or None)
        self._commits: dict[str, str] = {}
        self._lock = threading.Lock()

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
        with self._lock:
            if root not in self._commits:
                info = self._api.repo_info(name, repo_type="dataset", revision=revision.replace("%2F", "/") or None)
                self._commits[root] = str(info.sha)
        return f"hf://{root}", f"datasets/{name}@{self._commits[root]}", parts[3] if len(parts) > 3 else ""


def _of_hub(found: dict[str, Any], root: str, pinned: str, folder: str) -> ListedFile:
    uri = f"{root}{str(found['name']).removeprefix(pinned)}"
    return ListedFile(uri, uri.removeprefix(folder), int(found["size"]), str(found["blob_id"]))
