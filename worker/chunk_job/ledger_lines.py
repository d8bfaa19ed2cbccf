"""The failed rows of one chunk in the ledger of a merged run, failures.csv.

The ledger is in the order of the chunks and may have millions of lines. So the place where the chunk's lines begin is
looked for by halving, and the lines are read from there.
"""

from __future__ import annotations

import csv
import io
import re
from typing import TYPE_CHECKING

from common.errors import ChunkInvalid
from common.format.chunk_file import Failure
from common.format.failures_csv import COLUMNS, original
from common.format.reasons import Reason
from common.run.keys import FAILURES_KEY
from common.store.object_reader import ObjectReader

if TYPE_CHECKING:
    from common.store.contract import ObjectStat, Store

READ_BYTES = 1 << 20
"""Size of one read of the ledger, in bytes."""

LOOK_BYTES = 256 << 10
"""Size in bytes of a look for the beginning of a line, more than any line has."""

_LINE = re.compile(rb"\n([0-9]{1,9}),[0-9]{1,9},")


def failures_of_chunk(store: Store, index: int, *, count: int) -> list[Failure]:
    """Return the failed rows of a chunk that has `count` of them. Raises ChunkInvalid when there are more or fewer."""
    if not count:
        return []
    name = store.location(FAILURES_KEY)
    ledger = store.stat(FAILURES_KEY)
    if ledger is None:
        raise ChunkInvalid(f"{name} is absent, and the result says that {count} images of chunk {index} failed")
    # A cell that looks like the beginning of a line may mislead the search: then all lines are read.
    for start in dict.fromkeys((_find_start(store, ledger, index), 0)):
        try:
            failures = _read(store, ledger, index, start)
        except (ValueError, csv.Error) as error:
            fault = f"is not a ledger of this program, or damaged: {error}"
            continue
        if len(failures) == count:
            return failures
        fault = (
            f"has {len(failures)} images of chunk {index}, and the result says that {count} failed; it was changed, or "
            "a merge replaces it at this moment"
        )
    raise ChunkInvalid(f"{name} {fault}")


def _find_start(store: Store, ledger: ObjectStat, index: int) -> int:
    """Return the offset of a line that is at most READ_BYTES before the chunk's first one; 0 for the header line."""
    low, high = 0, ledger.size
    while high - low > READ_BYTES:
        middle = (low + high) // 2
        line = _LINE.search(store.read(ledger.key, middle, min(LOOK_BYTES, ledger.size - middle)))
        if line is not None and int(line[1]) < index:
            low = middle + line.start() + 1
        else:
            high = middle
    return low


def _read(store: Store, ledger: ObjectStat, index: int, start: int) -> list[Failure]:
    """Return the chunk's lines, read from the line at `start` on. Raises ValueError when they are no such lines."""
    failures = []
    with io.BufferedReader(ObjectReader(store, ledger.key, ledger.size), READ_BYTES) as raw:
        raw.seek(start)
        lines = csv.reader(io.TextIOWrapper(raw, encoding="utf-8", newline=""), strict=True)
        if not start and tuple(next(lines, ())) != COLUMNS:
            raise ValueError(f"its first line is not {','.join(COLUMNS)}")
        for line in lines:
            chunk, row, id_, url, reason, detail = line
            if int(chunk) < index:
                continue
            if int(chunk) > index:
                break
            failures.append(
                Failure(
                    row=int(row), id=original(id_), url=original(url), reason=Reason(reason), detail=original(detail)
                )
            )
    return failures
