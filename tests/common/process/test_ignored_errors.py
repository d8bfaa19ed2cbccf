"""Errors that nobody can catch are one line of the log, and a thread that dies for lack of memory ends the program."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from tests.common.process.test_program import end_of

DESTRUCTOR = """
    class Closing:
        def __del__(self):
            raise RuntimeError("can't be closed")
    Closing()
    return program.Finished("all is well")
"""

# HDF5 closes the file when its last object goes, and the file cannot be written then.
COMPILED_DESTRUCTOR = """
    import io, h5py
    class Full(io.BytesIO):
        is_full = False
        def write(self, data):
            if Full.is_full:
                raise OSError("the disk is full")
            return super().write(data)
    file = h5py.File(Full(), "w")
    file["rows"] = [1, 2, 3]
    Full.is_full = True
    del file
    return program.Finished("all is well")
"""


@pytest.mark.parametrize(("body", "words"), [(DESTRUCTOR, "can't be closed"), (COMPILED_DESTRUCTOR, "h5py")])
def test_the_error_of_a_destructor_is_one_line(body: str, words: str) -> None:
    code, log = end_of(body)
    assert code == 0
    assert "Traceback" not in log
    ignored, last_word = log.splitlines()
    assert "warning ignored_error" in ignored
    assert words in ignored
    assert "all is well" in last_word


def test_a_thread_that_dies_for_lack_of_memory_ends_the_program_that_waits_for_it() -> None:
    body = """
        import threading
        def die():
            raise MemoryError
        threading.Thread(target=die).start()
        threading.Event().wait()
    """
    code, log = end_of(body)
    assert code == 75
    assert "Traceback" not in log
    (last_word,) = log.splitlines()
    assert "raise the memory limit" in last_word


def test_a_bug_that_ends_a_thread_keeps_its_traceback() -> None:
    body = """
        import threading
        def die():
            raise ZeroDivisionError("oops")
        thread = threading.Thread(target=die)
        thread.start()
        thread.join()
        return program.Finished("all is well")
    """
    code, log = end_of(body)
    assert code == 0
    assert "ZeroDivisionError: oops" in log
    assert "Traceback" in log


def test_an_exception_that_ends_the_interpreter_keeps_its_traceback() -> None:
    program = """
        from common.logs import configure_logs
        from common.process.ignored_errors import log_ignored_errors
        configure_logs()
        log_ignored_errors()
        raise ZeroDivisionError("oops")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], stderr=subprocess.PIPE, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert done.stderr.endswith("ZeroDivisionError: oops\n")
