"""Top-ups in stores that answer wrongly, or that know no conditions."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from common.errors import ChunkInvalid, StoreUnavailable
from common.run.keys import chunk_key
from common.store import open_store
from common.store.s3.client import clear_clients
from tests.s3_proxy import FLIPPED, NOT_IMPLEMENTED, has_condition, s3_proxy
from tests.worker.top_up.pods import INDEX, MAY_BE_EMBEDDED, Pod, put_earlier_run
from tests.worker.worker_process import read_chunk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.s3_proxy import Reaction, Request
    from tests.s3_server import S3Server

pytestmark = pytest.mark.slow


@contextmanager
def through_proxy(s3: S3Server, intervene: Callable[[Request], Reaction]) -> Iterator[None]:
    """Lead this process to the store through a proxy."""
    with s3_proxy(s3, intervene) as proxy, pytest.MonkeyPatch.context() as patch:
        for name, value in proxy.environment.items():
            patch.setenv(name, value)
        clear_clients()
        yield
    clear_clients()


class WrongOnce:
    """Flips a bit in the n-th answer with an object."""

    def __init__(self, nth: int) -> None:
        self.left = nth

    def __call__(self, request: Request) -> Reaction:
        self.left -= request.operation == "GetObject"
        if self.left or request.operation != "GetObject":
            return None
        self.left = -1
        return FLIPPED


@pytest.mark.parametrize("is_merged", [False, True], ids=["unmerged", "merged"])
def test_a_wrong_byte_in_any_one_answer_changes_no_row_of_a_top_up(
    s3: S3Server, bucket: str, *, is_merged: bool
) -> None:
    expected: tuple[bytes, dict[str, str]] | None = None
    number = 0
    while True:
        store = open_store(f"s3://{bucket}/{number}")
        put_earlier_run(store, is_merged=is_merged)
        wrong = WrongOnce(number)
        with through_proxy(s3, wrong if number else lambda _: None), Pod(open_store(store.uri)) as pod:
            try:
                assert pod.begin() == list(MAY_BE_EMBEDDED), number
                pod.embed(*MAY_BE_EMBEDDED)
                pod.store()
            except (ChunkInvalid, StoreUnavailable) as error:
                pytest.fail(f"answer {number}: {error}")
        content = read_chunk(store.uri, INDEX)
        found = content.embeddings.tobytes(), content.failures
        expected = expected or found
        assert found == expected, number
        if wrong.left > 0 and number:
            break
        number += 1
    assert number > 3


def test_two_top_ups_lose_no_row_in_a_store_that_knows_no_conditions(s3: S3Server, bucket: str) -> None:
    uri = f"s3://{bucket}/run"
    put_earlier_run(open_store(uri))
    with (
        through_proxy(s3, lambda request: NOT_IMPLEMENTED if has_condition(request) else None),
        Pod(open_store(uri)) as one,
        Pod(open_store(uri)) as other,
    ):
        for pod in (one, other):
            pod.begin()
        one.embed(0)
        other.embed(2, 3)
        one.store()
        assert other.store() == open_store(uri).stat(chunk_key(INDEX))
    assert read_chunk(uri, INDEX).failures == {"https://photos.example/gone/1/1": "not_found"}
