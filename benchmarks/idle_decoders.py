"""python -m benchmarks.idle_decoders: stands in for worker.decoders.server, without requests and without images.

It takes the same arguments. Whatever it is to fetch arrives at once and is decoded at once, as far as there are slots.
"""

from __future__ import annotations

import json
import select
import socket
import sys
from collections import deque
from typing import TYPE_CHECKING

from worker.child_process import die_with_parent
from worker.decoders.link import PACKET_BYTES, Decoded, Fetched, Ready, reports_to_packets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.decoders.link import Report

IMAGE_BYTES = 150_000
"""Size of every image in bytes."""

DECODE_SECONDS = 0.003
"""Time for which every image is said to be decoded, in seconds."""


class _Decoder:
    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._jobs: deque[int] = deque()
        self._slots: deque[int] = deque()
        self._send([Ready(0)])

    def answer(self) -> bool:
        """Receive a packet of orders and answer it. Return whether the worker is still there."""
        packet = self._link.recv(PACKET_BYTES)
        if not packet:
            return False
        reports: list[Report] = []
        for name, *fields in json.loads(packet)[1:]:
            if name == "Start":
                self._jobs.append(fields[0])
                reports.append(Fetched(fields[0], IMAGE_BYTES))
            elif name == "Slots":
                self._slots += fields[0]
        while self._jobs and self._slots:
            reports.append(Decoded(self._jobs.popleft(), self._slots.popleft(), DECODE_SECONDS, 0.0))
        self._send(reports)
        return True

    def _send(self, reports: list[Report]) -> None:
        for packet in reports_to_packets(reports) if reports else ():
            self._link.sendall(packet)


def main(arguments: Sequence[str]) -> None:
    """Serve the worker that gave these arguments; see `worker.decoders.server`."""
    worker_process, _, _, *descriptors = arguments
    die_with_parent(int(worker_process))
    decoders = {link: _Decoder(socket.socket(fileno=link)) for link in map(int, descriptors[::2])}
    links = select.epoll()
    for link in decoders:
        links.register(link, select.EPOLLIN)
    while decoders:
        for link, _ in links.poll():
            if not decoders[link].answer():
                links.unregister(link)
                del decoders[link]


if __name__ == "__main__":
    main(sys.argv[1:])
