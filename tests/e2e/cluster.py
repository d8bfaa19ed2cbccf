"""A real cluster, used through kubectl and Helm as a person would."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import yaml

from tests.charts.helm import CHART, helm

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RELEASE = "embedder"
WORKER, MERGE = f"{RELEASE}-worker", f"{RELEASE}-merge"
WAIT_SECONDS = 600
"""Longest wait for a state of the cluster, in seconds. A cluster on a laptop pulls images and starts Python slowly."""

POLL_SECONDS = 1
"""Seconds between two looks at the cluster."""

Found = TypeVar("Found")


class Inputs(NamedTuple):
    """The inputs of the tests, from environment variables."""

    kubeconfig: str
    worker_image: str
    merge_image: str
    endpoint: str
    """URL of the S3 server for the pods."""
    local_endpoint: str
    """URL of the same S3 server for this machine."""
    bucket: str
    access_key: str
    secret_key: str


VARIABLES = {
    "kubeconfig": "KUBECONFIG",
    "worker_image": "EMBEDDER_E2E_WORKER_IMAGE",
    "merge_image": "EMBEDDER_E2E_MERGE_IMAGE",
    "endpoint": "EMBEDDER_E2E_S3_ENDPOINT",
    "local_endpoint": "EMBEDDER_E2E_S3_LOCAL_ENDPOINT",
    "bucket": "EMBEDDER_E2E_S3_BUCKET",
    "access_key": "EMBEDDER_E2E_S3_ACCESS_KEY",
    "secret_key": "EMBEDDER_E2E_S3_SECRET_KEY",
}


def missing_inputs() -> list[str]:
    """Return the variables and programs that the end-to-end tests need and that are missing."""
    missing = [name for field, name in VARIABLES.items() if field != "local_endpoint" and not os.environ.get(name)]
    return missing if shutil.which("kubectl") else [*missing, "kubectl"]


def inputs() -> Inputs:
    """Return the inputs; one that is missing is ""."""
    values = {field: os.environ.get(name, "") for field, name in VARIABLES.items()}
    values["local_endpoint"] = values["local_endpoint"] or values["endpoint"]
    return Inputs(**values)


class CommandError(Exception):
    """A command failed; the message is the command and its output."""


class Cluster(NamedTuple):
    """A namespace that one test has for itself, and the release in it."""

    inputs: Inputs
    namespace: str

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Return what kubectl prints. Raises CommandError if kubectl fails."""
        return self._run("kubectl", "--namespace", self.namespace, *arguments, stdin=stdin)

    def helm(self, *arguments: str) -> str:
        """Return what Helm prints. Raises CommandError if Helm fails."""
        return self._run(helm(), "--namespace", self.namespace, *arguments)

    def embedder(self, *arguments: str) -> str:
        """Return what `embedder …` prints for this namespace. Raises CommandError if it fails."""
        program = (sys.executable, "-c", "from embedder.cli import main; main()")
        return self._run(*program, *arguments, "--namespace", self.namespace)

    def install(self, values: dict[str, Any], folder: Path, *, release: str = RELEASE, chart: Path = CHART) -> None:
        (folder / "values.yaml").write_text(yaml.safe_dump(values))
        self.helm("install", release, str(chart), "--values", str(folder / "values.yaml"))

    def apply(self, body: dict[str, Any]) -> None:
        """Create or change an object."""
        self.kubectl("apply", "--filename", "-", stdin=json.dumps(body))

    def upgrade(self, *assignments: str) -> None:
        arguments = [argument for assignment in assignments for argument in ("--set", assignment)]
        self.helm("upgrade", RELEASE, str(CHART), "--reuse-values", *arguments)

    def get(self, *arguments: str) -> dict[str, Any]:
        """Return what `kubectl get` finds, as JSON."""
        found: dict[str, Any] = json.loads(self.kubectl("get", *arguments, "--output", "json"))
        return found

    def has_job(self, job: str) -> bool:
        return bool(self.kubectl("get", "job", job, "--ignore-not-found", "--output", "name"))

    def status(self, job: str = WORKER) -> dict[str, Any]:
        found: dict[str, Any] = self.get("job", job)["status"]
        return found

    def pods(self, index: int, job: str = WORKER) -> list[dict[str, Any]]:
        """Return all pods of an index of the Job, running or ended, oldest first."""
        labels = f"batch.kubernetes.io/job-name={job},batch.kubernetes.io/job-completion-index={index}"
        items: list[dict[str, Any]] = self.get("pods", "--selector", labels)["items"]
        return sorted(items, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))

    def condition(self, kind: str, job: str) -> dict[str, Any] | None:
        """Return the Job's condition of that kind if its status is True."""
        conditions = self.status(job).get("conditions", [])
        return next((each for each in conditions if (each["type"], each["status"]) == (kind, "True")), None)

    def until(self, found: Callable[[], Found | None], what: str) -> Found:
        """Call `found` until its result is true, and return it. Raises TimeoutError with `what` after WAIT_SECONDS."""
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            if result := found():
                return result
            time.sleep(POLL_SECONDS)
        raise TimeoutError(f"this did not happen within {WAIT_SECONDS} s: {what}")

    def wait_until_complete(self, job: str) -> None:
        """Wait until the Job is complete. Raises AssertionError as soon as the Job has failed."""

        def complete() -> bool:
            failed = self.condition("Failed", job)
            if failed:
                raise AssertionError(f"{job} failed: {failed['reason']}: {failed['message']}")
            return self.condition("Complete", job) is not None

        self.until(complete, f"{job} is complete")

    def wait_until_failed(self, job: str) -> dict[str, Any]:
        """Wait until the Job has failed, and return its condition Failed."""
        return self.until(lambda: self.condition("Failed", job), f"{job} has failed")

    def wait_until_started(self, index: int, *, besides: set[str]) -> str:
        """Wait until a pod of the index runs its worker, and return the pod's name. Pods in `besides` do not count."""

        def started() -> str | None:
            for pod in self.pods(index):
                name = str(pod["metadata"]["name"])
                is_running = pod["status"]["phase"] == "Running" and "deletionTimestamp" not in pod["metadata"]
                if is_running and name not in besides and " started " in self.log(f"pod/{name}", "worker"):
                    return name
            return None

        return self.until(started, f"a new pod of index {index} has started")

    def evict(self, pod: str) -> None:
        """Evict the pod through the API, as a drain does."""
        eviction = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": pod, "namespace": self.namespace},
        }
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod}/eviction"
        self.kubectl("create", "--raw", path, "--filename", "-", stdin=json.dumps(eviction))

    def log(self, target: str, container: str) -> str:
        """Return the container's log, "" if the container has not started yet."""
        try:
            return self.kubectl("logs", target, "--container", container, "--tail=-1")
        except CommandError:
            return ""

    def _run(self, *command: str, stdin: str | None = None) -> str:
        done = subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=WAIT_SECONDS,
            env={**os.environ, "KUBECONFIG": self.inputs.kubeconfig},
        )
        if done.returncode:
            raise CommandError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
        return done.stdout
