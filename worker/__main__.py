"""python -m worker: embeds one chunk. docs/settings.md lists its settings, docs/exit-codes.md its exit codes."""

from __future__ import annotations

from common.logs import configure_logs, log
from common.process import program
from common.settings import read_settings
from worker.settings import WorkerSettings


def main() -> program.Finished:
    settings = read_settings(WorkerSettings)
    configure_logs(settings.chunk.log_level, chunk=settings.chunk.chunk_index)
    # This import takes a second, and a signal must find its handlers from the first moment on.
    from worker.chunk_job import embed_chunk  # noqa: PLC0415

    return program.Finished(embed_chunk(settings))


def _say_nothing_embedded() -> None:
    log.info("embedded", images=0, of="unknown")


if __name__ == "__main__":
    program.run(main, on_early_stop=_say_nothing_embedded)
