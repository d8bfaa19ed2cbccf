from __future__ import annotations

import pytest

from benchmarks.event_loop import KINDS, S3_ENVIRONMENT, cpu_milliseconds


@pytest.mark.parametrize("kind", KINDS)
def test_the_event_loop_settles_rows_of_each_kind(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in S3_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    assert 0 < cpu_milliseconds(kind, 400) < 100
