"""What stores do that no other double does: answers that come late, other forms of an answer, objects that are kept."""

from __future__ import annotations

import os
import re
import time
from collections import defaultdict
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from common.errors import StoreAccessDenied, StoreUnavailable
from common.run.keys import RESULT_KEY, chunk_key
from common.store.contract import ObjectExists
from common.store.s3.client import clear_clients
from common.store.s3.location import S3Location
from common.store.s3.presigner import Presigner
from common.store.s3.store import S3Store
from merger.merge import merge
from merger.outcome import AlreadyFinished
from tests.merger.runs import assert_merged, put_run, settings_for
from tests.s3_proxy import Answer, Request
from tests.store_dialects.dialects import MIB, Dialect, error

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from tests.store_dialects.conftest import Speaking

    Speak = Callable[..., AbstractContextManager[Speaking]]

ABSENT = Answer(404, b"")


def path_of(request: Request) -> str:
    return urlsplit(request.path).path


class Late:
    """A store in which a new object, or the end of a deleted one, is seen only after a while."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._written: dict[str, float] = {}
        self._seen: dict[str, Answer] = {}

    def change(self, request: Request, answer: Answer) -> Answer:
        key, now = path_of(request), time.monotonic()
        if request.operation in {"PutObject", "CompleteMultipartUpload", "DeleteObject"} and answer.status < 300:
            self._written[key] = now
        elif request.operation == "HeadObject":
            if now - self._written.get(key, -1e9) < self._seconds:
                return self._seen.get(key, ABSENT)
            self._seen[key] = answer
        return answer


def test_an_object_that_is_seen_a_moment_after_its_write_is_not_taken_for_lost(speak: Speak) -> None:
    with speak(Dialect(name="late", every_answer=Late(1).change)) as (store, _, _proxy):
        first = store.put_bytes("a", b"first", overwrite=False)
        assert store.put_bytes("a", b"second", overwrite=False, replacing=first).size == len(b"second")
        with store.assemble("b", size=3, replacing=None) as assembly:
            assembly.upload(1, 0, b"end")
            published = assembly.publish()
        assert published.size == len(b"end")
        time.sleep(1)
        with store.assemble("b", size=6, replacing=published) as assembly:
            assembly.upload(1, 0, b"longer")
            assert assembly.publish().size == len(b"longer")


def test_the_access_check_waits_a_moment_for_its_object(speak: Speak) -> None:
    written: dict[str, float] = {}

    def not_yet(request: Request) -> Answer | None:
        now = time.monotonic()
        if request.operation == "PutObject":
            written.setdefault(path_of(request), now)
        is_early = request.operation == "GetObject" and now - written.get(path_of(request), 0) < 1
        return error(404, "NoSuchKey") if is_early else None

    with speak(Dialect(name="late reads", every_request=not_yet)) as (store, _, proxy):
        found = store.check_access()
        assert found.may_delete
        assert sum(request.operation == "PutObject" for request in proxy.requests) == 2


def without(index: int) -> Callable[[Request, Answer], Answer]:
    """Return what leaves a chunk out of every list."""
    entry = re.compile(rb"<Contents>(?:(?!</Contents>).)*%s.*?</Contents>" % chunk_key(index).encode(), re.DOTALL)
    return lambda request, answer: (
        answer._replace(body=entry.sub(b"", answer.body)) if request.operation == "ListObjectsV2" else answer
    )


def test_a_chunk_that_the_list_does_not_show_yet_is_merged(speak: Speak, direct: S3Store) -> None:
    chunks = put_run(direct, [20, 10, 5])
    with speak(Dialect(name="late list", every_answer=without(2))) as (store, _, _proxy):
        merge(store, settings_for(store, 3))
    assert_merged(direct, chunks)


def test_chunks_that_the_list_still_shows_after_their_deletion_do_not_disturb_a_second_merge(
    speak: Speak, direct: S3Store
) -> None:
    chunks = put_run(direct, [20, 10])
    lists: dict[str, Answer] = {}

    def old_list(request: Request, answer: Answer) -> Answer:
        if request.operation == "ListObjectsV2" and "chunks" in request.path:
            return lists.setdefault("chunks", answer)
        return answer

    with speak(Dialect(name="old list", every_answer=old_list)) as (store, _, _proxy):
        merge(store, settings_for(store, 2))
        assert isinstance(merge(store, settings_for(store, 2)), AlreadyFinished)
    assert_merged(direct, chunks)


KEPT: dict[str, Answer] = {
    "aws": error(403, "AccessDenied", "Access Denied because object protected by object lock."),
    "oss": error(409, "FileImmutable", "The object you specified is immutable."),
    "ecs": error(409, "ObjectUnderRetention", "The object is under retention and can't be deleted or modified."),
    "minio": error(400, "InvalidRequest", "Object is WORM protected and cannot be overwritten"),
    "ibm": error(451, "ObjectLocked", "Unavailable for legal reasons"),
}


def keeps(refusal: Answer) -> Dialect:
    """Return a store that neither deletes nor replaces an object."""
    written: set[str] = set()

    def refuse(request: Request) -> Answer | None:
        if request.operation in {"DeleteObjects", "DeleteObject"}:
            return refusal
        if request.operation in {"PutObject", "CompleteMultipartUpload"}:
            if path_of(request) in written:
                return refusal
            written.add(path_of(request))
        return None

    return Dialect(name="kept", every_request=refuse)


@pytest.mark.parametrize("name", KEPT)
def test_a_bucket_that_keeps_every_object_holds_a_whole_run(name: str, speak: Speak, direct: S3Store) -> None:
    with speak(keeps(KEPT[name])) as (store, _, _proxy):
        began = time.monotonic()
        found = store.check_access()
        assert not found.may_delete
        assert str(KEPT[name].status) in found.delete_refusal
        chunks = put_run(store, [20, 10])
        merge(store, settings_for(store, 2, keep_chunks="true"))
        assert isinstance(merge(store, settings_for(store, 2, keep_chunks="true")), AlreadyFinished)
        assert time.monotonic() - began < 25
    assert_merged(direct, chunks)


def test_programs_that_may_not_delete_leave_no_more_than_one_small_object_each_wave(
    speak: Speak, direct: S3Store
) -> None:
    with speak(Dialect(name="no deletion", every_request=keeps(KEPT["aws"]).every_request)) as (store, _, _proxy):
        for _ in range(5):
            assert not store.check_access().may_delete
    assert len(list(direct.list(""))) <= 2


def test_a_store_that_sends_whole_objects_for_ranges_is_read(speak: Speak, direct: S3Store) -> None:
    data = os.urandom(100_000)
    direct.put_bytes("a", data)

    def whole(request: Request, answer: Answer) -> Answer:
        if request.operation != "GetObject":
            return answer
        headers = {name: value for name, value in answer.headers.items() if name.lower() != "content-range"}
        return Answer(200, data, headers)

    with speak(Dialect(name="no ranges", every_answer=whole)) as (store, _, _proxy):
        assert store.read("a", 500, 70) == data[500:570]
        assert store.read("a", 500) == data[500:]
        assert store.read("a") == data


def test_a_head_without_a_length_is_replaced_by_a_look_at_the_range(speak: Speak, direct: S3Store) -> None:
    direct.put_bytes("a", b"abc")
    direct.put_bytes("b", b"")
    with speak(Dialect(name="no lengths", head_lengths=False)) as (store, _, _proxy):
        assert [store.stat(key) for key in "ab"] == [direct.stat(key) for key in "ab"]


def test_keep_alive_blanks_before_an_answer_are_no_damage(speak: Speak) -> None:
    def blank(request: Request, answer: Answer) -> Answer:
        is_slow = request.operation in {"CompleteMultipartUpload", "UploadPartCopy"}
        return answer._replace(body=b"  \n" + answer.body) if is_slow else answer

    with speak(Dialect(name="blanks", every_answer=blank), AWS_MAX_ATTEMPTS="1") as (store, _, _proxy):
        source = store.put_bytes("a", bytes(6 * MIB))
        with store.assemble("b", size=6 * MIB + 3, replacing=None) as assembly:
            assembly.copy(1, 0, source, 0, 6 * MIB)
            assembly.upload(2, 6 * MIB, b"end")
            assert assembly.publish().size == 6 * MIB + 3


@pytest.mark.parametrize("operation", ["CompleteMultipartUpload", "UploadPartCopy"])
def test_an_error_inside_a_success_is_sent_again(operation: str, speak: Speak) -> None:
    struck: set[str] = set()

    def fail(request: Request) -> Answer | None:
        if request.operation != operation or operation in struck:
            return None
        struck.add(operation)
        return error(500, "InternalError")._replace(status=200)

    with speak(Dialect(name="errors in 200", every_request=fail)) as (store, _, _proxy):
        source = store.put_bytes("a", bytes(6 * MIB))
        with store.assemble("b", size=6 * MIB, replacing=None) as assembly:
            assembly.copy(1, 0, source, 0, 6 * MIB)
            assert assembly.publish().size == 6 * MIB
    assert struck


def test_times_without_a_zone_are_in_utc(speak: Speak, direct: S3Store) -> None:
    direct.put_bytes(".access/0", b"")

    def no_zone(_: Request, answer: Answer) -> Answer:
        return answer._replace(body=re.sub(rb"Z</LastModified>", b"</LastModified>", answer.body))

    with speak(Dialect(name="no zone", every_answer=no_zone)) as (store, _, _proxy):
        assert store.check_access().may_delete


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_an_endpoint_that_redirects_names_the_place_to_set(status: int, speak: Speak) -> None:
    to_tls = Answer(status, b"<html>moved</html>", {"Location": "https://store.example/bucket/?x=1"})
    with (
        speak(Dialect(name="redirects", every_request=lambda _: to_tls)) as (store, _, _proxy),
        pytest.raises(StoreAccessDenied, match=r"https://store\.example.*AWS_ENDPOINT_URL_S3"),
    ):
        store.check_access()


def test_a_list_of_nothing_may_be_a_404_with_the_stores_own_code(speak: Speak) -> None:
    answer = error(404, "NoSuchKey", "The specified key does not exist.")
    dialect = Dialect(name="no list", every_request=lambda each: answer if "prefix=" in each.path else None)
    with speak(dialect) as (store, _, _proxy):
        assert store.check_access().may_delete
        assert list(store.list("chunks/")) == []


NO_PAGE = Answer(404, b"<html>default backend - 404</html>")


def test_a_404_of_another_server_is_an_error_that_may_pass(speak: Speak) -> None:
    asked: dict[str, int] = defaultdict(int)

    def other(request: Request) -> Answer | None:
        if request.method in {"GET", "HEAD"} and "prefix=" not in request.path:
            return None
        asked[request.operation] += 1
        return NO_PAGE

    with speak(Dialect(name="other", every_request=other), AWS_MAX_ATTEMPTS="2") as (store, _, _proxy):
        with pytest.raises(StoreUnavailable):
            list(store.list("chunks/"))
        with pytest.raises(StoreUnavailable), store.assemble("b", size=3, replacing=None):
            pass
        with pytest.raises(StoreUnavailable):
            store.put_bytes("a", b"a")
    assert asked["PutObject"] == 2


def test_a_merge_that_may_not_abort_uploads_ends_well(speak: Speak, direct: S3Store) -> None:
    chunks = put_run(direct, [20, 10])
    api = direct.prefix.client
    api.create_multipart_upload(Bucket=direct.prefix.bucket, Key=direct.prefix.full_key(RESULT_KEY))
    denied = error(403, "AccessDenied", "no s3:AbortMultipartUpload")
    dialect = Dialect(
        name="no abort", every_request=lambda each: denied if each.operation == "AbortMultipartUpload" else None
    )
    with speak(dialect) as (store, _, _proxy):
        merge(store, settings_for(store, 2))
    assert_merged(direct, chunks)


EMPTY_LIST = Answer(200, b"<ListBucketResult><KeyCount>0</KeyCount><IsTruncated>false</IsTruncated></ListBucketResult>")


@pytest.mark.parametrize("code", ["SecondLevelDomainForbidden", "PathStyleDomainForbidden"])
def test_a_store_that_wants_the_bucket_in_its_host_gets_it(
    code: str, speak: Speak, direct: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = error(403, code, "Please use virtual hosted style to access.")
    bucket = direct.prefix.bucket
    dialect = Dialect(
        name="virtual",
        every_request=lambda each: EMPTY_LIST if each.headers["host"] == f"{bucket}.store.example" else wanted,
    )
    for name in ("http_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with speak(dialect, AWS_ENDPOINT_URL_S3="http://store.example") as (_, _, proxy):
        monkeypatch.setenv("HTTP_PROXY", proxy.environment["AWS_ENDPOINT_URL"])  # so that the names need no address
        clear_clients()
        assert list(S3Store(direct.uri).list("chunks/")) == []
        assert Presigner().sign(S3Location(bucket, "a")).startswith(f"http://{bucket}.store.example/a?")
        assert list(S3Store(direct.uri).list("chunks/")) == []
        assert len(proxy.requests) == 3
        monkeypatch.setenv("EMBEDDER_S3_ADDRESSING", "path")
        clear_clients()
        with pytest.raises(StoreAccessDenied, match="EMBEDDER_S3_ADDRESSING=virtual"):
            list(S3Store(direct.uri).list("chunks/"))


@pytest.mark.parametrize(
    ("endpoint", "host"),
    [
        ("https://oss-cn-shanghai.aliyuncs.com", "photos.oss-cn-shanghai.aliyuncs.com"),
        ("https://cos.ap-guangzhou.myqcloud.com", "photos.cos.ap-guangzhou.myqcloud.com"),
    ],
)
def test_public_stores_without_path_style_are_known(
    endpoint: str, host: str, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bucket
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    clear_clients()
    assert Presigner().sign(S3Location("photos", "a")).startswith(f"https://{host}/a?")
    clear_clients()


def test_an_object_that_a_quicker_writer_has_put_is_found_where_objects_cannot_be_replaced(
    speak: Speak, direct: S3Store
) -> None:
    def late(request: Request) -> Answer | None:
        if request.operation == "PutObject":
            direct.put_bytes("a", b"of the quicker one")
            return KEPT["aws"]
        return None

    with speak(Dialect(name="twins", every_request=late)) as (store, _, _proxy), pytest.raises(ObjectExists):
        store.put_bytes("a", b"of the slower one", overwrite=False)


def test_a_session_token_that_has_expired_is_said_in_one_sentence(speak: Speak) -> None:
    expired = error(400, "ExpiredToken", "The provided token has expired.")
    with (
        speak(Dialect(name="expired", every_request=lambda _: expired)) as (store, _, _proxy),
        pytest.raises(StoreAccessDenied, match=r"The provided token has expired.*give new credentials"),
    ):
        store.check_access()


def test_a_server_that_does_not_know_the_header_expect_gets_none(speak: Speak) -> None:
    refused = Answer(417, b"<html>Expectation Failed</html>")
    dialect = Dialect(name="no expect", every_request=lambda each: refused if "expect" in each.headers else None)
    with speak(dialect) as (store, _, proxy):
        for _ in range(2):
            store.put_bytes("a", b"content")
        assert store.read("a") == b"content"
        assert sum("expect" in request.headers for request in proxy.requests) == 1


def test_every_request_says_the_length_of_its_content(speak: Speak) -> None:
    demanded = error(411, "MissingContentLength")
    dialect = Dialect(
        name="lengths",
        every_request=lambda each: (
            demanded if each.method in {"PUT", "POST"} and "content-length" not in each.headers else None
        ),
    )
    with speak(dialect) as (store, _, _proxy):
        store.check_access()
        source = store.put_bytes("a", bytes(6 * MIB), overwrite=False)
        with store.assemble("b", size=6 * MIB + 3, replacing=None) as assembly:
            assembly.copy(1, 0, source, 0, 6 * MIB)
            assembly.upload(2, 6 * MIB, b"end")
            assembly.publish()
