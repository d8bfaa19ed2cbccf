"""Kills a program at a chosen moment, as a node does that dies: with SIGKILL, and its requests may be under way."""

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
"""Far more than any of these programs takes."""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """When to kill: whatever of these comes first. A request that is not passed on never reaches the store."""

    phase: str
    """What the program is doing then."""
    seconds: float | None = None
    """After the start."""
    line: Callable[[LogLine], bool] | None = None
    request: Callable[[Request], bool] | None = None
    is_passed_on: bool = False
    nth: int = 1
    """Of the lines or requests that look right."""
    image: int = 0
    """The so-manieth request for an image."""


def asks(operation: str, key: str = "") -> Callable[[Request], bool]:
    """Return what recognizes a request of this kind for a key that ends so."""
    return lambda request: request.operation == operation and unquote(urlsplit(request.path).path).endswith(key)


def says(event: str, **values: Callable[[str], bool]) -> Callable[[LogLine], bool]:
    """Return what recognizes a line of the log."""
    return lambda line: line.event == event and all(test(line.values[name]) for name, test in values.items())


class Reaper:
    """Kills a process at the moment, or when it sends a request that would take the run further than it is to get."""

    def __init__(self, moment: Moment, *, latest: Callable[[Request], bool]) -> None:
        self.moment = moment
        self.is_on_time = False
        self._latest = latest
        self._lock = threading.Lock()
        self._seen = self._images = 0
        self._process: Popen[str] | None = None
        self._started = threading.Event()

    def run(self, start: Callable[[], Popen[str]]) -> tuple[int, str]:
        """Start the process and return its exit code, and its log, once it is dead."""
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
        with self._lock:
            self._images += 1
            is_now = self._images == self.moment.image
        if is_now:
            self._kill(True)

    def _is_nth(self, looks_right: bool) -> bool:
        with self._lock:
            self._seen += looks_right
            return looks_right and self._seen == self.moment.nth

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
    """Start a program with the SDK's variables for a store that the reaper stands before, and have it killed.

    `watch` is given the reaper while images are to be counted. With `may_end` the moment may never come.
    """
    reaper = Reaper(moment, latest=latest)
    watch(reaper)
    with s3_proxy(s3, reaper) as proxy:
        code, log = reaper.run(lambda: start(proxy.environment))
    watch(None)
    assert code == -signal.SIGKILL or (may_end and code == 0), f"{moment} ended with {code}: {log}"
    return reaper
