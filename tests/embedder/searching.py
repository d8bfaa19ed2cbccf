"""A finished run of a few photos, made by a small model that has words."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from common.store import open_store
from embedder.local.programs import Programs
from embedder.query.program import QueryProgram
from merger.merge import merge
from results.result import open_result
from tests.merger.runs import settings_for
from tests.worker.worker_process import PHOTOS, run_worker, write_manifest

if TYPE_CHECKING:
    from pathlib import Path

    from results.result import Result

ANSWER_SECONDS = 60
"""Longest time that a test waits for an answer, in seconds: far more than the libraries take to be imported."""

NAMES = [path.name for path in PHOTOS if path.stem in {"astronaut", "cat", "coffee", "crab", "dogs", "rocket"}]


def make_run(folder: Path, model: Path) -> Path:
    """Embed the photos, and return the folder of the run."""
    write_manifest(folder, [str(path) for path in PHOTOS if path.name in NAMES])
    run = folder / "run"
    ended = run_worker(manifest_uri=folder / "manifest.txt", run_uri=run, model=model, dtype="float32")
    assert ended.exit_code == 0, ended.log
    store = open_store(str(run))
    merge(store, settings_for(store, 1))
    return run


def start_program(result: Result, *, model: str = "", **settings: object) -> QueryProgram:
    """Start a query program for the result, with these settings."""
    named = {f"EMBEDDER_{name.upper()}": str(value) for name, value in settings.items()}
    program = QueryProgram(Programs(), os.environ | named)
    program.use_model(result.provenance, name=result.store.uri, dimensions=result.dimensions, model=model)
    return program


def result_of(run: Path) -> Result:
    return open_result(open_store(str(run)))
