"""The last word as a container's termination message, written and read back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.logs import configure_logs, parse_line
from common.process import last_word
from common.process.last_word import TERMINATION_LOG_BYTES, Event, LastWord

if TYPE_CHECKING:
    from pathlib import Path

COUNTS = {"images": 10_000, "of": 10_000, "failed": 12}


def read_back(word: LastWord) -> LastWord:
    return LastWord.from_termination_message(word.to_termination_message().decode())


@pytest.mark.parametrize("event", ["finished", "failed", "stopped"])
@pytest.mark.parametrize("counts", [COUNTS, {"of": 0}, {}])
def test_a_last_word_is_read_back_with_its_counts(event: Event, counts: dict[str, int]) -> None:
    word = LastWord(event=event, message="chunk 7: 5 of 6 images failed: not_found 5", counts=counts)
    assert read_back(word) == word


@pytest.mark.parametrize("counts", [COUNTS, {}])
def test_a_failure_is_read_back_with_the_name_of_its_error(counts: dict[str, int]) -> None:
    word = LastWord(event="failed", message="5 of 6 images failed", error="TooManyFailures", counts=counts)
    assert read_back(word) == word
    assert word.to_termination_message().startswith(b"failed: 5 of 6 images failed\nerror=TooManyFailures")


def test_the_message_is_one_line_and_the_counts_are_another() -> None:
    word = LastWord(event="finished", message="chunk 7 is in the store", counts=COUNTS)
    assert word.to_termination_message() == b"finished: chunk 7 is in the store\nimages=10000 of=10000 failed=12"


@pytest.mark.parametrize("letter", ["x", "ü", "😀"])
@pytest.mark.parametrize("counts", [COUNTS, {}])
def test_a_message_that_is_too_long_is_cut_and_the_counts_stay(letter: str, counts: dict[str, int]) -> None:
    for length in range(TERMINATION_LOG_BYTES - 60, TERMINATION_LOG_BYTES + 60):
        word = LastWord(event="failed", message=letter * length, counts=counts)
        written = word.to_termination_message()
        assert TERMINATION_LOG_BYTES - 60 < len(written) <= TERMINATION_LOG_BYTES
        found = LastWord.from_termination_message(written.decode())
        assert (found.event, found.counts) == ("failed", counts)
        assert set(found.message) == {letter}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ""),
        ("panic: runtime error", "panic: runtime error"),
        (
            "Traceback (most recent call last):\n  File\nMemoryError\n",
            "Traceback (most recent call last): File MemoryError",
        ),
        ("unfinished: no", "unfinished: no"),
        ("exec: images=5: not found", "exec: images=5: not found"),
    ],
)
def test_the_message_of_another_program_has_no_event_and_no_counts(text: str, message: str) -> None:
    assert LastWord.from_termination_message(text) == LastWord(event="", message=message)


def test_a_message_of_several_lines_is_one_line_and_its_last_line_may_be_the_counts() -> None:
    found = LastWord.from_termination_message("stopped: by SIGTERM;\n nothing is\nhalf-written\nimages=5 of=9\n")
    assert found == LastWord(
        event="stopped", message="by SIGTERM; nothing is half-written", counts={"images": 5, "of": 9}
    )


@pytest.mark.parametrize(
    "line", ["images=5 of", "images=", "images=-5", "images=5  of=9", "images=5.5", f"images={'9' * 16}", "images=٣"]
)
def test_a_last_line_of_another_form_belongs_to_the_message(line: str) -> None:
    found = LastWord.from_termination_message(f"finished: done\n{line}")
    assert found.counts == {}
    assert found.message == " ".join(f"done {line}".split())


def test_secrets_and_control_characters_are_neither_written_nor_read() -> None:
    said = "no answer of https://ann:hunter1@host/a?sig=hunter2\x1b[31m"
    shown = "no answer of https://***@host/a?sig=***"
    written = LastWord(event="failed", message=said).to_termination_message().decode()
    found = LastWord.from_termination_message(f"failed: {said}")
    for text in (written, found.message):
        assert shown in text
        assert "hunter" not in text
        assert "\x1b" not in text


@given(st.text())
def test_any_message_can_be_read(text: str) -> None:
    for message in (text, f"finished: {text}", f"finished: x\n{text}"):
        assert LastWord.from_termination_message(message).message.isprintable()


def test_the_last_word_is_a_log_line_and_in_a_pod_the_termination_message_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    word = LastWord(event="finished", message="chunk 7 is in the store", counts=COUNTS)
    place = tmp_path / "termination-log"
    monkeypatch.setattr(last_word, "TERMINATION_LOG", place)
    configure_logs()
    word.say(exit_code=0)
    assert not place.exists()
    place.touch()
    word.say(exit_code=0)
    assert LastWord.from_termination_message(place.read_text("utf-8")) == word
    for text in capsys.readouterr().err.splitlines():
        line = parse_line(text)
        assert line is not None
        assert (line.level, line.event) == ("info", "finished")
        assert {key: line.count(key) for key in COUNTS} == COUNTS
        assert (line.count("exit_code"), line.values["message"]) == (0, "chunk 7 is in the store")
