"""The page's HTTP interface: its files, the answers of the explorer in JSON, and the pictures."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from common.errors import DataError, EmbedderError, TemporaryError
from common.logs import log
from common.process.resources import exhausted
from embedder.explore.explorer import AskedWrongly

if TYPE_CHECKING:
    from starlette.requests import Request

    from embedder.explore.explorer import Explorer

MAX_IMAGE_BYTES = 32 << 20
"""Largest size in bytes of an image that is dropped into the page."""

MAX_TEXT_CHARACTERS = 2_000
"""Longest text of a search. A CLIP model reads its first 77 tokens."""

PAGE_FILES = Path(__file__).parent / "static"
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_NUMBER = re.compile(r"[0-9]{1,15}")


def make_application(explorer: Explorer) -> Starlette:
    """Return the application. Its paths are relative to the secret one: see `guard`."""
    answers = _Answers(explorer)
    return Starlette(
        routes=[
            Route("/api/about", answers.about),
            Route("/api/rows", answers.rows),
            Route("/api/row", answers.row),
            Route("/api/search", answers.search),
            Route("/api/image", answers.image, methods=["POST"]),
            Route("/api/failures", answers.failures),
            Route("/api/map", answers.map),
            Route("/picture", answers.picture),
            *(_file_route(path) for path in sorted(PAGE_FILES.iterdir()) if path.suffix in _MEDIA_TYPES),
        ],
        exception_handlers={
            HTTPException: _refused,
            ClientDisconnect: _gone,
            EmbedderError: _failed,
            Exception: _broken,
        },
    )


class _Answers:
    def __init__(self, explorer: Explorer) -> None:
        self._explorer = explorer

    async def about(self, _: Request) -> Response:
        return JSONResponse(self._explorer.about())

    async def rows(self, request: Request) -> Response:
        page = await self._explorer.rows(start=_number(request, "start"), count=_number(request, "count"))
        return JSONResponse(asdict(page))

    async def row(self, request: Request) -> Response:
        return JSONResponse(asdict(await self._explorer.row(_number(request, "row"))))

    async def search(self, request: Request) -> Response:
        start, count, asked = _number(request, "start"), _number(request, "count"), request.query_params
        if "row" in asked:
            page = await self._explorer.near_row(_number(request, "row"), start=start, count=count)
        elif "image" in asked:
            page = await self._explorer.near_image(asked["image"], start=start, count=count)
        elif len(text := asked.get("text", "")) > MAX_TEXT_CHARACTERS:
            raise AskedWrongly(f"the text has {len(text):,} characters; write at most {MAX_TEXT_CHARACTERS:,}")
        else:
            page = await self._explorer.near_text(text, start=start, count=count)
        return JSONResponse(asdict(page))

    async def image(self, request: Request) -> Response:
        data = bytearray()
        async for piece in request.stream():
            data += piece
            if len(data) > MAX_IMAGE_BYTES:
                raise AskedWrongly(f"the picture is larger than {MAX_IMAGE_BYTES >> 20} MiB; choose a smaller one")
        return JSONResponse({"image": await self._explorer.take_image(bytes(data))})

    async def failures(self, request: Request) -> Response:
        page = await self._explorer.failures(
            offset=_number(request, "offset"),
            reason=request.query_params.get("reason", ""),
            count=_number(request, "count"),
        )
        return JSONResponse(asdict(page))

    async def map(self, request: Request) -> Response:
        return JSONResponse(self._explorer.map_since(_number(request, "version")))

    async def picture(self, request: Request) -> Response:
        number = _number(request, "row")
        if not self._explorer.has_row(number):
            raise HTTPException(404, f"there is no row {number}")
        found = await self._explorer.pictures.picture(number)
        headers = {"Cache-Control": "private, max-age=600"}
        return Response(found.data, media_type=found.media_type, headers=headers)


def _file_route(path: Path) -> Route:
    async def file(_: Request) -> Response:
        return FileResponse(path, media_type=_MEDIA_TYPES[path.suffix])

    return Route("/" if path.name == "index.html" else f"/{path.name}", file)


def _number(request: Request, name: str) -> int:
    text = request.query_params.get(name, "")
    if not _NUMBER.fullmatch(text):
        raise AskedWrongly(f"{name} is {text[:40]!r}, not a whole number from 0")
    return int(text)


def _refused(_: Request, error: Exception) -> Response:
    status, detail = (error.status_code, error.detail) if isinstance(error, HTTPException) else (500, str(error))
    return JSONResponse({"message": detail}, status_code=status)


def _gone(_: Request, __: Exception) -> Response:
    return Response(status_code=400)  # nobody reads it


def _failed(_: Request, error: Exception) -> Response:
    status = 503 if isinstance(error, TemporaryError) else 422 if isinstance(error, DataError) else 500
    return JSONResponse({"message": str(error)}, status_code=status)


def _broken(request: Request, error: Exception) -> Response:
    ours = exhausted(error)
    if ours is not None:
        return _failed(request, ours)
    log.error("bug", error=f"{type(error).__name__}: {error}", path=request.url.path)
    return JSONResponse({"message": f"a bug in the embedder: {type(error).__name__}: {error}"}, status_code=500)
