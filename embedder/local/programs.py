"""The programs that `embedder run` starts in place of the containers of a cluster."""

from __future__ import annotations

import re
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

_WORKER_REQUIREMENT = re.compile(r'([\w.-]+).*; extra == "worker"')
"""A line of the embedder's metadata such as `torch>=2.9; extra == "worker"`."""


@dataclass(frozen=True)
class Programs:
    """The commands of the worker, the merger, the worker's check, the listing, the index program and the query program.

    Python's option -P keeps a file `worker.py` in the caller's folder from being run in place of the worker.
    """

    worker: Sequence[str] = (sys.executable, "-P", "-m", "worker")
    merger: Sequence[str] = (sys.executable, "-P", "-m", "merger")
    check: Sequence[str] = (sys.executable, "-P", "-m", "worker.check")
    listing: Sequence[str] = (sys.executable, "-P", "-m", "worker.listing")
    index: Sequence[str] = (sys.executable, "-P", "-m", "results.index")
    query: Sequence[str] = (sys.executable, "-P", "-m", "worker.query")


class LibrariesMissing(ConfigError):
    """The worker cannot start, because the embedder is installed without the extra `worker`."""


def check_worker_libraries(command: str = "embedder run") -> None:
    """Raise LibrariesMissing unless every library of the extra `worker` is installed. Imports none of them.

    `command` is what needs them.
    """
    found = (_WORKER_REQUIREMENT.match(each) for each in requires("embedder") or [])
    missing = [match[1] for match in found if match is not None and not _is_installed(match[1])]
    if missing:
        raise LibrariesMissing(
            f"{command} needs the libraries of the worker, and these are not installed: "
            f"{', '.join(missing)}; install the embedder with its extra `worker`: run uv tool install '.[worker]' in "
            "the folder of its source code"
        )


def own_name() -> str:
    """Return the word with which people start this program: `embedder`, or its path where the name is not on PATH.

    `make run` installs it into .venv, where no shell finds it.
    """
    started = Path(sys.argv[0])
    is_on_path = started.name != "embedder" or not started.is_file() or shutil.which("embedder")
    return "embedder" if is_on_path else sys.argv[0]


def _is_installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True
