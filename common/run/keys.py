"""The names of a run's objects, relative to EMBEDDER_RUN_URI."""

from __future__ import annotations

import re

CHUNKS_PREFIX = "chunks/"
RESULT_KEY = "Images_Embedded.h5"
FAILURES_KEY = "failures.csv"
SUMMARY_KEY = "summary.json"

_CHUNK_KEY = re.compile(r"chunks/Images_Embedded_(0|[1-9][0-9]*)\.h5")
_FAILURES_KEY = re.compile(r"chunks/failures_(0|[1-9][0-9]*)\.csv")


def chunk_key(index: int) -> str:
    return f"{CHUNKS_PREFIX}Images_Embedded_{index}.h5"


def chunk_index(key: str) -> int | None:
    """Return the index of a chunk's key, None for any other key."""
    match = _CHUNK_KEY.fullmatch(key)
    return int(match[1]) if match else None


def is_key(path: str) -> bool:
    """Return whether a run makes an object with this name."""
    return path.startswith((CHUNKS_PREFIX, "Images_Embedded.", "report")) or path in {FAILURES_KEY, SUMMARY_KEY}


def chunk_failures_key(index: int) -> str:
    """Return the key of the list of failed images that a chunk leaves when it fails."""
    return f"{CHUNKS_PREFIX}failures_{index}.csv"


def chunk_failures_index(key: str) -> int | None:
    """Return the index of the chunk whose failed images the object lists, None for any other key."""
    match = _FAILURES_KEY.fullmatch(key)
    return int(match[1]) if match else None
