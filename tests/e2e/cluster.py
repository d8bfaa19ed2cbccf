"""A real cluster, driven as people drive it: with kubectl and Helm."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
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
"""For anything: a laptop's cluster pulls images and starts Python slowly."""

POLL_SECONDS = 1

Found = TypeVar("Found")


class Inputs(NamedTuple):
    """What the tests are told by the environment."""

    kubeconfig: str
    worker_image: str
    merge_image: str
    endpoint: str
    """Of the S3 server, as pods reach it."""
    local_endpoint: str
    """Of the same server, as this machine reaches it."""
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
    """Return what the end-to-end tests need and do not find."""
    missing = [name for name in VARIABLES.values() if not os.environ.get(name)]
    if os.environ.get(VARIABLES["endpoint"]):
        missing = [name for name in missing if name != VARIABLES["local_endpoint"]]
    return missing + [program for program in ("kubectl",) if not shutil.which(program)]


def inputs() -> Inputs:
    """Return the inputs of the environment. Raises KeyError where one is missing."""
    values = {field: os.environ.get(name, "") for field, name in VARIABLES.items()}
    values["local_endpoint"] = values["local_endpoint"] or values["endpoint"]
    return Inputs(**values)


class CommandError(Exception):
    """A command failed; the message is what it printed."""


class Cluster(NamedTuple):
    """A namespace of its own in the cluster, and the release in it."""

    inputs: Inputs
    namespace: str

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Return what kubectl prints. Raises CommandError when it fails."""
        return self._run("kubectl", "--namespace", self.namespace, *arguments, stdin=stdin)

    def helm(self, *arguments: str) -> str:
        """Return what Helm prints. Raises CommandError when it fails."""
        return self._run(helm(), "--namespace", self.namespace, *arguments)

    def install(self, values: dict[str, Any], folder: Path) -> None:
        (folder / "values.yaml").write_text(yaml.safe_dump(values))
        self.helm("install", RELEASE, str(CHART), "--values", str(folder / "values.yaml"))

    def upgrade(self, *assignments: str) -> None:
        arguments = [argument for assignment in assignments for argument in ("--set", assignment)]
        self.helm("upgrade", RELEASE, str(CHART), "--reuse-values", *arguments)

    def get(self, *arguments: str) -> dict[str, Any]:
        """Return what `kubectl get` finds, as JSON."""
        found: dict[str, Any] = json.loads(self.kubectl("get", *arguments, "--output", "json"))
        return found

    def status(self, job: str = WORKER) -> dict[str, Any]:
        found: dict[str, Any] = self.get("job", job)["status"]
        return found

    def pods(self, index: int, job: str = WORKER) -> list[dict[str, Any]]:
        """Return the pods that compute, or computed, an index of the Job, oldest first."""
        labels = f"batch.kubernetes.io/job-name={job},batch.kubernetes.io/job-completion-index={index}"
        items: list[dict[str, Any]] = self.get("pods", "--selector", labels)["items"]
        return sorted(items, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))

    def condition(self, kind: str, job: str) -> dict[str, Any] | None:
        """Return the Job's condition of that kind where it is true."""
        conditions = self.status(job).get("conditions", [])
        return next((each for each in conditions if (each["type"], each["status"]) == (kind, "True")), None)

    def until(self, found: Callable[[], Found | None], what: str) -> Found:
        """Return what `found` returns once it is true. Raises TimeoutError that says what was waited for."""
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            if result := found():
                return result
            time.sleep(POLL_SECONDS)
        raise TimeoutError(f"not within {WAIT_SECONDS} s: {what}")

    def wait_until_complete(self, job: str) -> None:
        """Return once the Job is complete. Raises AssertionError at once when it fails."""

        def complete() -> bool:
            failed = self.condition("Failed", job)
            if failed:
                raise AssertionError(f"{job} failed: {failed['reason']}: {failed['message']}")
            return self.condition("Complete", job) is not None

        self.until(complete, f"{job} is complete")

    def wait_until_failed(self, job: str) -> dict[str, Any]:
        """Return the condition of the failed Job once it has failed."""
        return self.until(lambda: self.condition("Failed", job), f"{job} has failed")

    def wait_until_started(self, index: int, *, besides: set[str]) -> str:
        """Return the name of a pod of the index whose worker is at work, other than those of `besides`."""

        def started() -> str | None:
            for pod in self.pods(index):
                name = str(pod["metadata"]["name"])
                at_work = pod["status"]["phase"] == "Running" and "deletionTimestamp" not in pod["metadata"]
                if at_work and name not in besides and " started " in self.log(f"pod/{name}", "worker"):
                    return name
            return None

        return self.until(started, f"a new pod of index {index} has started")

    def evict(self, pod: str) -> None:
        """Have the pod taken away as by a drain."""
        eviction = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": pod, "namespace": self.namespace},
        }
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod}/eviction"
        self.kubectl("create", "--raw", path, "--filename", "-", stdin=json.dumps(eviction))

    def log(self, target: str, container: str) -> str:
        """Return what the container has logged; nothing where it has not started yet."""
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
