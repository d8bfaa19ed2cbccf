"""Whether a query's vector may be compared with the vectors of a run: only if the same model made both."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from common.errors import FingerprintMismatch

if TYPE_CHECKING:
    from common.format.provenance import Provenance

_COMMIT = re.compile(r"[0-9a-f]{40}")
_HASH = re.compile(r"\b[0-9a-f]{32,}\b")


class QueryModel(NamedTuple):
    """The model that the query program has found."""

    model: str
    """The hub id, the folder, or `untrained`."""
    revision: str
    """The commit on the hub, "" for a folder of unknown origin."""
    weights: str
    """The hash of configuration and weights, as in the provenance of a run."""
    preprocessing: str
    """The version of the steps from bytes to pixels."""
    is_untrained: bool
    """Whether its weights are random, so that no answer means anything."""
    dimensions: int


def check_same_model(run: Provenance, query: QueryModel, *, name: str) -> None:
    """Raise FingerprintMismatch unless the model that made the vectors of the run `name` is that of the query."""
    if run.preprocessing != query.preprocessing:
        raise FingerprintMismatch(
            f"the images of {name} were prepared as {run.preprocessing}, and this version of the embedder prepares "
            f"them as {query.preprocessing}; search with the version of the embedder that made the run"
        )
    if run.weights == query.weights or _is_same_commit(run, query):
        return
    if query.is_untrained and run.model == query.model:
        raise FingerprintMismatch(
            f"the vectors of {name} are from {_short(run.weights)}, and this machine has {_short(query.weights)}: "
            "random weights depend on the libraries, so search with the same versions of them, or run it again here"
        )
    raise FingerprintMismatch(
        f"the vectors of {name} were made by {_named(run.model, run.model_revision)} with weights "
        f"{_short(run.weights)}, and the model for the query is {_named(query.model, query.revision)} with weights "
        f"{_short(query.weights)}; name the folder of the run's model with --model FOLDER"
    )


def _is_same_commit(run: Provenance, query: QueryModel) -> bool:
    """Tell whether both are one commit of the hub: a folder may hold its vision tower alone, whose files have another
    hash than those of the whole model."""
    return bool(_COMMIT.fullmatch(run.model_revision)) and (run.model, run.model_revision) == (
        query.model,
        query.revision,
    )


def _named(model: str, revision: str) -> str:
    return f"{model} at {revision[:12]}" if revision else model


def _short(text: str) -> str:
    """Return the text with the first characters of each hash only."""
    return _HASH.sub(lambda found: found[0][:12], text)
