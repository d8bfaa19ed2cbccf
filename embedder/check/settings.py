"""The environment of the check: that of a release's worker Job, as far as this machine can follow it."""

from __future__ import annotations

import base64
import binascii
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import yaml

from common.errors import SettingsError
from common.findings import ELSEWHERE_VARIABLE, Subject
from k8s.release.labels import COMPONENT_LABEL, RELEASE_LABEL

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from k8s.api.cluster import Object

_TAKEN = ("EMBEDDER_", "AWS_")
_NOT_TAKEN = {"EMBEDDER_CHUNK_INDEXES", "EMBEDDER_CHUNK_INDEXES_FILE", "EMBEDDER_METRICS_PORT"}
_PROXIES = {"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"}

_FILES = {"EMBEDDER_CA_BUNDLE", "AWS_CA_BUNDLE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_SHARED_CREDENTIALS_FILE"}
"""Variables that name files of the pod."""


Sources = dict[tuple[str, str], dict[str, str]]
"""The variables of each Secret and ConfigMap that can be read, by kind and name."""

NO_SOURCES: Sources = {}


class JobSettings(NamedTuple):
    """The Jobs of a run, and the objects beside them that hold their variables."""

    worker: Object
    """The worker Job, or the check Job."""
    merge: Object | None
    sources: Sources = NO_SOURCES


@dataclass(frozen=True, kw_only=True)
class JobEnvironment:
    variables: Mapping[str, str]
    skip: Mapping[Subject, str]
    """What this machine cannot try, and why."""
    notes: tuple[str, ...]
    """What differs from the pod, in sentences."""


def environment_for(variables: Mapping[str, str], job: Object, sources: Sources = NO_SOURCES) -> JobEnvironment:
    """Return the environment by which this machine tries what the worker of `job` will need.

    `variables` are those whose values are in the Job itself.
    """
    referred, unread = _referred_variables(job, sources)
    taken = {
        name: value
        for name, value in {**referred, **variables}.items()
        if (name.startswith(_TAKEN) or name.upper() in _PROXIES) and name not in _NOT_TAKEN
    }
    absent = [name for name in sorted(_FILES & taken.keys()) if not Path(taken[name]).exists()]
    notes = [f"{name} is {taken.pop(name)}, a file of the pod, so the check goes without it" for name in absent]
    skip: dict[Subject, str] = {}
    if _is_absent(taken.get("EMBEDDER_MODEL", "")):
        skip[Subject.MODEL] = f"{taken['EMBEDDER_MODEL']} is a folder of the pod"
    if _is_absent(taken.get("EMBEDDER_MANIFEST_URI", "")):
        skip[Subject.MANIFEST] = f"{taken['EMBEDDER_MANIFEST_URI']} is a file of the pod"
        skip[Subject.IMAGES] = "the list is a file of the pod"
    if _is_folder(taken.get("EMBEDDER_RUN_URI", "")):
        skip[Subject.STORE] = f"{taken['EMBEDDER_RUN_URI']} is a folder of the pod"
    if taken.get("EMBEDDER_DEVICE") == "cuda":
        # The rate of another device than the worker's is better than none, and the plan says so.
        taken["EMBEDDER_DEVICE"] = "auto"
    taken[ELSEWHERE_VARIABLE] = "true"
    if unread:
        notes.append(
            f"{', '.join(unread)} of the pod cannot be read from here, so the check uses the credentials of this "
            "machine; the chart's check.enabled tries those of the pod"
        )
    return JobEnvironment(variables=taken, skip=skip, notes=tuple(notes))


def _referred_variables(job: Object, sources: Sources) -> tuple[dict[str, str], list[str]]:
    """Return the variables that the pod has from Secrets and ConfigMaps, and the names of those that are not there."""
    container = job["spec"]["template"]["spec"]["containers"][0]
    found: dict[str, str] = {}
    unread: dict[str, None] = {}
    for each in container.get("envFrom") or []:
        for reference, kind in (("secretRef", "Secret"), ("configMapRef", "ConfigMap")):
            if reference in each:
                source = kind, str(each[reference].get("name"))
                if source not in sources:
                    unread[" ".join(("the", *source))] = None
                prefix = each.get("prefix") or ""
                found |= {f"{prefix}{name}": value for name, value in sources.get(source, {}).items()}
    for each in container.get("env") or []:
        for reference, kind in (("secretKeyRef", "Secret"), ("configMapKeyRef", "ConfigMap")):
            if (key := (each.get("valueFrom") or {}).get(reference)) is not None:
                source = kind, str(key.get("name"))
                value = sources.get(source, {}).get(str(key.get("key")))
                if value is None:
                    unread[" ".join(("the", *source))] = None
                else:
                    found[str(each["name"])] = value
    return found, list(unread)


def _is_absent(place: str) -> bool:
    return _is_folder(place) and not Path(place).exists()


def _is_folder(place: str) -> bool:
    return place.startswith("/")


def rendered_jobs(path: str, *, run: str = "") -> JobSettings:
    """Return the Jobs of the run `run` that a file of `helm template` holds; `-` is standard input.

    `run` may be empty if the file holds one run. Raises SettingsError if it holds no worker Job, or several runs of
    which none is chosen.
    """
    objects = _rendered_objects(path)
    labelled: list[tuple[str, str, Object]] = [
        (str(labels.get(RELEASE_LABEL, "")), str(labels.get(COMPONENT_LABEL)), each)
        for each in objects
        if each.get("kind") == "Job"
        for labels in [(each.get("metadata") or {}).get("labels") or {}]
    ]
    runs = {name: each for name, component, each in labelled if component == "worker"}
    if not runs:
        raise SettingsError(
            f"--rendered {path} holds no worker Job; give it what helm template prints for the chart, with "
            "check.enabled=false"
        )
    known = ", ".join(sorted(runs))
    if run and run not in runs:
        raise SettingsError(f"--rendered {path} holds no run {run}; choose one with --release: {known}")
    if not run and len(runs) > 1:
        raise SettingsError(f"--rendered {path} holds {len(runs)} runs; choose one with --release: {known}")
    chosen = run or known
    merge = next((each for name, component, each in labelled if (name, component) == (chosen, "merge")), None)
    return JobSettings(runs[chosen], merge, _sources(objects))


def _rendered_objects(path: str) -> list[Object]:
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text("utf-8")
        objects = [each for each in yaml.safe_load_all(text) if isinstance(each, dict)]
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"--rendered {path} cannot be read: {' '.join(str(error).split())}") from error
    if not text.strip():
        what = "standard input" if path == "-" else path
        raise SettingsError(f"--rendered {path}: {what} is empty; see whether helm template has failed")
    return objects


def _sources(objects: Sequence[Object]) -> Sources:
    """Return the variables of the Secrets and ConfigMaps among the objects, by kind and name."""
    found: Sources = {}
    for each in objects:
        kind, data = str(each.get("kind")), each.get("data") or {}
        if kind == "Secret":
            plain = {name: _decoded(str(value)) for name, value in data.items()} | (each.get("stringData") or {})
        elif kind == "ConfigMap":
            plain = data
        else:
            continue
        found[kind, str((each.get("metadata") or {}).get("name"))] = {
            str(name): str(value) for name, value in plain.items()
        }
    return found


def _decoded(value: str) -> str:
    try:
        return base64.b64decode(value).decode("utf-8", "replace")
    except binascii.Error as error:
        raise SettingsError(f"--rendered: the data of a Secret is not base64 ({error})") from error
