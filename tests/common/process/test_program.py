"""How programs end: the exit code, the last word, and what a signal does."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


LIMIT_MEMORY = """
import mmap, resource
def limit_memory(more_bytes):
    with open("/proc/self/statm") as file:
        has_bytes = int(file.read().split()[0]) * mmap.PAGESIZE
    resource.setrlimit(resource.RLIMIT_AS, (has_bytes + more_bytes,) * 2)
"""
"""A function for programs. Like a limit that was there from the start, it is not below what the process has: else not
even freed memory can be taken again."""


def start(body: str) -> subprocess.Popen[str]:
    program = "import sys\nfrom common import errors\nfrom common.process import last_word, program, stop\n"
    program += LIMIT_MEMORY
    program += f"def main():\n{textwrap.indent(textwrap.dedent(body), '    ')}\nprogram.run(main)\n"
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def end_of(body: str) -> tuple[int, str]:
    with start(body) as process:
        _, log = process.communicate(timeout=60)
        return process.returncode, log


@pytest.mark.parametrize(
    ("body", "code", "word"),
    [
        ("return program.Finished('all is well')", 0, "all is well"),
        ("raise errors.TooManyFailures('5 of 6 failed')", 65, "5 of 6 failed"),
        ("raise errors.StoreUnavailable('no answer')", 75, "no answer"),
        ("raise errors.SettingsError('EMBEDDER_X is wrong')", 78, "EMBEDDER_X is wrong"),
        ("raise MemoryError", 75, "out of memory"),
        ("raise SystemError('error return without exception set')", 75, "out of memory"),
        ("""raise RuntimeError("can't start new thread")""", 75, "memory is short, or the limit of processes"),
        ("raise SystemError('<built-in> returned NULL without setting an exception')", 75, "out of memory"),
        (
            "raise SystemError('bad argument to internal function')",
            1,
            "a bug in the embedder: SystemError: bad argument",
        ),
        ("import errno; raise OSError(errno.ENOSPC, 'No space left', '/tmp/x')", 75, "/tmp/x: No space left"),
        ("raise ZeroDivisionError('oops')", 1, "a bug in the embedder: ZeroDivisionError: oops"),
    ],
)
def test_every_end_has_its_exit_code_and_its_last_word(body: str, code: int, word: str) -> None:
    found, log = end_of(body)
    assert found == code
    assert word in log.splitlines()[-1]
    assert f"exit_code={code}" in log.splitlines()[-1]
    assert ("Traceback" in log) == (code == 1)


def test_an_error_while_memory_is_short_is_not_called_a_bug() -> None:
    body = """
        limit_memory(0)
        raise ImportError("cannot import name 'arange'")
    """
    code, log = end_of(body)
    assert code == 75
    assert "Traceback" not in log
    assert "memory is short" in log
    assert "cannot import name 'arange'" in log
    assert "raise the memory limit" in log.splitlines()[-1]


@pytest.mark.parametrize("more_bytes", [0, 1 << 20, 16 << 20])
def test_a_program_without_any_memory_still_says_so(more_bytes: int) -> None:
    body = f"""
        limit_memory({more_bytes})
        taken = []
        while True:
            taken = [taken, bytearray(500)]
    """
    code, log = end_of(body)
    assert code == 75
    assert "Traceback" not in log
    assert "raise the memory limit" in log.splitlines()[-1]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_program_though_a_thread_hangs(number: signal.Signals, code: int) -> None:
    body = """
        import threading, time
        threading.Thread(target=time.sleep, args=(600,)).start()
        print("ready", flush=True)
        try:
            time.sleep(600)
        except Exception:
            time.sleep(600)
    """
    with start(body) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        _, log = process.communicate(timeout=30)
        assert process.returncode == code
        assert "stopped" in log


SIGNAL_WITHIN_AN_IMPORT = """
import os, signal, sys

calls = 0

def profile(frame, event, _):
    global calls
    handled = signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    if event == "call" and frame.f_code.co_name == "__set_name__" and handled:
        calls += 1
        if calls == {call}:
            sys.setprofile(None)
            os.kill(os.getpid(), signal.SIGTERM)

