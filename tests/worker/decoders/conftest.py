"""Libraries that are faulty in the decoders, so that they crash, hang and fail there as native code may."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.worker.decoders.faults import FAULTY_LIBRARIES, FORK_THAT_FAILS

if TYPE_CHECKING:
    from pathlib import Path


def run_at_start_of_python(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let every Python process that is started after this run `code` first. Return a folder for its files."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(code, "utf-8")
    path = [str(folder), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path).rstrip(os.pathsep))
    return folder


@pytest.fixture
def faulty_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make Pillow, simplejpeg and libcurl faulty, as `tests.worker.decoders.faults` says. Return their folder."""
    return run_at_start_of_python(FAULTY_LIBRARIES, tmp_path / "faulty", monkeypatch)


@pytest.fixture
def early_deaths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a file. For each byte in it, one decoder dies before it is ready."""
    return run_at_start_of_python(FORK_THAT_FAILS, tmp_path / "faulty", monkeypatch) / "deaths"
