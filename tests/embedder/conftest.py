"""The worker's models are those of `embedder check` and `embedder search` too."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.worker.conftest import quick_clip, talking_clip

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["quick_clip", "talking_clip"]


@pytest.fixture(scope="session")
def photo_run(talking_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of a few photos, made by `talking_clip`."""
    from tests.embedder.searching import make_run  # noqa: PLC0415 - imports h5py, which few tests need

    return make_run(tmp_path_factory.mktemp("photo-run"), talking_clip)
