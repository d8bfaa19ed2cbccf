"""Kills a program with SIGKILL at a chosen moment, as the death of its node would, even during a request."""

from __future__ import annotations

import signal
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from common.logs import LogLine, parse_line
from tests.s3_proxy import RESET, Reaction, Request, s3_proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from subprocess import Popen

    from tests.s3_server import S3Server

SECONDS = 280
"""Longest time that a test waits for a program, in seconds: far more than any of these programs takes."""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """The moment of the kill: the first of the events that are set here."""

    phase: str
    """Name of the program's step at this moment."""
    seconds: float | None = None
    """Time since the program's start, in seconds."""
    line: Callable[[LogLine], bool] | None = None
    """Recognizes a line of the log."""
    request: Callable[[Request], bool] | None = None
    """Recognizes a request to the store."""
    is_passed_on: bool = False
    """Whether the store receives the request at which the program is killed."""
    nth: int = 1
    """Number of the recognized line or request that is the moment, from 1."""
    image: int = 0
    """Number of the request for an image that is the moment, from 1; 0: no such request."""


def asks(operation: str, key: str = "") -> Callable[[Request], bool]:
    """Return a function that recognizes requests with this S3 operation and a key that ends with `key`."""
    return lambda request: request.operation == operation and unquote(urlsplit(request.path).path).endswith(key)


def nth(number: int, recognizes: Callable[[Request], bool]) -> Callable[[Request], bool]:
    """Return a function that recognizes the n-th of these requests, counted from 1, and all later ones."""
    lock = threading.Lock()
    seen = 0

    def recognize(request: Request) -> bool:
        nonlocal seen
        with lock:
            is_one = recognizes(request)
            seen += is_one
            return is_one and seen >= number

    return recognize


def deletes_after_check() -> Callable[[Request], bool]:
    """Return a function that recognizes the requests of one program that delete objects, its access check apart."""
    return nth(2, asks("DeleteObjects"))


def is_access_check(request: Request) -> bool:
    """Return whether the request writes the small object of an access check."""
    return request.operation == "PutObject" and "/.access/" in request.path


def says(event: str, **values: Callable[[str], bool]) -> Callable[[LogLine], bool]:
    """Return a function that recognizes log lines with this event and with values that pass the tests."""
    return lambda line: line.event == event and all(test(line.values[name]) for name, test in values.items())


class Reaper:
    """Kills a process at its moment, or at the latest when it sends a request that `latest` recognizes.

    Such a request would take the run too far for the kills that follow. The store does not receive it.
    """

    def __init__(self, moment: Moment, *, latest: Callable[[Request], bool]) -> None:
        self.moment = moment
        self.is_on_time = False
        self._latest = latest
        self._lock = threading.Lock()
        self._seen = self._images = 0
        self._process: Popen[str] | None = None
        self._started = threading.Event()

    def run(self, start: Callable[[], Popen[str]]) -> tuple[int, str]:
        """Start the process, wait until it has ended, and return its exit code and its log."""
        lines = []
        with start() as process:
            self._process = process
            self._started.set()
            if self.moment.seconds is not None:
                timer = threading.Timer(self.moment.seconds, self._kill, [True])
                timer.start()
            assert process.stderr is not None
            for text in process.stderr:
                lines.append(text)
                line = parse_line(text)
                if line is not None and self.moment.line is not None and self._is_nth(self.moment.line(line)):
                    self._kill(True)
            if self.moment.seconds is not None:
                timer.cancel()
            return process.wait(SECONDS), "".join(lines)

    def __call__(self, request: Request) -> Reaction:
        """Intervene in a request to the store."""
        if self.moment.request is not None and self._is_nth(self.moment.request(request)):
            self._kill(True)
            return None if self.moment.is_passed_on else RESET
        if self._latest(request):
            self._kill(False)
            return RESET
        return None

    def see_image(self) -> None:
        """Count a request for an image."""
        with self._lock:
            self._images += 1
            is_now = self._images == self.moment.image
        if is_now:
            self._kill(True)

    def _is_nth(self, is_recognized: bool) -> bool:
        with self._lock:
            self._seen += is_recognized
            return is_recognized and self._seen == self.moment.nth

    def _kill(self, is_on_time: bool) -> None:
        assert self._started.wait(SECONDS)
        assert self._process is not None
        with self._lock:
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
                self.is_on_time |= is_on_time


def killed(
    moment: Moment,
    *,
    s3: S3Server,
    latest: Callable[[Request], bool],
    start: Callable[[Mapping[str, str]], Popen[str]],
    watch: Callable[[Reaper | None], object] = lambda _: None,
    may_end: bool = False,
) -> Reaper:
    """Start a program, have it killed, and return its reaper.

    `start` is given the SDK's variables that lead the program to the store through the reaper. `watch` is given the
    reaper while requests for images have to be counted. With `may_end` the program may end before its moment comes.
    """
    reaper = Reaper(moment, latest=latest)
    watch(reaper)
    with s3_proxy(s3, reaper) as proxy:
        code, log = reaper.run(lambda: start(proxy.environment))
    watch(None)
    assert code == -signal.SIGKILL or (may_end and code == 0), f"{moment} ended with {code}: {log}"
    return reaper
