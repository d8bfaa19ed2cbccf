"""A run to explore, with hostile texts, and its page in a thread of this process.

In place of the query program stands `KnownAnswers`, which knows some texts and makes pictures of plain colours. The
tests of the command have the real one.
"""

from __future__ import annotations

import io
import threading
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from common.errors import DataError, FingerprintMismatch
from common.format.chunk_file import Failure
from common.format.reasons import Reason
from embedder.explore.explorer import Explorer
from embedder.explore.page import Page
from embedder.query.identity import QueryModel
from embedder.query.program import Picture
from merger.merge import merge
from results.nearest import ExactSearch
from results.result import open_result
from tests.merger.runs import make_chunk, put_chunk, settings_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from common.store.contract import Store
    from results.nearest import NearestRows

ROWS = 130
SCRIPT_URL = "javascript:document.title='owned'//<img src=x onerror=\"document.title='owned'\">"
HTML_ID = "<img src=x onerror=\"document.title='owned'\"> & 'quotes' \"quotes\""
REVERSED_URL = "https://photos.example/\u202egpj.exe\u0007/\u200bhidden.jpg"
HOSTILE_DETAIL = "<script>document.title='owned'</script>, \"two\nlines\""
SCRIPT_ROW, HTML_ROW, REVERSED_ROW, BROKEN_ROW, DAMAGED_ROW = 3, 5, 7, 9, 11
BROKEN = "the source answered with status 404 <b>gone</b>"


def url_of(row: int) -> str:
    special = {SCRIPT_ROW: SCRIPT_URL, REVERSED_ROW: REVERSED_URL}
    return special.get(row, f"https://photos.example/{row}.jpg")


class ExploredRun(NamedTuple):
    store: Store
    vectors: NDArray[np.float32]


def put_explored_run(store: Store, *, failures: int = 60) -> ExploredRun:
    """Make a finished run of ROWS rows, which form groups of ten."""
    generator = np.random.default_rng(20)
    centres = generator.standard_normal((ROWS // 10, 512))
    vectors = np.repeat(centres, 10, axis=0) + 0.5 * generator.standard_normal((ROWS, 512))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    chunk = make_chunk(0, ROWS, chunk_count=1)
    reasons = [Reason.NOT_FOUND, Reason.TIMEOUT, Reason.NOT_FOUND]
    chunk = replace(
        chunk,
        urls=[url_of(row) for row in range(ROWS)],
        ids=[HTML_ID if row == HTML_ROW else f"id-{row}" for row in range(ROWS)],
        embeddings=vectors,
        failures=[
            Failure(ROWS + number, SCRIPT_URL, reasons[number % 3], HOSTILE_DETAIL, HTML_ID)
            for number in range(failures)
        ],
    )
    put_chunk(store, chunk)
    merge(store, settings_for(store, 1))
    return ExploredRun(store, vectors)


@dataclass
class KnownAnswers:
    """Stands for the query program: a text that is a row's number has that row's vector."""

    vectors: NDArray[np.float32]
    ready: Future[QueryModel] = field(default_factory=Future)
    asked: list[str] = field(default_factory=list)
    """The URLs of the pictures that were asked for."""

    def text(self, text: str) -> Future[NDArray[np.float32]]:
        answer: Future[NDArray[np.float32]] = Future()
        if text.isdecimal():
            answer.set_result(self.vectors[int(text)])
        else:
            answer.set_exception(DataError(f"nobody knows the words {text}; write the number of a row"))
        return answer

    def image(self, data: bytes) -> Future[NDArray[np.float32]]:
        """The bytes of a picture end with the number of its row."""
        return self.text(data.rpartition(b"row ")[2].decode("latin-1"))

    def picture(self, url: str, *, max_side: int) -> Future[Picture]:
        self.asked.append(url)
        answer: Future[Picture] = Future()
        if url == url_of(BROKEN_ROW):
            answer.set_exception(DataError(BROKEN))
        elif url == url_of(DAMAGED_ROW):
            answer.set_result(Picture(b"\xff\xd8 no picture", "image/jpeg"))
        else:
            answer.set_result(Picture(picture_of(len(url) * 37 % 256, side=max_side), "image/jpeg"))
        return answer


def picture_of(shade: int, *, side: int = 64) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (shade, 255 - shade, 128)).save(buffer, "JPEG")
    return buffer.getvalue()


class ServedPage(NamedTuple):
    address: str
    address_once: str
    port: int
    answers: KnownAnswers
    vectors: NDArray[np.float32]


@contextmanager
def served_page(
    run: ExploredRun, *, model_error: str = "", nearest: Future[NearestRows] | None = None
) -> Iterator[ServedPage]:
    """Serve the page of the run until the block ends."""
    answers = KnownAnswers(run.vectors)
    if model_error:
        answers.ready.set_exception(FingerprintMismatch(model_error))
    else:
        answers.ready.set_result(
            QueryModel(
                model="untrained", revision="", weights="w", preprocessing="1", is_untrained=True, dimensions=512
            )
        )
    result = open_result(run.store)
    if nearest is None:
        nearest = Future()
        nearest.set_result(ExactSearch(result))
    page = Page(port=0)
    explorer = Explorer(result, answers, nearest)
    started = threading.Event()
    thread = threading.Thread(target=page.serve, args=(explorer,), kwargs={"on_start": started.set}, name="page")
    thread.start()
    started.wait(10)
    try:
        yield ServedPage(page.address, page.address_once, page.port, answers, run.vectors)
    finally:
        page.stop()
        thread.join(10)
