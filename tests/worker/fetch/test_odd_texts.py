"""Texts of a list that are no ordinary URL: repaired and fetched, read as a file, or refused with what is wrong."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from common.format.reasons import Reason
from tests.image_server import ImageServer, answer, image_server
from tests.worker.fetch.fetching import PICTURE, fetch, image_fetcher, worker_settings
from worker.rows import ImageFailed, Row

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def server() -> Iterator[ImageServer]:
    with image_server() as running:
        yield running


async def _outcome(text: str, folder: Path | None) -> bytes | tuple[Reason, str]:
    async with image_fetcher(worker_settings(), folder=folder) as fetcher:
        try:
            held = await fetcher.fetch(Row(position=0, url=text))
        except ImageFailed as failed:
            return failed.reason, failed.detail
        held.release()
        return held.image.data


def outcome(text: str, folder: Path | None = None) -> bytes | tuple[Reason, str]:
    """Fetch what the text names, and return the picture, or the reason and the detail of its failure."""
    return asyncio.run(_outcome(text, folder))


def test_a_repaired_url_is_requested(server: ImageServer) -> None:
    url = server.on("/a.jpg", answer(PICTURE))
    texts = [f"<{url}>", f"\u200b{url}\u00a0", f'"{url}"', f"{url},", url.replace("://", ":/"), f"{url}?w=1&amp;h=2"]
    assert fetch(*texts) == [PICTURE] * len(texts)
    assert server.requests[-1].raw_path == "/a.jpg?w=1&h=2"


def test_an_invisible_character_is_blamed_only_if_the_server_has_no_such_image(server: ImageServer) -> None:
    there = server.on("/a%E2%80%8Bb.jpg", answer(PICTURE)).replace("%E2%80%8B", "\u200b")
    assert fetch(there) == [PICTURE]
    reason, detail = outcome(there.replace("b.jpg", "c.jpg"))
    assert reason == Reason.INVALID_URL
    assert "U+200B in it (404)" in str(detail)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("//127.0.0.1:9/a.jpg", "no scheme"),
        ("www.example.invalid/a.jpg", "no scheme"),
        ("data:image/png;base64,iVBORw0KGgo=", "data: URLs"),
        ("photos\\p0.jpg", "backslashes"),
        ("C:\\photos\\p0.jpg", "drive"),
        ("https://http://127.0.0.1:9/a.jpg", "two schemes"),
        ("ftp://127.0.0.1/a.jpg", "ftp:"),
        ("http://127.0.0.1:9/a.jpg http://127.0.0.1:9/b.jpg", "several URLs"),
        ("nan", "missing"),
    ],
)
def test_a_text_that_is_clearly_no_path_is_an_invalid_url_in_local_and_in_remote_lists(
    tmp_path: Path, text: str, what: str
) -> None:
    for folder in (tmp_path, None):
        reason, detail = outcome(text, folder)
        assert reason == Reason.INVALID_URL
        assert what in str(detail)


@pytest.mark.parametrize("name", ["www.example.invalid/a.jpg", "photos\\p0.jpg", "nan", "data:a", '"a.jpg"', "[a](b)"])
def test_a_file_of_exactly_this_name_is_read_whatever_the_name_looks_like(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(PICTURE)
    assert outcome(name, tmp_path) == PICTURE


def test_a_repaired_path_is_read(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(PICTURE)
    for text in ("photos\\a.jpg", '"photos/a.jpg"', "\u200bphotos/a.jpg", f"/{tmp_path}/photos/a.jpg"):
        assert outcome(text, tmp_path) == PICTURE
    for text in ("photos/b.jpg", '"photos/b.jpg"'):
        reason, _ = outcome(text, tmp_path)
        assert reason == Reason.NOT_FOUND


def test_a_label_behind_a_path_or_url_is_blamed_only_if_there_is_no_such_image(
    tmp_path: Path, server: ImageServer
) -> None:
    (tmp_path / "a.jpg 0").write_bytes(PICTURE)
    assert outcome("a.jpg 0", tmp_path) == PICTURE
    for text in ("b.jpg 0", f"{server.on('/b.jpg', answer(PICTURE))}  a caption"):
        reason, detail = outcome(text, tmp_path)
        assert reason == Reason.INVALID_URL
        assert "more text follows the picture's name" in str(detail)
