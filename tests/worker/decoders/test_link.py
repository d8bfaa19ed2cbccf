"""Messages between a worker and its decoders arrive as they were sent."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from worker.decode.decoder_link import (
    MAX_TEXT_CHARS,
    MESSAGE_BYTES,
    Bug,
    Died,
    Done,
    Failed,
    Large,
    NoMemory,
    Ready,
    Request,
    answer_from_message,
    answer_to_message,
)

from common.format.reasons import Reason

if TYPE_CHECKING:
    from worker.decode.decoder_link import Answer


def test_a_request_arrives_as_it_was_sent() -> None:
    request = Request(3, 64 << 20, 270, 336, 178_956_970, may_be_large=True)
    assert Request.from_message(request.to_message()) == request


@pytest.mark.parametrize(
    "answer",
    [
        Ready(7),
        Done(),
        Failed(Reason.CORRUPT, 'two words, a "quote", a line\nbreak and Ä'),
        Large(),
        NoMemory(),
        Bug("Traceback\n  File ...\nValueError: 1"),
        Died(-11),
        Died(70),
    ],
    ids=repr,
)
def test_an_answer_arrives_with_its_type_and_fields(answer: Answer) -> None:
    arrived = answer_from_message(answer_to_message(answer))
    assert arrived == answer
    assert type(arrived) is type(answer)


@pytest.mark.parametrize("character", ["a", "\0", "Ä", "\N{GRINNING FACE}", "\udc80"])
def test_the_end_of_a_long_text_fits_in_a_message(character: str) -> None:
    message = answer_to_message(Bug(character * 100_000 + "the end"))
    assert len(message) <= MESSAGE_BYTES
    arrived = answer_from_message(message)
    assert isinstance(arrived, Bug)
    assert arrived.traceback.endswith("the end")
    assert len(arrived.traceback) == MAX_TEXT_CHARS
    arrived.traceback.encode()  # can be stored


@pytest.mark.parametrize(
    "sent", [[], ["Done", 1], ["Ready"], ["Failed", "corrupt"], ["Failed", "no reason", ""], "Done"]
)
def test_any_other_message_is_refused(sent: object) -> None:
    with pytest.raises(ValueError, match="is not"):
        answer_from_message(json.dumps(sent).encode())
