"""python -m benchmarks.photo_server FOLDER: serves the files of a folder over HTTP and HTTPS on loopback.

It takes as little of the processor as Python allows, because it shares the cores with what is measured. All answers lie
in one piece of memory, headers included. Each connection has a thread of its own, which sends an answer with one
`sendfile`, so over HTTP no byte of it passes through Python. It prints one line of JSON when it is ready, and serves
until its standard input ends.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.cpu_watch import cpu_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

HOST = "127.0.0.1"

CORES_PER_PROCESS = 4
"""Number of cores for each process of the server. On few cores one process is enough, because its threads spend their
time in the kernel and in OpenSSL."""

BACKLOG = 1024
"""Number of connections that wait to be accepted, enough for a worker that opens all of its connections at once."""

REQUEST_BYTES = 8192
"""Maximum size of a request in bytes."""

STACK_BYTES = 256 << 10
"""Size of the stack of a connection's thread in bytes."""

NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


class PhotoServer(NamedTuple):
    """A running server."""

    http_url: str
    https_url: str
    ca_file: Path
    """The certificate by which clients know the server over HTTPS."""
    processes: tuple[int, ...]

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables by which a worker reaches the server and trusts it."""
        return {"EMBEDDER_ALLOW_PRIVATE_HOSTS": "true", "SSL_CERT_FILE": str(self.ca_file)}

    def url(self, scheme: str) -> str:
        return {"http": self.http_url, "https": self.https_url}[scheme]

    def cpu_seconds(self) -> float:
        """Return the CPU time that the server has taken so far, in seconds."""
        return sum(map(cpu_seconds, self.processes))


@contextmanager
def photo_server(folder: Path, *, process_count: int = 0, delay_seconds: float = 0) -> Iterator[PhotoServer]:
    """Serve the files of `folder` until the block ends.

    `process_count` 0 chooses by the number of cores. `delay_seconds` is added to every answer. Raises RuntimeError if
    the server does not start.
    """
    options = [f"--processes={process_count}", f"--delay-seconds={delay_seconds}"]
    server = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.photo_server", str(folder), *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        line = server.stdout.readline()
        if not line:
            raise RuntimeError("the photo server did not start; its standard error says why")
        said = json.loads(line)
        yield PhotoServer(said["http_url"], said["https_url"], Path(said["ca_file"]), tuple(said["processes"]))
    finally:
        server.stdin.close()
        server.wait()
        server.stdout.close()


class Answers:
    """The answers to GET requests for the files of a folder, in one piece of shared memory."""

    def __init__(self, folder: Path) -> None:
        self.file = os.memfd_create("photos")
        self._places: dict[bytes, tuple[int, int]] = {}
        end = 0
        with open(self.file, "wb", closefd=False) as memory:
            for path in sorted(folder.iterdir()):
                body = path.read_bytes()
                head = f"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: {len(body)}\r\n\r\n".encode()
                memory.write(head)
                memory.write(body)
                self._places[path.name.encode()] = end, len(head) + len(body)
                end += len(head) + len(body)
        self.memory = memoryview(mmap.mmap(self.file, end, prot=mmap.PROT_READ))

    def place(self, name: bytes) -> tuple[int, int] | None:
        """Return the offset and the length of an answer in the memory, None if there is no such file."""
        return self._places.get(name)


def serve(answers: Answers, listening: socket.socket, tls: ssl.SSLContext | None, delay_seconds: float) -> None:
    """Accept connections for ever, each served by a thread of its own."""
    while True:
        connection, _ = listening.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=_serve_one, args=(answers, connection, tls, delay_seconds), daemon=True).start()


def _serve_one(answers: Answers, connection: socket.socket, tls: ssl.SSLContext | None, delay_seconds: float) -> None:
    with suppress(OSError), connection:  # the client may close the connection at any time
        if tls is None:
            _answer_requests(answers, connection, delay_seconds)
        else:
            with tls.wrap_socket(connection, server_side=True) as encrypted:
                _answer_requests(answers, encrypted, delay_seconds)


def _answer_requests(answers: Answers, connection: socket.socket, delay_seconds: float) -> None:
    is_encrypted = isinstance(connection, ssl.SSLSocket)
    while request := _read_request(connection):
        if delay_seconds:
            time.sleep(delay_seconds)
        # A query tells URLs of the same photo apart.
        name = request.split(b" ", 2)[1].partition(b"?")[0].rpartition(b"/")[2]
        place = answers.place(name)
        if place is None:
            connection.sendall(NOT_FOUND)
        elif is_encrypted:
            offset, length = place
            connection.sendall(answers.memory[offset : offset + length])
        else:
            offset, length = place
            while length:
                sent = os.sendfile(connection.fileno(), answers.file, offset, length)
                offset, length = offset + sent, length - sent
        if b"\r\nconnection: close" in request.lower():
            return


def _read_request(connection: socket.socket) -> bytes:
    """Return the next request, b"" if the client has closed the connection. A client waits for each answer."""
    request = connection.recv(REQUEST_BYTES)
    while request and not request.endswith(b"\r\n\r\n"):
        more = connection.recv(REQUEST_BYTES)
        if not more or len(request) > REQUEST_BYTES:
            return b""
        request += more
    return request


def make_certificates(folder: Path) -> tuple[Path, Path, Path]:
    """Make an authority and a certificate for loopback with `openssl`.

    Return the files of the authority's certificate, of the server's certificate and of the server's key. Raises
    FileNotFoundError without `openssl`, CalledProcessError if it fails.
    """
    authority, authority_key = folder / "authority.pem", folder / "authority-key.pem"
    certificate, key, request = folder / "server.pem", folder / "server-key.pem", folder / "server.csr"
    names, settings = folder / "names.cnf", folder / "openssl.cnf"
    names.write_text(f"subjectAltName=IP:{HOST},DNS:localhost\nbasicConstraints=CA:FALSE\n", "utf-8")
    settings.write_text(
        "[req]\ndistinguished_name=name\n[name]\n[authority]\nbasicConstraints=critical,CA:TRUE\n"
        "keyUsage=critical,keyCertSign\nsubjectKeyIdentifier=hash\n",
        "utf-8",
    )
    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-config", str(settings))
    _openssl("req", "-x509", *new_key, *("-extensions", "authority", "-subj", "/CN=Benchmark authority", "-days", "2"),
             *("-keyout", authority_key, "-out", authority))  # fmt: skip
    _openssl("req", *new_key, "-subj", "/CN=localhost", "-keyout", key, "-out", request)
    _openssl("x509", "-req", "-in", request, *("-CA", authority, "-CAkey", authority_key, "-CAcreateserial"),
             *("-days", "2", "-extfile", names, "-out", certificate))  # fmt: skip
    return authority, certificate, key


def _openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def _listen(port: int) -> socket.socket:
    """Return a socket that is bound to `port`, or to a free one for 0. Other processes may bind the same port."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listening.bind((HOST, port))
    return listening


