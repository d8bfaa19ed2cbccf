"""A chunk of images that a server refused at first, and the same chunk of a run in which nothing failed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.image_server import image_server
from tests.worker.top_up.runs import RunWithFailures

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def run(quick_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunWithFailures]:
    with image_server() as server:
        yield RunWithFailures(server, tmp_path_factory.mktemp("run-with-failures"), quick_clip)
