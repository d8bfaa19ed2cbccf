"""How the C library keeps this process's memory."""

from __future__ import annotations

import ctypes

KEPT_BLOCK_BYTES = 32 << 20
"""Blocks up to here come from the heap, larger ones from the kernel and go back to it; the most that glibc takes.
A batch's activations are of 10 to 20 MB."""

KEPT_HEAP_BYTES = 1 << 30
"""Free memory at the heap's end that is not given back."""

DECODER_BLOCK_BYTES = 8 << 20
DECODER_HEAP_BYTES = 32 << 20
"""The same of a decoder: one large image must not make it large for good."""

# From glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8


def keep_freed_memory() -> None:
    """Have glibc keep freed memory for the next batch, in one heap; call it before the first thread starts, since a
    heap that a thread has stays, and of such a heap nothing is kept.

    By default a batch's memory goes back to the kernel and comes again page by page, each a fault: 3 to 15 % of the
    encoder's time on a CPU. Other C libraries are left as they are.
    """
    _set_options({_M_ARENA_MAX: 1, _M_MMAP_THRESHOLD: KEPT_BLOCK_BYTES, _M_TRIM_THRESHOLD: KEPT_HEAP_BYTES})


def keep_small_blocks() -> None:
    """Have glibc keep what an ordinary photo's decoding frees, and give back what a large image's does."""
    _set_options({_M_ARENA_MAX: 1, _M_MMAP_THRESHOLD: DECODER_BLOCK_BYTES, _M_TRIM_THRESHOLD: DECODER_HEAP_BYTES})


def _set_options(options: dict[int, int]) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in options.items():
            mallopt(parameter, value)
