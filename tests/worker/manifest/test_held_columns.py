"""Images that lie in a column of Parquet files: which column it is, what the rows are called, and what is read."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from common.errors import EmbedderError, ManifestError, SourceUnavailable
from common.format.reasons import Reason
from tests.worker.held_pictures import jpeg, struct_table
from tests.worker.manifest.manifests import everything, opened
from tests.worker.manifest.test_parquet_files import MemorySource, content_of, reader
from worker.manifest.columns import Columns, resolve_sources
from worker.rows import ImageFailed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from worker.manifest.manifest import Manifest
    from worker.manifest.parquet.rows import ParquetRows

PICTURE = jpeg(100)


def columns_of(table: pa.Table, **changes: Any) -> Columns:  # noqa: ANN401 - any setting
    return reader(MemorySource(content_of(table)), **changes).columns


def images_of(rows: ParquetRows, cells: Sequence[int], *, max_bytes: int = 1 << 20) -> list[bytes | Reason]:
    found = rows.images(cells, max_bytes=max_bytes)
    return [image.reason if isinstance(image, ImageFailed) else bytes(image) for image in found]


def manifest_of(path: Path, table: pa.Table, **changes: Any) -> Manifest:  # noqa: ANN401 - any setting
    path.write_bytes(content_of(table))
    return opened(path, **changes)


def struct(**fields: pa.DataType) -> pa.DataType:
    return pa.struct(list(fields.items()))


BYTES_AND_PATH = struct(bytes=pa.binary(), path=pa.string())

TABLES: dict[str, tuple[pa.Table, tuple[str, str | None, tuple[str, ...]]]] = {
    "Hugging Face": (struct_table([PICTURE], ["a.jpg"]), ("image.path", "image.bytes", ("bytes", "url"))),
    "Hugging Face's struct without bytes": (
        pa.table({"image": pa.array([{"bytes": None, "path": "a.jpg"}])}),
        ("image.path", "image.bytes", ("bytes", "url")),
    ),
    "a struct of an unusual name": (
        pa.table({"scan": pa.array([{"path": "a", "bytes": PICTURE}], BYTES_AND_PATH)}),
        ("scan.path", "scan.bytes", ("bytes", "url")),
    ),
    "a struct of sound": (
        pa.table({"audio": pa.array([{"bytes": b"RIFF1234WAVE", "path": "a"}], BYTES_AND_PATH), "url": ["u"]}),
        ("url", None, ("url",)),
    ),
    "sound beside images": (
        pa.table(
            {
                "audio": pa.array([{"bytes": b"RIFF1234WAVE", "path": "a"}], BYTES_AND_PATH),
                "image": pa.array([{"bytes": PICTURE, "path": "a"}], BYTES_AND_PATH),
            }
        ),
        ("image.path", "image.bytes", ("bytes", "url")),
    ),
    "img2dataset": (
        pa.table({"key": ["0"], "url": ["https://a.example/b.jpg"], "jpg": [PICTURE], "sha256": ["ab"]}),
        ("url", "jpg", ("bytes", "url")),
    ),
    "Spark's binaryFile": (
        pa.table({"path": ["dbfs:/a.jpg"], "length": [3], "content": [PICTURE]}),
        ("path", "content", ("bytes", "url")),
    ),
    "bytes alone": (pa.table({"Image": [PICTURE], "label": [3]}), ("Image", "Image", ("bytes",))),
    "bytes of any name": (pa.table({"x": [PICTURE], "y": [b"text"]}), ("x", "x", ("bytes",))),
    "large bytes": (pa.table({"png": pa.array([PICTURE], pa.large_binary())}), ("png", "png", ("bytes",))),
    "a view": (pa.table({"png": pa.array([PICTURE], pa.binary_view())}), ("png", "png", ("bytes",))),
    "a dictionary": (pa.table({"png": pa.array([PICTURE]).dictionary_encode()}), ("png", "png", ("bytes",))),
    "a list of numbers": (
        pa.table({"image": pa.array([np.frombuffer(PICTURE, np.uint8)])}),
        ("image", "image", ("bytes",)),
    ),
    "text as bytes": (
        pa.table({"url": [b"https://a.example/b.jpg"], "content": [b"<html>\n"], "data": [b"\0\1"]}),
        ("url", None, ("url",)),
    ),
    "text": (pa.table({"url": ["u"], "image": ["a.jpg"]}), ("url", None, ("url",))),
    "LAION": (
        pa.table({"SAMPLE_ID": [1.0], "URL": ["u"], "TEXT": ["t"], "NSFW": [None], "similarity": [0.3]}),
        ("URL", None, ("url",)),
    ),
    "COYO": (
        pa.table({"id": [1], "url": ["u"], "text": ["t"], "image_phash": ["a"], "clip_similarity_vitb32": [0.2]}),
        ("url", None, ("url",)),
    ),
}


@pytest.mark.parametrize("case", TABLES)
def test_the_column_with_the_images_is_found(case: str) -> None:
    table, (url, image, sources) = TABLES[case]
    rows = reader(MemorySource(content_of(table)))
    assert (rows.columns.url, rows.columns.image) == (url, image)
    assert resolve_sources("auto", rows.columns, name="list") == sources
    if image is not None and "without" not in case:
        assert images_of(rows, [0]) == [PICTURE]


def test_a_setting_names_the_column_with_the_images() -> None:
    table = pa.table({"image": [PICTURE], "other": [b"second"], "label": [3], "list": [[1]]})
    assert columns_of(table, image_column="Other").image == "other"
    with pytest.raises(ManifestError, match=r"has no column 'scan', its columns are image, other, label, list"):
        columns_of(table, image_column="scan")
    with pytest.raises(ManifestError, match=r"the column label is int64, expected bytes or a struct of bytes and path"):
        columns_of(table, image_column="label")


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"x": [b"no picture"], "label": [1]}),
        pa.table({"images": [[{"bytes": PICTURE, "path": "a"}]], "label": [1]}),
    ],
)
def test_a_list_without_urls_and_known_images_says_how_to_name_either(table: pa.Table) -> None:
    said = (
        r"name the column with the URLs in EMBEDDER_URL_COLUMN, or the column with the images in EMBEDDER_IMAGE_COLUMN$"
    )
    with pytest.raises(ManifestError, match=said):
        columns_of(table)
    with pytest.raises(ManifestError, match=r"EMBEDDER_URL_COLUMN$"):
        columns_of(pa.table({"label": [1]}))


def test_sources_that_a_setting_names_must_be_there() -> None:
    held, plain = Columns("png", image="png"), Columns("url")
    assert resolve_sources("bytes", held, name="list") == ("bytes",)
    with pytest.raises(ManifestError, match="no column with URLs, which url needs; set EMBEDDER_SOURCES to bytes"):
        resolve_sources("bytes,url", held, name="list")
    with pytest.raises(ManifestError, match="no column with images, which the source bytes needs; name it in EMBEDDER"):
        resolve_sources("url,bytes", plain, name="list")


def test_without_the_source_bytes_the_images_are_left_alone(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path / "held.parquet", struct_table([PICTURE], ["a.jpg"]), sources="url")
    chunk = manifest.read_chunk(0, 1)
    assert [row.url for row in chunk.rows] == ["a.jpg"]
    assert chunk.held is None
    assert manifest.columns == Columns("image.path")


def test_rows_are_named_by_url_or_path_and_else_by_file_and_number(tmp_path: Path) -> None:
    paths = ["a.jpg", None, "", "  ", "con\ntrol", "x" * 3000, "https://a.example/b.jpg"]
    manifest = manifest_of(tmp_path / "held.parquet", struct_table([PICTURE] * len(paths), paths))
    chunk = manifest.read_chunk(0, 1)
    assert not chunk.failures
    assert [(row.url, row.is_named) for row in chunk.rows] == [
        ("a.jpg", False),
        *((f"held.parquet#{row}", True) for row in range(1, 6)),
        ("https://a.example/b.jpg", False),
    ]
    assert next(row.url for row in manifest.read_chunk(1, 2).rows) == "held.parquet#3"


@pytest.mark.parametrize("pattern", ["", "**/*.parquet"])
def test_a_folder_of_parts_is_one_list_whose_rows_are_named_by_their_parts(tmp_path: Path, pattern: str) -> None:
    for split in ("test", "train"):
        (tmp_path / split).mkdir()
        for part in range(2):
            table = struct_table([PICTURE] * 3, [None, f"{split}-{part}.jpg", ""])
            (tmp_path / split / f"part-{part}.parquet").write_bytes(content_of(table, row_group_size=2))
        (tmp_path / split / "_SUCCESS").touch()
    manifest = opened(f"{tmp_path}/{pattern}")
    whole = everything(manifest, chunks=1)
    assert [found[0] for found in whole] == [
        name
        for split in ("test", "train")
        for part in range(2)
        for name in (f"{split}/part-{part}.parquet#0", f"{split}-{part}.jpg", f"{split}/part-{part}.parquet#2")
    ]
    assert everything(manifest, chunks=7) == whole
    images = []
    for index in range(7):
        chunk = manifest.read_chunk(index, 7)
        if chunk.held is not None:
            images += [bytes(image) for _, image in chunk.held(1 << 20) if not isinstance(image, ImageFailed)]
    assert images == [PICTURE] * 12


def test_a_bad_id_or_rotation_is_a_row_of_the_ledger_and_its_image_is_not_read(tmp_path: Path) -> None:
    table = pa.table({"image": [PICTURE, b"second", b"third"], "Rotation": [0.0, 45.0, 90.0]})
    chunk = manifest_of(tmp_path / "held.parquet", table).read_chunk(0, 1)
    assert [failure.row for failure in chunk.failures] == [1]
    assert chunk.held is not None
    assert [(position, bytes(image)) for position, image in chunk.held(100_000)] == [(0, PICTURE), (2, b"third")]  # type: ignore[arg-type]


def test_cells_without_bytes_and_too_large_ones_fail_alone() -> None:
    table = struct_table([b"one", None, b"", b"x" * 101, b"five"], ["a"] * 5)
    rows = reader(MemorySource(content_of(table)))
    assert images_of(rows, range(5), max_bytes=100) == [
        *(b"one", Reason.NO_SOURCE, Reason.NO_SOURCE, Reason.TOO_LARGE, b"five")
    ]
    nothing = pa.table({"image": pa.array([None, {"bytes": b"b", "path": None}], BYTES_AND_PATH)})
    assert images_of(reader(MemorySource(content_of(nothing))), [0, 1]) == [Reason.NO_SOURCE, b"b"]


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any),
    group_rows=st.integers(1, 5),
    count=st.integers(1, 12),
    compression=st.sampled_from(["none", "snappy", "zstd"]),
)
def test_the_chunks_of_several_files_hold_each_image_once_and_in_order(
    sizes: list[int], group_rows: int, count: int, compression: str
) -> None:
    total = sum(sizes)
    pictures = [b"%d " % row * (row % 5) + PICTURE for row in range(total)]
    starts = [sum(sizes[:place]) for place in range(len(sizes))]
    sources = [
        MemorySource(
            content_of(
                struct_table(pictures[start : start + size], [None] * size),
                row_group_size=group_rows,
                compression=compression,
            ),
            f"{place}.parquet",
        )
        for place, (start, size) in enumerate(zip(starts, sizes, strict=True))
    ]
    rows = reader(*sources)
    found, names = [], []
    for index in range(count):
        part = list(rows.read(index, count))
        cells = [row.cell for row in part if row.cell is not None]  # type: ignore[union-attr]
        names += [row.name for row in part]  # type: ignore[union-attr]
        found += images_of(rows, cells)
    assert found == pictures
    assert names == [f"{place}.parquet#{row}" for place, size in enumerate(sizes) for row in range(size)]
    some = sorted({row.cell for row in rows.spread(7)})  # type: ignore[type-var]
    assert images_of(rows, some) == [pictures[cell] for cell in some]  # type: ignore[index, arg-type]


def image_groups(source: MemorySource) -> list[tuple[int, int]]:
    """Return where the images of each row group lie."""
    metadata = parquet.ParquetFile(io.BytesIO(source.content)).metadata
    columns = [metadata.row_group(group).column(0) for group in range(metadata.num_row_groups)]
    return [(each.data_page_offset, each.data_page_offset + each.total_compressed_size) for each in columns]


def random_pictures(count: int, size: int) -> list[bytes]:
    generator = np.random.default_rng(0)
    return [b"\xff\xd8\xff" + generator.bytes(size) for _ in range(count)]


def test_rows_are_read_without_their_images_and_images_only_of_the_chunks_own_row_groups_once() -> None:
    pictures = random_pictures(70, 100_000)
    table = struct_table(pictures, [f"{row}.jpg" for row in range(70)])
    source = MemorySource(content_of(table, row_group_size=10, use_dictionary=False))
    rows = reader(source)
    source.reads.clear()
    cells = [row.cell for row in rows.read(2, 7)]  # type: ignore[union-attr]
    assert cells == list(range(20, 30))
    assert source.bytes_read < 10_000
    source.reads.clear()
    assert images_of(rows, cells) == pictures[20:30]
    start, end = image_groups(source)[2]
    assert sum(length for _, length in source.reads) == end - start
    assert all(start <= first and first + length <= end for first, length in source.reads)


def test_a_row_group_is_not_held_in_memory() -> None:
    """A row group of 80 MB, in pages of 4 MB: what pyarrow and the reading ahead hold is a fraction of it."""
    pictures = random_pictures(800, 100_000)
    file = io.BytesIO()
    writer = parquet.ParquetWriter(
        file,
        pa.schema([("image", pa.binary())]),
        use_dictionary=False,
        compression="none",
        data_page_size=4 << 20,
        write_batch_size=10,
    )
    writer.write_table(pa.table({"image": pictures}), row_group_size=len(pictures))
    writer.close()
    source = MemorySource(file.getvalue())
    rows = reader(source)
    source.reads.clear()
    pool, held, ahead, given_bytes = pa.default_memory_pool(), 0, 0, 0
    for image in rows.images(range(len(pictures)), max_bytes=1 << 20):
        assert not isinstance(image, ImageFailed)
        given_bytes += len(image)
        held = max(held, pool.bytes_allocated())
        ahead = max(ahead, source.bytes_read - given_bytes)
    assert held < 20 << 20
    assert ahead < 40 << 20


def test_images_are_read_ahead_by_several_requests_at_the_same_time() -> None:
    pictures = random_pictures(200, 100_000)
    source = MemorySource(content_of(pa.table({"image": pictures}), row_group_size=20), seconds=0.02)
    assert images_of(reader(source), range(200)) == pictures
    assert source.most_at_once > 1


# Files that lie


@pytest.mark.parametrize("step", [11, pytest.param(1, marks=pytest.mark.slow)])
def test_a_changed_byte_of_the_footer_ends_in_images_or_in_a_sentence(step: int) -> None:
    pictures = [PICTURE] * 12
    content = content_of(struct_table(pictures, ["a"] * 12), row_group_size=6, compression="gzip")
    length = int.from_bytes(content[-8:-4], "little")
    for place in range(len(content) - 8 - length, len(content) - 8, step):
        changed = bytearray(content)
        changed[place] ^= 0x21
        try:
            rows = reader(MemorySource(bytes(changed)))
            if rows.columns.image is None:
                continue
            cells = [row.cell for row in rows.read(0, 1)]  # type: ignore[union-attr]
            found = images_of(rows, cells)  # type: ignore[arg-type]
        except EmbedderError:
            continue
        assert len(found) == 12, place


def test_a_damaged_page_ends_the_chunk_and_a_lost_source_may_pass() -> None:
    source = MemorySource(content_of(struct_table([PICTURE] * 30, [None] * 30), row_group_size=10, compression="zstd"))
    rows = reader(source)
    start, _ = image_groups(source)[1]
    source.content = source.content[: start + 20] + bytes(60) + source.content[start + 80 :]
    assert images_of(rows, range(10)) == [PICTURE] * 10
    with pytest.raises(ManifestError, match=r"list\.parquet is not a Parquet file, or is damaged"):
        images_of(rows, range(30))

    source.error = SourceUnavailable("no answer")
    with pytest.raises(SourceUnavailable, match="no answer"):
        images_of(rows, range(30))


def test_a_file_with_encrypted_columns_is_refused(tmp_path: Path) -> None:
    encryption = pytest.importorskip("pyarrow.parquet.encryption")

    class Keys(encryption.KmsClient):  # type: ignore[name-defined, misc]
        def __init__(self, _: object) -> None:
            super().__init__()

        def wrap_key(self, key: bytes, _: str) -> bytes:
            return key.hex().encode()

        def unwrap_key(self, wrapped: bytes, _: str) -> bytes:
            return bytes.fromhex(wrapped.decode())

    for plaintext_footer in (True, False):
        config = encryption.EncryptionConfiguration(
            footer_key="footer", column_keys={"image": ["image"]}, plaintext_footer=plaintext_footer
        )
        properties = encryption.CryptoFactory(Keys).file_encryption_properties(encryption.KmsConnectionConfig(), config)
        path = tmp_path / "list.parquet"
        parquet.write_table(pa.table({"image": [PICTURE]}), path, encryption_properties=properties)
        source = MemorySource(path.read_bytes())
        with pytest.raises(ManifestError, match=r"list\.parquet is "):
            images_of(reader(source), [0])


def test_the_shard_that_webdataset_notes_is_not_the_url_of_its_images(tmp_path: Path) -> None:
    pictures = pa.array([{"bytes": jpeg(number), "path": f"{number}.jpg"} for number in range(2)])
    table = pa.table({"jpg": pictures, "__key__": ["a", "b"], "__url__": ["hf://x/0.tar", "hf://x/0.tar"]})
    assert everything(manifest_of(tmp_path / "list.parquet", table), chunks=1) == [
        ("0.jpg", "a", "", "", 0),
        ("1.jpg", "b", "", "", 0),
    ]
