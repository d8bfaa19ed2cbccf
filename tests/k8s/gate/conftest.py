from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING

import pytest
import structlog

from common.logs import configure_logs
from common.store import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from common.store.contract import Store


@pytest.fixture
def folder(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "run"))


@pytest.fixture(autouse=True)
def logs() -> Iterator[io.StringIO]:
    """The log lines of this process. A gate in a process of its own has its own stream."""
    stream = io.StringIO()
    with contextlib.redirect_stderr(stream):
        configure_logs()
        yield stream
    structlog.reset_defaults()
