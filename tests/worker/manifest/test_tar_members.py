"""The members of a tar are found as the standard library finds them, whoever wrote it; damage is told."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.worker.manifest.tars import END, header, tar_of
from worker.manifest.tar.members import Damaged, Joined, Member, tar_members

if TYPE_CHECKING:
    from pathlib import Path

FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
PICTURE = b"picture" * 100


def members(content: bytes, *, size: int | None = None) -> list[Member | Damaged | Joined]:
    return list(tar_members(lambda start, length: content[start : start + length], size or len(content)))


def files(content: bytes) -> list[tuple[str, bytes]]:
    """Return the names and contents of all members, which must be files."""
    found = []
    for each in members(content):
        assert isinstance(each, Member)
        assert not each.problem
        found.append((each.name, content[each.first : each.first + each.size]))
    return found


def damage(content: bytes, *, size: int | None = None) -> Damaged:
    last = members(content, size=size)[-1]
    assert isinstance(last, Damaged)
    return last


names = st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=90).filter(
    lambda name: not name.endswith("/")
)


@pytest.mark.parametrize("format_", FORMATS, ids=["ustar", "gnu", "pax"])
@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(names, st.binary(max_size=2000)), max_size=8))
def test_any_files_are_found_as_tarfile_finds_them(format_: int, written: list[tuple[str, bytes]]) -> None:
    try:
        content = tar_of(written, format=format_)
    except ValueError:  # ustar cannot hold every name
        return
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        theirs = [(info.name, info.offset_data, info.size) for info in tar if info.isreg()]
    ours = [
        (each.name, each.first, each.size) for each in members(content) if isinstance(each, Member) and not each.problem
    ]
    assert ours == theirs


@pytest.mark.parametrize("name", ["n" * 100, "n" * 101, "d/" * 60 + "n" * 90, "d/" * 200 + "ü" * 200, "ü.jpg"])
def test_long_names_are_found_in_the_formats_that_have_them(name: str) -> None:
    for format_ in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        assert files(tar_of([(name, PICTURE), ("after.jpg", b"x")], format=format_)) == [
            (name, PICTURE),
            ("after.jpg", b"x"),
        ]


@pytest.mark.skipif(shutil.which("tar") is None, reason="no program tar")
@pytest.mark.parametrize("option", ["--format=v7", "--format=ustar", "--format=gnu", "--format=oldgnu", "--format=pax"])
def test_the_tars_of_gnu_tar_are_read(tmp_path: Path, option: str) -> None:
    folder = tmp_path / "photos"
    (folder / "a").mkdir(parents=True)
    written = {"./0.jpg": PICTURE, "./1.jpg": b"", "./a/2.jpg": PICTURE * 9}
    if option != "--format=v7":
        folder_of_long = "./a/" + "d" * 50
        (folder / folder_of_long).mkdir()
        written[f"{folder_of_long}/{'n' * 90}.jpg"] = b"long"
    for name, data in written.items():
        (folder / name).write_bytes(data)
    path = tmp_path / "a.tar"
    subprocess.run(["tar", option, "-C", folder, "-cf", path, "."], check=True)
    content = path.read_bytes()
    found = [each for each in members(content) if isinstance(each, Member)]
    assert {each.name: content[each.first :][: each.size] for each in found if not each.problem} == written
    assert {each.problem for each in found if each.problem} == {"a folder"}


@pytest.mark.skipif(shutil.which("tar") is None, reason="no program tar")
@pytest.mark.parametrize("option", ["--format=gnu", "--format=pax"])
def test_a_sparse_file_is_told_and_what_follows_is_found(tmp_path: Path, option: str) -> None:
    with (tmp_path / "sparse.jpg").open("wb") as file:
        for place in range(40):  # more pieces than a header has room for
            file.seek(place * 100_000)
            file.write(b"x" * 5000)
    (tmp_path / "z.jpg").write_bytes(PICTURE)
    path = tmp_path / "a.tar"
    subprocess.run(["tar", option, "-S", "-C", tmp_path, "-cf", path, "sparse.jpg", "z.jpg"], check=True)
    sparse, plain = members(content := path.read_bytes())
    assert isinstance(sparse, Member)
    assert isinstance(plain, Member)
    assert (sparse.name, sparse.problem) == ("sparse.jpg", "a sparse file")
    assert content[plain.first :][: plain.size] == PICTURE


def test_a_size_in_binary_and_one_in_a_pax_header_are_read() -> None:
    base256 = bytearray(header("a.jpg", len(PICTURE)))
    base256[124:136] = b"\x80" + len(PICTURE).to_bytes(11, "big")
    base256[148:156] = b" " * 8
    base256[148:156] = b"%06o\0 " % sum(base256)
    padded = PICTURE.ljust(1024, b"\0")
    assert files(bytes(base256) + padded + END) == [("a.jpg", PICTURE)]
    assert files(tar_of([("a.jpg", PICTURE)], pax_headers={"size": str(len(PICTURE))})) == [("a.jpg", PICTURE)]


def test_records_for_all_members_and_of_others_are_no_names() -> None:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", pax_headers={"comment": "c" * 2000}) as tar:
        tar.addfile(tarfile.TarInfo("ü.jpg"))
    found = tar_of([("a.jpg", PICTURE)], mtime=1.5)
    assert files(content.getvalue()) == [("ü.jpg", b"")]
    assert files(found) == [("a.jpg", PICTURE)]


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        (tarfile.LNKTYPE, "a hard link"),
        (tarfile.SYMTYPE, "a symbolic link"),
        (tarfile.CHRTYPE, "a character device"),
        (tarfile.BLKTYPE, "a block device"),
        (tarfile.FIFOTYPE, "a pipe"),
        (tarfile.DIRTYPE, "a folder"),
    ],
)
def test_what_is_no_file_is_told_and_has_no_bytes(kind: bytes, problem: str) -> None:
    content = header("a.jpg", 4096, kind=kind, link="../" * 30 + "etc/passwd") + tar_of([("b.jpg", PICTURE)])
    link, file = members(content)
    assert isinstance(link, Member)
    assert isinstance(file, Member)
    assert (link.name.rstrip("/"), link.size, link.problem) == ("a.jpg", 0, problem)
    assert content[file.first :][: file.size] == PICTURE


def test_a_member_of_a_terabyte_beyond_the_end_is_damage_behind_rows_that_are_right() -> None:
    content = tar_of([("a.jpg", PICTURE)])[: 512 + 1024] + header("b.jpg", 1 << 40) + bytes(5000)
    first, last = members(content)
    assert isinstance(first, Member)
    assert last == Damaged("b.jpg", 1536, f"it has {1 << 40} bytes, and the tar has 5000 more")


@pytest.mark.parametrize("cut", [1, 511, 512 + 5, 512 + 699])
def test_a_tar_that_is_cut_is_damaged_where_it_is_cut(cut: int) -> None:
    content = tar_of([("a.jpg", PICTURE), ("b.jpg", PICTURE)])
    second = 512 + 1024
    found = damage(content[: second + cut])
    assert found.header == second
    assert found.name == ("" if cut < 512 else "b.jpg")
    assert ("ends within a header" in found.problem) == (cut < 512)


def test_the_last_bytes_of_a_cut_tar_need_no_padding() -> None:
    content = tar_of([("a.jpg", PICTURE)])
    assert files(content[: 512 + len(PICTURE)]) == [("a.jpg", PICTURE)]


def test_a_wrong_check_sum_ends_the_tar() -> None:
    content = bytearray(tar_of([("a.jpg", PICTURE), ("b.jpg", PICTURE), ("c.jpg", PICTURE)]))
    content[1536] ^= 1
    assert damage(bytes(content)) == Damaged("", 1536, "its header has a wrong check sum")


def test_check_sums_of_signed_bytes_are_accepted() -> None:
    written = bytearray(header("ü.jpg"))
    total = sum(byte - 256 if byte > 127 else byte for byte in (*written[:148], *b" " * 8, *written[156:]))
    written[148:156] = b"%06o\0 " % total
    assert files(bytes(written) + END) == [("ü.jpg", b"")]


def test_tars_one_after_the_other_are_read_on_and_said() -> None:
    one, other = tar_of([("a.jpg", PICTURE)]), tar_of([("b.jpg", PICTURE)])
    first, joined, second = members(one + other)
    assert isinstance(first, Member)
    assert isinstance(second, Member)
    assert joined == Joined(len(one))
    assert (first.name, second.name) == ("a.jpg", "b.jpg")


def test_what_is_no_tar_behind_the_end_is_left_alone() -> None:
    content = tar_of([("a.jpg", PICTURE)])
    assert files(content + b"garbage" * 100) == [("a.jpg", PICTURE)]
    assert files(content + bytes(3 << 20)) == [("a.jpg", PICTURE)]
    assert members(bytes(10_240)) == []


@pytest.mark.parametrize(
    "bad",
    [
        header("L", 1 << 40, kind=tarfile.GNUTYPE_LONGNAME),
        header("L", 2 << 20, kind=tarfile.GNUTYPE_LONGNAME) + bytes(2 << 20),
        header("x", 10, kind=tarfile.XHDTYPE) + b"9999 path=".ljust(512, b"\0"),
        header("x", 9, kind=tarfile.XHDTYPE) + b"9 size=x\n".ljust(512, b"\0") + header("a.jpg"),
        header("x", 6, kind=tarfile.XHDTYPE) + b"-1 a=b".ljust(512, b"\0"),
        header("x", 6, kind=tarfile.XHDTYPE) + b"00 a=b".ljust(512, b"\0"),
        header("x", 0, kind=tarfile.XHDTYPE) * 20,
        header("S", 0, kind=tarfile.GNUTYPE_SPARSE)[:482] + b"\1" + bytes(29),
        b"\xff" * 512,
    ],
)
def test_headers_that_lie_are_damage(bad: bytes) -> None:
    assert damage(bad + b"\1" * 2048).header in {0, 512, 1024, 16 * 512}


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_no_damaged_byte_makes_the_reading_fail(data: st.DataObject) -> None:
    content = bytearray(
        tar_of([("a.jpg", b"x"), ("n" * 150, PICTURE), ("c.jpg", b"y")], format=tarfile.GNU_FORMAT)[:4096]
    )
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    for each in members(bytes(content)):
        if isinstance(each, Member):
            assert each.first + each.size <= len(content)
