"""The console script, with the programs of these tests in place of the worker and the merger."""

from __future__ import annotations

import sys
from pathlib import Path

from embedder.cli import main
from embedder.local.local_run import Programs

HERE = Path(__file__).parent

main(
    Programs(
        worker=(sys.executable, str(HERE / "worker_program.py")),
        merger=(sys.executable, str(HERE / "merger_program.py")),
    )
)
