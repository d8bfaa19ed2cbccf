"""Models for the worker's tests, each saved once and shared."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole CLIP model of 32 x 32 pixels and 16 dimensions."""
    from tests.worker.encode.models import TINY_VISION, save_clip  # noqa: PLC0415 - imports torch, which few tests need

    return save_clip(tmp_path_factory.mktemp("models") / "tiny", vision=TINY_VISION, projection_dim=16)


@pytest.fixture(scope="session")
def quick_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole CLIP model of 32 x 32 pixels with the 512 dimensions of ViT-B/32. It loads quickly."""
    from tests.worker.encode.models import TINY_VISION, save_clip  # noqa: PLC0415

    return save_clip(tmp_path_factory.mktemp("models") / "quick", vision=TINY_VISION, projection_dim=512)


@pytest.fixture(scope="session")
def wide_tower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vision tower of one layer, as wide as ViT-B/32."""
    from tests.worker.encode.models import WIDE_VISION, save_vision_tower  # noqa: PLC0415

    return save_vision_tower(tmp_path_factory.mktemp("models") / "wide", vision=WIDE_VISION, projection_dim=512)


@pytest.fixture(scope="session")
def base_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP model with the vision tower of ViT-B/32 at its full size."""
    from tests.worker.encode.models import VIT_B_32, save_clip  # noqa: PLC0415

    return save_clip(tmp_path_factory.mktemp("models") / "base", vision=VIT_B_32, projection_dim=512)


@pytest.fixture(scope="session")
def talking_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole CLIP model of 32 x 32 pixels and 512 dimensions, with a small tokenizer."""
    from tests.worker.encode.models import TINY_VISION, save_clip_with_tokenizer  # noqa: PLC0415

    return save_clip_with_tokenizer(
        tmp_path_factory.mktemp("models") / "talking", vision=TINY_VISION, projection_dim=512
    )
