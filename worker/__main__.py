"""python -m worker: embeds one chunk. See the README for its settings and exit codes."""

from __future__ import annotations

import warnings

from common import program
from common.logs import configure_logs
from common.settings import read_settings
from worker.memory import keep_freed_memory
from worker.settings import WorkerSettings


def main() -> str:
    settings = read_settings(WorkerSettings)
    configure_logs(settings.log_level, chunk=settings.chunk_index)
    # Pillow remarks on odd metadata of single images, which the ledger or nobody needs to know.
    warnings.filterwarnings("ignore", module="PIL")
    from worker.chunk_job import embed_chunk  # noqa: PLC0415 - after the logs are set up

    return embed_chunk(settings)


if __name__ == "__main__":
    keep_freed_memory()
    configure_logs()
    program.run(main)
