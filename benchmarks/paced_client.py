"""Sends requests at the worker's own pace, for a time: python -m … BEGIN END PORT. Prints what it counted.

There are requests to send from the start to END; what comes after BEGIN is counted. Both are seconds. Prints one line
of JSON: the rows that were answered and refused, and those of the whole time that were lost.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field

from worker.fetch.pace import Pace

MOST_IN_FLIGHT = 48
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
LOOK_AGAIN_SECONDS = 0.5


@dataclass(slots=True)
class Client:
    """Sends requests to one site. A row that is refused goes back to the others."""

    port: int
    begin: float
    end: float
    pace: Pace = field(default_factory=lambda: Pace(at_least=1 / 60))
    rows: deque[int] = field(default_factory=deque)
    settled: set[int] = field(default_factory=set)
    taken: int = 0
    in_flight: int = 0
    answered: int = 0
    refused: int = 0

    async def run(self) -> None:
        await asyncio.gather(*(self._send_in_turn() for _ in range(MOST_IN_FLIGHT)))

    def counts(self) -> dict[str, int]:
        lost = self.taken - len(self.settled) - len(set(self.rows))
        return {"answered": self.answered, "refused": self.refused, "lost": lost}

    async def _send_in_turn(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        while (now := time.monotonic()) < self.end:
            most = self.pace.most_in_flight
            seconds = self.pace.wait_seconds(now)
            if most is not None and self.in_flight >= most:
                seconds = max(seconds, 0.001)
            if seconds:
                await asyncio.sleep(min(seconds, LOOK_AGAIN_SECONDS))
                continue
            await self._send(reader, writer, self._next_row())
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    def _next_row(self) -> int:
        if self.rows:
            return self.rows.popleft()
        self.taken += 1
        return self.taken

    async def _send(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, row: int) -> None:
        sent_at = time.monotonic()
        self.pace.note_sent(sent_at)
        self.in_flight += 1
        writer.write(REQUEST)
        head = await reader.readuntil(b"\r\n\r\n")
        is_refused = head.startswith(b"HTTP/1.1 429")
        if not is_refused:
            await reader.readexactly(2)
        self.in_flight -= 1
        now = time.monotonic()
        if is_refused:
            self.pace.note_refusal(sent_at=sent_at, now=now, retry_after_seconds=0)
            self.rows.append(row)
            self.refused += now >= self.begin
        else:
            self.pace.note_answer(sent_at=sent_at, now=now)
            self.settled.add(row)
            self.answered += now >= self.begin


async def main() -> None:
    start = time.monotonic()
    begin, end = (start + float(seconds) for seconds in sys.argv[1:3])
    client = Client(int(sys.argv[3]), begin, end)
    await client.run()
    print(json.dumps(client.counts()))


if __name__ == "__main__":
    asyncio.run(main())
