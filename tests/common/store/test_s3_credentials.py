"""Credentials whose source comes after the program, fails for a while, or does not exist."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from common.errors import SettingsError, StoreAccessDenied, StoreUnavailable
from common.store import open_store
from common.store.s3.client import clear_clients
from common.store.s3.location import S3Location
from common.store.s3.presigner import Presigner
from common.store.s3.request import ask
from common.store.s3.session import ABSENT_PATIENCE_SECONDS, sdk
from tests.identity_servers import credentials, identity_server, late, metadata_service, node_agent

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.s3_server import S3Server

LATE_SECONDS = 1.5

FULL_URI = "AWS_CONTAINER_CREDENTIALS_FULL_URI"
PHOTO = S3Location("photos", "a.jpg")


@pytest.fixture(autouse=True)
def _no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    clear_clients()
    yield
    clear_clients()


def signed_by(presigner: Presigner | None = None) -> str:
    """Return the id of the key that signs, an empty text for a URL without a signature."""
    query = urlsplit((presigner or Presigner()).sign(PHOTO)).query
    return query.partition("X-Amz-Credential=")[2].partition("%2F")[0]


def test_an_agent_of_the_node_that_comes_after_the_pod_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with late(LATE_SECONDS, lambda port: node_agent(port=port)) as url:
        monkeypatch.setenv(FULL_URI, f"{url}/v1/credentials")
        began = time.monotonic()
        assert signed_by() == "ASIAEXAMPLE"
        assert time.monotonic() - began > LATE_SECONDS / 2


def test_a_metadata_service_that_comes_after_the_pod_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    with late(LATE_SECONDS, lambda port: metadata_service(port=port)) as url:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", url)
        assert signed_by() == "ASIAEXAMPLE"


def test_a_metadata_service_that_does_not_know_the_pod_yet_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    with metadata_service() as metadata:
        known, respond = time.monotonic() + LATE_SECONDS, metadata.respond
        metadata.respond = lambda method, path: (404, "") if time.monotonic() < known else respond(method, path)
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.url)
        assert signed_by() == "ASIAEXAMPLE"


def test_the_metadata_service_and_the_agent_are_never_asked_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with node_agent() as agent:
        monkeypatch.setenv(FULL_URI, agent.url)
        assert signed_by() == "ASIAEXAMPLE"
    monkeypatch.delenv(FULL_URI)
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    clear_clients()
    with metadata_service() as metadata:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.url)
        assert signed_by() == "ASIAEXAMPLE"


ROLE = """<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
<AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>{AccessKeyId}</AccessKeyId>
<SecretAccessKey>{SecretAccessKey}</SecretAccessKey><SessionToken>{Token}</SessionToken>
<Expiration>{Expiration}</Expiration></Credentials></AssumeRoleWithWebIdentityResult>
</AssumeRoleWithWebIdentityResponse>"""


def sts_error(code: str) -> str:
    error = f"<Error><Type>Sender</Type><Code>{code}</Code><Message>planted</Message></Error>"
    return f"<ErrorResponse>{error}</ErrorResponse>"


@pytest.fixture
def _web_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("a.web.token")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/embedder")
    monkeypatch.setenv("AWS_REGION", "eu-west-3")


@pytest.mark.usefixtures("_web_identity")
@pytest.mark.parametrize("code", ["IDPCommunicationError", "ExpiredTokenException", "InvalidIdentityToken"])
def test_an_identity_service_that_fails_for_a_while_is_waited_for(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    answers = [(400, sts_error(code))]
    role = ROLE.format(**credentials())
    with identity_server(lambda *_: answers.pop() if answers else (200, role)) as sts:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", sts.url)
        assert signed_by() == "ASIAEXAMPLE"


@pytest.mark.usefixtures("_web_identity")
def test_an_identity_service_that_comes_after_the_pod_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    role = ROLE.format(**credentials())
    with late(LATE_SECONDS, lambda port: identity_server(lambda *_: (200, role), port=port)) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", url)
        assert signed_by() == "ASIAEXAMPLE"


@pytest.mark.usefixtures("_web_identity")
def test_a_role_that_the_identity_service_refuses_is_told_at_once(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3.endpoint)
    with identity_server(lambda *_: (403, sts_error("AccessDenied"))) as sts:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", sts.url)
        with pytest.raises(StoreAccessDenied, match=r"identity service.*AccessDenied planted; check the role"):
            open_store("s3://bucket/run").check_access()
        assert len(sts.requests) == 1


@pytest.mark.slow
def test_credentials_that_cannot_be_renewed_are_a_fault_that_may_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    with node_agent(seconds=2) as agent:
        monkeypatch.setenv(FULL_URI, agent.url)
        presigner = Presigner()
        assert signed_by(presigner) == "ASIAEXAMPLE"
    time.sleep(2)
    found = sdk().credentials
    with pytest.raises(StoreUnavailable, match="the last"):
        ask(PHOTO, found.get_frozen_credentials, patience_seconds=1)
    with late(0.5, lambda port: node_agent(port=port)) as url:
        monkeypatch.setenv(FULL_URI, url)
        clear_clients()
        assert signed_by() == "ASIAEXAMPLE"


def test_half_a_key_and_an_agent_that_is_not_allowed_are_settings_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FULL_URI, "http://agent.example/credentials")
    with pytest.raises(SettingsError, match=r"agent\.example"):
        sdk()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    with pytest.raises(SettingsError, match="AWS_SECRET_ACCESS_KEY"):
        sdk()


@pytest.mark.slow
def test_without_any_source_of_credentials_the_program_ends_after_a_short_wait(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3.endpoint)
    began = time.monotonic()
    with pytest.raises(StoreAccessDenied, match=r"no credentials for .*workload identity"):
        open_store("s3://bucket/run").check_access()
    assert ABSENT_PATIENCE_SECONDS <= time.monotonic() - began < ABSENT_PATIENCE_SECONDS + 10


def test_where_the_metadata_service_is_switched_off_nothing_is_waited_for() -> None:
    began = time.monotonic()
    assert signed_by() == ""
    with pytest.raises(StoreAccessDenied, match="no credentials"):
        open_store("s3://bucket/run").check_access()
    assert time.monotonic() - began < 5


def test_a_profile_of_a_person_who_would_have_to_log_in_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").write_text(
        "[sso-session work]\nsso_start_url = https://work.example/start\nsso_region = eu-west-3\n"
        "[profile person]\nsso_session = work\nsso_account_id = 123456789012\nsso_role_name = reader\n"
    )
    monkeypatch.setenv("AWS_PROFILE", "person")
    with pytest.raises(StoreAccessDenied, match=r"SSO.*nobody can log in here"):
        open_store("s3://bucket/run").check_access()


def test_a_program_for_credentials_that_is_not_there_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("[default]\ncredential_process = /opt/absent-helper --json\n")
    began = time.monotonic()
    with pytest.raises(SettingsError, match=r"credential_process cannot be run: /opt/absent-helper: No such file"):
        open_store("s3://bucket/run")
    assert time.monotonic() - began < 5


@pytest.mark.usefixtures("_web_identity")
def test_a_token_file_that_comes_after_the_pod_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").unlink()
    role = ROLE.format(**credentials())
    with identity_server(lambda *_: (200, role)) as sts:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", sts.url)
        timer = threading.Timer(LATE_SECONDS, lambda: (tmp_path / "token").write_text("a.web.token"))
        timer.start()
        assert signed_by() == "ASIAEXAMPLE"
        timer.join()
