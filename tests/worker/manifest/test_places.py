"""What EMBEDDER_MANIFEST_URI may name on this machine: a folder, a pattern, braces, several files."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import ManifestError, SourceUnavailable, StoreAccessDenied
from common.format.reasons import Reason
from tests.worker.manifest.manifests import everything, opened, rows_of, settings_for, written
from worker.manifest.manifest import open_manifest

if TYPE_CHECKING:
    from collections.abc import Iterable

fixtures_once = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def filled(folder: Path, paths: Iterable[str], content: bytes = b"picture") -> Path:
    """Write a file at each of the paths below the folder."""
    for path in paths:
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return folder


def urls_of(uri: str | Path, **changes: object) -> list[str]:
    return [row.url for row in rows_of(opened(uri, **changes))]


def listed(folder: Path, name: str, *urls: str) -> Path:
    """Write a CSV list of these URLs."""
    folder.mkdir(parents=True, exist_ok=True)
    return written(folder / name, "\n".join(["url", *urls, ""]).encode())


def test_each_picture_of_a_folder_is_a_row_in_the_order_of_its_path(tmp_path: Path) -> None:
    filled(tmp_path, ["b.jpg", "a/z.JPEG", "a/b/c.png", "a-1.webp", "notes.md", "c.heic", "d.jp2"])
    rows = rows_of(opened(tmp_path))
    assert [row.url for row in rows] == ["a-1.webp", "a/b/c.png", "a/z.JPEG", "b.jpg", "c.heic", "d.jp2"]
    assert [row.id for row in rows] == ["a-1", "c", "z", "b", "c", "d"]


@pytest.mark.parametrize("form", ["{}", "{}/", "{}/*", "{}/**", "{}/**/*.jpg", "file://{}", "{}/./"])
def test_a_folder_may_be_written_in_many_ways(form: str, tmp_path: Path) -> None:
    filled(tmp_path / "my photos", ["a.jpg", "b.jpg"])
    assert urls_of(form.format(tmp_path / "my photos")) == ["a.jpg", "b.jpg"]


def test_a_folder_may_be_relative_or_below_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path / "holiday 2024", ["a.jpg", "b/c.jpg"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for uri in ("holiday 2024", "./holiday 2024/", "~/holiday 2024", "../" + tmp_path.name + "/holiday 2024/*", "*"):
        assert [url.removeprefix("holiday 2024/") for url in urls_of(uri)][:1] == ["a.jpg"]
    assert urls_of("holiday 2024") == ["a.jpg", "b/c.jpg"]


def test_names_that_begin_with_a_dot_or_an_underscore_are_no_parts(tmp_path: Path) -> None:
    filled(tmp_path, ["a.jpg", ".b.jpg", "_c.jpg", ".thumbs/d.jpg", "_old/e.jpg", "f/_g.jpg", "f/h.jpg"])
    assert urls_of(tmp_path) == ["a.jpg", "f/h.jpg"]
    assert urls_of(f"{tmp_path}/**/*.jpg") == ["a.jpg", "f/h.jpg"]
    assert urls_of(f"{tmp_path}/_*.jpg") == ["_c.jpg"]
    assert urls_of(f"{tmp_path}/_old") == ["e.jpg"]


def test_a_folder_of_lists_is_one_list_in_the_order_of_the_names(tmp_path: Path) -> None:
    listed(tmp_path / "list", "part-00001.csv", "https://h/3.jpg")
    listed(tmp_path / "list", "part-00000.csv", "https://h/1.jpg")
    written(tmp_path / "list" / "_SUCCESS", b"")
    written(tmp_path / "list" / ".part-00000.csv.crc", b"crc")
    manifest = opened(tmp_path / "list")
    assert (manifest.format, manifest.file_count) == ("csv", 2)
    assert manifest.folder == tmp_path / "list"


def test_tar_shards_come_before_pictures_and_pictures_before_lists(tmp_path: Path) -> None:
    filled(tmp_path, ["00000/a.jpg", "00000/a.txt", "00000/a.json", "00000.parquet", "00000_stats.json"])
    assert urls_of(tmp_path) == ["00000/a.jpg"]
    filled(tmp_path, ["00001.tar"])
    with pytest.raises(ManifestError):
        opened(tmp_path, manifest_format="parquet")
    assert urls_of(tmp_path, manifest_format="images") == ["00000/a.jpg"]


def test_lists_of_several_formats_are_refused_and_one_may_be_chosen(tmp_path: Path) -> None:
    listed(tmp_path, "metadata.csv", "https://h/1.jpg")
    written(tmp_path / "metadata.jsonl", b'{"url": "https://h/2.jpg"}\n')
    with pytest.raises(ManifestError, match=r"1 of csv, 1 of jsonl.*EMBEDDER_MANIFEST_FORMAT"):
        opened(tmp_path)
    assert urls_of(tmp_path, manifest_format="csv") == ["https://h/1.jpg"]
    assert urls_of(tmp_path, manifest_format="jsonl") == ["https://h/2.jpg"]


def test_the_descriptions_beside_lists_are_no_lists(tmp_path: Path) -> None:
    listed(tmp_path, "train.csv", "https://h/1.jpg")
    filled(tmp_path, ["README.md", "LICENSE.txt", "readme.txt", "dataset_infos.json", "00000_stats.json"])
    assert urls_of(tmp_path) == ["https://h/1.jpg"]


def test_a_number_after_the_ending_is_the_number_of_a_part(tmp_path: Path) -> None:
    for number in range(2):
        written(tmp_path / f"photos.tsv00{number}", f"url\tx\nhttps://h/{number}.jpg\t1\n".encode())
    manifest = opened(tmp_path)
    assert (manifest.format, manifest.file_count) == ("tsv", 2)


def test_parts_without_an_ending_need_the_format(tmp_path: Path) -> None:
    listed(tmp_path, "part-00000", "https://h/1.jpg")
    written(tmp_path / "part-00000.crc", b"crc")
    with pytest.raises(ManifestError, match=r"1 without an ending.*EMBEDDER_MANIFEST_FORMAT"):
        opened(tmp_path)
    assert urls_of(tmp_path, manifest_format="csv") == ["https://h/1.jpg"]


def test_empty_parts_are_left_out(tmp_path: Path) -> None:
    written(tmp_path / "part-00000.csv", b"")
    listed(tmp_path, "part-00001.csv", "https://h/1.jpg")
    assert urls_of(tmp_path) == ["https://h/1.jpg"]
    written(tmp_path / "part-00001.csv", b"")
    with pytest.raises(ManifestError, match=r"part-00000\.csv is empty"):
        opened(tmp_path)


def test_compressed_parts_are_refused_as_a_compressed_file_is(tmp_path: Path) -> None:
    written(tmp_path / "part-00000.csv.gz", b"\x1f\x8b")
    with pytest.raises(ManifestError, match=r"part-00000\.csv\.gz is compressed"):
        opened(tmp_path)


def test_what_is_skipped_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    filled(tmp_path, ["a.jpg", "b.jpg", "a.txt", "b.txt", "c.MOV", "Makefile"])
    opened(tmp_path)
    said = capsys.readouterr().out
    assert said.count("manifest_files") == 1
    assert "2 .txt, 1 without an ending, 1 .mov" in said


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("", "skipped='1 .txt, 4 whose names begin with . or _'"),
        ("/*.jpg", "skipped='1 whose name begins with . or _'"),
        ("/_thumbs/*.jpg", None),
    ],
)
def test_pictures_that_their_names_hide_are_counted(
    place: str, said: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled(tmp_path, ["a.jpg", "_b.jpg", "notes.txt", ".DS_Store", "_thumbs/a.jpg", "_thumbs/b.jpg", "c/.d/a.jpg"])
    opened(f"{tmp_path}{place}")
    logged = capsys.readouterr().out
    assert (said in logged) if said else ("skipped" not in logged)


@pytest.mark.parametrize("place", ["", "/*.jpg", "/nothing*"])
def test_a_place_with_nothing_usable_ends_in_a_sentence_that_says_what_was_found(place: str, tmp_path: Path) -> None:
    filled(tmp_path, ["clip.mov", "_SUCCESS"])
    found = "nothing was found" if place else r"its files are 1 \.mov"
    with pytest.raises(ManifestError, match=f"has no pictures, no lists of images and no tar shards.*{found}"):
        opened(f"{tmp_path}{place}")


def test_files_that_the_run_is_writing_are_not_counted_as_hidden(tmp_path: Path) -> None:
    filled(tmp_path, ["a.jpg", ".b.jpg", "out/chunks/.Images_Embedded_0.h5.1f2e3d4c.part"])
    configured = settings_for(tmp_path)
    manifest = open_manifest(configured.manifest, http=configured.http, run_uri=f"{tmp_path}/out")
    assert manifest.skipped == "1 whose name begins with . or _"


def test_a_name_with_commas_braces_or_brackets_is_one_file(tmp_path: Path) -> None:
    for name in ("a,b.csv", "c[1].csv", "{d,e}.csv", "f*.csv", "g?.csv"):
        listed(tmp_path, name, f"https://h/{name[0]}.jpg")
        assert urls_of(tmp_path / name) == [f"https://h/{name[0]}.jpg"]
    filled(tmp_path / "Paris, France {2024}", ["a.jpg", "b.png"])
    assert urls_of(tmp_path / "Paris, France {2024}") == ["a.jpg", "b.png"]
    assert urls_of(f"{tmp_path}/Paris, France {{2024}}/*.jpg") == ["a.jpg"]


def test_commas_braces_and_patterns_may_be_mixed(tmp_path: Path) -> None:
    filled(tmp_path, [f"{folder}/{number:02}.jpg" for folder in ("a", "b", "c") for number in range(12)])
    assert urls_of(f"{tmp_path}/{{b,a}}/{{09..11}}.jpg, {tmp_path}/c/0[0-1].jpg,") == [
        *("a/09.jpg", "a/10.jpg", "a/11.jpg", "b/09.jpg", "b/10.jpg", "b/11.jpg", "c/00.jpg", "c/01.jpg")
    ]


def test_a_file_that_is_named_twice_counts_once(tmp_path: Path) -> None:
    filled(tmp_path, ["a.jpg", "b/c.jpg"])
    (tmp_path / "linked").symlink_to(tmp_path / "b")
    assert urls_of(f"{tmp_path},{tmp_path}/a.jpg,{tmp_path}/b/") == ["a.jpg", "b/c.jpg", "linked/c.jpg"]


def test_a_missing_file_of_several_ends_in_a_sentence(tmp_path: Path) -> None:
    listed(tmp_path, "00000.csv", "https://h/1.jpg")
    with pytest.raises(ManifestError, match=r"00001\.csv does not exist"):
        opened(f"{tmp_path}/{{00000..00002}}.csv")


def test_files_of_two_formats_cannot_be_one_manifest(tmp_path: Path) -> None:
    listed(tmp_path, "a.csv", "https://h/1.jpg")
    filled(tmp_path, ["b.jpg"])
    with pytest.raises(ManifestError, match=r"a\.csv is csv and other files of the manifest are images"):
        opened(f"{tmp_path}/a.csv,{tmp_path}/b.jpg")


def test_several_files_with_ids_beside_them_are_refused(tmp_path: Path) -> None:
    filled(tmp_path, ["a.json", "b.json", "ids.json"], b'["https://h/1.jpg"]')
    with pytest.raises(ManifestError, match=r"EMBEDDER_IDS_URI goes with .*manifest is 2 files"):
        opened(f"{tmp_path}/a.json,{tmp_path}/b.json", ids_uri=str(tmp_path / "ids.json"))


def test_a_manifest_may_have_fewer_files_than_chunks(tmp_path: Path) -> None:
    filled(tmp_path, ["a.jpg", "b.jpg"])
    manifest = opened(tmp_path)
    assert [len(manifest.read_chunk(index, 5).rows) for index in range(5)] == [0, 0, 1, 0, 1]


def test_too_many_files_are_refused_before_all_are_listed(tmp_path: Path) -> None:
    filled(tmp_path, [f"{number}.jpg" for number in range(30)])
    assert len(urls_of(tmp_path, max_listed_files=30)) == 30
    for uri in (str(tmp_path), f"{tmp_path}/*.jpg", f"{tmp_path}/{{0..29}}.jpg"):
        with pytest.raises(ManifestError, match=r"more than 29 files.*EMBEDDER_MAX_LISTED_FILES.*embedder list"):
            opened(uri, max_listed_files=29)
    spaced = tmp_path / "my photos"
    filled(spaced, [f"{number}.jpg" for number in range(30)])
    with pytest.raises(ManifestError, match=re.escape(f"`embedder list '{spaced}/' list.parquet`")):
        opened(spaced, max_listed_files=29)


def test_the_bound_holds_for_all_places_together(tmp_path: Path) -> None:
    filled(tmp_path, [f"{folder}/{number}.jpg" for folder in ("a", "b") for number in range(6)])
    with pytest.raises(ManifestError, match="more than 11 files"):
        opened(f"{tmp_path}/{{a,b}}/", max_listed_files=11)


@pytest.mark.parametrize("braces", ["{0..999999999999}", "{a..z}{0..99999}{0..99999}", "{a,b}" * 40])
def test_braces_that_stand_for_too_many_files_are_refused_at_once(braces: str) -> None:
    with pytest.raises(ManifestError, match="more than 100,000 files"):
        opened(f"https://photos.example/{braces}.tar")


def test_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    filled(tmp_path, ["a/b/c.jpg"])
    (tmp_path / "a/b/again").symlink_to(tmp_path / "a")
    with pytest.raises(ManifestError, match=r"a/b/again.* is a link to a folder that it lies in"):
        opened(tmp_path)


def test_links_to_files_and_folders_are_followed(tmp_path: Path) -> None:
    filled(tmp_path / "elsewhere", ["a.jpg", "b/c.jpg"])
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/d.jpg").symlink_to(tmp_path / "elsewhere/a.jpg")
    (tmp_path / "photos/e").symlink_to(tmp_path / "elsewhere/b")
    (tmp_path / "photos/self.jpg").symlink_to(tmp_path / "photos/self.jpg")
    (tmp_path / "photos/gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    os.mkfifo(tmp_path / "photos/pipe.jpg")
    assert urls_of(tmp_path / "photos") == ["d.jpg", "e/c.jpg", "gone.jpg", "self.jpg"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_may_not_be_read_ends_in_a_sentence(tmp_path: Path) -> None:
    filled(tmp_path, ["a.jpg", "private/b.jpg"])
    (tmp_path / "private").chmod(0)
    with pytest.raises(StoreAccessDenied, match=r"private/ cannot be listed"):
        opened(tmp_path)
    (tmp_path / "private").chmod(0o700)


def test_odd_names_are_rows_or_failures_and_never_an_end(tmp_path: Path) -> None:
    names = ["with space.jpg", " leading.jpg", "a#b?c%20d&amp;.jpg", "http:x.jpg", "www.h.example.jpg", "漢字.jpg"]
    filled(tmp_path, [*names, "line\nbreak.jpg", "back\\slash.jpg"])
    written(tmp_path / "empty.jpg", b"")
    with open(os.fsencode(tmp_path) + b"/caf\xe9.jpg", "wb") as file:  # noqa: PTH123 - a name that is not UTF-8
        file.write(b"picture")
    chunk = opened(tmp_path).read_chunk(0, 1)
    urls = {row.url for row in chunk.rows}
    assert {name.strip() for name in names} < urls
    assert len(chunk.rows) + len(chunk.failures) == 10
    assert [failure.reason for failure in chunk.failures] == [Reason.MALFORMED_ROW]
    by_url = {row.url: row.held for row in chunk.rows}
    held = by_url["leading.jpg"]
    assert held is not None
    assert Path(held.uri).name == " leading.jpg"
    assert "empty.jpg" in urls


def test_the_results_of_a_run_inside_the_folder_are_no_part_of_it(tmp_path: Path) -> None:
    listed(tmp_path, "a.csv", "https://h/1.jpg")
    before = opened(tmp_path).identity
    filled(tmp_path / "out", ["failures.csv", "summary.json", "report.html", "chunks/failures_0.csv"])
    configured = settings_for(tmp_path)
    for run_uri in (str(tmp_path / "out"), f"{tmp_path}/out/", f"{tmp_path}/../{tmp_path.name}/out"):
        manifest = open_manifest(configured.manifest, http=configured.http, run_uri=run_uri)
        assert (manifest.identity, manifest.file_count) == (before, 1)


def test_a_run_in_the_folder_itself_is_no_part_of_it(tmp_path: Path) -> None:
    filled(tmp_path, ["a.jpg", "chunks/x.jpg", "report.png"])
    configured = settings_for(tmp_path)
    manifest = open_manifest(configured.manifest, http=configured.http, run_uri=str(tmp_path))
    assert [row.url for row in rows_of(manifest)] == ["a.jpg"]


def test_the_identity_changes_with_names_sizes_and_contents_and_not_with_the_times(tmp_path: Path) -> None:
    filled(tmp_path / "photos", ["a.jpg", "b.jpg"])
    first = opened(tmp_path / "photos").identity
    shutil.copytree(tmp_path / "photos", tmp_path / "copy", copy_function=shutil.copyfile)
    os.utime(tmp_path / "copy/a.jpg", (1, 1))
    assert opened(tmp_path / "copy").identity == first
    written(tmp_path / "copy/a.jpg", b"PICTURE")
    changed = opened(tmp_path / "copy").identity
    filled(tmp_path / "copy", ["c.jpg"])
    grown = opened(tmp_path / "copy").identity
    assert len({first, changed, grown}) == 3


def test_a_list_that_changes_after_it_was_listed_ends_with_75(tmp_path: Path) -> None:
    first = listed(tmp_path, "a.csv", "https://h/1.jpg")
    listed(tmp_path, "b.csv", "https://h/2.jpg")
    manifest = opened(tmp_path)
    written(first, b"url\nhttps://h/3.jpg\nhttps://h/4.jpg\n")
    with pytest.raises(SourceUnavailable, match=r"a\.csv changed while it was read"):
        everything(manifest, chunks=2)


components = st.text(st.sampled_from("ab.-_ ,[]{}*é漢"), min_size=1, max_size=4).filter(
    lambda name: name.strip(".") != "" and name == name.strip()
)
trees = st.lists(
    st.tuples(st.lists(components, max_size=2), components, st.sampled_from([".jpg", ".PNG", ".txt", ""])),
    min_size=1,
    max_size=12,
)


@settings(fixtures_once, max_examples=60)
@given(tree=trees, count=st.integers(1, 15))
def test_the_chunks_of_any_folder_hold_each_picture_once_and_in_order(
    tree: list[tuple[list[str], str, str]], count: int, tmp_path: Path
) -> None:
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    written_paths = set()
    for folders, name, ending in tree:
        path = "/".join([*folders, name + ending])
        try:
            filled(tmp_path, [path])
        except OSError:  # a folder has the name of a file, or the other way round
            continue
        written_paths.add(path)
    expected = sorted(
        (
            path
            for path in written_paths
            if path.lower().endswith((".jpg", ".png")) and not any(part[0] in "._" for part in path.split("/"))
        ),
        key=str.encode,
    )
    if not expected:
        return
    manifest = opened(tmp_path)
    assert [found[0] for found in everything(manifest, chunks=1)] == expected
    assert everything(manifest, chunks=count) == everything(manifest, chunks=1)
    if not (tmp_path / "**").exists():  # else the pattern is that file's name
        assert everything(opened(f"{tmp_path}/**"), chunks=1) == everything(manifest, chunks=1)


def test_a_picture_for_the_page_of_a_data_set_is_not_taken_for_its_images(tmp_path: Path) -> None:
    filled(tmp_path, ["data/train-0.parquet", "data/train-1.parquet"], bytes(1000))
    filled(tmp_path, ["assets/banner.png", "README.md"])
    with pytest.raises(
        ManifestError, match=r"1 of images with 7 bytes, 2 of parquet with 2,000 bytes.*MANIFEST_FORMAT"
    ):
        opened(tmp_path)
    assert urls_of(tmp_path, manifest_format="images") == ["assets/banner.png"]


def test_a_tar_of_other_things_is_not_taken_for_the_photos_beside_it(tmp_path: Path) -> None:
    filled(tmp_path, ["a.jpg", "b.jpg"], bytes(20_000))
    filled(tmp_path, ["notes.tar"], bytes(10_240))
    with pytest.raises(ManifestError, match=r"EMBEDDER_MANIFEST_FORMAT \(tar or images\)"):
        opened(tmp_path)
    assert urls_of(tmp_path, manifest_format="images") == ["a.jpg", "b.jpg"]
