"""Fetches models from the Hugging Face hub."""

from __future__ import annotations

import socket
from pathlib import Path

from huggingface_hub import HfApi, constants, get_session, snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]  # documented, but not declared

from common.certificates import refusal
from common.errors import ModelError, SourceUnavailable
from common.retry import GivenUp, RetryPolicy, call
from worker.hub_client import hub_http_library

PROBE_SECONDS = 10
"""Time in seconds that the hub has to answer a probe. Without a probe, the hub's client retries for half a minute."""

REACH_SECONDS = 30
"""Time in seconds for which the hub is tried before anything is fetched. The network or the name servers of a new pod
may come seconds after it. The hub's own client repeats a request as long, also where no waiting helps."""

REACH = RetryPolicy(first_pause_seconds=0.5, longest_pause_seconds=4, patience_seconds=REACH_SECONDS)


def _reach() -> Exception | None:
    """Wait until the hub answers. Return why it does not, None if it does or if the client is set to be offline.

    Raises CertificateRefused.
    """
    http = hub_http_library()

    def ask() -> None:
        try:
            get_session().head(constants.ENDPOINT, timeout=PROBE_SECONDS, follow_redirects=False)
        except http.HTTPError as error:
            if (refused := refusal(error, f"the hub at {constants.ENDPOINT}")) is not None:
                raise refused from error
            raise

    try:
        call(ask, REACH, may_pass=lambda error: isinstance(error, http.HTTPError))
    except OfflineModeIsEnabled:
        return None
    except GivenUp as given_up:
        return given_up.error
    return None


def probe(model: str, *, revision: str) -> None:
    """Ask the hub for a model's description. Raises SourceUnavailable if the hub does not give it."""
    http = hub_http_library()
    try:
        HfApi().model_info(model, revision=revision, timeout=PROBE_SECONDS)
    except Exception as error:  # also those of the client's HTTP library, which changes with each major release
        refused = refusal(error, f"the hub at {constants.ENDPOINT}") if isinstance(error, http.HTTPError) else None
        raise refused or SourceUnavailable(
            f"the hub does not give {model} at {revision}: {_first_line(error)}"
        ) from error


def fetch_model(name: str, *, revision: str, configuration: tuple[str, ...], weights: tuple[str, ...]) -> Path:
    """Return the folder with a model's files, from the cache or fetched.

    `configuration` names files. `weights` are patterns, the preferred one first; the first that matches is taken.
    Raises ModelError if the hub has no such model, CertificateRefused if the hub cannot be trusted, and
    SourceUnavailable if it does not answer or is busy.
    """
    disable_progress_bars()
    what = f"model {name!r} at revision {revision!r}"
    http = hub_http_library()
    unreachable = _reach()
    try:
        for pattern in weights:
            folder = Path(
                snapshot_download(
                    name,
                    revision=revision,
                    allow_patterns=[*configuration, pattern],
                    local_files_only=unreachable is not None,
                )
            )
            if any(folder.glob(pattern)):
                return folder
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise ModelError(f"the hub has no {what}, or does not show it to this user") from error
    except HFValidationError as error:
        raise ModelError(f"EMBEDDER_MODEL is {name!r}, which is neither a folder nor an id of the hub") from error
    except LocalEntryNotFoundError as error:
        why = unreachable or error
        if _may_pass(why):
            raise SourceUnavailable(f"the {what} cannot be fetched now: {_first_line(why)}") from error
        raise ModelError(
            f"the {what} is not in the cache, and the hub cannot be reached ({_first_line(why)}); bake or mount the "
            "weights and set EMBEDDER_MODEL to their folder"
        ) from error
    except (HfHubHTTPError, http.HTTPError, OSError) as error:
        refused = refusal(error, f"the {what}")
        raise refused or SourceUnavailable(f"the {what} cannot be fetched now: {_first_line(error)}") from error
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
