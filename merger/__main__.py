"""python -m merger: merges the run's chunks into Images_Embedded.h5."""

from __future__ import annotations

from common.logs import configure_logs, log
from common.process import program
from common.settings import read_settings
from merger.settings import MergerSettings


def main() -> program.Finished:
    settings = read_settings(MergerSettings)
    configure_logs(settings.log_level)
    # These imports take half a second, and a signal must find its handlers from the first moment on.
    from common.store import open_store  # noqa: PLC0415
    from merger.merge import merge  # noqa: PLC0415

    return program.Finished(merge(open_store(settings.run_uri), settings))


def _say_nothing_merged() -> None:
    log.info("merging", step="starting", parts_done=0, of="unknown")


if __name__ == "__main__":
    program.run(main, on_early_stop=_say_nothing_merged)
