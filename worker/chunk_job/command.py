"""The worker from its environment to its last word."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.logs import configure_logs
from common.process.program import Finished
from common.settings import read_settings
from worker.chunk_job.outcome import AlreadyMerged, AlreadyStored, NothingToTopUp, Stored, ToppedUp
from worker.settings import WorkerSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from worker.chunk_job.outcome import Outcome


def run_worker() -> Finished:
    settings = read_settings(WorkerSettings)
    configure_logs(settings.chunk.log_level, chunk=settings.chunk.chunk_index)
    # Imported here: it takes a second, in which a stop is already logged with the chunk.
    from worker.chunk_job.job import embed_chunk  # noqa: PLC0415

    return last_word(embed_chunk(settings))


def last_word(outcome: Outcome) -> Finished:
    """Return what the worker says at its end, with the counts that `embedder status` reads."""
    match outcome:
        case Stored():
            message = (
                f"chunk {outcome.chunk} is in the store: {outcome.location}, {outcome.size} bytes, "
                f"{outcome.embedded} images embedded, {outcome.failed} failed{_reasons(outcome.failures_by_reason)}"
            )
            if outcome.deferred:
                message += (
                    f"; {outcome.deferred} are deferred, because their sites serve slowly: fetch them with a top-up"
                )
        case ToppedUp():
            stored = last_word(outcome.stored)
            failed = outcome.computed - outcome.gained
            return Finished(
                f"{outcome.computed} images were computed again, {outcome.gained} of them are embedded now, {failed} "
                f"failed once more{_reasons(outcome.failed_by_reason)}; {stored.message}",
                {**stored.counts, "computed": outcome.computed, "gained": outcome.gained},
            )
        case NothingToTopUp():
            message = (
                f"nothing to compute again in chunk {outcome.chunk}: none of its failed images has a reason of "
                f"EMBEDDER_TOP_UP_REASONS; {outcome.location} stays, {outcome.embedded} images embedded, "
                f"{outcome.failed} failed"
            )
        case AlreadyStored():
            message = (
                f"chunk {outcome.chunk} is in the store already: {outcome.location}, "
                f"{outcome.embedded} images embedded, {outcome.failed} failed"
            )
        case AlreadyMerged():
            return Finished(f"this run is finished: {outcome.result} holds chunk {outcome.chunk}")
    requested = outcome.embedded + outcome.failed
    counts = {"images": requested, "of": requested, "failed": outcome.failed, "deferred": outcome.deferred}
    return Finished(message, counts)


def _reasons(counts: Mapping[str, int]) -> str:
    return "".join(f", {reason} {count}" for reason, count in counts.items())
