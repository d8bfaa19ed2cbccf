"""Objects that are put together from parts, in both stores."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from common.errors import StoreUnavailable
from common.store import open_store
from common.store.contract import AssemblyGone, ObjectExists, ObjectStat, Store

if TYPE_CHECKING:
    from pathlib import Path

KEY = "whole"
PART = 5 << 20


def abort_leftovers(store: Store) -> int:
    """Abort all unpublished assemblies, and return their number."""
    return store.abort_assemblies(KEY)


def test_parts_uploaded_and_copied_in_any_order_are_one_object(store: Store) -> None:
    first, source = os.urandom(PART), os.urandom(PART + 1000)
    stat = store.put_bytes("source", source)
    with store.assemble(KEY, size=2 * PART + 4, replacing=None) as assembly:
        assembly.upload(3, 2 * PART, bytearray(b"last"))
        assembly.copy(2, PART, stat, 300, PART)
        assembly.upload(1, 0, first)
        assert store.stat(KEY) is None
        published = assembly.publish()
    assert published == store.stat(KEY)
    assert store.read(KEY) == first + source[300 : 300 + PART] + b"last"
    assert abort_leftovers(store) == 0


def test_an_assembly_that_is_not_published_leaves_nothing(store: Store) -> None:
    def die() -> None:
        with store.assemble(KEY, size=5, replacing=None) as assembly:
            assembly.upload(1, 0, b"12345")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        die()
    assert abort_leftovers(store) == 0
    assert list(store.list("")) == []


def test_the_assemblies_of_exactly_one_key_are_aborted_and_their_owner_learns_it(store: Store) -> None:
    def assemble_both() -> None:
        with (
            store.assemble(f"{KEY}.other", size=1, replacing=None) as other,
            store.assemble(KEY, size=5, replacing=None) as assembly,
        ):
            assembly.upload(1, 0, b"12345")
            assert abort_leftovers(store) == 1
            other.upload(1, 0, b"x")
            other.publish()
            assembly.publish()

    with pytest.raises(AssemblyGone):
        assemble_both()
    assert [found.key for found in store.list("")] == [f"{KEY}.other"]


def test_a_source_that_was_replaced_or_is_too_short_is_not_copied(store: Store) -> None:
    stat = store.put_bytes("source", os.urandom(PART))
    with (
        pytest.raises(StoreUnavailable),
        store.assemble(KEY, size=PART, replacing=None) as assembly,
    ):
        assembly.copy(1, 0, stat, PART // 2, PART)
    store.delete(["source"])
    with pytest.raises(StoreUnavailable), store.assemble(KEY, size=PART, replacing=None) as assembly:
        assembly.copy(1, 0, stat, 0, PART)
    assert store.stat(KEY) is None


def test_only_the_object_that_was_seen_is_replaced(store: Store) -> None:
    def replace(replacing: ObjectStat | None, data: bytes, *, deleting_first: bool = False) -> None:
        with store.assemble(KEY, size=len(data), replacing=replacing) as assembly:
            assembly.upload(1, 0, data)
            if deleting_first:
                store.delete([KEY])
            assembly.publish()

    seen = store.put_bytes(KEY, b"seen")
    for replacing in (None, seen._replace(version="0" * 32)):
        with pytest.raises(ObjectExists):
            replace(replacing, b"new")
        assert store.read(KEY) == b"seen"
    replace(seen, b"new")
    assert store.read(KEY) == b"new"
    with pytest.raises(ObjectExists):
        replace(seen, b"old", deleting_first=True)
    assert abort_leftovers(store) == 0


def test_a_replaced_source_on_s3_is_noticed_by_its_version(bucket: str) -> None:
    store = open_store(f"s3://{bucket}/run")
    stat = store.put_bytes("source", bytes(PART))
    store.put_bytes("source", os.urandom(PART))
    with (
        pytest.raises(StoreUnavailable, match="replaced or deleted"),
        store.assemble(KEY, size=PART, replacing=None) as assembly,
    ):
        assembly.copy(1, 0, stat, 0, PART)


def test_a_folder_reads_and_writes_where_the_system_cannot_copy_ranges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(str(tmp_path))
    source = os.urandom(PART)
    stat = store.put_bytes("source", source)
    monkeypatch.delattr(os, "copy_file_range", raising=False)  # as on macOS
    with store.assemble(KEY, size=PART - 7, replacing=None) as assembly:
        assembly.copy(1, 0, stat, 7, PART - 7)
        assembly.publish()
    assert store.read(KEY) == source[7:]
