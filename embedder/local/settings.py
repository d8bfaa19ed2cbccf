"""The settings of `embedder run`, and the environment that it gives to the programs of a run."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Self

from pydantic import Field, field_validator, model_validator

from common.errors import SettingsError
from common.format.reasons import MAY_PASS, Reason
from common.indexes import parse_indexes
from common.settings import ENV_PREFIX, RunSettings, settings_of
from merger.settings import MergerSettings
from worker.memory import WORKER_MALLOC
from worker.settings import WorkerSettings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class LocalRunSettings(RunSettings):
    manifest_uri: str = Field(min_length=1)
    """The list of images. The workers read it."""

    chunk_count: int = Field(default=1, ge=1, le=100_000)
    """Number of chunks that the manifest is divided into. 1: on one machine, each further chunk costs one more start of
    the worker. With 10,000 images a chunk, little work is lost when a worker is stopped."""

    chunk_indexes: str = ""
    """The chunks to compute, as in `3,7-9`. Empty: all chunks."""

    parallelism: int = Field(default=1, ge=1, le=1024)
    """Number of workers that run at the same time. 1: one worker uses all cores, or the GPU. A second worker needs as
    much memory again, and it saves only the start-up of a few seconds a chunk."""

    retries: int = Field(default=3, ge=0, le=1000)
    """Number of attempts after the first one, for each chunk and for the merge, like a Job's backoffLimitPerIndex."""

    retry_seconds: float = Field(default=1, ge=0, le=60)
    """Pause in seconds before the second attempt. It doubles with each attempt up to 60 s, and a random part of up to a
    half is taken off."""

    merge: bool = True
    """Whether the chunks are merged when all of them are in the store."""

    top_up: bool = False
    """Whether only those images are fetched again that failed for a reason that may pass, in a run that is computed.
    All other rows stay as they are."""

    top_up_reasons: str = ""
    """The reasons of the images that `top_up` fetches again, as in `deferred,timeout`. Empty: the reasons that may
    pass: those that say more about a moment than about the image."""

    log_dir: str = ""
    """Folder for the full log of every attempt. Empty: a temporary folder, which is removed when everything
    succeeds."""

    model: str = ""
    """The model. The worker reads it; `embedder run` only warns when it is `untrained`."""

    @field_validator("chunk_indexes")
    @classmethod
    def _are_indexes(cls, text: str) -> str:
        parse_indexes(text)
        return text

    @field_validator("top_up_reasons")
    @classmethod
    def _are_reasons(cls, text: str) -> str:
        read_reasons(text)
        return text

    @model_validator(mode="after")
    def _reasons_have_a_use(self) -> Self:
        if self.top_up_reasons and not self.top_up:
            raise ValueError(
                f"EMBEDDER_TOP_UP_REASONS is {self.top_up_reasons!r}, which only a top-up uses; add --top-up, or leave "
                "out --top-up-reasons"
            )
        return self

    @property
    def reasons(self) -> frozenset[Reason]:
        """Return the reasons of the images that a top-up fetches again."""
        return read_reasons(self.top_up_reasons) or MAY_PASS

    @property
    def indexes(self) -> list[int]:
        """Return the chunks to compute. Raises SettingsError when the run has no chunk with one of these indexes."""
        indexes = parse_indexes(self.chunk_indexes) or list(range(self.chunk_count))
        if indexes[-1] >= self.chunk_count:
            raise SettingsError(
                f"EMBEDDER_CHUNK_INDEXES names chunk {indexes[-1]}, but EMBEDDER_CHUNK_COUNT is {self.chunk_count}; "
                f"choose indexes from 0 to {self.chunk_count - 1}"
            )
        return indexes


def read_reasons(text: str) -> frozenset[Reason]:
    """Return the reasons of a list with commas. Raises ValueError when one of them is no reason."""
    names = [name for each in text.split(",") if (name := each.strip())]
    unknown = sorted(set(names) - set(Reason))
    if unknown:
        near = difflib.get_close_matches(unknown[0], list(Reason), n=1)
        remedy = f"did you mean {near[0]}?" if near else f"choose from {', '.join(Reason)}"
        raise ValueError(f"there is no reason {unknown[0]}; {remedy}")
    return frozenset(map(Reason, names))


SETTABLE = {
    name: setting.variable
    for kind in (WorkerSettings, MergerSettings, LocalRunSettings)
    for name, setting in settings_of(kind).items()
    if name != "job_completion_index"
}
"""The variables of the settings that an option or `--set` can give. Each worker is given the index of its chunk."""


def environment_of(options: Mapping[str, str | None], assignments: Iterable[str]) -> dict[str, str]:
    """Return the EMBEDDER_ variables for the options and the assignments.

    `options` has the options by the name of their setting, None for an option that is not given. An assignment is a
    text `NAME=VALUE`. Raises SettingsError for all texts without a value and with a name that no setting has.
    """
    problems: list[str] = []
    environment = {SETTABLE[name]: value for name, value in options.items() if value is not None}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        setting = name.strip().lower().replace("-", "_").removeprefix(ENV_PREFIX.lower())
        if not equals:
            problems.append(f"--set {assignment!r} has no value; write --set NAME=VALUE")
        elif setting not in SETTABLE:
            near = difflib.get_close_matches(setting, SETTABLE, n=1)
            others = ", ".join(sorted(SETTABLE.keys() - options.keys()))
            remedy = f"did you mean {near[0]}?" if near else f"choose from {others}"
            problems.append(f"--set {assignment!r}: there is no setting {setting}; {remedy}")
        else:
            environment[SETTABLE[setting]] = value
    if problems:
        raise SettingsError("; ".join(problems))
    return environment


def worker_environment(environment: Mapping[str, str], *, index: int, parallelism: int, cores: int) -> dict[str, str]:
    """Return the environment of the worker of one chunk.

    A variable that the caller has set stays as it is. Workers that run at the same time share the cores: otherwise each
    of them would start as many threads as there are cores.
    """
    worker = {**WORKER_MALLOC, **environment}
    # A worker takes JOB_COMPLETION_INDEX for a position in this list.
    worker.pop(f"{ENV_PREFIX}CHUNK_INDEXES", None)
    if parallelism > 1:
        share = str(max(1, cores // parallelism))
        worker.setdefault("OMP_NUM_THREADS", share)
        worker.setdefault(f"{ENV_PREFIX}DECODE_THREADS", share)
    return worker | {"JOB_COMPLETION_INDEX": str(index)}
