"""The contract of a store holds on every double, within what each store can do."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from common.errors import StoreUnavailable
from common.logs import configure_logs, parse_line
from common.store.contract import AssemblyRefused, ObjectExists, ObjectStat
from tests.s3_proxy import has_condition
from tests.store_dialects.dialects import (
    AWS,
    B2,
    CEPH,
    DIALECTS,
    GOOGLE,
    IGNORED,
    LEAST,
    MIB,
    MINIO,
    R2,
    SEAWEEDFS,
    WITHOUT_ETAGS,
    Dialect,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from common.store.s3.store import S3Store
    from tests.store_dialects.conftest import Speaking

    Speak = Callable[..., AbstractContextManager[Speaking]]

CONDITIONAL = {AWS.name, R2.name, MINIO.name, CEPH.name, SEAWEEDFS.name, "without copy etags"}
ONE_BY_ONE = {GOOGLE.name, LEAST.name}
NO_COPIES = {GOOGLE.name, LEAST.name, "old ceph", "without copy etags"}

of_every_dialect = pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)


def assemble(store: S3Store, key: str, parts: Sequence[bytes], *, replacing: ObjectStat | None = None) -> ObjectStat:
    with store.assemble(key, size=sum(map(len, parts)), replacing=replacing) as assembly:
        for number, part in enumerate(parts, start=1):
            assembly.upload(number, 0, part)
        return assembly.publish()


@of_every_dialect
def test_the_access_check_finds_what_the_store_can_do_with_few_requests_and_leaves_nothing(
    dialect: Dialect, speak: Speak, direct: S3Store, capsys: pytest.CaptureFixture[str]
) -> None:
    with speak(dialect) as (store, _, proxy):
        configure_logs()
        found = store.check_access()
        assert found.conditional_writes == (dialect.name in CONDITIONAL)
        assert found.batch_delete == (dialect.name not in ONE_BY_ONE)
        assert found.may_delete
        repeated = 4 if dialect.seconds_between_writes else 0
        assert len(proxy.requests) <= (8 if dialect is LEAST else 7) + repeated
    assert list(direct.list("")) == []
    lines = [line for text in capsys.readouterr().err.splitlines() if (line := parse_line(text))]
    (checked,) = [line for line in lines if line.event == "store_checked"]
    assert checked.values["conditional_writes"] == ("yes" if found.conditional_writes else "no")
    assert checked.values["batch_delete"] == ("yes" if found.batch_delete else "no")
    assert checked.values["delete"] == "yes"
    warned = {line.event for line in lines if line.level == "warning"}
    assert ("store_without_conditional_writes" in warned) == (not found.conditional_writes)
    assert ("store_without_batch_deletion" in warned) == (not found.batch_delete)


@pytest.mark.parametrize("is_checked", [True, False], ids=["after the access check", "without it"])
@of_every_dialect
def test_objects_are_written_replaced_listed_and_deleted(dialect: Dialect, is_checked: bool, speak: Speak) -> None:
    with speak(dialect) as (store, double, _):
        if is_checked:
            store.check_access()
        data = os.urandom(100_000)
        seen = store.put_bytes("chunks/a", data, overwrite=False)
        assert store.stat("chunks/a") == seen
        assert store.read("chunks/a") == data
        assert store.read("chunks/a", 500, 70) == data[500:570]
        assert store.put_bytes("chunks/a", data, overwrite=False) == seen, "the same bytes are no other object"
        with pytest.raises(ObjectExists):
            store.put_bytes("chunks/a", b"other", overwrite=False)
        with pytest.raises(ObjectExists):
            store.put_bytes("chunks/a", b"other", overwrite=False, replacing=seen._replace(version="0" * 32))
        assert store.read("chunks/a") == data
        replaced = store.put_bytes("chunks/a", b"new", overwrite=False, replacing=seen)
        assert store.read("chunks/a") == b"new"
        store.put_bytes("chunks/b", b"b")
        listed = sorted(store.list("chunks/"))
        assert [each[:2] for each in listed] == [("chunks/a", 3), ("chunks/b", 1)]
        assert dialect is WITHOUT_ETAGS or listed == [replaced, store.stat("chunks/b")]
        assert list(store.list("nothing/")) == []
        assert store.stat("chunks/c") is None
        store.delete(["chunks/a", "chunks/b", "chunks/never"])
        assert list(store.list("")) == []
        assert "checksums" not in double.refused


@of_every_dialect
def test_assemblies_of_equal_uploads_replace_only_what_was_seen(dialect: Dialect, speak: Speak) -> None:
    with speak(dialect) as (store, _, _proxy):
        parts = [os.urandom(5 * MIB), os.urandom(5 * MIB), b"end"]
        first = assemble(store, "whole", parts)
        assert store.read("whole") == b"".join(parts)
        for replacing in (None, first._replace(version="0" * 32)):
            with pytest.raises(ObjectExists):
                assemble(store, "whole", [b"other"], replacing=replacing)
        assert store.stat("whole") == first
        assemble(store, "whole", [b"new"], replacing=first)
        assert store.read("whole") == b"new"
        store.abort_assemblies("whole")
        store.clear_up(["whole"])
        assert [found.key for found in store.list("")] == ["whole"]


@of_every_dialect
def test_a_range_is_copied_or_the_store_says_at_once_that_it_cannot(dialect: Dialect, speak: Speak) -> None:
    with speak(dialect) as (store, double, _):
        data = os.urandom(11 * MIB)
        source = store.put_bytes("source", data)

        def copy(first: int, second: int) -> None:
            with store.assemble("copy", size=first + second, replacing=None) as assembly:
                assembly.copy(1, 0, source, 1000, first)
                assembly.copy(2, first, source, 77, second)
                assembly.publish()

        if dialect.name in NO_COPIES:
            with pytest.raises(StoreUnavailable):
                copy(5 * MIB, MIB)
            assert store.stat("copy") is None
            return
        copy(5 * MIB, MIB)
        assert store.read("copy") == data[1000 : 1000 + 5 * MIB] + data[77 : 77 + MIB]
        store.delete(["copy"])
        store.put_bytes("source", os.urandom(11 * MIB))
        if dialect.copy_conditions == IGNORED:
            return  # the store copies from the new object, which in a run has the same rows
        with pytest.raises(StoreUnavailable, match="replaced or deleted"):
            copy(5 * MIB, MIB)
        assert double.refused["copy conditions"] <= 3


def test_parts_of_different_sizes_are_refused_with_the_words_of_the_store(speak: Speak) -> None:
    with speak(R2) as (store, _, _proxy):
        with pytest.raises(AssemblyRefused, match="All non-trailing parts must have the same length"):
            assemble(store, "whole", [bytes(5 * MIB), bytes(6 * MIB), b"end"])
        with pytest.raises(AssemblyRefused, match="same length"):
            assemble(store, "whole", [bytes(5 * MIB), bytes(5 * MIB + 1)])
        assert store.stat("whole") is None


def test_a_part_that_is_too_small_is_refused_with_the_words_of_the_store(speak: Speak) -> None:
    with speak(AWS) as (store, _, _proxy), pytest.raises(AssemblyRefused, match="EntityTooSmall"):
        assemble(store, "whole", [b"small", b"end"])


def test_after_the_access_check_no_write_sends_a_condition_that_the_store_refuses(speak: Speak) -> None:
    with speak(B2) as (store, double, proxy):
        store.check_access()
        asked = double.refused["put conditions"]
        store.put_bytes("a", b"a", overwrite=False)
        assert double.refused["put conditions"] == asked == 1
        assert sum(has_condition(request) for request in proxy.requests) == 1


@pytest.mark.parametrize(
    "dialect", [AWS, LEAST, *(each for each in DIALECTS if each.name == "old ceph")], ids=lambda each: each.name
)
def test_lists_of_many_pages_are_whole(dialect: Dialect, speak: Speak, direct: S3Store) -> None:
    keys = [f"chunks/{number:04}" for number in range(1005)]
    for key in keys:
        direct.put_bytes(key, b"")
    with speak(dialect) as (store, _, proxy):
        assert sorted(found.key for found in store.list("chunks/")) == keys
        assert len(proxy.requests) <= 4
        store.delete(keys)
        assert list(store.list("")) == []


def test_a_store_is_asked_once_for_a_list_that_it_does_not_know(speak: Speak) -> None:
    with speak(LEAST) as (store, double, _):
        for _ in range(3):
            assert list(store.list("chunks/")) == []
        assert double.refused["second list"] == 1
