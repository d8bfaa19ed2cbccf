"""The last word of a program: how it ended, as a log line, and as the message that a kubelet keeps of its container.

The kubelet reads the message from /dev/termination-log, and `embedder status` reads it back from the pod.
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
"""Size of the largest message that a kubelet keeps."""

Event = Literal["finished", "failed", "stopped"]

_HEAD = re.compile(r"(finished|failed|stopped): ?")
_COUNTS = re.compile(r"[a-z_]+=[0-9]{1,15}(?: [a-z_]+=[0-9]{1,15})*")


@dataclass(frozen=True, kw_only=True)
class LastWord:
    event: Event | Literal[""]
    """An empty text where another program wrote the message."""
    message: str
    """One sentence, without secrets."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Numbers for programs: `images` that are embedded or failed, `of` all images of the chunk, `failed` of them."""

    def say(self, *, exit_code: int) -> None:
        """Write it to the log and to the termination log, where there is one."""
        message = redact_urls(self.message)
        emit = log.error if exit_code else log.info
        emit(self.event, exit_code=exit_code, **self.counts, message=message)
        if TERMINATION_LOG.exists():
            try:
                TERMINATION_LOG.write_bytes(self.to_termination_message())
            except OSError as error:
                log.warning("no_termination_log", error=str(error))

    def to_termination_message(self) -> bytes:
        """Return `event: message` and, on a line of their own, the counts; the message is cut where they do not fit."""
        counts = " ".join(f"{name}={count}" for name, count in self.counts.items())
        tail = f"\n{counts}".encode() if counts else b""
        head = f"{self.event}: {printable(redact_urls(self.message))}".encode()
        return head[: TERMINATION_LOG_BYTES - len(tail)] + tail

    @classmethod
    def from_termination_message(cls, text: str) -> LastWord:
        """Return what a pod's termination message says.

        Where a container leaves no message, a kubelet can take the end of its log instead: then there is no event.
        """
        head, _, tail = text.rstrip().rpartition("\n")
        counts = {}
        if _COUNTS.fullmatch(tail):
            counts = {name: int(count) for name, count in (pair.split("=") for pair in tail.split(" "))}
        else:
            head = text
        message = printable(redact_urls(" ".join(head.split())))
        found = _HEAD.match(message)
        if found is None:
            return cls(event="", message=message, counts=counts)
        event: Event = "finished" if found[1] == "finished" else "stopped" if found[1] == "stopped" else "failed"
        return cls(event=event, message=message[found.end() :], counts=counts)
