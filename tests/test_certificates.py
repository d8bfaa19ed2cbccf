"""A private authority on every connection, and certificates that no waiting makes valid."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from common.certificates import trusted_file
from common.errors import CertificateRefused, SettingsError, StoreUnavailable
from common.settings import RunSettings, read_settings
from common.store import open_store
from common.store.s3.client import clear_clients, s3_client
from common.store.s3.location import S3Location
from common.store.s3.presigner import Presigner
from common.store.s3.request import ask
from tests.certificates import Certificates
from tests.common.store.test_s3_credentials import ROLE
from tests.connect_proxy import connect_proxy
from tests.identity_servers import credentials, identity_server, node_agent
from tests.s3_proxy import s3_proxy
from tests.scripted_server import scripted_server
from tests.worker.fetch.fetching import PICTURE, fetch, worker_settings
from worker.manifest.places.open_source import open_source

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

    from tests.s3_server import S3Server

QUICK_SECONDS = 6
"""Less than the second attempt of a patient request would take, and more than a slow machine needs for one."""

CSV = b"url\nhttps://a.example/a.jpg\n"


@pytest.fixture(autouse=True)
def _no_proxies_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "AWS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def trusted(authority: Certificates, monkeypatch: pytest.MonkeyPatch) -> Certificates:
    """The authority, which EMBEDDER_CA_BUNDLE names."""
    monkeypatch.setenv("EMBEDDER_CA_BUNDLE", str(authority.authority))
    return authority


@pytest.fixture
def _own_clients(s3_environment: dict[str, str]) -> Iterator[None]:  # noqa: ARG001 - set before this fixture
    clear_clients()
    yield
    clear_clients()


@contextmanager
def s3_over_tls(s3: S3Server, tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with s3_proxy(s3, lambda _: None, tls=tls) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.environment["AWS_ENDPOINT_URL"])
        clear_clients()
        yield


# A private authority


@pytest.mark.usefixtures("_own_clients")
def test_a_store_of_a_private_authority_is_used(
    s3: S3Server, bucket: str, trusted: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3_over_tls(s3, trusted.server(), monkeypatch):
        store = open_store(f"s3://{bucket}/run")
        store.check_access()
        store.put_bytes("a", b"stored")
        assert store.read("a") == b"stored"


@pytest.mark.usefixtures("_own_clients")
def test_the_sdks_own_variable_replaces_the_public_authorities_and_the_private_one_is_added(
    s3: S3Server, bucket: str, authority: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    other = Certificates(tmp_path / "other")
    for sdks, ours in ((authority, None), (other, authority), (authority, other)):
        monkeypatch.setenv("AWS_CA_BUNDLE", str(sdks.authority))
        monkeypatch.setenv("EMBEDDER_CA_BUNDLE", str(ours.authority) if ours else "")
        with s3_over_tls(s3, authority.server(), monkeypatch):
            open_store(f"s3://{bucket}/run").check_access()


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "SSL_CERT_DIR"])
def test_the_customary_variables_name_the_authorities_of_all_connections(
    authority: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "any-name.crt").write_bytes(authority.authority.read_bytes())
    monkeypatch.setenv(variable, str(folder if variable == "SSL_CERT_DIR" else folder / "any-name.crt"))
    with scripted_server(tls=authority.server()) as server:
        url = https_url(server.port, "/list.csv")
        server.on("/list.csv", http_answer(CSV))
        assert open_source(url, worker_settings().http).read(0, 3) == b"url"
        assert fetch(url) == [CSV]


def test_public_authorities_stay_trusted_beside_a_private_one(trusted: Certificates) -> None:
    certificates = Path(trusted_file()).read_bytes()
    assert trusted.authority.read_bytes().strip() in certificates
    assert certificates.count(b"BEGIN CERTIFICATE") > 10


def test_a_manifest_and_its_images_of_a_private_authority_are_read(trusted: Certificates) -> None:
    with scripted_server(tls=trusted.server()) as server:
        server.on("/list.csv", http_answer(CSV))
        server.on("/a.jpg", http_answer(PICTURE))
        source = open_source(https_url(server.port, "/list.csv"), worker_settings().http)
        assert source.read(0, len(CSV)) == CSV
        assert fetch(https_url(server.port, "/a.jpg")) == [PICTURE]


def test_a_proxy_that_is_reached_over_tls_may_have_a_private_authority(
    s3: S3Server, bucket: str, trusted: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    with (
        connect_proxy("ann", "secret", tls=trusted.server()) as proxy,
        scripted_server(tls=trusted.server()) as server,
    ):
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("127.0.0.1", "localhost"))
        server.on("/a.jpg", http_answer(PICTURE))
        url = https_url(server.port, "/a.jpg")
        assert fetch(url) == [PICTURE]
        assert open_source(url, worker_settings().http).read(0, 9) == PICTURE[:9]
        with s3_over_tls(s3, trusted.server(), monkeypatch):
            open_store(f"s3://{bucket}/run").check_access()
        assert len(set(proxy.asked_for)) == 2
    clear_clients()


@pytest.mark.usefixtures("_own_clients")
def test_agents_and_identity_services_of_a_private_authority_give_credentials(
    trusted: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with node_agent(tls=trusted.server()) as agent:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", agent.url)
        clear_clients()
        assert "ASIAEXAMPLE" in Presigner().sign(S3Location("photos", "a.jpg"))
    (tmp_path / "token").write_text("a.web.token")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/embedder")
    role = ROLE.format(**credentials())
    with identity_server(lambda *_: (200, role), tls=trusted.server()) as sts:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", sts.url)
        clear_clients()
        assert "ASIAEXAMPLE" in Presigner().sign(S3Location("photos", "a.jpg"))


def find_model_apart(**environment: str) -> tuple[str, float]:
    """Return the error of a model of the hub, found in another process, and the seconds that it took."""
    script = (
        "import time\nfrom worker.encode.model import find_model\nfrom worker.encode import hub\n"
        "from common.errors import EmbedderError\nbegan = time.monotonic()\n"
        "try:\n    find_model('some/model', revision='main')\n"
        "except EmbedderError as error:\n    print(f'{time.monotonic() - began}|{type(error).__name__} {error}')\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[1],
        env=os.environ | {"HF_HUB_OFFLINE": "0"} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    seconds, _, said = run.stdout.strip().partition("|")
    return said, float(seconds)


@pytest.mark.parametrize("is_trusted", [True, False])
def test_a_hub_of_a_private_authority_is_asked_and_another_one_is_refused_at_once(
    authority: Certificates, tmp_path: Path, *, is_trusted: bool
) -> None:
    absent = b"HTTP/1.1 404 Not Found\r\nX-Error-Code: RepoNotFound\r\nContent-Length: 0\r\n\r\n"
    with (
        scripted_server(tls=authority.server()) as server,
        connect_proxy("ann", "secret", upstream=("127.0.0.1", server.port)) as proxy,
    ):
        for path in ("/api/models/some/model/revision/main", "/api/models/some/model"):
            server.on(path, absent)
        said, seconds = find_model_apart(
            HF_ENDPOINT="https://localhost",
            HF_HOME=str(tmp_path),
            HTTPS_PROXY=proxy.url,
            EMBEDDER_CA_BUNDLE=str(authority.authority) if is_trusted else "",
        )
    assert proxy.asked_for[0] == "localhost:443"
    if is_trusted:
        assert said.startswith("ModelError the hub has no model 'some/model'")
    else:
        assert said.startswith("CertificateRefused the hub at https://localhost: the certificate")
        assert "EMBEDDER_CA_BUNDLE" in said
        assert seconds < QUICK_SECONDS


# Certificates that are refused


@pytest.mark.usefixtures("_own_clients")
@pytest.mark.parametrize(
    ("host", "days", "why"),
    [
        ("localhost", 9, "is not trusted .*EMBEDDER_CA_BUNDLE"),
        ("localhost", -1, "has expired"),
        ("other.example", 9, "is for another host"),
    ],
)
def test_a_certificate_that_is_not_valid_is_told_at_once(
    s3: S3Server, authority: Certificates, monkeypatch: pytest.MonkeyPatch, *, host: str, days: int, why: str
) -> None:
    if "not trusted" not in why:
        monkeypatch.setenv("EMBEDDER_CA_BUNDLE", str(authority.authority))
    tls = authority.server(host=host, days=days)
    began = time.monotonic()
    with s3_over_tls(s3, tls, monkeypatch), pytest.raises(CertificateRefused, match=why):
        open_store("s3://bucket/run").check_access()
    with scripted_server(tls=tls) as server:
        with pytest.raises(CertificateRefused, match=why):
            open_source(https_url(server.port, "/list.csv"), worker_settings().http)
        assert server.connection_count == 1
    assert time.monotonic() - began < QUICK_SECONDS


def test_an_agent_that_is_not_trusted_is_told_at_once(authority: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    with node_agent(tls=authority.server()) as agent:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", agent.url)
        clear_clients()
        with pytest.raises(CertificateRefused, match="gives credentials for S3: the certificate"):
            s3_client()
    clear_clients()


@pytest.mark.usefixtures("_own_clients")
def test_a_handshake_that_breaks_off_may_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"https://127.0.0.1:{listening.getsockname()[1]}")
        connections = []

        def accept_and_close() -> None:
            with suppress(OSError):  # the test is over
                while True:
                    with closing(listening.accept()[0]) as connection:
                        connections.append(connection.getpeername())

        thread = threading.Thread(target=accept_and_close)
        thread.start()
        clear_clients()
        with pytest.raises(StoreUnavailable, match="attempt"):
            ask("a bucket", lambda: s3_client().list_buckets(), patience_seconds=0.5)
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert len(connections) >= 2


# The setting


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "cannot be read: No such file"),
        (b"", "no certificate in PEM format"),
        (b"-----BEGIN CERTIFICATE-----\nbm90aGluZw==\n-----END CERTIFICATE-----\n", "or a damaged one"),
        (b"-----BEGIN PRIVATE KEY-----\nbm90aGluZw==\n-----END PRIVATE KEY-----\n", "no certificate in PEM format"),
    ],
)
def test_a_file_without_certificates_is_a_settings_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, why: str
) -> None:
    path = tmp_path / "ca.crt"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setenv("EMBEDDER_CA_BUNDLE", str(path))
    with pytest.raises(SettingsError, match=f"EMBEDDER_CA_BUNDLE is .*ca.crt.*{why}"):
        read_settings(RunSettings, run_uri="run", chunk_count=1)


def test_a_file_of_the_sdks_own_variable_that_is_absent_is_a_settings_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "none.pem"))
    clear_clients()
    with pytest.raises(SettingsError, match=r"none\.pem', and there is no such file"):
        s3_client()


def https_url(port: int, path: str) -> str:
    return f"https://localhost:{port}{path}"


def http_answer(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
