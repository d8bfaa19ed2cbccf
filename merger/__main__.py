"""`python -m merger`: merge the run's chunks into Images_Embedded.h5."""

from __future__ import annotations

from common.logs import configure_logs
from common.program import run
from common.settings import read_settings
from common.store import open_store
from merger.merge import merge
from merger.settings import MergerSettings


def main() -> str:
    configure_logs()
    settings = read_settings(MergerSettings)
    configure_logs(settings.log_level)
    return merge(open_store(settings.run_uri), settings)


if __name__ == "__main__":
    run(main)
