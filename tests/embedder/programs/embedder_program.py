"""The console script, with the programs of this folder in place of the worker and the merger."""

from __future__ import annotations

import sys
from pathlib import Path

from embedder.cli import main
from embedder.local.programs import Programs

HERE = Path(__file__).parent

main(
    Programs(
        worker=(sys.executable, str(HERE / "worker_program.py")),
        merger=(sys.executable, str(HERE / "merger_program.py")),
    )
)
