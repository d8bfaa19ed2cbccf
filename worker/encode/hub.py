"""Fetches models from the Hugging Face hub."""

from __future__ import annotations

import socket
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]  # documented, but not declared

from common.errors import ModelError, SourceUnavailable

PROBE_SECONDS = 10
"""Time in seconds that the hub has to answer a probe. Without a probe, the hub's client retries for half a minute."""


def probe(model: str, *, revision: str) -> None:
    """Ask the hub for a model's description. Raises SourceUnavailable if the hub does not give it."""
    try:
        HfApi().model_info(model, revision=revision, timeout=PROBE_SECONDS)
    except Exception as error:  # also those of the client's HTTP library, which changes with each major release
        raise SourceUnavailable(f"the hub does not give {model} at {revision}: {_first_line(error)}") from error


def fetch_model(name: str, *, revision: str, configuration: tuple[str, ...], weights: tuple[str, ...]) -> Path:
    """Return the folder with a model's files, from the cache or fetched.

    `configuration` names files. `weights` are patterns, the preferred one first; the first that matches is taken.
    Raises ModelError if the hub has no such model, and SourceUnavailable if the hub does not answer or is busy.
    """
    disable_progress_bars()
    what = f"model {name!r} at revision {revision!r}"
    try:
        for pattern in weights:
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=[*configuration, pattern]))
            if any(folder.glob(pattern)):
                return folder
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise ModelError(f"the hub has no {what}, or does not show it to this user") from error
    except HFValidationError as error:
        raise ModelError(f"EMBEDDER_MODEL is {name!r}, which is neither a folder nor an id of the hub") from error
    except LocalEntryNotFoundError as error:
        if _may_pass(error):
            raise SourceUnavailable(f"the {what} cannot be fetched now: {_first_line(error)}") from error
        raise ModelError(
            f"the {what} is not in the cache, and the hub cannot be reached ({_first_line(error)}); bake or mount the "
            "weights and set EMBEDDER_MODEL to their folder"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise SourceUnavailable(f"the {what} cannot be fetched now: {_first_line(error)}") from error
    raise ModelError(f"the {what} has no weights that can be read ({', '.join(weights)})")


def _may_pass(error: BaseException | None) -> bool:
    """Tell whether the hub may answer later. It will not if the client is offline or the hub's name has no address."""
    while error is not None:
        if isinstance(error, OfflineModeIsEnabled):
            return False
        if isinstance(error, socket.gaierror):
            return error.errno != socket.EAI_NONAME
        error = error.__cause__ or error.__context__
    return True


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]
