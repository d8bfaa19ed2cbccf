from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from common.store.contract import ObjectExists
from results.index.upload import put_large_file

if TYPE_CHECKING:
    from pathlib import Path

    from common.store.contract import Store


def put(store: Store, path: Path, data: bytes, **options: object) -> object:
    path.write_bytes(data)
    return put_large_file(store, "large.bin", path, one_request_bytes=1 << 20, part_bytes=5 << 20, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, 1 << 20, (1 << 20) + 1, 10 << 20, (11 << 20) + 7])
def test_a_file_of_any_size_becomes_an_object(store: Store, tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    stat = put(store, tmp_path / "file", data, replacing=None)
    assert store.read("large.bin") == data
    assert store.stat("large.bin") == stat


@pytest.mark.parametrize("size", [10, 6 << 20])
def test_only_the_object_that_was_seen_is_replaced(store: Store, tmp_path: Path, size: int) -> None:
    first = put(store, tmp_path / "file", os.urandom(size), replacing=None)
    with pytest.raises(ObjectExists):
        put(store, tmp_path / "file", os.urandom(size), replacing=None)
    data = os.urandom(size + 1)
    put(store, tmp_path / "file", data, replacing=first)
    assert store.read("large.bin") == data
