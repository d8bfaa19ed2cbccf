"""The query program as a client sees it."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from common.errors import (
    ConfigError,
    EmbedderError,
    FingerprintMismatch,
    ModelError,
    QueryRefused,
    SettingsError,
    TemporaryError,
)
from embedder.local.programs import Programs
from embedder.query.program import MAX_IMAGE_BYTES, QueryProgram
from tests.embedder.searching import ANSWER_SECONDS, result_of, start_program
from tests.image_server import answer, image_server
from tests.worker.encode.models import TINY_VISION, save_clip_with_tokenizer, save_vision_tower
from tests.worker.held_pictures import struct_table, write_parquet
from tests.worker.images import encoded, photo
from tests.worker.manifest.tars import tar_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from results.result import Result
    from tests.image_server import ImageServer


@pytest.fixture(scope="module")
def result(photo_run: Path) -> Result:
    return result_of(photo_run)


@pytest.fixture(scope="module")
def program(result: Result) -> Iterator[QueryProgram]:
    """A program that may ask hosts of this machine."""
    with start_program(result, allow_private_hosts=True, max_image_bytes=1_000_000) as program:
        program.ready.result(ANSWER_SECONDS)
        yield program


@pytest.fixture(scope="module")
def server() -> Iterator[ImageServer]:
    with image_server() as server:
        yield server


def refusal(future: object) -> str:
    with pytest.raises(QueryRefused) as refused:
        future.result(ANSWER_SECONDS)  # type: ignore[attr-defined]
    return str(refused.value)


def size_of(data: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
        image.load()
        return image.size


@pytest.mark.slow
def test_an_image_has_the_vector_that_the_run_has_for_it(program: QueryProgram, result: Result) -> None:
    for row, url in enumerate(result.urls(0, result.row_count)):
        found = program.image(Path(url).read_bytes()).result(ANSWER_SECONDS)
        assert found.dtype == np.float32
        assert found @ result.vectors(row, row + 1)[0] >= 0.999999, url


@pytest.mark.slow
def test_an_image_at_a_url_has_the_vector_of_its_file(
    program: QueryProgram, result: Result, server: ImageServer
) -> None:
    url = server.on("/a.jpg", answer(Path(result.urls(2, 3)[0]).read_bytes()))
    assert program.url(url).result(ANSWER_SECONDS) @ result.vectors(2, 3)[0] >= 0.999999


@pytest.mark.slow
def test_many_queries_of_all_kinds_at_a_time_are_each_answered(program: QueryProgram, result: Result) -> None:
    urls = result.urls(0, result.row_count)
    images = [program.image(Path(url).read_bytes()) for url in urls]
    pictures = [program.picture(url, max_side=100, folder=Path("/")) for url in urls * 10]
    texts = [program.text(f"a dog {number}") for number in range(10)]
    for row, image in enumerate(images):
        assert image.result(ANSWER_SECONDS) @ result.vectors(row, row + 1)[0] >= 0.999999
    assert all(max(size_of(picture.result(ANSWER_SECONDS).data)) == 100 for picture in pictures)
    assert len({text.result(ANSWER_SECONDS).tobytes() for text in texts}) == 10


@pytest.mark.slow
def test_a_text_that_is_too_long_is_cut_and_this_is_said(result: Result) -> None:
    said: list[str] = []
    with QueryProgram(Programs(), say=said.append) as program:
        program.use_model(result.provenance, name="run", dimensions=result.dimensions)
        assert program.text("dog " * 100).result(ANSWER_SECONDS).shape == (512,)
    assert said == ["the text is longer than what the model reads, so its end was left out"]


@pytest.mark.parametrize("text", ["", "  \n", "x" * 10_001])
@pytest.mark.slow
def test_a_text_that_describes_nothing_is_refused(program: QueryProgram, text: str) -> None:
    assert refusal(program.text(text)).startswith("the text ")


@pytest.mark.slow
def test_what_is_no_image_is_refused(program: QueryProgram) -> None:
    assert refusal(program.image(b"hello")).startswith("not_an_image (a text")
    assert refusal(program.image(encoded(photo(), "PNG")[:-50])).startswith("truncated (")
    assert refusal(program.image(b"")) == "the image has no bytes"
    assert "the limit is" in refusal(program.image(bytes(MAX_IMAGE_BYTES + 1)))


@pytest.mark.slow
def test_an_image_of_too_many_pixels_is_refused(program: QueryProgram) -> None:
    bomb = encoded(Image.new("1", (20_000, 20_000)), "PNG")
    assert refusal(program.image(bomb)).startswith("too_many_pixels (20000 x 20000 pixels")


@pytest.mark.slow
def test_large_images_take_turns(program: QueryProgram, result: Result) -> None:
    large = encoded(Image.new("L", (8000, 5000), 90), "PNG")
    found = [program.image(large) for _ in range(3)]
    vectors = [each.result(ANSWER_SECONDS) for each in found]
    assert all(vector.tobytes() == vectors[0].tobytes() for vector in vectors)
    assert vectors[0].shape == (result.dimensions,)


@pytest.mark.parametrize(
    ("path", "reason"),
    [("/absent.jpg", "not_found (404)"), ("/huge.jpg", "too_large ("), ("/busy.jpg", "server_error")],
)
@pytest.mark.slow
def test_a_url_without_an_image_is_refused(program: QueryProgram, server: ImageServer, path: str, reason: str) -> None:
    server.on("/huge.jpg", answer(bytes(1_000_001)))
    server.on("/busy.jpg", answer(status=500))
    assert refusal(program.url(server.url(path))).startswith(reason)
    assert refusal(program.picture(server.url(path), max_side=100)).startswith(reason)


@pytest.mark.slow
def test_a_host_that_does_not_answer_is_refused_and_another_one_still_asked(
    program: QueryProgram, server: ImageServer
) -> None:
    good = server.on("/good.jpg", answer(encoded(photo(), "JPEG")))
    with pytest.raises(EmbedderError):
        program.picture("http://127.0.0.2:9/a.jpg", max_side=100).result(ANSWER_SECONDS)
    assert size_of(program.picture(good, max_side=100).result(ANSWER_SECONDS).data) == (100, 67)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "/etc/passwd", "photos/a.jpg", "ftp://example.org/a.jpg", "\0"])
@pytest.mark.slow
def test_only_web_urls_are_queries(program: QueryProgram, url: str) -> None:
    assert refusal(program.url(url)).startswith("invalid_url")


@pytest.mark.slow
def test_an_empty_url_is_refused(program: QueryProgram) -> None:
    assert refusal(program.url(" ")) == refusal(program.picture("", max_side=100)) == "the URL is empty"


@pytest.mark.slow
def test_a_private_host_is_not_asked_unless_that_is_allowed(result: Result, server: ImageServer) -> None:
    url = server.on("/private.jpg", answer(encoded(photo(), "JPEG")))
    with start_program(result) as program:
        for asked in (program.url(url), program.picture(url, max_side=100)):
            assert refusal(asked).startswith("forbidden_host")
    assert server.count("/private.jpg") == 0


@pytest.mark.slow
def test_a_picture_of_a_local_run_is_read_from_its_folder(program: QueryProgram, tmp_path: Path) -> None:
    (tmp_path / "a b.png").write_bytes(encoded(photo(), "PNG"))
    for url in ("a b.png", f"{tmp_path}/a b.png", f"file://{tmp_path}/a%20b.png"):
        picture = program.picture(url, max_side=50, folder=tmp_path).result(ANSWER_SECONDS)
        assert (picture.media_type, size_of(picture.data)) == ("image/jpeg", (50, 33))
        assert refusal(program.picture(url, max_side=50)).startswith("invalid_url")


@pytest.mark.slow
def test_a_picture_in_a_shard_is_shown_from_the_folder_and_a_remote_shard_is_never_fetched(
    program: QueryProgram, server: ImageServer, tmp_path: Path
) -> None:
    members = [("0.png", encoded(photo().rotate(90, expand=True), "PNG")), ("1.png", encoded(photo(), "PNG"))]
    remote = server.on("/00000.tar", answer(tar_of(members)))
    for asked in (program.picture(f"{remote}#1.png", max_side=60), program.url(f"{remote}#1.png")):
        assert refusal(asked).startswith(
            "the picture lies in the shard 00000.tar, which is not fetched for one picture; "
        )
    write_parquet(tmp_path / "0.parquet", struct_table([data for _, data in members], [None, "a/b.png"]))
    assert "has no such file" in refusal(program.picture(f"{remote}#1.png", max_side=60, folder=tmp_path))
    (tmp_path / "00000.tar").write_bytes(tar_of(members))
    for url in (f"{remote}#1.png", "s3://bucket/00000.tar#1.png", "00000.tar#1.png", "0.parquet#1", "a/b.png"):
        picture = program.picture(url, max_side=60, folder=tmp_path).result(ANSWER_SECONDS)
        assert (picture.media_type, size_of(picture.data)) == ("image/jpeg", (60, 40)), url
    assert refusal(program.picture("b.png", max_side=60, folder=tmp_path)).startswith("not_found (")
    assert server.count("/00000.tar") == 0


@pytest.mark.slow
def test_pictures_do_not_wait_for_the_model(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(photo(), "PNG"))
    with QueryProgram(Programs()) as program:
        picture = program.picture("a.png", max_side=50, folder=tmp_path).result(ANSWER_SECONDS)
        assert size_of(picture.data) == (50, 33)
        assert not program.ready.done()


# The model


@pytest.mark.slow
def test_a_query_never_meets_the_vectors_of_another_model(result: Result, tmp_path: Path) -> None:
    other = save_clip_with_tokenizer(tmp_path / "other", vision=TINY_VISION, projection_dim=512, seed=2)
    with start_program(result, model=str(other)) as program:
        for asked in (program.ready, program.text("a dog"), program.image(encoded(photo(), "PNG"))):
            with pytest.raises(FingerprintMismatch, match=r"with weights sha256:\w{12}, and .*--model FOLDER") as error:
                asked.result(ANSWER_SECONDS)
            assert error.value.exit_code == 78
        with pytest.raises(FingerprintMismatch):
            program.text("a dog after that").result(ANSWER_SECONDS)


@pytest.mark.slow
def test_the_same_weights_in_another_folder_are_the_same_model(
    result: Result, talking_clip: Path, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").symlink_to(talking_clip)
    with start_program(result, model=str(tmp_path / "elsewhere")) as program:
        assert program.ready.result(ANSWER_SECONDS).weights == result.provenance.weights
        assert program.text("a dog").result(ANSWER_SECONDS).shape == (512,)


@pytest.mark.slow
def test_a_model_that_is_not_there_is_one_sentence(result: Result) -> None:
    with QueryProgram(Programs()) as program:
        program.use_model(replace(result.provenance, model="/absent"), name="run", dimensions=512)
        with pytest.raises(ModelError, match=r"there is no such folder.*--model FOLDER"):
            program.text("a dog").result(ANSWER_SECONDS)
        with pytest.raises(ModelError):
            program.ready.result(ANSWER_SECONDS)


@pytest.mark.slow
def test_a_vision_tower_alone_answers_images_and_refuses_texts(result: Result, tmp_path: Path) -> None:
    folder = save_vision_tower(tmp_path / "vision", vision=TINY_VISION, projection_dim=512)
    from worker.encode.model import find_model  # noqa: PLC0415 - not needed by the other tests

    weights = find_model(str(folder), revision="").weights
    with QueryProgram(Programs()) as program:
        provenance = replace(result.provenance, model=str(folder), weights=weights)
        program.use_model(provenance, name="run", dimensions=512)
        assert program.image(encoded(photo(), "PNG")).result(ANSWER_SECONDS).shape == (512,)
        with pytest.raises(ModelError, match=r"holds the vision tower of .* alone"):
            program.text("a dog").result(ANSWER_SECONDS)


# The process


@pytest.mark.slow
def test_the_program_ends_with_its_client(tmp_path: Path) -> None:
    script = (
        "from embedder.local.programs import Programs; from embedder.query.program import QueryProgram\n"
        "import os, signal; program = QueryProgram(Programs())\n"
        "print(program._process.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path
    )
    pid = int(ended.stdout)
    until = time.monotonic() + 30
    while Path(f"/proc/{pid}/cmdline").exists() and b"worker.query" in Path(f"/proc/{pid}/cmdline").read_bytes():
        assert time.monotonic() < until, "the query program still runs"
        time.sleep(0.1)


@pytest.mark.slow
def test_the_libraries_of_the_model_are_loaded_before_anything_is_asked() -> None:
    with QueryProgram(Programs()) as program:
        maps, deadline = Path(f"/proc/{program._process.pid}/maps"), time.monotonic() + ANSWER_SECONDS
        while "_regex." not in maps.read_text():  # a library of transformers alone
            assert time.monotonic() < deadline
            time.sleep(0.2)


def test_queries_end_when_the_program_is_killed() -> None:
    with QueryProgram(Programs()) as program:
        asked = program.text("a dog")
        os.kill(program._process.pid, signal.SIGKILL)
        with pytest.raises(TemporaryError, match="killed by SIGKILL"):
            asked.result(ANSWER_SECONDS)
        with pytest.raises(TemporaryError):
            program.text("another dog").result(0)


def test_an_answer_that_cannot_be_read_ends_the_queries(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text("import sys, time\nprint('hello', flush=True)\ntime.sleep(60)\n", "utf-8")
    with QueryProgram(Programs(query=(sys.executable, str(script)))) as program:
        with pytest.raises(TemporaryError):
            program.text("a dog").result(ANSWER_SECONDS)
        with pytest.raises(TemporaryError):
            program.ready.result(ANSWER_SECONDS)


def test_a_program_that_takes_no_message_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text("import time\ntime.sleep(600)\n", "utf-8")
    program = QueryProgram(Programs(query=(sys.executable, str(script))))
    asked = program.image(bytes(1_000_000))
    time.sleep(0.2)
    program.close()
    assert program._process.returncode == -signal.SIGKILL
    with pytest.raises(TemporaryError):
        asked.result(0)


def test_a_url_that_is_too_long_is_not_sent(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text("import sys\nsys.stdin.read()\n", "utf-8")
    with QueryProgram(Programs(query=(sys.executable, str(script)))) as program:
        for asked in (program.url("x" * 65_537), program.picture("x" * 65_537, max_side=10)):
            assert refusal(asked) == "the URL has 65537 characters, the limit is 65536"


@pytest.mark.slow
def test_a_wrong_setting_of_the_program_is_its_error() -> None:
    with QueryProgram(Programs(), os.environ | {"EMBEDDER_FETCH_CONCURRENCY": "many"}) as program:
        with pytest.raises(ConfigError, match="EMBEDDER_FETCH_CONCURRENCY is 'many'"):
            program.text("a dog").result(ANSWER_SECONDS)
        assert not isinstance(program.ready.exception(), SettingsError | QueryRefused)


def test_a_stopped_program_leaves_no_process() -> None:
    program = QueryProgram(Programs())
    asked = program.text("a dog")
    program.close()
    assert program._process.poll() is not None
    with pytest.raises(TemporaryError):
        asked.result(0)
