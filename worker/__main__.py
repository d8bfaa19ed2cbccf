"""python -m worker: embeds one chunk. docs/settings.md lists its settings, docs/exit-codes.md its exit codes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.logs import CHUNK_PROGRESS, configure_logs, log
from common.process import program
from common.settings import read_settings
from worker.chunk_job.outcome import AlreadyMerged, AlreadyStored, Stored
from worker.settings import WorkerSettings

if TYPE_CHECKING:
    from worker.chunk_job.outcome import Outcome


def main() -> program.Finished:
    settings = read_settings(WorkerSettings)
    configure_logs(settings.chunk.log_level, chunk=settings.chunk.chunk_index)
    # This import takes a second, and a signal must find its handlers from the first moment on.
    from worker.chunk_job.job import embed_chunk  # noqa: PLC0415

    return last_word(embed_chunk(settings))


def last_word(outcome: Outcome) -> program.Finished:
    """Return what the worker says at its end, with the counts that `embedder status` reads."""
    match outcome:
        case Stored():
            reasons = "".join(f", {reason} {count}" for reason, count in outcome.failures_by_reason.items())
            message = (
                f"chunk {outcome.chunk} is in the store: {outcome.location}, {outcome.size} bytes, "
                f"{outcome.embedded} images embedded, {outcome.failed} failed{reasons}"
            )
        case AlreadyStored():
            message = (
                f"chunk {outcome.chunk} is in the store already: {outcome.location}, "
                f"{outcome.embedded} images embedded, {outcome.failed} failed"
            )
        case AlreadyMerged():
            return program.Finished(f"this run is finished: {outcome.result} holds chunk {outcome.chunk}")
    requested = outcome.embedded + outcome.failed
    return program.Finished(message, {"images": requested, "of": requested, "failed": outcome.failed})


def _say_nothing_embedded() -> None:
    log.info(CHUNK_PROGRESS, images=0, of="unknown")


if __name__ == "__main__":
    program.run(main, on_early_stop=_say_nothing_embedded)
