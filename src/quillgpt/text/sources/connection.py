"""Http requests that come to an end: redirects lead only where they may, and an answer that hardly comes is cut off."""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any
from urllib.parse import urlsplit

from quillgpt.text.sources.addresses import shown_address

WATCH_SECONDS = 60.0
LEAST_BYTES = 6_000
"""What must come in `WATCH_SECONDS`; less is a server that keeps a program waiting for days."""


class RedirectError(Exception):
    """An address leads somewhere that is not followed."""


class Watch:
    """Looks at regular times whether enough has come, and cuts the connections off where it has not.

    Attributes:
        is_too_slow: Whether it has cut them off.
    """

    def __init__(self) -> None:
        self.is_too_slow = False
        self._received = 0
        self._sockets: list[socket.socket] = []
        self._over = threading.Event()

    def follow(self, connection: socket.socket) -> None:
        """Watch a connection too."""
        self._sockets.append(connection)

    def received(self, count: int) -> None:
        """Note that so many bytes have come."""
        self._received += count

    @contextmanager
    def watching(self) -> Iterator[Watch]:
        """Watch while the block runs."""
        thread = threading.Thread(target=self._watch, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._over.set()
            thread.join()

    def _watch(self) -> None:
        before = 0
        while not self._over.wait(WATCH_SECONDS):
            if self._received - before < LEAST_BYTES:
                self.is_too_slow = True
                for connection in self._sockets:
                    with suppress(OSError):
                        # Not by an encrypted connection's own method, which waits for the other side.
                        socket.socket.shutdown(connection, socket.SHUT_RDWR)
                return
            before = self._received


def open_address(
    address: str, headers: dict[str, str], *, timeout_seconds: float, watch: Watch
) -> http.client.HTTPResponse:
    """Send a request and return the answer, after following redirects.

    Raises:
        RedirectError: It is redirected to where it may not go.
        OSError: As `urllib.request.urlopen`.
        http.client.HTTPException: Likewise.
    """
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        _Http(watch),
        _Https(watch),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    answer: http.client.HTTPResponse = opener.open(
        urllib.request.Request(address, headers=headers), None, timeout_seconds
    )
    return answer


class _Http(urllib.request.HTTPHandler):
    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._watch = watch

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        def connection(host: str, **options: Any) -> http.client.HTTPConnection:
            return _watched(http.client.HTTPConnection(host, **options), self._watch)

        return self.do_open(connection, request)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._watch = watch

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        def connection(host: str, **options: Any) -> http.client.HTTPConnection:
            secured = http.client.HTTPSConnection(host, context=ssl.create_default_context(), **options)
            return _watched(secured, self._watch)

        return self.do_open(connection, request)


def _watched(connection: http.client.HTTPConnection, watch: Watch) -> http.client.HTTPConnection:
    connect = connection.connect

    def connect_watched() -> None:
        connect()
        watch.follow(connection.sock)

    connection.connect = connect_watched  # type: ignore[method-assign]
    return connection


class _Unread(io.BytesIO):
    """Stands for the body of a redirect, which the library would read whole before it goes on, however long it is."""

    def __init__(self, body: IO[bytes]) -> None:
        super().__init__()
        self._body = body

    def close(self) -> None:
        """Close the body unread."""
        self._body.close()
        super().close()


class _Redirects(urllib.request.HTTPRedirectHandler):
    def http_error_302(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: http.client.HTTPMessage
    ) -> Any:
        place = headers.get("Location") or headers.get("URI")
        if place is None:
            raise RedirectError(f"it redirects without saying where to, HTTP {code}")
        try:
            scheme = urlsplit(place).scheme.lower()
            if scheme not in ("", "http", "https"):
                raise RedirectError(f"it redirects to {shown_address(place)[:200]!r}, which is no address of the web")
            if scheme == "http" and urlsplit(req.full_url).scheme == "https":
                raise RedirectError("it redirects from https to http, on which anybody on the way could change it")
            return super().http_error_302(req, _Unread(fp), code, msg, headers)
        except urllib.error.HTTPError as error:
            if error.msg.startswith(self.inf_msg):
                raise RedirectError("it redirects in a circle, or too often") from None
            raise
        except ValueError:
            raise RedirectError(f"it redirects to {shown_address(place)[:200]!r}, which is no address") from None

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302
