"""A run over images of a server, with a model that loads quickly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from common.store import open_store
from tests.image_server import ImageServer, image_server
from tests.interruptions.runs import RunOfImages, ended

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from common.store.contract import Store

DIMENSIONS = 8192
"""Length of the model's vectors. Long vectors make a chunk of few images large enough for a store to copy."""


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.worker.encode.models import TINY_VISION, save_clip  # noqa: PLC0415 - imports torch

    return save_clip(tmp_path_factory.mktemp("models") / "wide", vision=TINY_VISION, projection_dim=DIMENSIONS)


@pytest.fixture
def server() -> Iterator[ImageServer]:
    with image_server() as running:
        yield running


@pytest.fixture(scope="session")
def shared_run(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunOfImages]:
    with image_server() as server:
        yield RunOfImages(server, tmp_path_factory.mktemp("run-of-images"), model)


@pytest.fixture
def run(shared_run: RunOfImages, tmp_path: Path) -> RunOfImages:
    """The shared run; its programs put their temporary files into a folder of this test."""
    shared_run.temporary = tmp_path / "tmp"
    shared_run.temporary.mkdir()
    for watch in shared_run.watches:
        watch.reaper, watch.last_image_seconds = None, 0
    return shared_run


@pytest.fixture(scope="session")
def undisturbed(shared_run: RunOfImages, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The finished shared run of programs that nothing disturbed."""
    store = open_store(str(tmp_path_factory.mktemp("undisturbed") / "run"))
    for process in [shared_run.start_worker(store.uri, index, {}) for index in range(3)]:
        ended(process)
    ended(shared_run.start_merger(store.uri, {}))
    return store
