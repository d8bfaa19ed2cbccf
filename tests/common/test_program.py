"""How programs end: the exit code, the last word, and what a signal does."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap

import pytest


def start(body: str) -> subprocess.Popen[str]:
    program = "from common import errors, program\nfrom common.logs import configure_logs\nconfigure_logs()\n"
    program += f"def main():\n{textwrap.indent(textwrap.dedent(body), '    ')}\nprogram.run(main)\n"
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def end_of(body: str) -> tuple[int, str]:
    with start(body) as process:
        _, log = process.communicate(timeout=60)
        return process.returncode, log


@pytest.mark.parametrize(
    ("body", "code", "word"),
    [
        ("return 'all is well'", 0, "all is well"),
        ("raise errors.TooManyFailures('5 of 6 failed')", 65, "5 of 6 failed"),
        ("raise errors.StoreUnavailable('no answer')", 75, "no answer"),
        ("raise errors.SettingsError('EMBEDDER_X is wrong')", 78, "EMBEDDER_X is wrong"),
        ("raise MemoryError", 75, "out of memory"),
        ("import errno; raise OSError(errno.ENOSPC, 'No space left', '/tmp/x')", 75, "/tmp/x: No space left; make room"),
        ("raise ZeroDivisionError('oops')", 1, "a bug in the embedder: ZeroDivisionError: oops"),
    ],
)
def test_every_end_has_its_exit_code_and_its_last_word(body: str, code: int, word: str) -> None:
    found, log = end_of(body)
    assert found == code
    assert word in log.splitlines()[-1]
    assert f"exit_code={code}" in log.splitlines()[-1]
    assert ("Traceback" in log) == (code == 1)


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


def test_secrets_are_not_in_the_last_word() -> None:
    _, log = end_of("raise errors.StoreUnavailable('https://user:hunter2@host/a broke off')")
    assert "hunter2" not in log
