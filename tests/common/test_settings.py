from __future__ import annotations

import pytest
from pydantic import Field

from common.errors import SettingsError
from common.settings import RunSettings, read_settings


class SomeSettings(RunSettings):
    some_count: int = Field(default=3, ge=1)


def test_the_name_of_a_setting_gives_the_name_of_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDDER_RUN_URI", "s3://bucket/run")
    monkeypatch.setenv("EMBEDDER_CHUNK_COUNT", "900")
    monkeypatch.setenv("EMBEDDER_SOME_COUNT", "")
    settings = read_settings(SomeSettings)
    assert (settings.run_uri, settings.chunk_count, settings.some_count) == ("s3://bucket/run", 900, 3)


def test_one_error_names_all_settings_that_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDDER_RUN_URI", "https://user:hunter2@host/run")
    monkeypatch.setenv("EMBEDDER_SOME_COUNT", "-1")
    with pytest.raises(SettingsError) as error:
        read_settings(SomeSettings)
    message = str(error.value)
    assert "EMBEDDER_CHUNK_COUNT is not set" in message
    assert "EMBEDDER_SOME_COUNT is '-1'" in message
    assert "hunter2" not in message
    assert "\n" not in message
