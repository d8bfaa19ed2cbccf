"""Runs an image like a pod of the chart: read-only except /tmp, any UID, no capabilities, the program as PID 1."""

from __future__ import annotations

import json
import subprocess
import uuid
from typing import TYPE_CHECKING, NamedTuple

from tests.worker.worker_process import Ended

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tests.images.build import Image

UID = 1_000_730_000
"""A UID without a user. OpenShift assigns UIDs of this range to namespaces."""

RUN_SECONDS = 300


class Container(NamedTuple):
    name: str
    process: subprocess.Popen[str]

    def stop(self) -> None:
        """Send SIGTERM to PID 1, as the kubelet does."""
        subprocess.run(["runc", "kill", self.name, "TERM"], check=True)

    def end(self) -> Ended:
        """Wait for the program to end. The log holds both output streams."""
        log, _ = self.process.communicate(timeout=RUN_SECONDS)
        return Ended(self.process.returncode, log)


def start(
    image: Image,
    folder: Path,
    *,
    command: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    uid: int = UID,
) -> Container:
    """Start a container of the image in this machine's network; its configuration is written to `folder`."""
    name = f"embedder-{uuid.uuid4().hex[:12]}"
    bundle = folder / name
    bundle.mkdir()
    variables = dict(line.split("=", 1) for line in image.config["Env"]) | dict(environment or {})
    no_capabilities: dict[str, list[str]] = {
        kind: [] for kind in ("bounding", "effective", "permitted", "inheritable", "ambient")
    }
    specification = {
        "ociVersion": "1.0.2",
        "root": {"path": str(image.root), "readonly": True},
        "process": {
            "user": {"uid": uid, "gid": 0},
            "args": list(command) or image.config["Entrypoint"],
            "env": [f"{key}={value}" for key, value in variables.items()],
            "cwd": image.config["WorkingDir"],
            "capabilities": no_capabilities,
            "noNewPrivileges": True,
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "nodev", "mode=1777"]},
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "mode=1777"]},
        ],
        "linux": {"namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")]},
    }
    (bundle / "config.json").write_text(json.dumps(specification))
    process = subprocess.Popen(
        ["runc", "run", "--bundle", str(bundle), name],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return Container(name, process)


def run(
    image: Image, folder: Path, *, command: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Ended:
    """Run a container of the image and wait for its end."""
    return start(image, folder, command=command, environment=environment).end()
