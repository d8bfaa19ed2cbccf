"""How many rows a manifest has, its first rows, and a sample from all over it, without reading it whole."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest
from pyarrow import parquet

from worker.manifest.manifest import open_manifest
from worker.settings import HttpSettings, ManifestSettings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from worker.manifest.manifest import Manifest

SAMPLE = 20


def url(number: int) -> str:
    return f"https://example.com/{number}/{'x' * (number % 7)}.jpg"


def written(folder: Path, kind: str, count: int, *, row_group_size: int = 500) -> Manifest:
    path = folder / f"list.{kind}"
    urls = [url(number) for number in range(count)]
    if kind == "parquet":
        parquet.write_table(pa.table({"url": urls}), path, row_group_size=row_group_size)
    elif kind == "json":
        path.write_text(json.dumps(urls))
    elif kind == "jsonl":
        path.write_text("".join(f"{json.dumps({'url': each})}\n" for each in urls))
    else:
        head = {"csv": "url\n", "tsv": "url\n", "txt": ""}[kind]
        path.write_text(head + "".join(f"{each}\n" for each in urls))
    return open_manifest(ManifestSettings(manifest_uri=str(path)), http=HttpSettings())


def numbers(urls: Sequence[str]) -> list[int]:
    return [int(each.split("/")[3]) for each in urls]


KINDS = pytest.mark.parametrize("kind", ["csv", "tsv", "txt", "jsonl", "json", "parquet"])


@KINDS
@pytest.mark.parametrize("count", [1, 7, SAMPLE, SAMPLE + 1])
def test_a_small_manifest_is_counted_and_sampled_whole(tmp_path: Path, kind: str, count: int) -> None:
    manifest = written(tmp_path, kind, count)
    found = manifest.count_rows()
    assert found == (count, True)
    rows = numbers([row.url for row in manifest.sample(SAMPLE).rows])
    assert rows == sorted(set(rows))
    assert len(rows) == min(count, SAMPLE) or (count > SAMPLE and len(rows) >= SAMPLE - 2)
    assert numbers([row.url for row in manifest.first_rows(3, of=count).rows]) == list(range(min(count, 3)))


@KINDS
def test_a_larger_manifest_is_sampled_from_its_start_to_its_end(tmp_path: Path, kind: str) -> None:
    manifest = written(tmp_path, kind, 5_000)
    rows = numbers([row.url for row in manifest.sample(SAMPLE).rows])
    assert len(rows) == SAMPLE
    assert rows == sorted(set(rows))
    assert rows[0] < 250
    assert rows[-1] >= 4_000
    assert max(after - before for before, after in pairwise(rows)) <= 1_000
    assert numbers([row.url for row in manifest.first_rows(3, of=5_000).rows]) == [0, 1, 2]


@pytest.mark.parametrize("kind", ["csv", "txt", "jsonl"])
def test_the_rows_of_a_large_text_are_estimated(tmp_path: Path, kind: str) -> None:
    manifest = written(tmp_path, kind, 60_000)
    found = manifest.count_rows()
    assert not found.is_exact
    assert found.rows == pytest.approx(60_000, rel=0.03)


def test_a_parquet_file_of_one_row_group_is_sampled_at_its_start(tmp_path: Path) -> None:
    manifest = written(tmp_path, "parquet", 40_000, row_group_size=40_000)
    assert manifest.count_rows() == (40_000, True)
    rows = numbers([row.url for row in manifest.sample(SAMPLE).rows])
    assert len(rows) == SAMPLE
    assert rows[-1] < 8192


def test_rows_that_cannot_be_used_are_part_of_the_sample(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("url,id\n" + "".join(f"{url(number)},{number}\n" for number in range(5)) + "broken\n")
    sample = open_manifest(ManifestSettings(manifest_uri=str(path)), http=HttpSettings()).sample(SAMPLE)
    assert (len(sample.rows), [failure.row for failure in sample.failures]) == (5, [5])
