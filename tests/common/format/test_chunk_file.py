from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest

from common.errors import ChunkInvalid, FingerprintMismatch
from common.format.chunk_file import (
    METADATA_BYTES,
    Chunk,
    Failure,
    read_header,
    verify_chunk,
    write_chunk,
)
from common.format.provenance import Provenance
from common.format.reasons import REASON_HELP, Reason
from common.format.rows import sha256
from common.format.sealed_file import DIGEST
from tests.merger.runs import seal_again

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PROVENANCE = Provenance(
    manifest="txt 5 bytes",
    chunk_count=3,
    model="untrained",
    model_revision="",
    weights="none",
    dtype="float32",
    preprocessing="1",
    rotation=True,
    sources="url",
)


def make_chunk(rows: int = 40, **changes: Any) -> Chunk:  # noqa: ANN401 - any field
    vectors = np.random.default_rng(0).normal(size=(rows, 512)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    chunk = Chunk(
        index=1,
        urls=[f"http://host/{'ü' * (row % 7)}{row}.jpg" for row in range(rows)],
        ids=[f"{row:016x}" for row in range(rows)],
        embeddings=vectors,
        failures=[Failure(row=rows, url="http://host/none.jpg", reason=Reason.NOT_FOUND, detail="404", id="x")],
        provenance=PROVENANCE,
    )
    return dataclasses.replace(chunk, **changes)


def test_the_consumer_reads_what_was_written(tmp_path: Path) -> None:
    chunk = make_chunk()
    write_chunk(tmp_path / "chunk.h5", chunk)
    with h5py.File(tmp_path / "chunk.h5") as file:
        assert file["urls"].dtype.kind == "S"
        assert [url.decode() for url in file["urls"][:]] == chunk.urls
        assert [each.decode() for each in file["ids"][:]] == chunk.ids
        np.testing.assert_array_equal(file["embeddings"][:], chunk.embeddings[:])
        assert file["failures/reason"][:].tolist() == [b"not_found"]
        assert file.attrs["rows_requested"] == file.attrs["rows_embedded"] + file.attrs["rows_failed"]
        assert file.attrs["fingerprint"] == PROVENANCE.fingerprint
        for name in ("urls", "ids", "embeddings"):
            assert file[name].chunks is None
            assert file[name].compression is None


def test_texts_are_text_for_h5py_and_bytes_for_those_who_read_bytes(tmp_path: Path) -> None:
    urls = [
        "https://photos.example/straße/日本.jpg",
        "https://photos.example/a",
        "https://photos.example/é " + "x" * 200,
    ]
    chunk = make_chunk(rows=3, urls=urls, ids=["ü", "b", ""])
    write_chunk(tmp_path / "chunk.h5", chunk)
    with h5py.File(tmp_path / "chunk.h5") as file:
        assert file["urls"].asstr()[:].tolist() == urls
        assert file["urls"].asstr()[1] == urls[1]
        assert file["ids"].asstr()[:].tolist() == chunk.ids
        assert file["failures/url"].asstr()[0] == chunk.failures[0].url
        assert isinstance(file["urls"][0], bytes)
        assert [url.decode() for url in file["urls"][:]] == urls
        assert h5py.check_string_dtype(file["urls"].dtype) == ("utf-8", len(urls[2].encode()))


def test_one_short_read_returns_everything_but_the_rows(tmp_path: Path) -> None:
    write_chunk(tmp_path / "chunk.h5", make_chunk(rows=2000))
    (tmp_path / "start.h5").write_bytes((tmp_path / "chunk.h5").read_bytes()[:METADATA_BYTES])
    data = (tmp_path / "chunk.h5").read_bytes()
    with (tmp_path / "chunk.h5").open("rb") as file:
        header = read_header(file, name="chunk")
    assert (header.index, header.requested, header.embedded, header.failed) == (1, 2001, 2000, 1)
    assert header.provenance == PROVENANCE
    span = header.spans["embeddings"]
    assert span.offset >= header.spans["urls"].offset
    stored = np.frombuffer(data, np.float32, count=2000 * 512, offset=span.offset).reshape(2000, 512)
    np.testing.assert_array_equal(stored, make_chunk(rows=2000).embeddings[:])


@pytest.mark.parametrize("rows", [0, 1])
def test_a_chunk_may_have_one_row_or_none(rows: int, tmp_path: Path) -> None:
    write_chunk(tmp_path / "chunk.h5", make_chunk(rows=rows, failures=[]))
    with (tmp_path / "chunk.h5").open("rb") as file:
        header = verify_chunk(file, name="chunk")
    assert header.embedded == rows
    assert header.dimensions == 512


BROKEN: dict[str, Callable[[Chunk], dict[str, Any]]] = {
    "a vector is missing": lambda chunk: {"embeddings": chunk.embeddings[1:]},
    "an id is missing": lambda chunk: {"ids": (chunk.ids or [])[1:]},
    "a vector is not of norm 1": lambda chunk: {"embeddings": chunk.embeddings[:] * np.float32(1.1)},
    "a vector is not finite": lambda chunk: {
        "embeddings": np.where(chunk.embeddings[:] > 0.1, np.nan, chunk.embeddings[:])
    },
    "the type is float64": lambda chunk: {"embeddings": chunk.embeddings[:].astype(np.float64)},
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_chunk_that_does_not_add_up_is_not_written(what: str, tmp_path: Path) -> None:
    chunk = make_chunk()
    with pytest.raises(ChunkInvalid):
        write_chunk(tmp_path / "chunk.h5", dataclasses.replace(chunk, **BROKEN[what](chunk)))
    assert not (tmp_path / "chunk.h5").exists()


def test_a_row_that_is_not_of_norm_1_is_named_in_any_slice(tmp_path: Path) -> None:
    chunk = make_chunk(rows=3000)
    vectors = chunk.embeddings[:]
    vectors[2900] *= 2
    with pytest.raises(ChunkInvalid, match="row 2900:"):
        write_chunk(tmp_path / "chunk.h5", dataclasses.replace(chunk, embeddings=vectors))


def test_a_flipped_bit_is_found_wherever_it_is(tmp_path: Path) -> None:
    path = tmp_path / "chunk.h5"
    write_chunk(path, make_chunk())
    data = path.read_bytes()
    with path.open("rb") as file:
        spans = verify_chunk(file, name="chunk").spans
    for span in spans.values():
        flipped = bytearray(data)
        flipped[span.offset + span.rows * span.row_bytes // 2] ^= 4
        path.write_bytes(flipped)
        with path.open("rb") as file, pytest.raises(ChunkInvalid, match="chunk is damaged"):
            verify_chunk(file, name="chunk")


@pytest.mark.parametrize("row", [7, 2900])
def test_rows_that_are_not_of_norm_1_are_damage_even_with_the_right_digest(row: int, tmp_path: Path) -> None:
    path = tmp_path / "chunk.h5"
    write_chunk(path, make_chunk(rows=3000))
    with h5py.File(path, "a") as file:
        vectors = file["embeddings"][:]
        vectors[row] = np.nan
        file["embeddings"][:] = vectors
        file["embeddings"].attrs[DIGEST] = sha256(vectors)
    seal_again(path)
    with path.open("rb") as file, pytest.raises(ChunkInvalid, match=f"row {row}:"):
        verify_chunk(file, name="chunk")


def test_the_metadata_lies_before_the_rows_and_usually_within_the_first_read(tmp_path: Path) -> None:
    for length in (10, 3000, 30_000):
        path = tmp_path / f"{length}.h5"
        write_chunk(path, make_chunk(provenance=dataclasses.replace(PROVENANCE, manifest="x" * length)))
        with path.open("rb") as file:
            header = verify_chunk(file, name="chunk")
        assert header.provenance.manifest == "x" * length
        first = min(span.offset for span in header.spans.values())
        assert first < METADATA_BYTES or length > 3000


@pytest.mark.parametrize("length", [0, 100, 3000, 70_000])
def test_a_file_cut_short_is_refused(length: int, tmp_path: Path) -> None:
    path = tmp_path / "chunk.h5"
    write_chunk(path, make_chunk())
    path.write_bytes(path.read_bytes()[:length])
    with path.open("rb") as file, pytest.raises(ChunkInvalid, match="chunk"):
        verify_chunk(file, name="chunk")


@pytest.mark.parametrize(("attribute", "value"), [("rows_failed", 7), ("schema_version", 0), ("fingerprint", "x")])
def test_attributes_that_contradict_each_other_are_refused(attribute: str, value: object, tmp_path: Path) -> None:
    path = tmp_path / "chunk.h5"
    write_chunk(path, make_chunk())
    with h5py.File(path, "a") as file:
        file.attrs[attribute] = value
    seal_again(path)
    with path.open("rb") as file, pytest.raises(ChunkInvalid):
        read_header(file, name="chunk")


def test_a_difference_names_both_sides() -> None:
    other = dataclasses.replace(PROVENANCE, dtype="float16")
    with pytest.raises(FingerprintMismatch, match=r"dtype float16.*dtype float32") as error:
        PROVENANCE.check_same(other, name="chunks/Images_Embedded_1.h5")
    assert other.fingerprint[:12] in str(error.value)
    assert PROVENANCE.fingerprint[:12] in str(error.value)


def test_another_list_is_told_first_and_with_short_hashes() -> None:
    other = dataclasses.replace(PROVENANCE, manifest=f"csv url 12 bytes sha256 {'ab' * 32}")
    with pytest.raises(FingerprintMismatch) as error:
        PROVENANCE.check_same(other, name="chunk")
    assert str(error.value).startswith(
        "chunk was made from another list (csv url 12 bytes sha256 abababababab), this run"
    )
    assert "was made with" not in str(error.value)


def test_what_is_not_known_is_not_compared() -> None:
    other = dataclasses.replace(PROVENANCE, dtype="float16", chunk_count=9)
    with pytest.raises(FingerprintMismatch, match=r"was made with chunk_count 9, this run uses chunk_count [0-9]+ "):
        PROVENANCE.check_same(other, name="chunk", unknown={"dtype"})
    PROVENANCE.check_same(dataclasses.replace(PROVENANCE, dtype="float16"), name="chunk", unknown={"dtype"})


def test_the_models_name_does_not_decide_the_vectors() -> None:
    PROVENANCE.check_same(dataclasses.replace(PROVENANCE, model="/models/clip", model_revision="1"), name="it")


def test_every_reason_is_explained() -> None:
    assert set(REASON_HELP) == set(Reason)
