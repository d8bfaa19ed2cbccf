"""The stage that the other stages wait for is found from the times that each stage worked and waited."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from worker.stage_times import ADVICE, Snapshot, StageTimes


@pytest.mark.parametrize(
    ("seconds", "stage", "share"),
    [
        (Snapshot(wall=10, encode_worked=9.5, encode_waited=0.5, decode_worked=5, decode_waited=15), "encode", 0.95),
        (Snapshot(wall=10, encode_worked=2, encode_waited=8, decode_worked=19.5), "decode", 0.8),
        (Snapshot(wall=10, encode_worked=2, encode_waited=8, decode_worked=6), "fetch", 0.8),
        (Snapshot(wall=10, encode_worked=2, encode_waited=8, decode_worked=6, loop_worked=9), "loop", 0.8),
        (Snapshot(wall=10, encode_worked=2, encode_waited=8, decode_worked=19.5, loop_worked=9), "decode", 0.8),
        (Snapshot(wall=10, model_waited=7, encode_worked=1, encode_waited=2, decode_worked=20), "start", 0.7),
        (Snapshot(wall=10, model_waited=10), "start", 1.0),
        (Snapshot(), "fetch", 0.0),
    ],
)
def test_the_stage_that_the_others_wait_for_is_named_with_its_share(
    seconds: Snapshot, stage: str, share: float
) -> None:
    found, found_share = StageTimes(decode_threads=2).bottleneck(seconds)
    assert found == stage
    assert found_share == pytest.approx(share)
    assert found in ADVICE


def test_decoding_is_the_bottleneck_only_if_all_decoders_are_busy() -> None:
    seconds = Snapshot(wall=10, encode_worked=2, encode_waited=8, decode_worked=10)
    assert StageTimes(decode_threads=1).bottleneck(seconds)[0] == "decode"
    assert StageTimes(decode_threads=2).bottleneck(seconds)[0] == "fetch"


def test_only_the_time_between_two_snapshots_counts() -> None:
    times = StageTimes(decode_threads=1)
    start = Snapshot(wall=100, model_waited=90, encode_worked=5, encode_waited=5)
    now = Snapshot(wall=110, model_waited=90, encode_worked=14.5, encode_waited=5.5)
    assert times.bottleneck(now)[0] == "start"
    stage, share = times.bottleneck(now, since=start)
    assert stage == "encode"
    assert share == pytest.approx(0.95)


def test_a_share_is_never_above_one() -> None:
    assert StageTimes(decode_threads=1).bottleneck(Snapshot(wall=1, encode_worked=1.01)) == ("encode", 1.0)


def test_a_block_that_has_not_ended_counts_up_to_now() -> None:
    times = StageTimes(decode_threads=1)
    with times.measure("encode_worked"):
        first = times.snapshot()
        second = times.snapshot()
    after = times.snapshot()
    later = times.snapshot()
    assert 0 <= first.encode_worked <= second.encode_worked <= after.encode_worked == later.encode_worked
    assert first.encode_worked <= first.wall <= later.wall
    assert later.decode_worked == later.encode_waited == 0


def test_a_block_that_raises_is_measured_too() -> None:
    times = StageTimes(decode_threads=1)
    with pytest.raises(KeyError), times.measure("decode_worked"):
        raise KeyError
    assert times.snapshot().decode_worked == times.snapshot().decode_worked


def test_threads_of_a_stage_are_measured_together() -> None:
    times = StageTimes(decode_threads=4)

    def work(_: int) -> None:
        with times.measure("decode_worked"):
            times.snapshot()

    with ThreadPoolExecutor(4) as decoders:
        list(decoders.map(work, range(400)))
    spent = times.snapshot()
    # A clock reading that is added and never subtracted would make the sum days too long.
    assert 0 <= spent.decode_worked <= 4 * spent.wall + 1e-3
    assert times.snapshot().decode_worked == spent.decode_worked


def test_the_event_loops_cpu_time_is_counted_while_it_runs_and_afterwards() -> None:
    times = StageTimes(decode_threads=1)
    seen = []

    def loop() -> None:
        times.watch_loop()
        while time.thread_time() < 0.1:
            pass
        seen.append(times.snapshot().loop_worked)
        times.forget_loop()

    assert times.snapshot().loop_worked == 0
    thread = threading.Thread(target=loop)
    thread.start()
    thread.join()
    after = times.snapshot().loop_worked
    assert 0.1 <= seen[0] <= after <= times.snapshot().loop_worked < 1


def test_an_unknown_kind_of_time_is_refused() -> None:
    with pytest.raises(KeyError), StageTimes(decode_threads=1).measure("lunch"):
        pass
