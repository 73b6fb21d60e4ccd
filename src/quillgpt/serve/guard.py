"""Who may ask: checks that come before anything else, for every request.

A page of another site can make a browser ask a server on this machine. Browsers then send that site's name, as Origin
or, where the site's name was made to lead here (DNS rebinding), as Host. So both are checked. What needs a key is
answered to nobody else.
"""

from __future__ import annotations

import hmac
import ipaddress
import socket
from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quillgpt.serve.answers import refusal

HEADERS: Final = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Of every answer: the page uses nothing from elsewhere, and nobody else uses what is here."""


class Guard:
    """Refuses requests with another site's name or without the key, and completes the headers of every answer.

    Args:
        app: Answers the others.
        host: The name or address that the server listens at.
        api_key: What clients must send as `Authorization: Bearer KEY`; None: nothing.
        open_paths: What is answered without the key: a page that asks for it, and whether the server lives.
    """

    def __init__(self, app: ASGIApp, *, host: str, api_key: str | None, open_paths: Iterable[str]) -> None:
        self._app = app
        self._names = {"localhost", host.lower(), socket.gethostname().lower()}
        self._key = None if api_key is None else api_key.encode()
        self._open_paths = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        app = self._app
        if not self._is_own(host):
            app = refusal(403, "the Host header names another site; ask for this server by the address it listens at")
        elif origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            app = refusal(403, "pages of other sites may not use this server")
        elif not self._may_ask(scope["path"], headers):
            app = refusal(401, "this server needs a key: send it as Authorization: Bearer KEY", code="invalid_api_key")
        await app(scope, receive, send_with_headers)

    def _is_own(self, host: str) -> bool:
        """Whether a Host header has a name of this machine, or an address, which no other site can claim."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
            urlsplit(f"//{host}").port  # noqa: B018  # raises if it is no number
        except ValueError:
            return False
        if name in self._names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _may_ask(self, path: str, headers: Headers) -> bool:
        if self._key is None or path in self._open_paths:
            return True
        scheme, _, given = headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._key)
