"""Most URLs are read by one regular expression. It reads them as the library does, and in linear time."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from common.format.reasons import Reason
from worker.fetch.image_url import MAX_URL_CHARS, _parse_any, join_redirect, parse_http_url, parse_plain_url
from worker.rows import ImageFailed

LABELS = st.from_regex(r"(xn--)?[a-zA-Z0-9_]?[a-z0-9_-]{0,8}[a-z0-9]?", fullmatch=True) | st.sampled_from(
    ["xn--bcher-kva", "a" * 63, "a" * 64, "127", "0x7f", "-", "", "\u00e4", "localhost", "[::1]"]
)
HOSTS = st.lists(LABELS, min_size=1, max_size=5).map(".".join)
PORTS = st.sampled_from(["", "", ":", ":80", ":443", ":8080", ":0", ":08", ":65536", ":99999", ":1a", ":-1"])
TARGETS = st.text(st.sampled_from("abzAZ09/%:@!$&'()*+,;=-._~?#[]|\"<> \\^\u00e4\t\n"), max_size=20)
URLS = st.builds(
    "{}://{}{}{}{}{}".format,
    st.sampled_from(["http", "https", "HTTP", "https", "ftp", ""]),
    st.sampled_from(["", "", "", "user@", "user:word@", "@", "a/b@"]),
    HOSTS,
    PORTS,
    st.sampled_from(["/", "/", "/", "", "?", "#"]),
    TARGETS,
)


@settings(deadline=None, max_examples=2000)
@given(URLS)
@example("http://a.example:80/")
@example("https://a.example:443/")
@example("http://a.example:443/")
@example("https://a.example:80/?")
@example("http://a.example/a/../b//c/.?x=//")
@example("http://127.0.0.1/")
@example("http://0x7f.1/")
def test_the_fast_way_reads_a_url_as_the_other_way_does(url: str) -> None:
    plain = parse_plain_url(url)
    assert plain is None or plain == _parse_any(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://open-images-dataset.s3.amazonaws.com/train/0001eeaf4aed83f9.jpg",
        "https://c1.staticflickr.com/9/8050/5346953846_2f1e2b1a2b_z.jpg?a=b&c=%2Fd",
        "http://photos.example:8080/",
        "http://127.0.0.1:41234/1.jpg",
        "http://8.8.8.8/a//b/../c;d=(e),'f'!*$&@:~.jpg",
    ],
)
def test_an_ordinary_url_takes_the_fast_way(url: str) -> None:
    assert parse_plain_url(url) == _parse_any(url)
    assert parse_http_url(url).text == url


@pytest.mark.parametrize(
    "url",
    [
        "http://" + "a" * 10**6,
        "http://" + "a." * 500_000 + "/",
        "http://" + "a-" * 500_000 + "/",
        "http://" + "a" * 63 + "." + "-" * 10**6 + "/",
        "http://" + ("a" * 62 + ".") * 4 + "\n",
        "http://" + ("a" * 62 + "-.") * 4 + "a/",
        "http://a.example/" + "a" * 10**6 + "\n",
        "http://a.example/" + "?" * 10**6 + "\n",
        "http://a.example/" + "a?" * 500_000 + " ",
        "http://a.example/" + "/?" * 500_000 + "\u00e4",
        "http://a.example:1" + "1" * 10**6 + "/",
        "http://a:" * 100_000,
        "http://a.example/" + "%" * 10**6 + "#",
    ],
    ids=lambda url: url[:25],
)
def test_no_url_takes_long_to_read(url: str) -> None:
    began = time.process_time()
    assert parse_plain_url(url) is None
    assert time.process_time() - began < 0.2
    with pytest.raises(ImageFailed, match=Reason.INVALID_URL):
        parse_http_url(url)
    assert time.process_time() - began < 2


def test_a_url_is_limited_as_it_is_requested() -> None:
    start = "https://a.example/"
    assert len(parse_http_url(start.ljust(MAX_URL_CHARS, "a")).text) == MAX_URL_CHARS
    # The longest URL that EMBEDDER_MAX_URL_BYTES may allow.
    assert len(parse_http_url(start + "\u00e4" * ((65_536 - len(start)) // 2)).text) < MAX_URL_CHARS
    for too_long in (start.ljust(MAX_URL_CHARS + 1, "a"), start + "\u00e4" * (MAX_URL_CHARS // 6)):
        with pytest.raises(ImageFailed, match=r"invalid_url.*200000 characters"):
            parse_http_url(too_long)


def test_redirects_do_not_make_a_url_longer_and_longer() -> None:
    url = parse_http_url("https://a.example/")
    url = join_redirect(url, "\N{GRINNING FACE}" * 10_000 + "/")
    with pytest.raises(ImageFailed, match=r"too_many_redirects.*200000 characters"):
        join_redirect(url, "\N{GRINNING FACE}" * 10_000 + "/")


@pytest.mark.parametrize(
    ("written", "requested"),
    [
        ("http://ex%61mple.com/%61.jpg", "http://example.com/%61.jpg"),
        ("http://EX%41MPLE%2ecom:8080", "http://example.com:8080/"),
        ("http://b%C3%BCcher.example/", "http://xn--bcher-kva.example/"),
        ("HTTPS://Photos.Example./A.jpg#part", "https://photos.example./A.jpg"),
        ("http://b\u00fccher.example/", "http://xn--bcher-kva.example/"),
    ],
)
def test_a_host_is_read_as_browsers_read_it(written: str, requested: str) -> None:
    assert parse_http_url(written).text == requested
