from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from benchmarks.bench_ceiling import DECODERS, MODEL, shares_of
from benchmarks.processes import Program, run

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.processes import Cost

TOOLS = """
import ctypes, os, signal, subprocess, sys, threading, time

def burn(seconds):
    ends = time.thread_time() + seconds
    while time.thread_time() < ends:
        pass

def name(text):
    ctypes.CDLL(None).prctl(15, text.encode())
"""

A_SERVER_THAT_IS_KILLED = """
reading, writing = os.pipe()
server = os.fork()
if not server:
    if not os.fork():
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # it dies with its parent
        burn(0.4)
        os.write(writing, b"burnt")
    time.sleep(60)
os.read(reading, 5)
os.kill(server, signal.SIGKILL)
os.waitpid(server, 0)
"""

A_CHILD_THAT_IS_NOT_WAITED_FOR = """
if not os.fork():
    burn(0.4)
    os._exit(0)
"""

A_WORKER = """
def thread(text, seconds):
    name(text)
    burn(seconds)
    if text != "load":
        time.sleep(1)

if "worker.decode.server" in sys.argv:
    if not os.fork():
        burn(0.4)
        time.sleep(1)
        os._exit(0)
    burn(0.1)
    os.wait()
else:
    load = threading.Thread(target=thread, args=("load", 0.2))
    load.start()
    load.join()
    threads = [threading.Thread(target=thread, args=each) for each in [("fetch", 0.3), ("compute_0", 0.2)]]
    [each.start() for each in threads]
    subprocess.run([sys.executable, "-m", "program", "worker.decode.server"])
"""


def run_program(folder: Path, source: str) -> Cost:
    (folder / "program.py").write_text(TOOLS + source)
    return run(["program"], {}, program=Program(folder, sys.executable), watches_threads=True)


@pytest.mark.parametrize("source", [A_SERVER_THAT_IS_KILLED, A_CHILD_THAT_IS_NOT_WAITED_FOR], ids=["killed", "left"])
def test_the_cpu_time_of_a_process_that_its_parent_does_not_wait_for_counts(tmp_path: Path, source: str) -> None:
    assert run_program(tmp_path, source).cpu_seconds >= 0.4


def test_a_program_that_fails_is_an_error_with_its_output(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)program ended with 3.*no photos"):
        run_program(tmp_path, "print('no photos')\nsys.exit(3)")


def test_threads_have_their_own_cpu_times_and_decoders_are_told_from_their_server(tmp_path: Path) -> None:
    nothing = run_program(tmp_path, "")
    shares = shares_of([run_program(tmp_path, A_WORKER)], [nothing], more=1000)
    assert shares.threads["worker: fetch"] == pytest.approx(0.3, abs=0.1)
    assert shares.threads["decoder server: main thread"] == pytest.approx(0.1, abs=0.09)
    assert shares.apart[DECODERS] == pytest.approx(0.4, abs=0.1)
    assert shares.apart[MODEL] == pytest.approx(0.2, abs=0.1)
    assert shares.processes["worker"] == pytest.approx(0.3, abs=0.15)
    assert "worker: load" not in shares.threads
    assert shares.processes.keys() == {"worker", "decoder server"}
