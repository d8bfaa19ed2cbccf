"""The environment of the check: that of a release's worker Job, as far as this machine can follow it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from common.errors import SettingsError
from common.findings import ELSEWHERE_VARIABLE, Subject

if TYPE_CHECKING:
    from collections.abc import Mapping

    from k8s.api.cluster import Object

_TAKEN = ("EMBEDDER_", "AWS_")
_NOT_TAKEN = {"EMBEDDER_CHUNK_INDEXES", "EMBEDDER_CHUNK_INDEXES_FILE", "EMBEDDER_METRICS_PORT"}
_PROXIES = {"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"}

_FILES = {"EMBEDDER_CA_BUNDLE", "AWS_CA_BUNDLE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_SHARED_CREDENTIALS_FILE"}
"""Variables that name files of the pod."""


@dataclass(frozen=True, kw_only=True)
class JobEnvironment:
    variables: Mapping[str, str]
    skip: Mapping[Subject, str]
    """What this machine cannot try, and why."""
    notes: tuple[str, ...]
    """What differs from the pod, in sentences."""


def environment_for(variables: Mapping[str, str], job: Object) -> JobEnvironment:
    """Return the environment by which this machine tries what the worker of `job` will need.

    `variables` are those whose values are in the Job itself.
    """
    taken = {
        name: value
        for name, value in variables.items()
        if (name.startswith(_TAKEN) or name.upper() in _PROXIES) and name not in _NOT_TAKEN
    }
    absent = [name for name in sorted(_FILES & taken.keys()) if not Path(taken[name]).exists()]
    notes = [f"{name} is {taken.pop(name)}, a file of the pod, so the check goes without it" for name in absent]
    skip: dict[Subject, str] = {}
    if _is_absent(taken.get("EMBEDDER_MODEL", "")):
        skip[Subject.MODEL] = f"{taken['EMBEDDER_MODEL']} is a folder of the pod"
    if _is_absent(taken.get("EMBEDDER_MANIFEST_URI", "")):
        skip[Subject.MANIFEST] = f"{taken['EMBEDDER_MANIFEST_URI']} is a file of the pod"
    if _is_folder(taken.get("EMBEDDER_RUN_URI", "")):
        skip[Subject.STORE] = f"{taken['EMBEDDER_RUN_URI']} is a folder of the pod"
    if taken.get("EMBEDDER_DEVICE") == "cuda":
        # The rate of another device than the worker's is better than none, and the plan says so.
        taken["EMBEDDER_DEVICE"] = "auto"
    taken[ELSEWHERE_VARIABLE] = "true"
    container = job["spec"]["template"]["spec"]["containers"][0]
    secrets = [
        str((each.get("secretRef") or each.get("configMapRef") or {}).get("name"))
        for each in container.get("envFrom") or []
    ]
    secrets += [each["name"] for each in container.get("env") or [] if "secretKeyRef" in (each.get("valueFrom") or {})]
    if secrets:
        notes.append(
            f"the pod's {', '.join(secrets)} cannot be read from here, so the check uses the credentials of this "
            "machine; the chart's check.enabled tries those of the pod"
        )
    return JobEnvironment(variables=taken, skip=skip, notes=tuple(notes))


def _is_absent(place: str) -> bool:
    return _is_folder(place) and not Path(place).exists()


def _is_folder(place: str) -> bool:
    return place.startswith("/")


def rendered_jobs(path: str) -> tuple[Object, Object | None]:
    """Return the worker Job and the merge Job, if any, that a file of `helm template` holds; `-` is standard input.

    Raises SettingsError if it holds no worker Job.
    """
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text("utf-8")
        objects = [each for each in yaml.safe_load_all(text) if isinstance(each, dict)]
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"--rendered {path} cannot be read: {' '.join(str(error).split())}") from error
    jobs = {
        str((each.get("metadata") or {}).get("labels", {}).get("app.kubernetes.io/component")): each
        for each in objects
        if each.get("kind") == "Job"
    }
    if "worker" not in jobs:
        raise SettingsError(
            f"--rendered {path} holds no worker Job; give it what helm template prints for the chart, with "
            "check.enabled=false"
        )
    return jobs["worker"], jobs.get("merge")
