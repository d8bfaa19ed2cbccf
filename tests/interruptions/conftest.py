"""A run over images of a server, with a model that is quick to load and has as many dimensions as the usual one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.image_server import ImageServer, image_server
from tests.interruptions.runs import RunOfImages

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.worker.encode.models import TINY_VISION, save_clip  # noqa: PLC0415 - imports torch

    return save_clip(tmp_path_factory.mktemp("models") / "wide", vision=TINY_VISION, projection_dim=512)


@pytest.fixture
def server() -> Iterator[ImageServer]:
    with image_server() as running:
        yield running


@pytest.fixture
def run(server: ImageServer, model: Path, tmp_path: Path) -> RunOfImages:
    return RunOfImages(server, tmp_path, model)
