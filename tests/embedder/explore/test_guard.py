"""Who may ask the page, over a raw connection: a client library would correct what these tests send."""

from __future__ import annotations

import http.client
import json
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import pytest

from tests.embedder.explore.pages import ROWS

if TYPE_CHECKING:
    from tests.embedder.explore.pages import ServedPage


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def message(self) -> str:
        return str(json.loads(self.body)["message"])


def ask(
    served: ServedPage, path: str, *, method: str = "GET", body: bytes = b"", secret: bool = True, **headers: str
) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)
    prefix = urlsplit(served.address).path if secret else "/"
    connection.putrequest(method, prefix + path, skip_host=True, skip_accept_encoding=True)
    given = {"host": f"127.0.0.1:{served.port}"} | {name.replace("_", "-"): value for name, value in headers.items()}
    for name, value in given.items():
        connection.putheader(name, value)
    connection.putheader("content-length", str(len(body)))
    connection.endheaders(body)
    response = connection.getresponse()
    answer = Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
    connection.close()
    return answer


def test_the_page_is_answered_under_both_names_of_loopback(served: ServedPage) -> None:
    assert ask(served, "").status == 200
    assert ask(served, "", host=f"localhost:{served.port}").status == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "127.0.0.1.evil.example:80", ""])
def test_another_host_is_refused(served: ServedPage, host: str) -> None:
    assert ask(served, "api/about", host=host).status == 403


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "http://localhost"])
def test_another_origin_is_refused(served: ServedPage, origin: str) -> None:
    assert ask(served, "api/about", origin=origin).status == 403
    assert ask(served, "api/image", method="POST", body=b"row 1", origin=origin).status == 403


def test_a_request_of_another_site_is_refused_unless_it_is_a_link_that_someone_follows(served: ServedPage) -> None:
    for site in ("cross-site", "same-site"):
        assert ask(served, "picture?row=0", sec_fetch_site=site, sec_fetch_mode="no-cors").status == 403
        assert ask(served, "", sec_fetch_site=site, sec_fetch_mode="navigate", sec_fetch_dest="iframe").status == 403
        link = ask(served, "", sec_fetch_site=site, sec_fetch_mode="navigate", sec_fetch_dest="document")
        assert link.status == 200
        form = ask(served, "api/image", method="POST", body=b"row 1", sec_fetch_site=site, sec_fetch_mode="navigate")
        assert form.status == 403
    assert ask(served, "api/about", sec_fetch_site="same-origin").status == 200


@pytest.mark.parametrize("path", ["", "api/about", "picture?row=0", "app.js", "open/guess", "%2e%2e/api/about"])
def test_without_the_secret_there_is_nothing(served: ServedPage, path: str) -> None:
    answer = ask(served, path, secret=False)
    assert answer.status == 404
    assert b"embedder explore" in answer.body


@pytest.mark.parametrize("path", ["", "api/about", "nothing", "picture?row=1", "../secret"])
def test_every_answer_forbids_other_content_and_other_pages(served: ServedPage, path: str) -> None:
    for secret in (True, False):
        headers = ask(served, path, secret=secret).headers
        policy = dict(each.strip().split(" ", 1) for each in headers["content-security-policy"].split(";"))
        assert policy == {
            "default-src": "'none'",
            "script-src": "'self'",
            "style-src": "'self'",
            "img-src": "'self' blob: data:",
            "connect-src": "'self'",
            "base-uri": "'none'",
            "form-action": "'none'",
            "frame-ancestors": "'none'",
        }
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in headers


def test_only_rows_of_the_result_have_a_picture(served: ServedPage) -> None:
    found = ask(served, f"picture?row={ROWS - 1}")
    assert (found.status, found.headers["content-type"]) == (200, "image/jpeg")
    beyond = ask(served, f"picture?row={ROWS}")
    assert (beyond.status, beyond.message) == (404, f"there is no row {ROWS}")
    for query in ("row=-1", "row=1e3", "row=", "url=https://evil.example/", "row=99999999999999999999"):
        assert ask(served, f"picture?{query}").status == 422
    assert served.answers.asked == [f"https://photos.example/{ROWS - 1}.jpg"]


def test_a_picture_is_fetched_once(served: ServedPage) -> None:
    assert ask(served, "picture?row=20").body == ask(served, "picture?row=20").body
    assert served.answers.asked == ["https://photos.example/20.jpg"]


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        (f"api/rows?start={ROWS + 1}&count=1", "a page begins at 0 to 130"),
        ("api/rows?start=0&count=0", "has 1 to 100 rows, not 0"),
        ("api/rows?start=0&count=101", "has 1 to 100 rows, not 101"),
        ("api/search?text=%20&start=0&count=5", "the search has no text"),
        (f"api/search?text={'a' * 2001}&start=0&count=5", "the text has 2,001 characters"),
        (f"api/search?row={ROWS}&start=0&count=5", "there is no row 130; the result has 130 rows"),
        ("api/search?image=unknown&start=0&count=5", "no longer knows the picture"),
        ("api/search?text=1&start=990&count=100", ""),
        ("api/failures?offset=x&reason=&count=5", "offset is 'x', not a whole number"),
    ],
)
def test_what_is_asked_wrongly_is_a_sentence(served: ServedPage, path: str, sentence: str) -> None:
    answer = ask(served, path)
    if sentence:
        assert answer.status == 422
        assert sentence in answer.message
    else:
        assert (answer.status, json.loads(answer.body)["rows"]) == (200, [])


def test_a_picture_that_is_too_large_or_empty_is_refused(served: ServedPage) -> None:
    assert "the file is empty" in ask(served, "api/image", method="POST").message
    too_large = ask(served, "api/image", method="POST", body=bytes((32 << 20) + 1))
    assert (too_large.status, "larger than 32 MiB" in too_large.message) == (422, True)


def test_other_methods_are_refused(served: ServedPage) -> None:
    for method in ("PUT", "DELETE", "OPTIONS", "TRACE"):
        assert ask(served, "api/about", method=method).status == 403
    assert ask(served, "api/about", method="POST").status == 405
