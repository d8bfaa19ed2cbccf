"""Who may ask this page: the browser of the person who started it, and pages of this program alone.

The server listens on loopback, which every user of the machine and, through a browser, every site reach. Four checks
keep them out: the path holds a secret; the header Host names this server, so a site that lets its own name resolve to
127.0.0.1 (DNS rebinding) is refused; Origin and Sec-Fetch-Site say that a request comes from this page; and the answers
forbid the page to load or to be shown anywhere else.
"""

from __future__ import annotations

import hmac
import secrets
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

_METHODS = frozenset({"GET", "HEAD", "POST"})


class Secrets:
    """The secret path of the page, and a way to it that works once."""

    def __init__(self) -> None:
        self.path = f"/{secrets.token_urlsafe(24)}/"
        """Only the person who sees this program's output knows it."""
        self._once = f"/open/{secrets.token_urlsafe(24)}"

    @property
    def once(self) -> str:
        """The path for the browser that this program starts: other users see the command lines of processes."""
        return self._once

    def take_once(self, path: str) -> bool:
        """Return whether `path` is the way that works once, and whether it was not used before."""
        is_it = bool(self._once) and hmac.compare_digest(path.encode(), self._once.encode())
        if is_it:
            self._once = ""
        return is_it


class Guard:
    """Lets requests through to the application, without the secret in their path, or answers them itself."""

    def __init__(self, application: ASGIApp, known: Secrets, *, port: int) -> None:
        self._application, self._known = application, known
        self._hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise ValueError(f"this server answers HTTP alone, not {scope['type']}")

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        path = scope["path"]
        refusal = self._refusal(scope)
        if refusal:
            answer: ASGIApp = PlainTextResponse(refusal, status_code=403)
        elif self._known.take_once(path):
            answer = RedirectResponse(self._known.path, status_code=303)
        elif hmac.compare_digest(path[: len(self._known.path)].encode(), self._known.path.encode()):
            scope = {**scope, "path": path[len(self._known.path) - 1 :], "root_path": ""}
            answer = self._application
        else:
            answer = PlainTextResponse(
                "There is nothing here. Open the address that `embedder explore` has printed.", status_code=404
            )
        await answer(scope, receive, send_guarded)

    def _refusal(self, scope: Scope) -> str:
        """Return why the request is refused, "" where it is not."""
        headers = Headers(scope=scope)
        host, origin, site = headers.get("host", ""), headers.get("origin"), headers.get("sec-fetch-site", "none")
        if host not in self._hosts:
            return "This server is reached as 127.0.0.1 or localhost alone."
        if scope["method"] not in _METHODS:
            return "This server answers GET and POST alone."
        if origin is not None and origin != f"http://{host}":
            return "This server answers its own page alone, and the request comes from another one."
        # A link elsewhere may lead to this page, as from a terminal in a browser. Whoever follows it knows the secret.
        is_link = scope["method"] == "GET" and headers.get("sec-fetch-mode") == "navigate"
        if site not in {"same-origin", "none"} and not (is_link and headers.get("sec-fetch-dest") == "document"):
            return "This server answers its own page alone, and the request comes from another site."
        return ""
