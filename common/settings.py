"""The settings that every program of a run shares, and how settings are read.

Each program reads its settings once, in `__main__`, into a frozen object. `batch_size` is `EMBEDDER_BATCH_SIZE` in the
environment and `worker.batchSize` in the chart.
"""

from __future__ import annotations

from typing import Literal, TypeVar

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from common.errors import SettingsError
from common.logs import redact_urls

ENV_PREFIX = "EMBEDDER_"


class RunSettings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_ignore_empty=True, frozen=True, extra="ignore", use_attribute_docstrings=True
    )

    run_uri: str = Field(min_length=1)
    """Where the run lives: `s3://bucket/prefix` or a folder. Every program of a run gets the same one."""

    chunk_count: int = Field(ge=1, le=100_000)
    """Chunks that the manifest is divided into. A chunk is what a rerun repeats, and what shares one start-up of some
    10 seconds: 10,000 images suit a CPU, 50,000 a GPU. (100,000 is what Kubernetes allows an Indexed Job.)"""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least level that is logged. Progress is info."""


Settings = TypeVar("Settings", bound=BaseSettings)


def read_settings(kind: type[Settings]) -> Settings:
    """Return the settings of `kind` from the environment. Raises SettingsError that names every wrong one."""
    try:
        return kind()
    except ValidationError as error:
        problems = [_problem(kind, dict(detail)) for detail in error.errors()]
    raise SettingsError("; ".join(problems))


def setting_name(kind: type[BaseSettings], field: str) -> str:
    """Return the environment variable of a field: its alias where it has one, else the prefix and its name."""
    info = kind.model_fields.get(field)
    alias = info.validation_alias if info else None
    return alias if isinstance(alias, str) else f"{kind.model_config.get('env_prefix', '')}{field}".upper()


def _problem(kind: type[BaseSettings], detail: dict[str, object]) -> str:
    location = detail["loc"]
    field = str(location[0]) if isinstance(location, tuple) and location else ""
    message = str(detail["msg"]).removeprefix("Value error, ")
    if not field:
        return message
    name = field if field.isupper() else setting_name(kind, field)
    if detail["type"] == "missing":
        return f"{name} is not set"
    return redact_urls(f"{name} is {detail['input']!r}: {message[:1].lower()}{message[1:]}")
