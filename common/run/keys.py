"""The names of a run's objects, relative to EMBEDDER_RUN_URI."""

from __future__ import annotations

import re

CHUNKS_PREFIX = "chunks/"
RESULT_KEY = "Images_Embedded.h5"
FAILURES_KEY = "failures.csv"
SUMMARY_KEY = "summary.json"
REPORT_KEY = "report.html"

INDEX_KEY = "Images_Embedded.bin"
"""The hnswlib index of the result. Search backends look for it beside the result, under the result's stem."""

EARLIER_RESULT_KEY = f"{CHUNKS_PREFIX}earlier_result.h5"
"""The result that a merge after a top-up replaces. It takes the rows of unchanged chunks from here."""

CHECKPOINTS_PREFIX = f"{CHUNKS_PREFIX}checkpoint_"
"""What the keys of all checkpoints begin with."""

_CHUNK_KEY = re.compile(r"chunks/Images_Embedded_(0|[1-9][0-9]*)\.h5")
_CHECKPOINT_KEY = re.compile(r"chunks/checkpoint_(0|[1-9][0-9]*)_([0-9]+)\.h5")
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


def checkpoint_key(index: int, number: int) -> str:
    """Return the key of the checkpoint `number`, from 0, of a chunk that is not finished."""
    return f"{checkpoints_prefix(index)}{number:06}.h5"


def checkpoints_prefix(index: int) -> str:
    """Return what the keys of all checkpoints of a chunk begin with."""
    return f"{CHECKPOINTS_PREFIX}{index}_"


def checkpoint_index(key: str) -> int | None:
    """Return the index of the chunk of a checkpoint's key, None for any other key."""
    match = _CHECKPOINT_KEY.fullmatch(key)
    return int(match[1]) if match else None


def checkpoint_number(key: str) -> int | None:
    """Return the number of a checkpoint's key among those of its chunk, None for any other key."""
    match = _CHECKPOINT_KEY.fullmatch(key)
    return int(match[2]) if match else None
