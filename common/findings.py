"""What a check of a run finds, before the run is started. The worker, the cluster's side and the screen share it.

The worker's check writes each finding as one line of JSON; `embedder check` reads the lines back, also from the log of
a pod. Every text in a finding is without passwords and signatures, and printable.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from common.errors import ExitCode
from common.logs import printable, redact_urls

if TYPE_CHECKING:
    from collections.abc import Iterable

    from common.errors import EmbedderError

Text = Annotated[str, AfterValidator(lambda text: printable(redact_urls(text)))]
"""A text for people and for logs: one line, without passwords and signatures of URLs."""


ELSEWHERE_VARIABLE = "EMBEDDER_CHECK_ELSEWHERE"
"""Environment variable that tells the worker's check that the run's workers use other machines than this one, so that
what follows from this machine's device is not compared with the run."""


class Subject(StrEnum):
    """What was looked at, in the order in which a worker meets it. The cluster comes last."""

    PROGRAM = "program"
    SETTINGS = "settings"
    STORE = "store"
    MANIFEST = "manifest"
    RUN = "run"
    MODEL = "model"
    IMAGES = "images"
    ACCESS = "access"
    GATE = "gate"
    GPUS = "GPUs"
    QUOTA = "quota"


class Verdict(StrEnum):
    OK = "ok"
    WARNING = "warning"
    """The run would start, and a person should know this before."""
    FAULT = "fault"
    """The run would fail."""
    SKIPPED = "not looked at"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class FirstRow(_Frozen):
    """One of the first rows of the manifest."""

    url: Text
    id: Text = ""
    problem: Text = ""
    """Why the row cannot be used; empty where it can."""


class ManifestFacts(_Frozen):
    kind: Literal["manifest"] = "manifest"
    format: str
    bytes: int
    rows: int
    is_exact: bool
    """False for an estimate of the rows from a sample."""
    columns: dict[str, Text]
    """Name of the column by what it holds: url, id, subset, thumbnail, rotation."""
    sources: tuple[str, ...]
    files: int = 1
    """Number of files that together are the manifest."""
    first_rows: tuple[FirstRow, ...] = ()
    mean_url_bytes: float = 0
    shards: int | None = None
    """Number of files that are not divided among chunks; None where chunks divide the content."""


class SourceFacts(_Frozen):
    """What one source did for the images of the sample that the sources before it did not have."""

    source: str
    asked: int
    good: int
    reasons: dict[str, int] = {}
    """Number of failed images by reason."""
    example: Text = ""
    """Images that failed, and why: one for each of the most frequent reasons."""


class ImagesFacts(_Frozen):
    kind: Literal["images"] = "images"
    sampled: int
    good: int
    reasons: dict[str, int]
    """Number of images without any source that has them, by reason, unusable rows included."""
    sources: tuple[SourceFacts, ...]
    mean_bytes: float
    """Mean size in bytes of the good images."""
    median_fetch_ms: float
    """Median time from the request to the last byte, for the good images."""
    mean_decode_ms: float
    """Mean time of a decoder for one image, in milliseconds."""
    is_held_back: bool = False
    """Whether a site has refused requests because there were too many."""


class ModelFacts(_Frozen):
    kind: Literal["model"] = "model"
    model: Text
    revision: Text
    device: Text
    """The device with its model, as `cuda:0 (NVIDIA L4)`, or `cpu`."""
    dtype: str
    batch_size: int
    """Number of images in one batch."""
    images_per_second: float
    """Measured with batches of that size, or with smaller ones on a CPU."""
    measured_batch: int = 0
    """Number of images in a batch of the measurement; 0 where it is not known."""
    image_size: int
    dimensions: int

    @property
    def is_on_gpu(self) -> bool:
        return self.device.startswith("cuda")


class StoreFacts(_Frozen):
    kind: Literal["store"] = "store"
    abilities: dict[str, Text]
    """What the store can do, by name, for people."""
    supported: dict[str, bool] = {}
    """The same for programs: whether the store can do it."""


class RunFacts(_Frozen):
    kind: Literal["run"] = "run"
    chunk_count: int
    """Number of chunks of the run that is in the store, or that these settings would make."""
    in_store: int = 0
    """Number of chunks in the store; 0 where they are not counted."""
    is_there: bool
    """Whether the store has a chunk or the result of the run."""
    is_finished: bool = False


class GpuFacts(_Frozen):
    kind: Literal["gpus"] = "gpus"
    resource: str
    nodes: int
    """Number of nodes that have the resource and take pods."""
    allocatable: int
    free: int | None
    """Number that no pod has requested; None where the pods of all namespaces cannot be listed."""


Facts = Annotated[
    ManifestFacts | ImagesFacts | ModelFacts | StoreFacts | RunFacts | GpuFacts,
    Field(discriminator="kind"),
]


class Finding(_Frozen):
    """One row of the table that `embedder check` prints."""

    subject: Subject
    verdict: Verdict
    message: Text
    """One sentence: what was found, and for a warning or a fault what was expected and what helps."""
    exit_code: int = ExitCode.OK
    """The exit code that a worker would end with because of this; 0 unless it is a fault."""
    facts: Facts | None = None


def fault(subject: Subject, error: EmbedderError, facts: Facts | None = None) -> Finding:
    """Return the finding for an error that would end the worker."""
    return Finding(subject=subject, verdict=Verdict.FAULT, message=str(error), exit_code=error.exit_code, facts=facts)


def skipped(subject: Subject, why: str) -> Finding:
    return Finding(subject=subject, verdict=Verdict.SKIPPED, message=why)


def worst(findings: Iterable[Finding]) -> Finding | None:
    """Return the fault with which the run would end, None if there is none.

    78 ends the whole Job, so it comes before 65, which ends a chunk, and 65 before 75, after which a worker is started
    again and meets the other faults. Among faults of one exit code it is the one that a worker meets first.
    """
    faults = [finding for finding in findings if finding.verdict is Verdict.FAULT]
    subjects = list(Subject)
    return min(
        faults, key=lambda finding: (_severity(finding.exit_code), subjects.index(finding.subject)), default=None
    )


WORKERS_ORDER = (Subject.SETTINGS, Subject.STORE, Subject.MANIFEST, Subject.IMAGES, Subject.RUN, Subject.MODEL)
"""The order in which the worker's check ends its steps. What is left out is told earlier."""


def looked_at_now(findings: Iterable[Finding]) -> Subject | None:
    """Return what the worker's check looks at after these findings, None if it has ended."""
    found = {finding.subject for finding in findings}
    return next((subject for subject in WORKERS_ORDER if subject not in found), None)


def exit_code_of(findings: Iterable[Finding]) -> int:
    """Return the exit code that the worker would end with."""
    found = worst(findings)
    return ExitCode.OK if found is None else found.exit_code


_SEVERITY = [ExitCode.CONFIG_ERROR, ExitCode.DATA_ERROR, ExitCode.TEMPORARY_FAILURE]


def _severity(exit_code: int) -> int:
    return next((place for place, code in enumerate(_SEVERITY) if code == exit_code), len(_SEVERITY))


def read_finding(line: str) -> Finding | None:
    """Return the finding that a line of a program's output holds, None for any other line."""
    if not line.startswith("{"):
        return None
    try:
        return Finding.model_validate_json(line)
    except ValidationError:
        return None
