"""The gate's settings. The chart sets them all but the last three, which time it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from common.settings import RunSettings


class GateSettings(RunSettings):
    release: str = "embedder"
    """The Helm release, named in the commands that the gate suggests."""

    worker_job: str = Field(default="embedder-worker", min_length=1)
    """The Job whose end is waited for."""

    on_failed_chunks: Literal["wait", "fail", "partial"] = "wait"
    """What to do when the worker Job has ended and chunks are missing: `wait` says which and how to compute them again,
    and goes on by itself once they are there; `fail` ends with exit code 65; `partial` lets those be merged that are
    there, of which there must be one. Without access to the API no end is seen, and all three wait."""

    pod_namespace: str = Field(default="", validation_alias="POD_NAMESPACE")
    """The worker Job's namespace. Empty: this pod's."""

    poll_seconds: float = Field(default=30, gt=0)
    """Between two lists of the chunks in the store, unless the worker Job's end asks for one. A list costs one request
    for 1,000 chunks, and 30 s are little beside a chunk."""

    settle_seconds: float = Field(default=90, ge=0)
    """After the worker Job's end, how long a chunk that it completed is looked for before it counts as missing: shared
    folders may list a new file on other nodes only after a minute."""

    reminder_seconds: float = Field(default=300, gt=0)
    """Between two log lines that say what is waited for, when nothing has changed."""
