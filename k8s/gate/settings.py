"""The gate's settings. The chart sets all of them but the last four, which are times."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from common.settings import RunSettings


class GateSettings(RunSettings):
    release: str = "embedder"
    """The Helm release. The commands that the gate suggests name it."""

    worker_job: str = Field(default="embedder-worker", min_length=1)
    """The name of the worker Job."""

    top_up_job: str = ""
    """The name of a top-up. The gate then waits until this Job has ended, before it looks for missing chunks: all
    chunks are there while a top-up fetches some of their images again, and the run may be finished. Empty: this merge
    follows no top-up."""

    merge_job: str = ""
    """The name of the merge Job that an index follows. `python -m k8s.gate index` waits until this Job has ended and
    the run is finished. Empty for the gate of a merge."""

    on_failed_chunks: Literal["wait", "fail", "partial"] = "wait"
    """What to do when the worker Job has ended and chunks are missing. `wait` names them and the command that computes
    them again, and continues when they are in the store. `fail` ends with exit code 65. `partial` merges the chunks
    that exist (at least one). Without access to the Kubernetes API the gate does not see the end, and always waits."""

    pod_namespace: str = Field(default="", validation_alias="POD_NAMESPACE")
    """The namespace of the worker Job. Empty: the namespace of this pod."""

    metrics_port: int = Field(default=0, ge=0, le=65_535)
    """Port that serves Prometheus metrics while the gate waits: the chunks of the run, those in the store, and those
    that have failed. 0: no metrics."""

    poll_seconds: float = Field(default=30, gt=0)
    """Time between two lists of the chunks in the store, in seconds. The end of the worker Job asks for a list at once.
    A list costs one request for 1,000 chunks, and 30 s are short beside the time that a chunk takes."""

    settle_seconds: float = Field(default=90, ge=0)
    """Time after the end of the worker Job, in seconds, before a chunk that the Job completed counts as missing. A
    shared folder may need a minute to list a new file on other nodes."""

    absence_seconds: float = Field(default=600, ge=0)
    """Time in seconds after which a worker Job that does not exist counts as ended. Until then it may still be created,
    by the same install or after somebody has deleted it in order to create it with other values. Kubernetes deletes a
    Job that has ended where `worker.ttlSecondsAfterFinished` is set."""

    reminder_seconds: float = Field(default=300, gt=0)
    """Time between two log lines that say what the gate waits for, in seconds, when nothing has changed."""
