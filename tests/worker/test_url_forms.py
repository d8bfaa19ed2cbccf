"""Forms in which lists write URLs: what is repaired, and what is wrong with the others."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.url_forms import odd_form

ORDINARY = [
    "http://photos.example/a.jpg",
    "https://photos.example/a%20b.jpg?w=80&h=60",
    "s3://bucket/a/b.jpg",
    "photos/a.jpg",
    "photos/a b.jpg",
    "/data/photos/a.jpg",
    "./a.jpg",
    "../a.jpg",
    "photo:1.jpg",
    "2024.01.02/a.jpg",
    "train.images/a.jpg",
    "file:///data/a.jpg",
    "None.jpg",
    "[1].jpg",
    "http:photos.example/a.jpg",  # has no host
]


@pytest.mark.parametrize("text", ORDINARY)
def test_an_ordinary_url_or_path_means_what_it_says(text: str) -> None:
    assert odd_form(text) is None


PHOTO = "http://photos.example/a.jpg"
REPAIRED = {
    f" {PHOTO} ": PHOTO,
    f"\u200b{PHOTO}": PHOTO,
    f"\ufeff{PHOTO}\u00a0": PHOTO,
    f"\u00ad\u2060{PHOTO}\u200f": PHOTO,
    f"<{PHOTO}>": PHOTO,
    f'"{PHOTO}"': PHOTO,
    f"'{PHOTO}'": PHOTO,
    f"`{PHOTO}`": PHOTO,
    f"\u201c{PHOTO}\u201d": PHOTO,
    f"\u201e{PHOTO}\u201c": PHOTO,
    f'" <{PHOTO}>\u200b "': PHOTO,
    f'"{PHOTO}': PHOTO,
    f"{PHOTO},": PHOTO,
    f"{PHOTO};;": PHOTO,
    "http:/photos.example/a.jpg": PHOTO,
    "HTTP:/photos.example/a.jpg": PHOTO,
    "https:/127.0.0.1:8000/a.jpg": "https://127.0.0.1:8000/a.jpg",
    f"{PHOTO}?w=80&amp;h=60": f"{PHOTO}?w=80&h=60",
    f"{PHOTO}?w=80&amp;amp;h=60": f"{PHOTO}?w=80&h=60",
    f"{PHOTO}?w=80&#38;h=60&#x26;q=1": f"{PHOTO}?w=80&h=60&q=1",
    "s3a://bucket/a.jpg": "s3://bucket/a.jpg",
    "<s3://bucket/a.jpg>": "s3://bucket/a.jpg",
    '"photos/a.jpg"': "photos/a.jpg",
    "\u200bphotos/a.jpg": "photos/a.jpg",
}


@pytest.mark.parametrize("text", REPAIRED, ids=ascii)
def test_what_can_be_repaired_without_doubt_is_repaired(text: str) -> None:
    form = odd_form(text)
    assert form is not None
    assert (form.text, form.problem, form.doubt) == (REPAIRED[text], "", "")


@pytest.mark.parametrize(
    "url",
    [
        "https://web.archive.org/web/2020/http://photos.example/a.jpg",
        f"https://proxy.example/?url={PHOTO}",
        "http://photos.example/a.jpg,b.jpg",
        "http://photos.example/a,",
        "http://photos.example/O'",
        "http://photos.example/(a)",
        "http://photos.example/a b.jpg",
        "http://photos.example/\u00e4.jpg",
        "http://photos.example/\U0001f469\u200d\U0001f467.jpg",
        "http://photos.example/a\\b.jpg",
        "http://photos.example/?a&b;c&ampere=1",
        "http://b\u00fccher.example/a.jpg",
        "https://http.example/a.jpg",
    ],
)
def test_a_url_that_may_be_right_is_not_changed(url: str) -> None:
    form = odd_form(url)
    assert form is None or form == (url, "", "")


PROBLEMS = {
    "//photos.example/a.jpg": "no scheme",
    "://photos.example/a.jpg": "no scheme",
    "www.photos.example/a.jpg": "no scheme",
    "photos.example.com/a.jpg": "no scheme",
    "localhost:8000/a.jpg": "no scheme",
    "photos.example:80/a.jpg": "no scheme",
    "127.0.0.1/a.jpg": "no scheme",
    "http//photos.example/a.jpg": "no colon",
    "https;//photos.example/a.jpg": "no colon",
    "https://http://photos.example/a.jpg": "two schemes, https:// and http://",
    "http://https//photos.example/a.jpg": "two schemes",
    "http:/photos/a": "it has / after http: instead of //",
    "http:///photos.example/a.jpg": "it has /// after http: instead of //",
    "http:\\\\photos.example\\a.jpg": "after http: instead of //",
    "https%3A%2F%2Fphotos.example%2Fa.jpg": "percent-encoded",
    "htp://photos.example/a.jpg": "its scheme htp:// is not http, https or s3; write http://",
    "htttps://photos.example/a.jpg": "write https://",
    "hxxp://photos.example/a.jpg": "write http://",
    "hxxps://photos.example/a.jpg": "write https://",
    "gopher://photos.example/a.jpg": "its scheme gopher://",
    "data:image/png;base64,iVBORw0KGgo=": "data: URLs are not fetched",
    "blob:https://photos.example/0b1c": "browser",
    "ftp://photos.example/a.jpg": "ftp: URLs are not fetched",
    "ipfs://bafy/a.jpg": "gateway",
    "gs://bucket/a.jpg": "https://storage.googleapis.com/",
    "hdfs://name/a.jpg": "mount",
    "mailto:ann@photos.example": "mailto:",
    "javascript:void(0)": "javascript:",
    "photos\\a.jpg": "backslashes",
    "..\\photos\\a.jpg": "backslashes",
    "C:\\photos\\a.jpg": "drive",
    "c:/photos/a.jpg": "drive",
    "file:///C:/photos/a.jpg": "drive",
    "\\\\server\\share\\a.jpg": "network path",
    "~/photos/a.jpg": "~ is not replaced",
    f"[a photo]({PHOTO})": "Markdown",
    f"![]({PHOTO})": "Markdown",
    f'<img src="{PHOTO}">': "HTML",
    f'["{PHOTO}"]': "a list",
    f"['{PHOTO}', '{PHOTO}']": "a list",
    f'{{"url": "{PHOTO}"}}': "an object",
    f"{PHOTO} {PHOTO}": "several URLs",
    f"{PHOTO},{PHOTO}": "several URLs",
    f"{PHOTO}; {PHOTO}": "several URLs",
    f"{PHOTO}|{PHOTO}": "several URLs",
    f"{PHOTO} 1x, {PHOTO} 2x": "several URLs",
    "http://photos\u200b.example/a.jpg": "U+200B",
    "None": "missing",
    "nan": "missing",
    "NULL": "missing",
    "N/A": "missing",
    "<NA>": "missing",
    "-": "missing",
    '""': "empty",
    "\u200b": "empty",
    "<>": "empty",
}


@pytest.mark.parametrize("text", PROBLEMS, ids=ascii)
def test_what_is_no_url_is_told_with_its_reason(text: str) -> None:
    form = odd_form(text)
    assert form is not None
    assert PROBLEMS[text] in form.problem


def test_an_invisible_character_within_a_path_is_a_doubt_because_a_file_may_have_such_a_name() -> None:
    for invisible in "\u200b\u00a0\u00ad\u202f\ufeff":
        form = odd_form(f"http://photos.example/a{invisible}b.jpg")
        assert form is not None
        assert not form.problem
        assert f"U+{ord(invisible):04X}" in form.doubt


@given(st.text(st.sampled_from("htps3:/\\w.<>\"'&;ampcom[](){}|, \u200b\u00a0?#%~-"), max_size=60))
def test_every_text_has_a_form_and_its_repair_is_stable(text: str) -> None:
    form = odd_form(text) if text else None
    if form is not None and not form.problem:
        again = odd_form(form.text)
        assert again is None or again.text == form.text


@pytest.mark.parametrize(
    "start", ["", "http://", "http://a/", "a.", "&amp;", "[", "<img ", "C:", "http:/", ".jpg,", "a.com", " ", "<", '"']
)
def test_no_text_takes_long_to_read(start: str) -> None:
    began = time.process_time()
    for piece in (start or "a", "&", " ", "\\", ".", '"', "<", ",", "a.", "\u200b"):
        odd_form(start + piece * (65_536 // len(piece)))
    assert time.process_time() - began < 2
