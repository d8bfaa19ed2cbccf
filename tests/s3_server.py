"""A real S3 server for tests and benchmarks: SeaweedFS on loopback, in a folder of its own."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

if TYPE_CHECKING:
    from collections.abc import Iterator

GRPC_OFFSET = 10_000
"""The distance of each server's gRPC port from its HTTP port, chosen by SeaweedFS."""

START_SECONDS = 60
"""The longest time in seconds that the server takes to start."""


class S3Server(NamedTuple):
    endpoint: str
    access_key: str
    secret_key: str

    @property
    def environment(self) -> dict[str, str]:
        """The SDK's environment variables that make a program use this server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """Run an S3 server until the block ends. Raises RuntimeError with the server's log when it does not start."""
    folder = Path(tempfile.mkdtemp(prefix="embedder-s3-"))
    server = S3Server(f"http://127.0.0.1:{(ports := _free_ports())[-1]}", "test-access-key", "test-secret-key")
    identities = {
        "identities": [
            {
                "name": "test",
                "credentials": [{"accessKey": server.access_key, "secretKey": server.secret_key}],
                "actions": ["Admin", "Read", "Write", "List", "Tagging"],
            }
        ]
    }
    (folder / "s3.json").write_text(json.dumps(identities))
    master, volume, filer, s3 = ports
    command = [
        *(str(Path(sys.executable).parent / "weed"), "-logtostderr", "server", "-s3", "-ip=127.0.0.1"),
        *(f"-dir={folder}", f"-s3.config={folder / 's3.json'}", f"-master.port={master}", f"-volume.port={volume}"),
        *(f"-filer.port={filer}", f"-s3.port={s3}", "-master.volumeSizeLimitMB=1024", "-volume.max=5000"),
        # Both would listen on fixed ports, and a second server would not start.
        *("-s3.port.iceberg=0", "-s3.port.lance=0"),
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
        try:
            _wait_until_ready(server, process, folder / "log")
            yield server
        finally:
            # After SIGTERM it would wait 10 seconds, and its data is not needed any more.
            process.kill()
            process.wait()
            shutil.rmtree(folder, ignore_errors=True)


def _wait_until_ready(server: S3Server, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            urlopen(f"{server.endpoint}/healthz", timeout=5).close()  # noqa: S310 - loopback
        except HTTPError as answer:
            answer.close()
            return
        except (URLError, OSError):
            time.sleep(0.1)
        else:
            return
    raise RuntimeError(f"the S3 server did not start:\n{log.read_text()[-4000:]}")


def _free_ports() -> list[int]:
    """Return four free ports whose gRPC ports are free too. The eight ports differ."""
    ports: list[int] = []
    with ExitStack() as probes:
        for _ in range(1000):
            port = probes.enter_context(socket.socket())
            port.bind(("127.0.0.1", 0))
            number = port.getsockname()[1]
            with suppress(OSError, OverflowError):
                probes.enter_context(socket.socket()).bind(("127.0.0.1", number + GRPC_OFFSET))
                ports.append(number)
            if len(ports) == 4:
                return ports
    raise RuntimeError("no free ports")