def _run(answers: Answers, ports: Mapping[str, int], tls: ssl.SSLContext, delay_seconds: float) -> None:
    """Serve in this process until its standard input ends."""
    threading.stack_size(STACK_BYTES)
    for scheme, port in ports.items():
        listening = _listen(port)
        listening.listen(BACKLOG)
        context = tls if scheme == "https" else None
        threading.Thread(target=serve, args=(answers, listening, context, delay_seconds), daemon=True).start()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.photo_server", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--processes", type=int, default=0, help="number of processes (default: by the cores)")
    parser.add_argument("--delay-seconds", type=float, default=0, help="time that every answer waits")
    wanted = parser.parse_args()
    certificates = Path(tempfile.mkdtemp(prefix="embedder-bench-tls-"))
    try:
        authority, certificate, key = make_certificates(certificates)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate, key)
        answers = Answers(wanted.folder)
        reserved = {scheme: _listen(0) for scheme in ("http", "https")}
        ports = {scheme: listening.getsockname()[1] for scheme, listening in reserved.items()}
        processes = [os.getpid()]
        for _ in range((wanted.processes or max(1, len(os.sched_getaffinity(0)) // CORES_PER_PROCESS)) - 1):
            child = os.fork()
            if not child:
                _run(answers, ports, tls, wanted.delay_seconds)
                sys.stdin.buffer.read()
                os._exit(0)
            processes.append(child)
        _run(answers, ports, tls, wanted.delay_seconds)
        urls = {f"{scheme}_url": f"{scheme}://{HOST}:{port}" for scheme, port in ports.items()}
        print(json.dumps(urls | {"ca_file": str(authority), "processes": processes}), flush=True)
        with suppress(KeyboardInterrupt):
            sys.stdin.buffer.read()
        for child in processes[1:]:
            os.waitpid(child, 0)
    finally:
        shutil.rmtree(certificates, ignore_errors=True)


if __name__ == "__main__":
    main()
