"""The range of a file that a request asks for, and whether an answer is that range."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from common.format.reasons import Reason
from worker.fetch.transport import Broken, Verdict

if TYPE_CHECKING:
    from worker.fetch.answer_head import AnswerHead


class WantedRange(NamedTuple):
    first: int
    length: int
    tag: str
    """The ETag that the file must have, an empty text for any."""

    @property
    def last(self) -> int:
        return self.first + self.length - 1

    def refusal(self, head: AnswerHead, *, asked: str) -> Broken | None:
        """Return why the answer of the host `asked` is not the range, None if it is, or if its status is a failure."""
        if head.status == 416 or (200 <= head.status < 300 and self.tag and head.tag != self.tag):
            detail = f"{asked}: the file that holds the images changed; a run needs files that do not change"
            return Broken(Verdict.CHANGED, Reason.CONNECTION_FAILED, detail, 0)
        if not 200 <= head.status < 300:
            return None
        is_right = head.content_range.startswith(f"bytes {self.first}-{self.last}/") and not head.codings
        if head.status == 206 and is_right and head.length in {None, self.length}:
            return None
        if head.status != 206:
            sent = "the whole file"
        elif head.codings:
            sent = "a compressed range"
        else:
            sent = f"{head.length} bytes of another range"
        detail = f"{asked} sent {sent} instead of bytes {self.first} to {self.last}"
        return Broken(Verdict.FINAL, Reason.HTTP_ERROR, detail, 0)
