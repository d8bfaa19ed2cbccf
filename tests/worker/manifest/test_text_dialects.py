"""CSV, TSV and TXT as programs write them: separators, quotes, line breaks, encodings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from common.errors import ManifestError
from common.format.reasons import Reason
from tests.worker.manifest.manifests import everything, opened, written

if TYPE_CHECKING:
    from pathlib import Path

Expected = list[tuple[str, str]]

MET = 'id,url,caption\n1,p0.jpg,"one line"\n2,p1.jpg,"two\nlines"\n3,p2.jpg,"a\n\nb, p9.jpg,c"\n'
ONE: Expected = [("1", "p0.jpg")]
THREE: Expected = [("1", "p0.jpg"), ("2", "p1.jpg"), ("3", "p2.jpg")]

READ: dict[str, tuple[str, str, Expected]] = {
    "semicolons, from Excel": ("list.csv", "\ufeffid;url;title\n1;p0.jpg;eins, zwei\n", ONE),
    "Excel's line that names the separator": ("list.csv", "sep=;\nid;url\n1;p0.jpg\n", ONE),
    "that line with a mark, quotes and another separator": ("list.csv", '\ufeff"SEP=|"\r\nid|url\r\n1|p0.jpg\r\n', ONE),
    "bars": ("list.csv", 'id|url|title\n1|p0.jpg|a, "quote" and; more\n', ONE),
    "Hive's separator": ("list.csv", 'id\x01url\x01title\n1\x01p0.jpg\x015" a, b\n', ONE),
    "tabs in a file named .csv": ("list.csv", "id\turl\ttitle\n1\tp0.jpg\ta, b\n", ONE),
    "commas in a file named .tsv": ("list.tsv", "id,url\n1,p0.jpg\n", ONE),
    "titles with the other separators": (
        "list.csv",
        'image_id;caption;url\n1;"a; b, c";p0.jpg\n2;d, e;p1.jpg\n3;f | g;p2.jpg\n',
        THREE,
    ),
    "blanks and quotes in the header": ("list.csv", '"ID" , " Url " ,"title"\n1 , "p0.jpg" , "a , b"\n', ONE),
    "a header of two lines": ("list.csv", '"id",url,"title\n(short)"\n1,p0.jpg,x\n', ONE),
    "empty fields behind the last column": ("list.csv", "id;url\n1;p0.jpg;;;\n", ONE),
    "URLs with semicolons in one column": (
        "list.csv",
        "url\nhttp://h/a;b.jpg\nhttp://h/c;d;e.jpg\n",
        [("", "http://h/a;b.jpg"), ("", "http://h/c;d;e.jpg")],
    ),
    "fields over several lines": ("list.csv", MET, THREE),
    "the same with carriage returns": ("list.csv", MET.replace("\n", "\r\n"), THREE),
    "the same with semicolons": ("list.csv", MET.replace(",", ";"), THREE),
    "the same with tabs": ("list.tsv", MET.replace(",", "\t"), THREE),
    "the same with tabs and no blank line": ("list.tsv", MET.replace(",", "\t").replace("\n\n", "\n"), THREE),
    "quotes within fields of a TSV": (
        "list.tsv",
        'id\turl\ttitle\n1\tp0.jpg\t5" pipe\n2\tp1.jpg\t"hello" she said\n3\tp2.jpg\t"open\n',
        THREE,
    ),
    "quoted fields of a TSV": (
        "list.tsv",
        'id\turl\ttitle\n"1"\t"p0.jpg"\tx\n2\tp1.jpg\t"a\tb"\n3\tp2.jpg\t"say ""a"""\n',
        THREE,
    ),
    "two stray quotes of a TSV that look like one field": (
        "list.tsv",
        'id\turl\ttitle\n1\tp0.jpg\t"open\n2\tp1.jpg\t24"\n3\tp2.jpg\ta 5" pipe\n',
        THREE,
    ),
    "backslashes before quotes": (
        "list.csv",
        'id,title,url\n1,"say \\"a\\", b",p0.jpg\n2,"x\\"",p1.jpg\n3,"\\"two\nlines\\"",p2.jpg\n',
        THREE,
    ),
    "a backslash at the end of a quoted field": ("list.csv", 'id,title,url\n1,"C:\\",p0.jpg\n', ONE),
    "a separator behind a backslash": ("list.csv", "id,title,url\n1,a\\, b,p0.jpg\n", ONE),
    "line breaks of old Macs": ("list.csv", "id,url\r1,p0.jpg\r2,p1.jpg\r3,p2.jpg", THREE),
    "two carriage returns": ("list.csv", 'id,url,title\r\r\n1,p0.jpg,"x"\r\r\n', ONE),
    "Unicode's other line breaks": ("list.csv", "id,url,title\n1,p0.jpg,a\x85b\u2028c\u2029d\x0be\x0cf\n", ONE),
    "columns in a file named .txt": ("list.txt", 'id\turl\ttitle\n1\tp0.jpg\t5" pipe\n', ONE),
    "a header in a file named .txt": ("list.txt", "id,url\n1,p0.jpg\n", ONE),
}


