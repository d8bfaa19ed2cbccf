"""The last word of a program: how it ended, as a log line and as the termination message of its container.

The kubelet reads the message from /dev/termination-log, and `embedder status` reads it from the pod. It has two lines:

    finished: chunk 7 is in the store: 9988 images of 10000, 12 failed
    images=10000 of=10000 failed=12

The second line is for programs. Where the program failed, it names the error: `error=TooManyFailures`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from common.logs import log, printable, redact_urls

if TYPE_CHECKING:
    from collections.abc import Mapping

TERMINATION_LOG = Path("/dev/termination-log")
"""The file that a kubelet reads when a container has ended. It is absent outside a pod."""

TERMINATION_LOG_BYTES = 4096
"""The size in bytes of the largest message that a kubelet keeps."""

Event = Literal["finished", "failed", "stopped", ""]

_EVENTS: Mapping[str, Event] = {"finished": "finished", "failed": "failed", "stopped": "stopped"}
_HEAD = re.compile(r"(finished|failed|stopped): ?")
_FACTS = re.compile(r"(?:error=(?P<error>\w+))?(?P<counts>(?:(?:^| )[a-z_]+=[0-9]{1,15})*)")


@dataclass(frozen=True, kw_only=True)
class LastWord:
    event: Event
    """An empty text when another program wrote the message."""
    message: str
    """One sentence, without secrets."""
    error: str = ""
    """Name of the error's class, for example `TooManyFailures`. Empty unless the program failed in a foreseen way."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Numbers for other programs. For a chunk in the store: `images` (embedded or failed), `of` (all images of the
    chunk) and `failed`. For a chunk with too many failures: the failed images by reason, and the number of those that
    are `listed` in the chunk's failures file."""

    def say(self, *, exit_code: int) -> None:
        """Write it to the log, and to the termination log if there is one."""
        emit = log.error if exit_code else log.info
        emit(self.event, exit_code=exit_code, **self.counts, message=redact_urls(self.message))
        if TERMINATION_LOG.exists():
            try:
                TERMINATION_LOG.write_bytes(self.to_termination_message())
            except OSError as error:
                log.warning("no_termination_log", error=str(error))

    def to_termination_message(self) -> bytes:
        """Return `event: message`, and error and counts on a second line. A message that is too long is cut."""
        facts = [f"error={self.error}"] if self.error else []
        facts += [f"{name}={count}" for name, count in self.counts.items()]
        tail = f"\n{' '.join(facts)}".encode() if facts else b""
        head = f"{self.event}: {printable(redact_urls(self.message))}".encode()
        # The cut may fall within a character.
        whole = head[: TERMINATION_LOG_BYTES - len(tail)].decode("utf-8", "ignore")
        return whole.encode() + tail

    @classmethod
    def from_termination_message(cls, text: str) -> LastWord:
        """Return what a pod's termination message says.

        When a container leaves no message, a kubelet may take the end of its log instead. Such a text has no event.
        """
        head, _, last_line = text.rstrip().rpartition("\n")
        facts = _FACTS.fullmatch(last_line) if head else None
        error, counts = "", {}
        if facts is None:
            head = text
        else:
            error = facts["error"] or ""
            counts = {name: int(count) for name, count in (pair.split("=") for pair in facts["counts"].split())}
        message = printable(redact_urls(" ".join(head.split())))
        found = _HEAD.match(message)
        if found is None:
            return cls(event="", message=message, error=error, counts=counts)
        return cls(event=_EVENTS[found[1]], message=message[found.end() :], error=error, counts=counts)
