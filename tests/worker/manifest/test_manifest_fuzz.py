"""Lists with random damage: each is refused in one sentence, or its rows and failures add up for any number of
chunks."""

from __future__ import annotations

import io
import json
import random
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest
from pyarrow import parquet

from common.errors import ConfigError
from common.format.reasons import Reason
from tests.worker.manifest.manifests import everything, opened, written

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

VARIANTS = 120
"""Number of damaged lists of each format."""

URLS = [f"https://photos.example/{number}/é.jpg" for number in range(12)]
IDS = [f"id{number}" for number in range(12)]


def _table(separator: str) -> bytes:
    rows = [f"{identifier}{separator}{url}{separator}90" for identifier, url in zip(IDS, URLS, strict=True)]
    return "\n".join([separator.join(("ImageID", "url", "Rotation")), *rows]).encode()


def _parquet() -> bytes:
    file = io.BytesIO()
    parquet.write_table(pa.table({"ImageID": IDS, "url": URLS, "Rotation": [90.0] * 12}), file, row_group_size=5)
    return file.getvalue()


SOUND: dict[str, Callable[[], bytes]] = {
    "list.csv": lambda: _table(","),
    "list.tsv": lambda: _table("\t"),
    "list.txt": lambda: "\n".join(URLS).encode(),
    "list.jsonl": lambda: "\n".join(json.dumps({"id": i, "url": u}) for i, u in zip(IDS, URLS, strict=True)).encode(),
    "list.json": lambda: json.dumps(URLS).encode(),
    "list.parquet": _parquet,
}

HOSTILE = [
    *(
        b"\0",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"\r",
        b"\r\n",
        b"\n\n\n",
        b'"',
        b'""',
        b"'",
        b"\\",
        b"\\ud800",
        b"\xed\xa0\x80",
    ),
    *(b"\x1b[31m", "\u202e".encode(), b"=1+1", b"@SUM(1)", b"[" * 3000, b"{" * 3000, b"1e999", b"-0", b"NaN", b"null"),
    *(
        b"9" * 5000,
        b"x" * 70_000,
        b"https://a:b@",
        b",,,,",
        b"\t\t\t",
        b"{}",
        b'{"url": {"url": 1}}',
        b"file:///etc/passwd",
    ),
]


def damaged(content: bytes, at: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(at.randint(1, 4)):
        place = at.randrange(len(data) + 1)
        match at.randrange(5):
            case 0:
                data[place : place + 1] = bytes([at.randrange(256)])
            case 1:
                del data[place : place + at.randint(1, 40)]
            case 2:
                data[place:place] = at.choice(HOSTILE)
            case 3:
                data[place:place] = data[at.randrange(len(data) + 1) :][: at.randint(1, 60)]
            case _:
                del data[place:]
    return bytes(data)


@pytest.mark.parametrize("name", SOUND)
def test_a_damaged_list_is_refused_or_adds_up(tmp_path: Path, name: str) -> None:
    at = random.Random(name)
    content = SOUND[name]()
    refused = read = 0
    for number in range(VARIANTS):
        path = written(tmp_path / f"{number}{name}", damaged(content, at))
        try:
            whole = everything(opened(path), chunks=1)
            in_parts = everything(opened(path), chunks=5)
        except ConfigError:
            refused += 1
            continue
        read += 1
        assert in_parts == whole
        for row in whole:
            failed = isinstance(row[2], Reason)
            assert str(row[0]).strip() or failed
            assert "\0" not in str(row[0])
            str(row).encode()  # every text can be stored
            assert not failed or str(row[3]).isprintable()
    # Formats in which a line is a row are read around the damage. The other formats are refused.
    assert refused if name in {"list.json", "list.parquet"} else read > VARIANTS // 2
