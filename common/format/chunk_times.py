"""What a worker leaves in its chunk file for the report: when it computed, on what, what it waited for, some pictures.

Nothing depends on it. A chunk file without it, of an earlier version, is as good as any other.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

MAX_PICTURE_BYTES = 6 << 10
"""Size of the largest sample picture in bytes."""

MOST_PICTURES = 24
"""Largest number of sample pictures of a chunk."""

MOST_ATTEMPTS = 100
"""Largest number of earlier attempts that a chunk keeps; the oldest ones are dropped."""

_TIMES = "times"

Model = TypeVar("Model", bound=BaseModel)


class Attempt(BaseModel):
    """One worker's work at a chunk, as far as it is known: up to its chunk file, or up to its last checkpoint.

    A time is in UTC, in ISO 8601.
    """

    model_config = ConfigDict(frozen=True)

    started_at: str
    ended_at: str
    images: int = 0
    """Number of images that this attempt embedded."""
    gpus: int = 0
    """Number of GPUs that the worker held; 0 on CPUs."""
    seconds: float = 0
    """From the start to the end, by a clock that nobody sets."""

    @property
    def gpu_seconds(self) -> float:
        return self.gpus * self.seconds


class ChunkTimes(Attempt):
    """When and how a chunk was computed: what the worker leaves in its chunk file, for the report.

    All numbers are of the attempt that wrote the chunk file, except those of `earlier` and of `rows` and `failed`.
    """

    index: int
    attempt: int | None = None
    """The number of the attempt, from 1. None where nobody told the worker."""
    device: str = ""
    """The name of the device, as in `cuda:0 (NVIDIA L4)` or `cpu`."""
    encoded_seconds: float = 0
    """For how long the encoder worked, in seconds."""
    waited_seconds: dict[str, float] = {}
    """For how long the encoder waited, in seconds, by what it waited for: `start` (the model), `fetch`, `loop`,
    `decode` (see worker.stage_times)."""
    bytes_fetched: int = 0
    rows: int = 0
    """Number of rows of the chunk."""
    failed: int = 0
    """Number of rows of the chunk that are not embedded."""
    earlier: tuple[Attempt, ...] = ()
    """The attempts before this one of which anything is known: those that left checkpoints, and those whose chunk file
    a top-up has replaced. In the order of their start."""

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """This attempt, after the earlier ones."""
        return (*self.earlier, self)

    @property
    def all_gpu_seconds(self) -> float:
        """Seconds of GPUs in all attempts that are known."""
        return sum(attempt.gpu_seconds for attempt in self.attempts)

    def after(self, earlier: Iterable[Attempt]) -> ChunkTimes:
        """Return the same times with more earlier attempts. An attempt that is known already does not count twice."""
        return self.model_copy(update={"earlier": join_attempts((*self.earlier, *earlier), without=self.started_at)})


class SamplePicture(NamedTuple):
    """A small picture of one embedded image."""

    url: str
    """As in the manifest."""
    jpeg: bytes


def join_attempts(attempts: Iterable[Attempt], *, without: str = "") -> tuple[Attempt, ...]:
    """Return the attempts in the order of their start, each once: of several with one start, the longest.

    `without` is a start whose attempts are left out.
    """
    longest: dict[str, Attempt] = {}
    for attempt in attempts:
        known = longest.get(attempt.started_at)
        if attempt.started_at != without and (known is None or attempt.seconds > known.seconds):
            longest[attempt.started_at] = as_attempt(attempt)
    return tuple(longest[start] for start in sorted(longest))[-MOST_ATTEMPTS:]


def as_attempt(attempt: Attempt) -> Attempt:
    """Return the attempt alone, without what ChunkTimes adds."""
    return Attempt(**{name: getattr(attempt, name) for name in Attempt.model_fields})


def read_time(text: str) -> datetime | None:
    """Return a time of an attempt, None where it is not one."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    return time if time.tzinfo else None


class BriefAttempt(NamedTuple):
    """The little that totals need of an attempt."""

    started: float
    """Unix time."""
    ended: float
    gpu_seconds: float


def briefly(attempts: Iterable[Attempt]) -> tuple[BriefAttempt, ...]:
    """Return what totals need of the attempts, without those whose times cannot be read."""
    found = []
    for attempt in attempts:
        started, ended = read_time(attempt.started_at), read_time(attempt.ended_at)
        if started is not None and ended is not None:
            found.append(BriefAttempt(started.timestamp(), ended.timestamp(), attempt.gpu_seconds))
    return tuple(found)


def computing_seconds(attempts: Iterable[BriefAttempt]) -> float:
    """Return for how long at least one of the attempts went on, in seconds."""
    total = until = 0.0
    for started, ended, _ in sorted(attempts):
        total += max(0.0, ended - max(started, until))
        until = max(until, ended)
    return total


def times_attributes(times: ChunkTimes | None, pictures: Sequence[SamplePicture]) -> dict[str, Any]:
    """Return the attributes of a chunk file that hold this."""
    import numpy as np  # noqa: PLC0415 - summary.json has times too, and programs that read it alone need no numpy

    attributes: dict[str, Any] = {} if times is None else {_TIMES: times.model_dump_json()}
    for number, picture in enumerate(pictures[:MOST_PICTURES]):
        attributes[f"sample_url_{number}"] = picture.url
        attributes[f"sample_picture_{number}"] = np.frombuffer(picture.jpeg, np.uint8)
    return attributes


def read_times(attributes: Mapping[str, Any]) -> ChunkTimes | None:
    """Return the times in a chunk file's attributes, None where there are none that this version can read."""
    return read_json(ChunkTimes, attributes.get(_TIMES))


def read_pictures(attributes: Mapping[str, Any]) -> tuple[SamplePicture, ...]:
    """Return the sample pictures in a chunk file's attributes."""
    import numpy as np  # noqa: PLC0415 - as above

    found = []
    for number in range(MOST_PICTURES):
        url, picture = (attributes.get(f"sample_{name}_{number}") for name in ("url", "picture"))
        if isinstance(url, str) and isinstance(picture, np.ndarray) and picture.nbytes <= MAX_PICTURE_BYTES:
            found.append(SamplePicture(url, picture.astype(np.uint8).tobytes()))
    return tuple(found)


def read_json(model: type[Model], text: object) -> Model | None:
    """Return the model in a text, None where it is not one that this version can read."""
    if not isinstance(text, str):
        return None
    try:
        return model.model_validate_json(text)
    except ValidationError:
        return None
