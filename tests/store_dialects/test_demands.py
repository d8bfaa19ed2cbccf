"""Buckets that demand something of every request: encryption, a requester who pays, permissions."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from common.errors import EmbedderError, SettingsError, StoreAccessDenied, StoreUnavailable
from common.settings import RunSettings, read_settings
from common.store.s3.errors import StoreFault, StoreFull
from common.store.s3.location import S3Location
from common.store.s3.presigner import Presigner
from tests.merger.runs import merger_environment
from tests.s3_proxy import Answer, Request
from tests.store_dialects.dialects import DENIED, ENCRYPTED, ENCRYPTION, MIB, PAID, PAYING, Dialect, error

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from common.store.s3.store import S3Store
    from tests.store_dialects.conftest import Speaking

    Speak = Callable[..., AbstractContextManager[Speaking]]


def use(store: S3Store) -> None:
    """Do everything that a run does with a store."""
    store.check_access()
    data = bytes(6 * MIB)
    source = store.put_bytes("a", data, overwrite=False)
    with store.assemble("b", size=len(data) + 3, replacing=None) as assembly:
        assembly.copy(1, 0, source, 0, len(data))
        assembly.upload(2, len(data), b"end")
        assembly.publish()
    assert store.read("b") == data + b"end"
    store.abort_assemblies("b")
    store.clear_up(["b"])
    store.delete(["a", "b"])
    assert list(store.list("")) == []


@pytest.mark.parametrize(("dialect", "variables"), [(ENCRYPTED, ENCRYPTION), (PAID, PAYING)], ids=["sse", "payer"])
def test_what_a_bucket_demands_is_sent_with_every_request(
    dialect: Dialect, variables: dict[str, str], speak: Speak
) -> None:
    with speak(dialect, **variables) as (store, double, _):
        use(store)
        assert not double.refused["demand"]


@pytest.mark.parametrize("dialect", [ENCRYPTED, PAID], ids=lambda each: each.name)
def test_without_the_setting_the_refusal_quotes_the_store_in_one_sentence(dialect: Dialect, speak: Speak) -> None:
    with speak(dialect) as (store, _, _proxy), pytest.raises(StoreAccessDenied) as denied:
        store.check_access()
    text = str(denied.value)
    assert "the store answered 403 to" in text
    assert ("explicit deny in a bucket policy" in text) == (dialect is ENCRYPTED)
    assert "\n" not in text


def test_an_encryption_that_the_store_does_not_know_names_the_setting(speak: Speak) -> None:
    refused = error(501, "NotImplemented", "Server side encryption specified but KMS is not configured")
    dialect = Dialect(
        name="no kms", every_request=lambda each: refused if "x-amz-server-side-encryption" in each.headers else None
    )
    with (
        speak(dialect, EMBEDDER_S3_ENCRYPTION="aws:kms") as (store, _, _proxy),
        pytest.raises(
            SettingsError, match=r"EMBEDDER_S3_ENCRYPTION is aws:kms, and the store refuses.*KMS is not conf"
        ),
    ):
        store.check_access()


def test_signed_image_urls_say_who_pays(speak: Speak, direct: S3Store) -> None:
    direct.put_bytes("photo.jpg", b"jpeg")
    location = S3Location(direct.prefix.bucket, direct.prefix.full_key("photo.jpg"))
    with speak(PAID, **PAYING), urlopen(Presigner().sign(location), timeout=10) as answer:  # noqa: S310 - loopback
        assert answer.read() == b"jpeg"
    with speak(PAID), pytest.raises(HTTPError, match="403"):
        urlopen(Presigner().sign(location), timeout=10)  # noqa: S310 - loopback


def test_wrong_settings_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDDER_RUN_URI", "s3://bucket/run")
    monkeypatch.setenv("EMBEDDER_CHUNK_COUNT", "1")
    monkeypatch.setenv("EMBEDDER_S3_KMS_KEY_ID", "key")
    with pytest.raises(SettingsError, match="EMBEDDER_S3_KMS_KEY_ID"):
        read_settings(RunSettings)
    monkeypatch.setenv("EMBEDDER_S3_ENCRYPTION", "kms")
    with pytest.raises(SettingsError, match="EMBEDDER_S3_ENCRYPTION is 'kms'"):
        read_settings(RunSettings)


def undeletable(request: Request) -> Answer | None:
    """Refuse to delete, in the way of S3: DeleteObjects succeeds, with an error for each key."""
    if request.operation == "DeleteObjects":
        return Answer(
            200,
            b"<DeleteResult><Error><Key>k</Key><Code>AccessDenied</Code><Message>no s3:DeleteObject</Message></Error>"
            b"</DeleteResult>",
        )
    return DENIED if request.operation == "DeleteObject" else None


NO_DELETION = Dialect(name="no deletion", every_request=undeletable)


def test_a_role_that_may_not_delete_is_warned_and_its_small_object_is_cleared_up_by_another(
    speak: Speak, direct: S3Store
) -> None:
    with speak(NO_DELETION) as (store, _, _proxy):
        found = store.check_access()
        assert not found.may_delete
        assert "explicit deny" in found.delete_refusal
        store.put_bytes("a", b"a", overwrite=False)
        assert store.clear_up([]) == 0
    assert direct.clear_up([]) == 2, "its own object, and the one that later programs try"
    assert [each.key for each in direct.list("")] == ["a"]


@pytest.mark.parametrize("keep_chunks", ["false", "true"])
def test_a_merge_that_may_not_delete_chunks_is_refused_before_its_work(speak: Speak, keep_chunks: str) -> None:
    with speak(NO_DELETION) as (store, _, proxy):
        variables = merger_environment(store.uri, 1, proxy.environment, keep_chunks=keep_chunks)
        ended = subprocess.run(
            [sys.executable, "-m", "merger"], env=variables, capture_output=True, text=True, timeout=50, check=False
        )
    if keep_chunks == "true":
        assert ended.returncode == 65, ended.stderr  # there are no chunks
        return
    assert ended.returncode == 78, ended.stderr
    assert "may not delete" in ended.stderr
    assert "EMBEDDER_KEEP_CHUNKS=true" in ended.stderr


REFUSALS: dict[str, tuple[Answer, type[EmbedderError], str]] = {
    "clock": (
        error(403, "RequestTimeTooSkewed", "The difference between the request time and the server's is too large."),
        StoreUnavailable,
        "the clock of this machine or that of the store is wrong",
    ),
    "disk full": (
        error(507, "XMinioStorageFull", "Storage backend has reached its minimum free drive"),
        StoreFull,
        "free space",
    ),
    "quota": (error(403, "QuotaExceeded"), StoreFull, "raise the quota"),
    "body limit of nginx": (
        Answer(413, b"<html>Request Entity Too Large</html>"),
        SettingsError,
        "client_max_body_size",
    ),
    "too large": (error(400, "EntityTooLarge", "exceeds the maximum"), SettingsError, "EMBEDDER_CHUNK_COUNT"),
    "key": (error(400, "KMS.DisabledException", "key is disabled"), StoreAccessDenied, "EMBEDDER_S3_KMS_KEY_ID"),
    "region": (
        error(400, "AuthorizationHeaderMalformed", "expecting 'garage'"),
        StoreAccessDenied,
        "expecting 'garage'",
    ),
    "throttled": (error(400, "RequestLimitExceeded"), StoreUnavailable, "the last"),
    "429": (Answer(429, b""), StoreUnavailable, "the last"),
    "busy": (error(503, "ServiceUnavailable"), StoreUnavailable, "the last"),
    "unknown refusal": (
        error(400, "SomethingElse", "is not done here"),
        StoreUnavailable,
        "SomethingElse is not done here",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_a_store_answers_becomes_the_right_error(name: str, speak: Speak) -> None:
    answer, kind, text = REFUSALS[name]
    dialect = Dialect(name=name, every_request=lambda each: answer if each.operation == "PutObject" else None)
    with speak(dialect, AWS_MAX_ATTEMPTS="2") as (store, _, _proxy):
        with pytest.raises(kind, match=text) as raised:
            store.put_bytes("a", b"a")
        assert not isinstance(raised.value, StoreFault)


def test_a_403_to_a_look_says_what_may_be_missing(speak: Speak) -> None:
    dialect = Dialect(name="no list", every_request=lambda each: DENIED if each.method == "HEAD" else None)
    with speak(dialect) as (store, _, _proxy), pytest.raises(StoreAccessDenied, match="s3:ListBucket"):
        store.stat("absent")


def test_an_endpoint_that_is_no_store_is_refused_with_its_answer(speak: Speak) -> None:
    dialect = Dialect(name="ingress", every_request=lambda _: Answer(404, b"<html>default backend - 404</html>"))
    with speak(dialect) as (store, _, _proxy), pytest.raises(StoreAccessDenied, match="endpoint is one of S3"):
        store.check_access()


@pytest.mark.slow
def test_a_store_that_says_it_deletes_and_does_not_is_found_out(speak: Speak) -> None:
    succeeds = Answer(200, b"<DeleteResult/>")
    dialect = Dialect(
        name="forgets", every_request=lambda each: succeeds if each.operation == "DeleteObjects" else None
    )
    with speak(dialect) as (store, _, _proxy):
        found = store.check_access()
        assert (found.may_delete, found.batch_delete) == (True, False)
        assert list(store.list("")) == []
    silent = Answer(204, b"")
    dialect = Dialect(
        name="keeps", every_request=lambda each: silent if each.operation in {"DeleteObjects", "DeleteObject"} else None
    )
    with speak(dialect) as (store, _, _proxy):
        found = store.check_access()
        assert not found.may_delete
        assert "still there" in found.delete_refusal
