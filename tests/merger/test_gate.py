"""Chunks that must not be merged, and the message of each refusal."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest

from common.errors import ChunkInvalid, ChunksMissing, FingerprintMismatch
from common.format.chunk_file import write_chunk
from common.format.sealed_file import DIGEST
from common.run.keys import RESULT_KEY, SUMMARY_KEY, chunk_key
from common.store import open_store
from merger.command import sentence
from merger.merge import merge
from merger.outcome import AlreadyFinished, Merged
from tests.merger.runs import (
    assert_merged,
    edit,
    make_chunk,
    put_chunk,
    put_run,
    read_summary,
    seal_again,
    settings_for,
)

if TYPE_CHECKING:
    from pathlib import Path

    from common.store.contract import Store

SIZES = [30, 20, 0, 25]


@pytest.fixture
def folder(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "run"))


def flip_a_bit(store: Store, index: int, dataset: str, tmp_path: Path) -> None:
    data = bytearray(store.read(chunk_key(index)))
    path = tmp_path / "flipped.h5"
    path.write_bytes(data)
    with h5py.File(path, "r") as file:
        offset = file[dataset].id.get_offset()
    data[offset + 5] ^= 4
    store.put_bytes(chunk_key(index), bytes(data))


def test_missing_chunks_are_listed_as_ranges_with_what_to_do(store: Store) -> None:
    for index in (0, 4):
        put_chunk(store, make_chunk(index, 3, chunk_count=9))
    with pytest.raises(ChunksMissing, match=r"7 of 9 chunks are missing: 1-3,5-8; .*EMBEDDER_CHUNK_INDEXES"):
        merge(store, settings_for(store, 9))
    assert store.stat(RESULT_KEY) is None


def test_a_run_without_any_chunk_is_refused_even_where_a_partial_result_is_allowed(store: Store) -> None:
    with pytest.raises(ChunksMissing, match="0-2"):
        merge(store, settings_for(store, 3, on_missing_chunks="partial"))


def test_a_partial_merge_says_what_it_lacks_keeps_the_chunks_and_is_completed_later(store: Store) -> None:
    chunks = [make_chunk(index, size, chunk_count=4, failed=1) for index, size in enumerate(SIZES)]
    for index in (0, 2, 3):
        put_chunk(store, chunks[index])
    partial = settings_for(store, 4, on_missing_chunks="partial")
    outcome = merge(store, partial)
    assert isinstance(outcome, Merged)
    assert "without chunks 1;" in sentence(outcome, result=RESULT_KEY)
    assert_merged(store, [chunks[0], chunks[2], chunks[3]])
    assert read_summary(store)["chunks_missing"] == "1"
    assert store.stat(chunk_key(0)) is not None
    assert isinstance(merge(store, partial), AlreadyFinished)
    with pytest.raises(ChunksMissing):
        merge(store, settings_for(store, 4))
    put_chunk(store, chunks[1])
    merge(store, settings_for(store, 4))
    assert_merged(store, chunks)
    assert read_summary(store)["chunks_missing"] == ""
    assert store.stat(chunk_key(0)) is None


def test_a_partial_run_whose_missing_chunks_are_written_as_a_range_of_two_is_finished(folder: Store) -> None:
    # Earlier versions of the program wrote two missing chunks in a row as "1-2", in the summary and in the result.
    for index in (0, 3):
        put_chunk(folder, make_chunk(index, SIZES[index], chunk_count=4))
    partial = settings_for(folder, 4, on_missing_chunks="partial")
    merge(folder, partial)
    result = folder.read(RESULT_KEY)
    assert result.count(b"1,2") == 1
    folder.put_bytes(RESULT_KEY, result.replace(b"1,2", b"1-2"))
    summary = read_summary(folder)
    assert summary["chunks_missing"] == "1,2"
    folder.put_bytes(SUMMARY_KEY, json.dumps(summary | {"chunks_missing": "1-2"}).encode())
    earlier = folder.stat(RESULT_KEY)
    finished = merge(folder, partial)
    assert isinstance(finished, AlreadyFinished)
    assert sentence(finished, result=RESULT_KEY).endswith("without chunks 1,2")
    assert folder.stat(RESULT_KEY) == earlier


def test_a_chunk_of_another_run_is_named_with_what_differs(store: Store) -> None:
    put_run(store, SIZES)
    put_chunk(store, make_chunk(1, 5, chunk_count=4, dtype="float16"))
    with pytest.raises(FingerprintMismatch, match=r"Images_Embedded_1\.h5 was made with dtype float16.* dtype float32"):
        merge(store, settings_for(store, 4))


def test_another_chunk_count_is_a_configuration_error(folder: Store) -> None:
    put_run(folder, SIZES)
    for count in (3, 5):
        with pytest.raises(FingerprintMismatch, match="is of a run of 4 chunks, EMBEDDER_CHUNK_COUNT is"):
            merge(folder, settings_for(folder, count))


def test_a_result_of_another_run_is_never_overwritten(folder: Store) -> None:
    put_run(folder, SIZES, weights="other")
    merge(folder, settings_for(folder, 4))
    before = folder.stat(RESULT_KEY)
    put_run(folder, SIZES)
    with pytest.raises(FingerprintMismatch, match="weights"):
        merge(folder, settings_for(folder, 4))
    folder.delete([SUMMARY_KEY])
    with pytest.raises(FingerprintMismatch, match="weights"):
        merge(folder, settings_for(folder, 4))
    assert folder.stat(RESULT_KEY) == before
    assert folder.stat(chunk_key(0)) is not None


def test_every_bad_chunk_is_named_at_once(folder: Store, tmp_path: Path) -> None:
    put_run(folder, [10] * 6)
    folder.put_bytes(chunk_key(0), b"no HDF5 at all")
    folder.put_bytes(chunk_key(1), folder.read(chunk_key(1))[:-100])
    folder.put_bytes(chunk_key(2), folder.read(chunk_key(3)))
    edit(folder, 4, lambda file: file.attrs.modify("rows_requested", 11), tmp_path)
    with pytest.raises(ChunkInvalid) as refused:
        merge(folder, settings_for(folder, 6))
    message = str(refused.value)
    assert message.startswith("4 chunk files")
    for index in (0, 1, 2, 4):
        assert f"Images_Embedded_{index}.h5" in message
    assert "Images_Embedded_5.h5" not in message
    assert "Delete these files, run the worker for their indexes" in message


def test_a_flipped_bit_in_a_text_is_found_in_every_chunk_that_has_one(store: Store, tmp_path: Path) -> None:
    put_run(store, SIZES, failed=2)
    flip_a_bit(store, 0, "urls", tmp_path)
    flip_a_bit(store, 1, "ids", tmp_path)
    flip_a_bit(store, 3, "failures/detail", tmp_path)
    with pytest.raises(ChunkInvalid, match=r"3 chunk files.*_0.*damaged urls.*_1.*damaged ids.*failures/detail"):
        merge(store, settings_for(store, 4))
    assert store.stat(RESULT_KEY) is None


def test_a_flipped_bit_in_the_ledger_alone_leaves_no_result(store: Store, tmp_path: Path) -> None:
    put_run(store, SIZES, failed=2)
    flip_a_bit(store, 3, "failures/url", tmp_path)
    with pytest.raises(ChunkInvalid, match="failures/url"):
        merge(store, settings_for(store, 4))
    assert store.stat(RESULT_KEY) is None


@pytest.mark.parametrize("assembly", ["server-side", "streaming"])
def test_a_flipped_bit_in_a_vector_is_found_by_a_full_verification(store: Store, tmp_path: Path, assembly: str) -> None:
    put_run(store, [3000, 2800])
    flip_a_bit(store, 1, "embeddings", tmp_path)
    with pytest.raises(ChunkInvalid, match=r"_1\.h5: damaged embeddings"):
        merge(store, settings_for(store, 2, verify="full", assembly=assembly))
    assert store.stat(RESULT_KEY) is None


def test_vectors_without_norm_1_are_refused_even_if_their_digest_is_right(store: Store, tmp_path: Path) -> None:
    put_run(store, [40, 50])

    def spoil(file: h5py.File) -> None:
        vectors = file["embeddings"][:]
        vectors[-1] = np.nan
        file["embeddings"][:] = vectors
        file["embeddings"].attrs[DIGEST] = hashlib.sha256(vectors.tobytes()).hexdigest()

    edit(store, 1, spoil, tmp_path)
    for verify in ("sample", "full"):
        with pytest.raises(ChunkInvalid, match=r"_1\.h5.*norm"):
            merge(store, settings_for(store, 2, verify=verify))
        assert store.stat(RESULT_KEY) is None


@pytest.mark.parametrize(
    ("other", "message"), [({"dimensions": 8}, "8 dimensions"), ({"with_ids": False}, "no ids, unlike")]
)
def test_chunks_that_do_not_fit_together_are_refused(folder: Store, other: dict[str, Any], message: str) -> None:
    put_run(folder, SIZES)
    put_chunk(folder, make_chunk(1, 5, chunk_count=4, **other))
    with pytest.raises(ChunkInvalid, match=message):
        merge(folder, settings_for(folder, 4))


def test_an_empty_chunk_need_not_have_ids_or_the_right_dimensions(folder: Store) -> None:
    chunks = put_run(folder, SIZES)
    put_chunk(folder, make_chunk(2, 0, chunk_count=4, with_ids=False, dimensions=1))
    merge(folder, settings_for(folder, 4))
    assert_merged(folder, chunks)


def test_text_columns_that_are_not_bytes_of_fixed_length_are_refused(folder: Store, tmp_path: Path) -> None:
    put_run(folder, [4])

    def respell(file: h5py.File) -> None:
        del file["urls"]
        file.create_dataset("urls", data=["a", "b", "c", "d"]).attrs[DIGEST] = ""

    edit(folder, 0, respell, tmp_path)
    with pytest.raises(ChunkInvalid, match="fixed-length"):
        merge(folder, settings_for(folder, 1))


def test_a_chunk_file_whose_rows_were_never_allocated_is_refused(folder: Store, tmp_path: Path) -> None:
    chunk = make_chunk(0, 4, chunk_count=1)
    path = tmp_path / "chunk.h5"
    write_chunk(path, replace(chunk, embeddings=chunk.embeddings))
    with h5py.File(path, "r+") as file:
        del file["embeddings"]
        file.create_dataset("embeddings", (4, 512), np.float32).attrs[DIGEST] = ""
    seal_again(path)
    folder.put_file(chunk_key(0), path)
    with pytest.raises(ChunkInvalid, match="contiguous"):
        merge(folder, settings_for(folder, 1))
