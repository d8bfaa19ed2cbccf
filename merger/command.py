"""The merger from its environment to its last word."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from common.errors import StoreAccessDenied
from common.indexes import brief_indexes
from common.logs import configure_logs
from common.process.program import Finished
from common.run.cost import describe_spent
from common.run.keys import RESULT_KEY
from common.settings import read_settings
from common.store import open_store
from merger.merge import merge
from merger.outcome import AlreadyFinished, Merged
from merger.settings import MergerSettings

if TYPE_CHECKING:
    from common.run.summary import Summary
    from common.store.contract import Store


def run_merger() -> Finished:
    settings = read_settings(MergerSettings)
    configure_logs(settings.log_level)
    store = open_store(settings.run_uri)
    check_rights(store, settings)
    outcome = merge(store, settings)
    return Finished(sentence(outcome, result=store.location(RESULT_KEY)), counts_of(outcome.summary))


def check_rights(store: Store, settings: MergerSettings) -> None:
    """Raise StoreAccessDenied unless this program has the permissions that the merge needs, the last step included."""
    abilities = store.check_access()
    if not abilities.may_delete and not settings.keep_chunks:
        raise StoreAccessDenied(
            f"the merge deletes the chunk files when the result is verified, and may not delete: "
            f"{abilities.delete_refusal}; give it the permission (s3:DeleteObject), or set EMBEDDER_KEEP_CHUNKS=true"
        )


def counts_of(summary: Summary) -> dict[str, int]:
    """Return the counts that `embedder status` reads, in whole seconds."""
    return {
        "embedded": summary.rows_embedded,
        "computing_seconds": round(summary.computing_seconds),
        "gpu_seconds": round(summary.gpu_hours * 3600),
    }


def sentence(outcome: Merged | AlreadyFinished, *, result: str) -> str:
    """Return what the program says about its outcome. `result` is the full name of the result."""
    summary = outcome.summary
    spent = f"; {words}" if (words := describe_spent(summary)) else ""
    missing = f", without chunks {brief_indexes(summary.missing)}" if summary.missing else ""
    match outcome:
        case Merged():
            return (
                f"{result} has {summary.rows_embedded} images of {summary.rows_requested}, {summary.rows_failed} "
                f"failed{missing}; {summary.bytes_copied_by_store} bytes copied by the store, "
                f"{summary.bytes_uploaded} uploaded, {summary.verification.rows_compared} rows compared{spent}"
            )
        case AlreadyFinished():
            return (
                f"this run is finished: {result} has {summary.rows_embedded} images, "
                f"{summary.rows_failed} failed{missing}{spent}"
            )
        case _:
            assert_never(outcome)
