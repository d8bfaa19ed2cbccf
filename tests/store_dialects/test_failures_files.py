"""The list that a failed chunk leaves, in stores that refuse to write it or to delete it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from common.format.chunk_file import Failure
from common.format.reasons import Reason
from common.run.keys import chunk_failures_key
from tests.s3_proxy import INTERNAL_ERROR
from tests.store_dialects.dialects import DENIED, Dialect
from worker.chunk_job.failures_file import FailuresFile

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from common.store.s3.store import S3Store
    from tests.s3_proxy import Answer, Request
    from tests.store_dialects.conftest import Speaking

    Speak = Callable[..., AbstractContextManager[Speaking]]

FAILURES = [Failure(3, "https://example.org/a.jpg", Reason.NOT_FOUND, "status 404")]


def refusing(*operations: str, answer: Answer) -> Dialect:
    def refuse(request: Request) -> Answer | None:
        return answer if request.operation in operations else None

    return Dialect(name="refusing", every_request=refuse)


@pytest.mark.parametrize("answer", [DENIED, INTERNAL_ERROR], ids=["denied", "down"])
def test_a_store_that_does_not_take_the_list_is_no_error(speak: Speak, direct: S3Store, answer: Answer) -> None:
    with speak(refusing("PutObject", answer=answer), AWS_MAX_ATTEMPTS="2") as (store, _, _proxy):
        assert FailuresFile(store, 2).write(FAILURES) is None
    assert list(direct.list("")) == []


def test_a_list_that_may_not_be_deleted_stays(speak: Speak, direct: S3Store) -> None:
    with speak(refusing("DeleteObjects", "DeleteObject", answer=DENIED)) as (store, _, _proxy):
        file = FailuresFile(store, 2)
        assert file.write(FAILURES) == store.location(chunk_failures_key(2))
        file.remove()
    assert direct.stat(chunk_failures_key(2)) is not None


def test_a_list_is_replaced_and_removed(direct: S3Store) -> None:
    file = FailuresFile(direct, 2)
    file.write([*FAILURES, *FAILURES])
    file.write(FAILURES)
    assert direct.read(chunk_failures_key(2)).decode() == (
        "chunk,row,id,url,reason,detail\n2,3,,https://example.org/a.jpg,not_found,status 404\n"
    )
    file.remove()
    assert direct.stat(chunk_failures_key(2)) is None
    file.remove()
