"""Several Parquet files as one list: their rows, what is read of them, and files that do not fit or lie."""

from __future__ import annotations

import io
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from common.errors import EmbedderError, ManifestError, SourceUnavailable
from common.settings import read_settings
from tests.worker.manifest.manifests import everything, opened
from worker.manifest.parquet import parquet_file
from worker.manifest.parquet.rows import ParquetRows
from worker.manifest.places.local_source import LocalSource
from worker.settings import ManifestSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from worker.manifest.raw_rows import RawRow, UnreadableRow

URL = "https://photos.example/{}.jpg"


class MemorySource:
    """A file in memory that counts what is read of it."""

    identity = "in memory"
    tag = ""

    def __init__(self, content: bytes, name: str = "list.parquet", *, seconds: float = 0) -> None:
        self.content, self.name, self.uri = content, name, f"s3://bucket/{name}"
        self.size = len(content)
        self.is_direct = True
        self.reads: list[tuple[int, int]] = []
        self._seconds = seconds
        self._at_once, self.most_at_once = 0, 0
        self._lock = threading.Lock()
        self.error: Exception | None = None

    def read(self, start: int, length: int) -> bytes:
        if self.error is not None:
            raise self.error
        assert 0 <= start <= start + length <= self.size
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        time.sleep(self._seconds)
        with self._lock:
            self._at_once -= 1
            self.reads.append((start, length))
        return self.content[start : start + length]

    @property
    def bytes_read(self) -> int:
        return sum(length for _, length in self.reads)


def content_of(table: pa.Table, **options: Any) -> bytes:  # noqa: ANN401 - pyarrow's own
    file = io.BytesIO()
    parquet.write_table(table, file, **options)
    return file.getvalue()


def reader(*sources: MemorySource | LocalSource, **changes: Any) -> ParquetRows:  # noqa: ANN401 - any setting
    return ParquetRows(sources, read_settings(ManifestSettings, manifest_uri="unused", **changes))


def listed(*tables: pa.Table, **changes: Any) -> ParquetRows:  # noqa: ANN401 - any setting
    """Return the reader of files with these tables: a.parquet, b.parquet and so on."""
    sources = [MemorySource(content_of(each), f"{chr(97 + place)}.parquet") for place, each in enumerate(tables)]
    return reader(*sources, **changes)


def urls_of(rows: Sequence[RawRow | UnreadableRow]) -> list[str]:
    return [row.fields.url.decode() for row in rows]  # type: ignore[union-attr]


def table(first: int, count: int) -> pa.Table:
    return pa.table(
        {"url": [URL.format(row) for row in range(first, first + count)], "id": range(first, first + count)}
    )


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    sizes=st.lists(st.integers(0, 12), min_size=1, max_size=8).filter(any),
    group_rows=st.integers(1, 6),
    count=st.integers(1, 30),
)
def test_the_chunks_of_several_files_hold_each_row_once_and_in_order(
    sizes: list[int], group_rows: int, count: int
) -> None:
    starts = [sum(sizes[:place]) for place in range(len(sizes))]
    sources = [
        MemorySource(content_of(table(start, size), row_group_size=group_rows), f"{start}-{place}")
        for place, (start, size) in enumerate(zip(starts, sizes, strict=True))
    ]
    rows = reader(*sources)
    total = sum(sizes)
    assert rows.count_rows() == (total, True)
    found = [list(rows.read(index, count)) for index in range(count)]
    assert [url for part in found for url in urls_of(part)] == [URL.format(row) for row in range(total)]
    assert {len(part) for part in found} <= {total // count, total // count + 1}
    sampled = urls_of(list(rows.spread(20)))
    assert len(set(sampled)) == len(sampled)
    assert sampled


def test_a_row_is_named_by_its_number_and_by_its_file_where_there_are_several() -> None:
    assert [row.where for row in listed(table(0, 2)).read(0, 1)] == ["row 0 (the first is 0)", "row 1 (the first is 0)"]
    assert [row.where for row in listed(table(0, 1), table(1, 1)).read(0, 1)] == [
        "row 0 of a.parquet (the first is 0)",
        "row 0 of b.parquet (the first is 0)",
    ]


def test_of_a_file_only_its_end_is_read_before_its_rows() -> None:
    sources = [MemorySource(content_of(table(row * 50_000, 50_000)), str(row)) for row in range(3)]
    rows = reader(*sources)
    for source in sources:
        assert source.reads == [(source.size - parquet_file.TAIL_BYTES, parquet_file.TAIL_BYTES)]
        source.reads.clear()
    assert len(list(rows.read(1, 3))) == 50_000
    assert [bool(source.reads) for source in sources] == [False, True, False]
    assert sources[1].bytes_read <= sources[1].size


def test_a_footer_longer_than_the_end_takes_a_second_request() -> None:
    wide = pa.table({f"column {number} {'x' * 500}": [1] for number in range(400)} | {"url": ["a"]})
    source = MemorySource(content_of(wide))
    assert urls_of(list(reader(source).read(0, 1))) == ["a"]
    tail, rest = source.reads[:2]
    assert tail == (source.size - parquet_file.TAIL_BYTES, parquet_file.TAIL_BYTES)
    assert rest[0] + rest[1] == tail[0]


def test_a_thousand_files_on_a_slow_store_open_in_seconds() -> None:
    content = content_of(table(0, 3))
    sources = [MemorySource(content, str(number), seconds=0.05) for number in range(1000)]
    began = time.monotonic()
    rows = reader(*sources)
    assert time.monotonic() - began < 10
    assert rows.count_rows().rows == 3000


def test_footers_that_are_not_kept_are_read_again_with_their_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_file, "KEPT_FOOTER_BYTES", 0)
    sources = [MemorySource(content_of(table(row * 10, 10)), str(row)) for row in range(3)]
    rows = reader(*sources)
    for source in sources:
        source.reads.clear()
    assert urls_of(list(rows.read(1, 3))) == [URL.format(row) for row in range(10, 20)]
    assert [bool(source.reads) for source in sources] == [False, True, False]
    sources[2].content = content_of(table(0, 9))
    sources[2].size = len(sources[2].content)
    with pytest.raises(SourceUnavailable, match="2 changed while it was read"):
        list(rows.read(2, 3))