sys.setprofile(profile)
"""


@pytest.mark.parametrize("call", range(10, 121, 10))
def test_a_signal_that_an_import_turns_into_another_error_stops_the_program(
    call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(SIGNAL_WITHIN_AN_IMPORT.format(call=call), "utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    # Enough names for every call above, also when other imports of the program have already loaded `http`.
    members = "".join(f"    COLOUR_{number} = {number}\n" for number in range(130))
    (tmp_path / "colours.py").write_text(f"from enum import IntEnum\nclass Colour(IntEnum):\n{members}", "utf-8")
    code, log = end_of("import http, colours; raise ZeroDivisionError")
    assert code == 143, log
    assert "stopped by SIGTERM" in log.splitlines()[-1]


STOPPED = {signal.SIGTERM: 143, signal.SIGINT: 130}


def stop_when_ready(body: str, number: signal.Signals = signal.SIGTERM) -> tuple[int, list[str], float]:
    """Return the exit code, the log's lines, and the seconds that it took."""
    with start(body) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        begun = time.monotonic()
        _, log = process.communicate(timeout=60)
        return process.returncode, log.splitlines(), time.monotonic() - begun


@pytest.mark.parametrize("number", STOPPED)
@pytest.mark.parametrize(
    "body",
    [
        # Python drops the exceptions of a callback.
        """
        import time
        class Swallowing:
            def __del__(self):
                print("ready", flush=True)
                time.sleep(3)
        Swallowing()
        return program.Finished("all is well")
        """,
        """
        import time
        try:
            print("ready", flush=True)
            time.sleep(3)
        except BaseException:
            raise errors.TooManyFailures("no image could be fetched") from None
        """,
        """
        import time
        try:
            print("ready", flush=True)
            time.sleep(3)
        except:
            raise ZeroDivisionError
        """,
    ],
    ids=["swallowed", "bad data instead", "a bug instead"],
)
def test_a_signal_that_a_library_swallowed_ends_the_program_all_the_same(body: str, number: signal.Signals) -> None:
    code, log, _ = stop_when_ready(body, number)
    assert code == STOPPED[number]
    assert f"stopped by {number.name}" in log[-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "body",
    [
        # A lock that this thread already holds: no signal handler runs while it waits.
        """
        import ctypes, threading
        libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
        libc.pthread_mutex_lock(mutex)
        threading.Timer(0.5, print, ("ready",), {"flush": True}).start()
        libc.pthread_mutex_lock(mutex)
        """,
        """
        import time
        try:
            print("ready", flush=True)
            time.sleep(600)
        finally:
            time.sleep(600)
        """,
    ],
    ids=["native code", "cleanup"],
)
def test_a_stopped_program_that_hangs_is_ended_after_a_while(body: str) -> None:
    progress = "program.on_stop(lambda: print('halfway', file=sys.stderr))\n"
    code, log, seconds = stop_when_ready(progress + textwrap.dedent(body))
    assert code == 143
    assert log[-2] == "halfway"
    assert "was left" in log[-1]
    assert seconds < 30


def test_a_program_that_is_stopped_logs_its_progress_first() -> None:
    body = """
        import time
        program.on_stop(lambda: print("halfway", file=sys.stderr))
        print("ready", flush=True)
        time.sleep(600)
    """
    code, log, _ = stop_when_ready(body)
    assert code == 143
    assert log[0] == "halfway"
    assert "stopped by SIGTERM" in log[1]
    assert len(log) == 2


@pytest.mark.slow
def test_a_child_process_that_is_told_to_stop_does_not_stop_its_parent() -> None:
    body = """
        import os, signal, time
        child = os.fork()
        if not child:
            time.sleep(600)
        time.sleep(0.5)
        os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)
        time.sleep(stop.CLEAR_UP_SECONDS + 1)
        return program.Finished("all is well")
    """
    code, log = end_of(body)
    assert code == 0, log
    assert "all is well" in log


def test_the_last_word_holds_no_secrets() -> None:
    _, log = end_of("raise errors.StoreUnavailable('https://user:hunter2@host/a broke off')")
    assert "hunter2" not in log


@pytest.mark.parametrize(("code", "error"), [(75, "errors.StoreUnavailable"), (1, "AttributeError")])
def test_log_and_termination_log_hold_no_secrets_and_no_control_characters(
    code: int, error: str, tmp_path: Path
) -> None:
    said = "no answer of https://ann:hunter1@host/a?sig=hunter2\x1b[31m\udcff"
    place = tmp_path / "termination-log"
    place.touch()
    body = f"from pathlib import Path\nlast_word.TERMINATION_LOG = Path({str(place)!r})\nraise {error}({said!r})"
    found, log = end_of(body)
    assert found == code
    word = place.read_text("utf-8")
    for text in (log, word):
        assert "no answer of https://***@host/a?sig=***" in text
        assert "hunter" not in text
        assert "\x1b" not in text
