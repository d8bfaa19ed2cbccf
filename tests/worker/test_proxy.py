"""The proxies that the environment names. The image server plays the proxy: it answers for any absolute URL."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from common.errors import SettingsError
from common.format.reasons import Reason
from common.proxies import EnvironmentProxies, Proxy, basic_authorization
from tests.image_server import ImageServer, answer, held, image_server, stall
from tests.worker.fetch.fetching import PICTURE, fetch
from tests.worker.processes import command_line, descendants, environment_of, memory, wait_until
from tests.worker.worker_process import PHOTOS, read_chunk, start_worker, worker_environment, write_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[ImageServer]:
    with image_server() as running:
        running.on("/a.jpg", answer(PICTURE))
        for name in ("http_proxy", "https_proxy", "no_proxy", "HTTPS_PROXY", "NO_PROXY", "REQUEST_METHOD"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HTTP_PROXY", running.origin.replace("://", "://ann:s3cret@"))
        yield running


def test_images_come_through_the_proxy_which_resolves_the_names_itself(proxy: ImageServer) -> None:
    assert fetch("http://does-not-exist.invalid/a.jpg", allow_private_hosts=False) == [PICTURE]
    request = proxy.requests[0]
    assert request.headers["Host"] == "does-not-exist.invalid"
    assert request.headers["Proxy-Authorization"] == basic_authorization("ann", "s3cret")


def test_a_direct_request_does_not_change_where_the_next_one_goes(
    proxy: ImageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with image_server() as direct:
        url = direct.on("/a.jpg", answer(b"direct"))
        assert fetch(url, "http://images.example/a.jpg", url) == [b"direct", PICTURE, b"direct"]
    assert len(proxy.requests) == 1


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "[::1]", "169.254.169.254", "2130706433", "localhost", "minio", "minio.storage.svc"),
        *("minio.storage.svc.cluster.local.", "metadata.google.internal", "printer.local", "images.example:8080"),
    ],
)
def test_a_proxy_is_not_asked_for_an_internal_address(proxy: ImageServer, host: str) -> None:
    assert fetch(f"http://{host}/a.jpg", allow_private_hosts=False) == [Reason.FORBIDDEN_HOST]
    assert proxy.requests == []


def test_a_host_that_needs_no_proxy_is_checked_like_any_direct_connection(
    proxy: ImageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
    assert fetch("http://localhost/a.jpg", allow_private_hosts=False) == [Reason.FORBIDDEN_HOST]
    with image_server() as direct:
        assert fetch(direct.on("/b.jpg", answer(b"direct"))) == [b"direct"]
    assert proxy.requests == []


def test_a_proxy_without_an_http_url_is_a_settings_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ("socks5://ann:s3cret@proxy.example:1080", "http://", "http://[::1"):
        monkeypatch.setenv("HTTPS_PROXY", wrong)
        with pytest.raises(SettingsError, match="HTTPS_PROXY") as caught:
            EnvironmentProxies()
        assert "s3cret" not in str(caught.value)


def test_a_proxy_may_be_given_without_its_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("https_proxy", "proxy.example:3128")
    proxies = EnvironmentProxies()
    assert proxies.proxy_for(scheme="https", host="images.example", port=443) == Proxy("http", "proxy.example", 3128)


@pytest.mark.slow
def test_a_worker_embeds_through_its_proxy_and_no_decoder_has_the_password(
    proxy: ImageServer, tmp_path: Path, quick_clip: Path
) -> None:
    release = threading.Event()
    photos = {path.name: path.read_bytes() for path in PHOTOS if path.suffix == ".jpg"}
    for name, photo in photos.items():
        proxy.on(f"/{name}", answer(photo))
    proxy.on("/late.jpg", held(release, then=answer(photos["coffee.jpg"])))
    urls = [f"http://images.example/{name}" for name in (*photos, "late.jpg")]
    environment = worker_environment(
        manifest_uri=write_manifest(tmp_path, urls),
        run_uri=tmp_path / "run",
        model=quick_clip,
        allow_private_hosts=False,
    )
    with start_worker(environment) as worker:
        wait_until(lambda: len(proxy.requests) == len(urls))
        processes = {process: command_line(process) for process in descendants(worker.pid)}
        (relay,) = (process for process, said in processes.items() if b"proxy_relay" in said)
        decoders = processes.keys() - {relay}
        assert len(decoders) > 1
        # The relay shows that these searches find a password where there is one.
        assert has_password(memory(relay))
        assert not any(has_password(memory(process)) for process in decoders)
        assert not any(has_password(environment_of(process) + said) for process, said in processes.items())
        release.set()
        log = worker.communicate(timeout=60)[1]
    assert worker.returncode == 0, log
    assert read_chunk(tmp_path / "run").urls == urls
    assert not has_password(log.encode())
    assert not any(Path(f"/proc/{process}/cwd").exists() for process in processes)


@pytest.mark.slow
def test_the_relay_does_not_outlive_a_worker_that_is_killed(
    proxy: ImageServer, tmp_path: Path, quick_clip: Path
) -> None:
    proxy.on("/late.jpg", stall())
    manifest = write_manifest(tmp_path, ["http://images.example/late.jpg"])
    environment = worker_environment(manifest_uri=manifest, run_uri=tmp_path / "run", model=quick_clip)
    with start_worker(environment) as worker:
        wait_until(lambda: proxy.count("/late.jpg") > 0)
        processes = descendants(worker.pid)
        assert any(b"proxy_relay" in command_line(process) for process in processes)
        worker.kill()
        worker.communicate()
    wait_until(lambda: not any(Path(f"/proc/{process}/cwd").exists() for process in processes))


def has_password(content: bytes) -> bool:
    return b"s3cret" in content or basic_authorization("ann", "s3cret").encode() in content
