"""`python -m merger`: merge the run's chunks into Images_Embedded.h5."""

from __future__ import annotations

from common.process import program


def main() -> str:
    # Imported only now: a signal is to find its handler from the first moment on.
    from common.logs import configure_logs  # noqa: PLC0415
    from common.settings import read_settings  # noqa: PLC0415
    from common.store import open_store  # noqa: PLC0415
    from merger.merge import merge  # noqa: PLC0415
    from merger.settings import MergerSettings  # noqa: PLC0415

    settings = read_settings(MergerSettings)
    configure_logs(settings.log_level)
    return merge(open_store(settings.run_uri), settings)


def _say_nothing_merged() -> None:
    from common.logs import log  # noqa: PLC0415

    log.info("merging", step="starting", parts_done=0, of="unknown")


if __name__ == "__main__":
    program.run(main, at_first=_say_nothing_merged)
