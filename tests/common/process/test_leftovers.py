"""Temporary files that killed programs leave are removed, and files of others stay."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

from common.process.leftovers import held, remove_if_left_over
from common.process.resources import temporary_folder

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

KILLED = """if True:
    import os, signal
    from common.process.resources import temporary_folder
    with temporary_folder("chunk") as folder:
        (folder / "chunk.h5").write_bytes(bytes(1000))
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_programs_that_are_killed_leave_one_temporary_folder_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for _ in range(3):
        killed = subprocess.run([sys.executable, "-c", KILLED], check=False)
        assert killed.returncode == -signal.SIGKILL
        assert len(list(tmp_path.iterdir())) == 1
    with temporary_folder("merge"):
        assert len(list(tmp_path.iterdir())) == 2, "the folder of another purpose is not touched"
    with temporary_folder("chunk") as in_use, temporary_folder("chunk"):
        assert in_use.exists()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_another_name_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    others = {"embedder", "embedder-logs-abcdefgh", "chunk", "chunk-abcdefgh"}
    for name in others:
        (tmp_path / name).mkdir()
    with temporary_folder("chunk"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == others


def test_a_file_that_is_made_while_others_clear_up_is_never_lost(tmp_path: Path) -> None:
    numbers, ended = iter(range(10**6)), threading.Event()

    def new() -> Path:
        path = tmp_path / str(next(numbers))
        path.touch(exist_ok=False)
        return path

    def clear_up() -> None:
        while not ended.is_set():
            removed.extend(map(remove_if_left_over, tmp_path.iterdir()))

    removed: list[bool] = []
    sweeper = threading.Thread(target=clear_up)
    sweeper.start()
    for _ in range(300):
        with held(new) as path:
            assert path.exists()
            assert not remove_if_left_over(path)
    ended.set()
    sweeper.join()
    assert True in removed
