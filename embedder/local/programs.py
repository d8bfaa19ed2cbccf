"""The programs that `embedder run` starts in place of the containers of a cluster."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

WORKER_LIBRARIES = (
    "PIL",
    "aiohttp",
    "huggingface_hub",
    "prometheus_client",
    "pyarrow",
    "safetensors",
    "simplejpeg",
    "torch",
    "transformers",
    "urllib3",
)
"""The modules of the libraries that the extra `worker` installs."""


class LibrariesMissing(ConfigError):
    """The worker cannot start, because the embedder is installed without the extra `worker`."""


@dataclass(frozen=True)
class Programs:
    """The commands of the worker and the merger.

    Python's option -P keeps a file `worker.py` in the caller's folder from being run in place of the worker.
    """

    worker: Sequence[str] = (sys.executable, "-P", "-m", "worker")
    merger: Sequence[str] = (sys.executable, "-P", "-m", "merger")


def check_worker_libraries() -> None:
    """Raise LibrariesMissing unless every library of the worker is installed. None of them is imported."""
    missing = [name for name in WORKER_LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        raise LibrariesMissing(
            f"embedder run needs the libraries of the worker, but {', '.join(missing)} cannot be found; install the "
            "embedder with its extra `worker`: run uv tool install '.[worker]' in the folder of its source code"
        )
