"""The settings of `embedder run`, and how its options become the environment that every program of a run reads."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from common.errors import SettingsError
from common.indexes import parse_indexes
from common.settings import ENV_PREFIX, RunSettings, settings_of
from merger.settings import MergerSettings
from worker.settings import WorkerSettings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class LocalRunSettings(RunSettings):
    manifest_uri: str = Field(min_length=1)
    """The list of images, handed to the workers."""

    chunk_count: int = Field(default=1, ge=1, le=100_000)
    """Chunks that the manifest is divided into. 1: on one machine a chunk more is a start of the worker more. With
    10,000 images a chunk little is lost when one is stopped."""

    chunk_indexes: str = ""
    """The chunks to compute, as in `3,7-9`. Empty: all."""

    parallelism: int = Field(default=1, ge=1, le=1024)
    """Workers at a time. 1: a worker uses all cores, or the GPU, by itself; a second one costs its memory and saves
    only the start-ups, of a few seconds a chunk."""

    retries: int = Field(default=3, ge=0, le=1000)
    """Attempts after the first, for each chunk and for the merge: the Job's backoffLimitPerIndex."""

    retry_seconds: float = Field(default=1, ge=0, le=60)
    """Before the first retry; doubled each time up to 60 s, less a random part of up to a half."""

    merge: bool = True
    """Whether the chunks are merged once all are there."""

    log_dir: str = ""
    """Folder for the full log of every attempt. Empty: a temporary one, removed when everything succeeded."""

    model: str = ""
    """Read to warn of `untrained`; the worker decides what it is."""

    @field_validator("chunk_indexes")
    @classmethod
    def _are_indexes(cls, text: str) -> str:
        parse_indexes(text)
        return text

    @property
    def indexes(self) -> list[int]:
        """Return the chunks to compute. Raises SettingsError when one is outside the run."""
        indexes = parse_indexes(self.chunk_indexes) or list(range(self.chunk_count))
        if indexes[-1] >= self.chunk_count:
            raise SettingsError(
                f"EMBEDDER_CHUNK_INDEXES names chunk {indexes[-1]}, but the last of EMBEDDER_CHUNK_COUNT "
                f"{self.chunk_count} is {self.chunk_count - 1}"
            )
        return indexes


SETTABLE = frozenset(
    name for kind in (WorkerSettings, MergerSettings, LocalRunSettings) for name in settings_of(kind)
) - {"job_completion_index"}
"""The settings that an option or `--set` can give: all of them but the chunk's index, which is set for each worker."""


def environment_of(options: Mapping[str, str | None], assignments: Iterable[str]) -> dict[str, str]:
    """Return the EMBEDDER_ variables that options (by setting, None where not given) and `NAME=VALUE`s stand for.

    Raises SettingsError for an assignment that is none or whose name is no setting.
    """
    environment = {f"{ENV_PREFIX}{name}".upper(): value for name, value in options.items() if value is not None}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        setting = name.strip().lower().replace("-", "_").removeprefix(ENV_PREFIX.lower())
        if not equals:
            raise SettingsError(f"--set {assignment!r} has no value; write --set NAME=VALUE")
        if setting not in SETTABLE:
            near = difflib.get_close_matches(setting, SETTABLE, n=1)
            raise SettingsError(
                f"--set {assignment!r}: there is no setting {setting}; "
                + (
                    f"did you mean {near[0]}?"
                    if near
                    else f"choose from {', '.join(sorted(SETTABLE - options.keys()))}"
                )
            )
        environment[f"{ENV_PREFIX}{setting}".upper()] = value
    return environment


def worker_environment(environment: Mapping[str, str], *, index: int, parallelism: int, cores: int) -> dict[str, str]:
    """Return the environment of the worker of one chunk.

    The chunk's index is the pod's, also where only some chunks are computed. Workers side by side share the cores,
    unless the caller has said otherwise: each would start as many threads as there are cores.
    """
    worker = {name: value for name, value in environment.items() if name != f"{ENV_PREFIX}CHUNK_INDEXES"}
    if parallelism > 1:
        share = str(max(1, cores // parallelism))
        worker.setdefault("OMP_NUM_THREADS", share)
        worker.setdefault(f"{ENV_PREFIX}DECODE_THREADS", share)
    return worker | {"JOB_COMPLETION_INDEX": str(index)}