def test_columns_that_are_not_used_may_differ_and_used_ones_may_stand_elsewhere_in_other_widths() -> None:
    urls = pa.array(["u"])
    tables = [
        pa.table({"url": urls, "id": pa.array([1], pa.int32()), "label": [1], "box": [[1.0]]}),
        pa.table({"box": [{"x": 1}], "id": pa.array([2], pa.int64()), "url": urls.cast(pa.large_string())}),
        pa.table({"url": urls.dictionary_encode(), "id": pa.array([3.0]), "label": ["cat"], "more": [b""]}),
        pa.table({"url": pa.array([b"u"]), "id": pa.nulls(1)}),
        pa.table({"url": urls.cast(pa.string_view()), "id": pa.array([None], pa.decimal128(5, 0))}),
        pa.table({"url": pa.nulls(0), "other": pa.nulls(0)}),  # pandas writes an empty table so
    ]
    rows = list(listed(*tables).read(0, 1))
    assert urls_of(rows) == ["u"] * 5
    assert [row.fields.id for row in rows] == [1, 2, 3.0, None, None]  # type: ignore[union-attr]
    assert urls_of(list(listed(*reversed(tables)).read(0, 1))) == ["u"] * 5


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"id": [1]}, r"^b\.parquet has no column url, and a\.parquet has one"),
        ({"url": ["u"]}, r"^b\.parquet has no column id, and a\.parquet has one"),
        ({"url": [5], "id": [1]}, r"^the column url is int64 in b\.parquet and string in a\.parquet"),
        ({"url": ["u"], "id": ["x"]}, r"^the column id is string in b\.parquet and int64 in a\.parquet"),
        ({"url": [["u"]], "id": [1]}, r"^the column url is list<.*> in b\.parquet and string in a\.parquet"),
    ],
)
def test_files_that_differ_in_a_used_column_are_named_with_the_difference(other: dict[str, Any], said: str) -> None:
    with pytest.raises(ManifestError, match=said):
        listed(table(0, 1), pa.table(other))


def test_two_columns_of_one_name_are_refused_in_any_file() -> None:
    twice = pa.Table.from_arrays([pa.array(["u"]), pa.array([1]), pa.array(["v"])], names=["url", "id", "url"])
    with pytest.raises(ManifestError, match=r"b\.parquet has 2 columns url"):
        listed(table(0, 1), twice)


def test_files_without_any_row_are_refused_together() -> None:
    with pytest.raises(ManifestError, match=r"a\.parquet and 1 more files have no rows"):
        listed(table(0, 0), table(0, 0))


# Files that lie


def varint(number: int) -> bytes:
    found = b""
    while number > 127:
        found += bytes([number & 127 | 128])
        number >>= 7
    return found + bytes([number])


def with_footer(content: bytes, change: Callable[[bytes], bytes]) -> bytes:
    length = int.from_bytes(content[-8:-4], "little")
    footer = change(content[-8 - length : -8])
    return content[: -8 - length] + footer + len(footer).to_bytes(4, "little") + b"PAR1"


def counting(rows: int, instead: int) -> Callable[[bytes], bytes]:
    """Return a change of a footer that replaces each number `rows` by `instead`, as Thrift writes them."""
    old, new = varint(2 * rows), varint(2 * instead)
    assert len(old) == len(new)

    def change(footer: bytes) -> bytes:
        assert old in footer
        return footer.replace(old, new)

    return change