def ids_and_urls(path: Path, *, chunks: int, **changes: str) -> Expected:
    return [(str(row[1]), str(row[0])) for row in everything(opened(path, **changes), chunks=chunks)]


@pytest.mark.parametrize("chunks", [1, 7])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-be", "utf-16-le"])
@pytest.mark.parametrize("kind", READ)
def test_text_is_read_as_programs_write_it(tmp_path: Path, kind: str, encoding: str, chunks: int) -> None:
    name, content, expected = READ[kind]
    path = written(tmp_path / name, content.encode(encoding))
    assert ids_and_urls(path, chunks=chunks) == expected


@pytest.mark.parametrize("chunks", [1, 7])
@pytest.mark.parametrize(
    ("name", "content", "columns"),
    [
        ("gcc.tsv", "a small picture number 0\tp0.jpg\na small picture number 1\tp1.jpg\n", "caption,url"),
        ("urls.csv", "http://h/p0.jpg\nhttp://h/p1.jpg\n", "url"),
        ("urls_2.csv", "0,http://h/p0.jpg\n1,http://h/p1.jpg\n", "id,url"),
        ("semicolons.csv", "0;a, b;http://h/p0.jpg\n1;c;http://h/p1.jpg\n", "id,title,url"),
        ("imagenet.txt", "n00004475_6590\thttp://h/p0.jpg\nn00004475_6591\thttp://h/p1.jpg\n", "id,url"),
    ],
)
def test_a_list_without_a_header_is_refused_with_the_setting_that_reads_it(
    tmp_path: Path, name: str, content: str, columns: str, chunks: int
) -> None:
    path = written(tmp_path / name, content.encode())
    with pytest.raises(ManifestError, match=r"looks as if it had no header line.*EMBEDDER_MANIFEST_COLUMNS="):
        opened(path)
    urls = [url for _, url in ids_and_urls(path, chunks=chunks, manifest_columns=columns)]
    assert [url.removeprefix("http://h/") for url in urls] == ["p0.jpg", "p1.jpg"]


@pytest.mark.parametrize("chunks", [1, 2, 7])
def test_a_quote_that_is_never_closed_spoils_its_own_row_only(tmp_path: Path, chunks: int) -> None:
    rows = "".join(f"{number},http://h/{number}.jpg\n" for number in range(2000))
    path = written(tmp_path / "list.csv", f'id,url\n{rows}x,"http://h/x.jpg\n{rows}'.encode())
    found = everything(opened(path), chunks=chunks)
    assert len(found) == 4001
    assert found[2000][2] is Reason.MALFORMED_ROW
    assert "unexpected end of data, in x," in str(found[2000][3])
    assert all(len(row) == 5 for row in found if row is not found[2000])


@pytest.mark.parametrize("ending", ["csv", "tsv", "txt"])
def test_text_in_utf16_with_damage_is_in_the_ledger(tmp_path: Path, ending: str) -> None:
    header = "" if ending == "txt" else "url\n"
    content = f"{header}http://h/1.jpg\nhttp://h/2\ud800.jpg\nhttp://h/3.jpg\n".encode("utf-16-le", "surrogatepass")
    path = written(tmp_path / f"list.{ending}", b"\xff\xfe" + content + b"h")
    found = everything(opened(path), chunks=1)
    assert [row[0] for row in found][:1] == ["http://h/1.jpg"]
    assert found[2][0] == "http://h/3.jpg"
    assert [row[2] for row in found[1::2]] == [Reason.MALFORMED_ROW, Reason.MALFORMED_ROW]
    assert everything(opened(path), chunks=5) == found


def test_url_lines_of_a_txt_file_are_not_taken_for_a_header(tmp_path: Path) -> None:
    urls = ["https://h/photo,url;image|url.jpg", "image_url", "photos/url.jpg"]
    found = everything(opened(written(tmp_path / "list.txt", "\n".join(urls).encode())), chunks=2)
    assert [row[0] for row in found] == urls
