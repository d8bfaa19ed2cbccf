"""That the C library keeps a worker's memory as it is told to."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import ctypes, tempfile, threading
from pathlib import Path
from common.process import program
from worker.__main__ import before_threads

def heaps():
    libc = ctypes.CDLL(None)
    libc.fopen.restype = ctypes.c_void_p
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "malloc.xml"
        file = ctypes.c_void_p(libc.fopen(str(path).encode(), b"w"))
        libc.malloc_info(0, file)
        libc.fclose(file)
        return path.read_text("utf-8").count("<heap ")

def main():
    for _ in range(3):
        thread = threading.Thread(target=bytearray, args=(1_000_000,))
        thread.start()
        thread.join()
    return f"{heaps()} heap"

program.run(main, before_threads=before_threads)
"""


def test_all_threads_of_a_worker_share_one_heap() -> None:
    # That of a second one is given back after every batch that does not fit into 64 MiB, whatever it is told.
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60)
    assert "1 heap" in done.stdout + done.stderr