@pytest.mark.parametrize("compression", ["none", "snappy"])
@pytest.mark.parametrize("instead", [9001, 12345, 8500])
def test_a_footer_with_a_wrong_number_of_rows_is_noticed_and_no_row_is_missing_in_silence(
    instead: int, compression: str
) -> None:
    content = content_of(table(0, 9000), compression=compression, use_dictionary=False, store_schema=False)
    source = MemorySource(with_footer(content, counting(9000, instead)))
    rows = reader(source)
    if instead < 9000:
        # Fewer rows than there are: those that the footer counts are read, or the file is refused.
        try:
            assert len(list(rows.read(0, 1))) == instead
        except ManifestError as error:
            assert "damaged" in str(error)  # noqa: PT017 - either is right
        return
    with pytest.raises(ManifestError, match=r"list\.parquet is .*damaged"):
        list(rows.read(0, 1))


@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_a_changed_byte_of_a_footer_ends_in_rows_or_in_a_sentence(step: int) -> None:
    content = content_of(table(0, 60), row_group_size=20, compression="none")
    length = int.from_bytes(content[-8:-4], "little")
    for place in range(len(content) - 8 - length, len(content), step):
        for mask in (0x01, 0x80, 0xFF):
            changed = bytearray(content)
            changed[place] ^= mask
            try:
                rows = list(reader(MemorySource(bytes(changed))).read(0, 1))
            except EmbedderError:
                continue
            assert len(rows) == 60, (place, mask)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not a Parquet file"),
        (b"PAR1", "is not a Parquet file"),
        (b"PAR1\0\0\0\0PAR1", "is not a Parquet file"),
        (b"PAR1" + b"x" * 50 + (10**6).to_bytes(4, "little") + b"PAR1", "is not a Parquet file"),
        (b"PAR1" + b"x" * 50 + (46).to_bytes(4, "little") + b"PAR1", "is not a Parquet file"),
        (b"PARE" + b"x" * 50 + (20).to_bytes(4, "little") + b"PARE", "is encrypted; write it without"),
        (b"<html>" * 40_000, "is not a Parquet file"),
    ],
)
def test_a_file_that_is_no_parquet_is_told_in_one_sentence(content: bytes, said: str) -> None:
    with pytest.raises(ManifestError, match=rf"^list\.parquet {said}"):
        reader(MemorySource(content))


@pytest.mark.parametrize("place", ["schema", "row groups"])
def test_a_footer_that_announces_endless_lists_takes_little_memory(place: str) -> None:
    schema = b"\x19\x1c\x48\x01a\x15\x00\x00"
    endless = b"\x19\xfc" + varint(900_000)
    footer = b"\x15\x02" + (endless if place == "schema" else schema + b"\x16\x00" + endless) + bytes(100)
    before = peak_bytes()
    with pytest.raises(ManifestError, match=r"list\.parquet is not a Parquet file, or is damaged"):
        reader(MemorySource(b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1"))
    assert peak_bytes() - before < 50 << 20


def peak_bytes() -> int:
    with open("/proc/self/status", encoding="ascii") as status:  # noqa: PTH123 - no file of ours
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM"))


def test_a_footer_above_the_limit_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_file, "MAX_FOOTER_BYTES", 100)
    with pytest.raises(ManifestError, match=r"has a footer of [\d,]+ bytes, the limit is 100; write it with larger"):
        listed(table(0, 1))


def test_local_files_are_read_as_they_are(tmp_path: Path) -> None:
    sources = []
    for number in range(3):
        path = tmp_path / f"part-{number}.parquet"
        path.write_bytes(content_of(table(number * 5, 5)))
        sources.append(LocalSource(path))
    assert urls_of(list(reader(*sources).read(0, 1))) == [URL.format(row) for row in range(15)]
    os.truncate(tmp_path / "part-1.parquet", 100)
    with pytest.raises(SourceUnavailable, match="changed while it was read"):
        list(reader(*sources[:1], sources[1]).read(0, 1))


@pytest.mark.parametrize(
    ("column", "field", "url_column"),
    [("image", "url", ""), ("image", "src", ""), ("urls", "full", ""), ("meta", "address", "meta.address")],
)
def test_a_url_may_lie_in_a_struct(tmp_path: Path, column: str, field: str, url_column: str) -> None:
    structs = [{field: URL.format(number), "width": 3, "thumb": "https://h/t"} for number in range(9)]
    parquet.write_table(pa.table({column: structs, "id": list(range(9))}), tmp_path / "list.parquet", row_group_size=2)
    manifest = opened(tmp_path / "list.parquet", url_column=url_column)
    rows = [(URL.format(number), str(number), "", "", 0) for number in range(9)]
    assert everything(manifest, chunks=1) == everything(manifest, chunks=7) == rows


def test_a_struct_of_unknown_fields_is_refused_with_the_way_to_name_one(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"meta": [{"address": "https://h/1.jpg"}]}), tmp_path / "list.parquet")
    with pytest.raises(ManifestError, match=r"EMBEDDER_URL_COLUMN \(a field of a struct as in meta.address\)"):
        opened(tmp_path / "list.parquet")
