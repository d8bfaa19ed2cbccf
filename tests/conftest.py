from __future__ import annotations

import os
import uuid
from typing import TYPE_CHECKING

import hypothesis
import pytest
import structlog

from common.store import open_store
from tests.s3_server import S3Server, s3_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mypy_boto3_s3 import S3Client

    from common.store.contract import Store

# How long an example takes says something about the machine, and nothing about the code.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")

# The SDK of S3 is imported where it is used, so that the tests on a GPU need no more than the encoder.


@pytest.fixture(autouse=True)
def _no_settings_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("EMBEDDER_", "AWS_", "JOB_COMPLETION")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture(autouse=True)
def _logs_to_this_test() -> None:
    # Another test may have configured the logs for a stream that is closed now.
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def s3_environment(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Make this process's SDK use the test server, and give the environment variables for other programs."""
    from common.store.s3.client import clear_clients  # noqa: PLC0415

    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    clear_clients()
    yield s3.environment
    clear_clients()


@pytest.fixture
def s3_api(s3_environment: dict[str, str]) -> S3Client:
    """An S3 client of the test, apart from the program's own."""
    import boto3  # noqa: PLC0415

    return boto3.session.Session().client("s3", endpoint_url=s3_environment["AWS_ENDPOINT_URL"])


@pytest.fixture
def bucket(s3_api: S3Client) -> str:
    """A new, empty bucket."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    s3_api.create_bucket(Bucket=name)
    return name


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store of either kind."""
    if request.param == "folder":
        return open_store(str(tmp_path / "run"))
    return open_store(f"s3://{request.getfixturevalue('bucket')}/some/run")
