"""The environment variables by which the C library (glibc) keeps freed memory in a worker and in its decoders.

glibc reads them when a process starts, so whoever starts the process sets them. Other C libraries ignore them.
"""

from __future__ import annotations

WORKER_MALLOC = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
}
"""A worker keeps the freed memory of a batch for the next batch.

Blocks of up to 32 MiB, the most that glibc accepts, come from the heap (the blocks of a batch have 10 to 20 MB), and
the heap keeps up to 1 GiB of free memory. All threads share one heap, because the heaps of other threads give memory
back whatever the thresholds are. By default a batch's memory goes back to the kernel and returns page by page, with a
page fault each: 3 to 15 % of the encoder's time on a CPU. The Dockerfile of the worker sets the same values.
"""

DECODER_MALLOC = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(8 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(32 << 20),
}
"""A decoder keeps the freed memory of an ordinary photo (blocks of up to 8 MiB, 32 MiB in all) and gives back the
memory of a large image, which would otherwise make the decoder large for the rest of the chunk."""
