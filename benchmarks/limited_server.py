"""An HTTP server of images that answers a number of requests a second, and the others with 429: python -m … RATE.

The burst is one second. An image has the path /<worker>/<number>.jpg, and the server counts what each worker asked for.
`/counts` returns the counts as JSON. It prints its port, and serves until it is stopped.
"""

from __future__ import annotations

import asyncio
import io
import json
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from subprocess import PIPE, Popen
from typing import TYPE_CHECKING, NamedTuple
from urllib.request import urlopen

from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterator

SIDE = 32
"""Length of an image's side in pixels. An image that costs little to decode lets eight workers fit on two cores."""

REFUSAL = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n"


class Counts(NamedTuple):
    """What one worker asked for, since the server started."""

    answered: int
    refused: int
    repeated: int
    """Number of answers for images that the worker had already."""
    waiting_seconds: list[float]
    """For each image that was refused and has not been answered since: the time from its last request to the
    worker's latest request for an image that it had not asked for before, in seconds. Refused images come first."""


@dataclass(slots=True)
class _Asked:
    answered: set[bytes] = field(default_factory=set)
    refused_at: dict[bytes, float] = field(default_factory=dict)
    """Times of the last refusals of images that have not been answered."""
    refused: int = 0
    repeated: int = 0
    new_at: float = 0.0

    def note(self, number: bytes, now: float, *, is_answered: bool) -> None:
        if number not in self.answered and number not in self.refused_at:
            self.new_at = now
        if not is_answered:
            self.refused += 1
            self.refused_at[number] = now
            return
        self.repeated += number in self.answered
        self.answered.add(number)
        self.refused_at.pop(number, None)


class LimitedServer:
    def __init__(self, rate: float) -> None:
        self._rate = self._tokens = rate
        self._filled_at = time.monotonic()
        self._asked: dict[bytes, _Asked] = {}
        image = io.BytesIO()
        Image.new("RGB", (SIDE, SIDE), (200, 80, 40)).save(image, "JPEG")
        self._image = _answer(image.getvalue(), "image/jpeg")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._respond(head.split(b" ", 2)[1]))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def _respond(self, path: bytes) -> bytes:
        if path == b"/counts":
            return _answer(json.dumps(self._counts()).encode(), "application/json")
        is_answered = self._has_token()
        worker, _, number = path.strip(b"/").partition(b"/")
        self._asked.setdefault(worker, _Asked()).note(number, time.monotonic(), is_answered=is_answered)
        return self._image if is_answered else REFUSAL

    def _has_token(self) -> bool:
        now = time.monotonic()
        self._tokens = min(self._rate, self._tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def _counts(self) -> dict[str, Counts]:
        return {
            worker.decode(): Counts(
                len(asked.answered) + asked.repeated,
                asked.refused,
                asked.repeated,
                [asked.new_at - at for at in asked.refused_at.values()],
            )
            for worker, asked in self._asked.items()
        }


def _answer(body: bytes, kind: str) -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


class LimitedSite(NamedTuple):
    """A running server."""

    port: int

    def urls(self, worker: int, count: int) -> list[str]:
        return [f"http://127.0.0.1:{self.port}/{worker}/{number}.jpg" for number in range(count)]

    def counts(self) -> dict[int, Counts]:
        """Return the counts of the workers that have asked for anything."""
        with urlopen(f"http://127.0.0.1:{self.port}/counts", timeout=30) as answer:
            return {int(worker): Counts(*counts) for worker, counts in json.load(answer).items()}


@contextmanager
def limited_site(rate: int) -> Iterator[LimitedSite]:
    """Serve at this rate until the block ends."""
    command = [sys.executable, "-m", "benchmarks.limited_server", str(rate)]
    with Popen(command, stdout=PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield LimitedSite(int(server.stdout.readline()))
        finally:
            server.terminate()


async def main() -> None:
    server = await asyncio.start_server(LimitedServer(float(sys.argv[1])).serve, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main())
