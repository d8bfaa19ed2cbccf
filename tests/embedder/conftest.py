"""The worker's models are those of `embedder check` too."""

from __future__ import annotations

from tests.worker.conftest import quick_clip

__all__ = ["quick_clip"]
