"""Top-ups are killed at any moment, also while another one is at work. In the end the chunk is right to the byte."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

import pytest

from common.run.keys import chunk_key
from common.store import open_store
from tests.image_server import image_server
from tests.interruptions.killing import Moment, asks, killed, says
from tests.interruptions.runs import ended
from tests.worker.top_up.runs import RunWithFailures, datasets

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from subprocess import Popen

    from common.store.contract import Store
    from tests.s3_proxy import Request
    from tests.s3_server import S3Server

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("s3_environment")]

STORING = asks("PutObject", chunk_key(1))


@pytest.fixture(scope="module")
def top_ups(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunWithFailures]:
    with image_server() as server:
        yield RunWithFailures(server, tmp_path_factory.mktemp("top-ups"), model)


def moments(draw: random.Random, *, is_merged: bool) -> Iterator[Moment]:
    """Yield one moment after another at which to kill a top-up. The chunk is whole after the last one alone."""
    if is_merged:
        yield Moment(phase="start-up", seconds=draw.uniform(0.1, 1))
        yield Moment(phase="finding", request=asks("GetObject", ".h5"), nth=draw.randrange(1, 4), is_passed_on=True)
    else:
        yield Moment(phase="anywhere", seconds=draw.uniform(1, 4))
        yield Moment(phase="fetching", line=says("taken_over"))
        yield Moment(phase="writing", line=says("spent"))
    yield Moment(phase="storing", request=STORING)
    yield Moment(phase="storing", request=STORING, is_passed_on=True)


@pytest.mark.timeout(300, func_only=True)
@pytest.mark.parametrize("is_merged", [False, True], ids=["unmerged", "merged"])
def test_a_top_up_that_is_killed_again_and_again_leaves_the_earlier_chunk_or_the_whole_one(
    s3: S3Server, bucket: str, top_ups: RunWithFailures, *, is_merged: bool
) -> None:
    store = open_store(f"s3://{bucket}/run")
    top_ups.put(store, is_merged=is_merged)
    before = sorted(found for found in store.list(""))

    def start(sdk: Mapping[str, str]) -> Popen[str]:
        return top_ups.start_top_up(store, sdk=sdk)

    for moment in moments(random.Random(11), is_merged=is_merged):
        is_last = moment.phase == "storing" and moment.is_passed_on
        reaper = killed(moment, s3=s3, latest=never if is_last else STORING, start=start)
        assert reaper.is_on_time or moment.seconds is not None, moment
        if not is_last:
            found = sorted(found for found in store.list("") if not found.key.startswith(".access/"))
            assert found == before, moment
    assert "nothing to compute again" in ended(start(s3.environment))
    assert datasets(store) == datasets(top_ups.whole)


def never(_: Request) -> bool:
    return False


@pytest.mark.timeout(300, func_only=True)
def test_either_of_two_top_ups_at_once_may_be_killed_at_any_request(
    s3: S3Server, bucket: str, top_ups: RunWithFailures
) -> None:
    draw = random.Random(3)
    for number in range(2):
        store = open_store(f"s3://{bucket}/{number}")
        top_ups.put(store, is_merged=number == 1)
        moment = Moment(phase="anywhere", request=lambda _: True, nth=draw.randrange(5, 40), is_passed_on=True)
        with top_ups.start_top_up(store, sdk=s3.environment) as other:
            time.sleep(draw.uniform(0, 0.5))
            killed(
                moment,
                s3=s3,
                latest=never,
                start=lambda sdk, store=store: top_ups.start_top_up(store, sdk=sdk),  # type: ignore[misc]
                may_end=True,
            )
            ended(other)
        assert datasets(store) == datasets(top_ups.whole)


def test_two_top_ups_at_once_leave_one_whole_chunk(s3: S3Server, bucket: str, top_ups: RunWithFailures) -> None:
    store: Store = open_store(f"s3://{bucket}/run")
    top_ups.put(store)
    with top_ups.start_top_up(store, sdk=s3.environment) as one, top_ups.start_top_up(store, sdk=s3.environment) as two:
        logs = ended(one), ended(two)
    assert any("5 of them are embedded now" in log for log in logs)
    assert datasets(store) == datasets(top_ups.whole)
    assert [found.key for found in store.list("chunks/")] == [chunk_key(0), chunk_key(1)]
