"""Chunk files that are cut, have a flipped bit or were forged: the merge refuses them, or the result is right."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest

from common.errors import ChunkInvalid
from common.format.chunk_file import read_header
from common.format.rows import sha256
from common.format.seal import SEAL_BYTES
from common.format.sealed_file import DIGEST
from common.logs import CHUNK_REFUSED, configure_logs, parse_line
from common.run.keys import RESULT_KEY, chunk_key
from common.store import open_store
from merger.merge import merge
from tests.merger.runs import assert_merged, edit, make_chunk, put_chunk, put_run, settings_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from common.format.chunk_file import Chunk
    from common.store.contract import Store

SIZES = [6, 9, 7]
DAMAGED = 1
FLIPS = 15
"""Number of flipped bits that are tried in each region."""


@pytest.fixture
def folder(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "run"))


@pytest.fixture
def chunks(folder: Store) -> list[Chunk]:
    return put_run(folder, SIZES, failed=3)


def assert_refused_or_right(store: Store, chunks: list[Chunk]) -> bool:
    """Merge, and return whether the merge refused the damaged chunk and no other; if it did not, check the result."""
    message = ""
    try:
        merge(store, settings_for(store, len(SIZES), verify="full", keep_chunks=True))
    except ChunkInvalid as refused:
        message = str(refused)
    if message:
        assert f"Images_Embedded_{DAMAGED}.h5" in message
        assert "1 chunk file cannot be merged" in message
        assert store.stat(RESULT_KEY) is None
        return True
    assert_merged(store, chunks)
    store.delete([found.key for found in store.list("") if not found.key.startswith("chunks/")])
    return False


def test_a_chunk_cut_at_any_length_is_refused(folder: Store, chunks: list[Chunk]) -> None:
    whole = folder.read(chunk_key(DAMAGED))
    lengths = [0, 1, SEAL_BYTES - 1, SEAL_BYTES, SEAL_BYTES + 8, 8192, len(whole) - 1, len(whole) + 1]
    for length in [*lengths, *random.Random(5).sample(range(len(whole)), 20)]:
        folder.put_bytes(chunk_key(DAMAGED), whole[:length].ljust(length, b"\0"))
        assert assert_refused_or_right(folder, chunks), length


@pytest.mark.slow
def test_no_flipped_bit_in_any_region_makes_a_wrong_result(folder: Store, chunks: list[Chunk]) -> None:
    whole = folder.read(chunk_key(DAMAGED))
    with folder.open(chunk_key(DAMAGED), len(whole)) as file:
        spans = read_header(file, name="whole").spans
    rows = min(span.offset for span in spans.values())
    regions = {"seal": (0, 64), "padding": (64, SEAL_BYTES), "metadata": (SEAL_BYTES, rows)}
    regions |= {name: (span.offset, span.offset + span.rows * span.row_bytes) for name, span in spans.items()}
    places = random.Random(7)
    refused = dict.fromkeys(regions, 0)
    for name, (start, end) in regions.items():
        for _ in range(FLIPS):
            data = bytearray(whole)
            data[places.randrange(start, end)] ^= 1 << places.randrange(8)
            folder.put_bytes(chunk_key(DAMAGED), bytes(data))
            refused[name] += assert_refused_or_right(folder, chunks)
    assert refused == dict.fromkeys(regions, FLIPS) | {"padding": 0}


def replace_dataset(file: h5py.File, name: str, **options: object) -> None:
    data = file[name][()]
    del file[name]
    file.create_dataset(name, data=data, **options).attrs[DIGEST] = sha256(data)


def _nan(file: h5py.File) -> None:
    vectors = file["embeddings"][:]
    vectors[2, 3] = np.nan
    file["embeddings"][:] = vectors
    file["embeddings"].attrs[DIGEST] = sha256(vectors)


def _virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout(shape=(9, 512), dtype="f4")
    layout[:] = h5py.VirtualSource("elsewhere.h5", "embeddings", shape=(9, 512))
    del file["embeddings"]
    file.create_virtual_dataset("embeddings", layout).attrs[DIGEST] = ""


def _external_link(file: h5py.File) -> None:
    # The other file exists and has the right rows.
    other = Path(file.filename).with_name("elsewhere.h5")
    with h5py.File(other, "w") as elsewhere:
        file.copy("embeddings", elsewhere)
    del file["embeddings"]
    file["embeddings"] = h5py.ExternalLink(str(other), "/embeddings")


def _external_storage(file: h5py.File) -> None:
    del file["embeddings"]
    place = Path(file.filename).with_name("elsewhere.bin")
    place.write_bytes(bytes(9 * 2048))
    file.create_dataset("embeddings", (9, 512), "f4", external=[(str(place), 0, 9 * 2048)]).attrs[DIGEST] = ""


def _soft_link(file: h5py.File) -> None:
    file.move("embeddings", "vectors")
    file["embeddings"] = h5py.SoftLink("/vectors")


def _huge(file: h5py.File) -> None:
    del file["embeddings"], file["urls"], file["ids"]
    rows = 1 << 44
    for name, shape, kind in (("embeddings", (rows, 512), "f4"), ("urls", (rows,), "S9"), ("ids", (rows,), "S9")):
        file.create_dataset(name, shape, kind).attrs[DIGEST] = ""
    file.attrs.modify("rows_embedded", rows)
    file.attrs.modify("rows_requested", rows + 3)


def _text_failures(file: h5py.File) -> None:
    del file["failures/detail"]
    file.create_dataset("failures/detail", data=["a", "b", "c"]).attrs[DIGEST] = ""


HOSTILE: dict[str, Callable[[h5py.File], None]] = {
    "NaN under a right digest": _nan,
    "an older schema": lambda file: file.attrs.modify("schema_version", 0),
    "a newer schema": lambda file: file.attrs.modify("schema_version", 2),
    "no schema": lambda file: file.attrs.__delitem__("schema_version"),
    "counts that do not add up": lambda file: file.attrs.modify("rows_failed", 4),
    "a negative count": lambda file: file.attrs.modify("rows_failed", -3),
    "another chunk's index": lambda file: file.attrs.modify("chunk_index", 0),
    "a fingerprint of its own": lambda file: file.attrs.modify("fingerprint", "0" * 64),
    "no vectors": lambda file: file.__delitem__("embeddings"),
    "no ledger": lambda file: file.__delitem__("failures"),
    "a group for vectors": lambda file: (file.__delitem__("embeddings"), file.create_group("embeddings"))[0],
    "a filter": lambda file: replace_dataset(file, "embeddings", compression="gzip"),
    "vectors of another type": lambda file: replace_dataset(file, "embeddings", dtype="f8"),
    "vectors of another byte order": lambda file: replace_dataset(file, "embeddings", dtype=">f4"),
    "texts elsewhere": _text_failures,
    "a virtual dataset": _virtual,
    "a link to another file": _external_link,
    "rows in another file": _external_storage,
    "a soft link": _soft_link,
    "more rows than any disk holds": _huge,
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_forged_chunk_file_is_refused(folder: Store, chunks: list[Chunk], tmp_path: Path, what: str) -> None:
    edit(folder, DAMAGED, HOSTILE[what], tmp_path)
    assert assert_refused_or_right(folder, chunks)


def test_a_chunk_under_the_name_of_another_chunk_is_refused(folder: Store, chunks: list[Chunk]) -> None:
    folder.put_bytes(chunk_key(DAMAGED), folder.read(chunk_key(2)))
    assert assert_refused_or_right(folder, chunks)


def test_every_refused_chunk_has_a_line_in_the_log_even_if_the_message_does_not_name_it(
    folder: Store, capfd: pytest.CaptureFixture[str]
) -> None:
    configure_logs()
    for index in range(30):
        put_chunk(folder, make_chunk(index, 1, chunk_count=30))
        folder.put_bytes(chunk_key(index), b"nothing")
    with pytest.raises(ChunkInvalid, match="and 10 more"):
        merge(folder, settings_for(folder, 30))
    lines = [line for text in capfd.readouterr().err.splitlines() if (line := parse_line(text)) is not None]
    refused = {line.values["chunk"]: line.values["message"] for line in lines if line.event == CHUNK_REFUSED}
    assert refused.keys() == {str(index) for index in range(30)}
    assert all(f"Images_Embedded_{index}.h5" in message for index, message in refused.items())
