from __future__ import annotations

import http.client
import ssl
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from benchmarks.photo_server import photo_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from benchmarks.photo_server import PhotoServer

CONNECTIONS = 100

PHOTOS = {f"{number}.jpg": bytes([number]) * 300_000 for number in range(3)}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PhotoServer]:
    folder: Path = tmp_path_factory.mktemp("photos")
    for name, content in PHOTOS.items():
        (folder / name).write_bytes(content)
    with photo_server(folder, process_count=2) as running:
        yield running


def connect(server: PhotoServer, scheme: str) -> http.client.HTTPConnection:
    address = urlsplit(server.url(scheme))
    if scheme == "http":
        return http.client.HTTPConnection(str(address.hostname), address.port)
    trust = ssl.create_default_context(cafile=server.ca_file)
    return http.client.HTTPSConnection(str(address.hostname), address.port, context=trust)


def get(connection: http.client.HTTPConnection, name: str) -> tuple[int, bytes]:
    connection.request("GET", f"/{name}")
    response = connection.getresponse()
    return response.status, response.read()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_connection_serves_one_photo_after_another(server: PhotoServer, scheme: str) -> None:
    connection = connect(server, scheme)
    for name, content in PHOTOS.items():
        assert get(connection, name) == (200, content)
    assert get(connection, "absent.jpg") == (404, b"")
    assert get(connection, "1.jpg?copy=2") == (200, PHOTOS["1.jpg"])
    connection.close()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_many_connections_are_served_at_the_same_time(server: PhotoServer, scheme: str) -> None:
    connections = [connect(server, scheme) for _ in range(CONNECTIONS)]
    for connection in connections:
        connection.connect()
    with ThreadPoolExecutor(8) as threads:
        for status, content in threads.map(lambda connection: get(connection, "2.jpg"), connections):
            assert (status, content) == (200, PHOTOS["2.jpg"])
    for connection in connections:
        connection.close()


def test_the_cpu_time_of_all_its_processes_is_known(server: PhotoServer) -> None:
    connection = connect(server, "https")
    before = server.cpu_seconds()
    for _ in range(200):
        get(connection, "0.jpg")
    connection.close()
    assert len(server.processes) == 2
    assert before < server.cpu_seconds() < before + 10
