"""Threads that compute each by itself: in order, at once, and gone when nobody needs them."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time

import pytest
import torch

from worker.encode.compute_threads import ComputeThreads

REFUSED = """
from concurrent.futures import Future
from worker.encode.compute_threads import ComputeThreads

def refused(*_: object) -> None:
    raise MemoryError

Future.set_exception = refused
ComputeThreads(2).submit(refused).result()
"""


def test_as_much_is_computed_at_once_as_there_are_threads() -> None:
    threads = ComputeThreads(3)
    all_there = threading.Barrier(3)
    promises = [threads.submit(lambda: all_there.wait(timeout=60)) for _ in range(3)]
    assert sorted(promise.result(timeout=60) for promise in promises) == [0, 1, 2]


def test_torch_has_one_thread_in_each_and_the_callers_are_as_they_were() -> None:
    before = torch.get_num_threads()
    assert ComputeThreads(1).submit(torch.get_num_threads).result(timeout=60) == 1
    assert torch.get_num_threads() == before


def test_an_error_is_the_promises_and_the_thread_goes_on() -> None:
    threads = ComputeThreads(1)
    failing, following = threads.submit(lambda: 1 // 0), threads.submit(lambda: 5)
    with pytest.raises(ZeroDivisionError):
        failing.result(timeout=60)
    assert following.result(timeout=60) == 5


def test_threads_that_nobody_needs_end() -> None:
    threads = ComputeThreads(2)
    idents = {threads.submit(threading.get_ident).result(timeout=60) for _ in range(2)}
    del threads
    gc.collect()
    deadline = time.monotonic() + 60
    while idents & {thread.ident for thread in threading.enumerate()}:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_thread_that_cannot_hand_over_its_error_ends_the_program() -> None:
    ended = subprocess.run([sys.executable, "-c", REFUSED], capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 75, ended.stderr
    assert "out of memory" in ended.stderr
