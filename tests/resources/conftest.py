from __future__ import annotations

from tests.worker.conftest import wide_tower

__all__ = ["wide_tower"]
