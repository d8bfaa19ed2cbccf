"""python -m worker: embeds one chunk. See the README for its settings and exit codes."""

from __future__ import annotations

from common.process import program


def main() -> str:
    # Imported only now: a signal is to find its handler from the first moment on.
    from common.logs import configure_logs  # noqa: PLC0415
    from common.settings import read_settings  # noqa: PLC0415
    from worker.settings import WorkerSettings  # noqa: PLC0415

    settings = read_settings(WorkerSettings)
    configure_logs(settings.chunk.log_level, chunk=settings.chunk.chunk_index)
    from worker.chunk_job import embed_chunk  # noqa: PLC0415

    return embed_chunk(settings)


def before_threads() -> None:
    from worker.memory import keep_freed_memory  # noqa: PLC0415

    keep_freed_memory()


def _say_nothing_embedded() -> None:
    from common.logs import log  # noqa: PLC0415

    log.info("embedded", images=0, of="unknown")


if __name__ == "__main__":
    program.run(main, before_threads=before_threads, at_first=_say_nothing_embedded)
