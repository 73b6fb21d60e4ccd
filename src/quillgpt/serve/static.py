"""The page: a few files at fixed addresses, read when the server starts; no other file can be asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

FOLDER: Final = Path(__file__).with_name("page")

FILES: Final = {
    "/": "index.html",
    "/page/page.css": "page.css",
    "/page/icon.svg": "icon.svg",
    "/page/main.js": "main.js",
    "/page/api.js": "api.js",
    "/page/card.js": "card.js",
    "/page/chart.js": "chart.js",
    "/page/dom.js": "dom.js",
    "/page/runs.js": "runs.js",
    "/page/settings.js": "settings.js",
    "/page/sheet.js": "sheet.js",
    "/page/tokens.js": "tokens.js",
    "/page/tree.js": "tree.js",
}
"""Names of files by the addresses that they have. None of them needs a key: the page asks for it."""

MEDIA_TYPES: Final = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def media_type(name: str) -> str:
    """Return the media type of a file of the page."""
    return MEDIA_TYPES[Path(name).suffix]


def page_routes() -> list[Route]:
    """Return what answers with the files of the page."""
    return [_route(address, name) for address, name in FILES.items()]


def _route(address: str, name: str) -> Route:
    content = (FOLDER / name).read_bytes()

    async def send(_: Request) -> Response:
        return Response(content, media_type=media_type(name))

    return Route(address, send, methods=["GET"])
