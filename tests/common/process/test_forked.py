from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from common.errors import ResourceExhausted
from common.process.forked import ForkedCallFailed, call_in_child


def test_the_answer_of_the_child_comes_back_whole() -> None:
    data = os.urandom(3 << 20)
    assert call_in_child(lambda: data, name="answering") == data


def test_an_exception_in_the_child_is_told() -> None:
    def fail() -> bytes:
        raise RuntimeError("Not enough memory")

    with pytest.raises(ForkedCallFailed, match="RuntimeError: Not enough memory"):
        call_in_child(fail, name="failing")


def test_a_child_that_the_system_kills_is_a_lack_of_memory() -> None:
    def die() -> bytes:
        os.kill(os.getpid(), signal.SIGKILL)
        return b""

    with pytest.raises(ResourceExhausted, match=r"killed while it was writing \(status -9\)"):
        call_in_child(die, name="writing")


def test_a_stop_ends_the_child_and_the_wait_for_it() -> None:
    # The child holds the interpreter, as native code does: it would not see a signal.
    program = (
        "import time\n"
        "from common.process import program\n"
        "from common.process.forked import call_in_child\n"
        "def main():\n"
        "    print('begun', flush=True)\n"
        "    call_in_child(lambda: time.sleep(60) or b'', name='sleeping')\n"
        "program.run(main)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    time.sleep(0.3)
    began = time.monotonic()
    process.terminate()
    _, said = process.communicate(timeout=30)  # the child has the pipe too, so it has ended
    assert process.returncode == 143, said
    assert time.monotonic() - began < 5
