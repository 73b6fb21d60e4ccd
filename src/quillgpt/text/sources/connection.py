"""HTTP requests that come to an end: when to try again, where redirects may lead, and how slow an answer may be.

This module imports requests, so import it only where something is fetched.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3 import BaseHTTPResponse
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    IncompleteRead,
    InvalidHeader,
    NewConnectionError,
    ProxyError,
    ReadTimeoutError,
    SSLError,
)
from urllib3.util import Retry

from quillgpt.text.sources.addresses import shown_address

PAUSES_SECONDS = (1.0, 4.0, 15.0)
"""Pauses before new tries, as long as no try gets further."""

LONGEST_PAUSE_SECONDS = 60.0
"""A server that asks for a longer pause is not waited for."""

MOST_REDIRECTS = 10
CHUNK_BYTES = 1 << 16
UNCONNECTED = (ConnectTimeoutError, NewConnectionError, SSLError, ProxyError)
"""Errors of a request that reached no server."""

WATCH_SECONDS = 60.0
LEAST_BYTES = 6_000
"""What must arrive in `WATCH_SECONDS`; a slower server would keep a program waiting for days."""


class RefusedError(Exception):
    """A request that will not succeed later either: a redirect that Quill does not follow, or an invalid address."""


class FailedTryError(Exception):
    """A request that failed, and may succeed later.

    Attributes:
        reached: Whether a server was reached.
        answer: Its answer, if there was one.
    """

    def __init__(self, reason: str, *, reached: bool = True, answer: BaseHTTPResponse | None = None) -> None:
        super().__init__(reason)
        self.reached = reached
        self.answer = answer


class RetryPolicy(Retry):
    """How often a file is asked for again, and after which pauses.

    It is counted by hand (`increment`) rather than by the adapter, since a retry asks for the rest of the file only.
    """

    def get_backoff_time(self) -> float:
        """Return the pause that follows the failures so far."""
        return PAUSES_SECONDS[len(self.history) - 1]

    def get_retry_after(self, response: BaseHTTPResponse) -> float | None:
        """Return how many seconds a server asks to wait; None if it does not say so, or not in a readable way."""
        with suppress(InvalidHeader, ValueError, OverflowError, OSError):
            return super().get_retry_after(response)
        return None

    def pause_seconds(self, response: BaseHTTPResponse | None) -> float:
        """Return the pause before the next try, after this answer of a server, if there was one."""
        asked = None if response is None else self.get_retry_after(response)
        return max(self.get_backoff_time(), asked or 0.0)


class Watch:
    """Cuts off connections over which too little arrives.

    The timeouts of requests hold for one read from a socket. A server that sends one byte now and then, in the head of
    its answer or between two chunks, never meets them, so a thread counts what arrives.

    Attributes:
        is_too_slow: Whether it has cut them off.
    """

    def __init__(self) -> None:
        self.is_too_slow = False
        self._received = 0
        self._sockets: list[socket.socket] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def add(self, connection: socket.socket) -> None:
        """Watch a connection from now on."""
        self._sockets.append(connection)
        if self.is_too_slow:
            self._cut_off()
        elif not self._thread.ident:
            self._thread.start()

    def received(self, count: int) -> None:
        """Count bytes that have arrived."""
        self._received += count

    @contextmanager
    def watching(self) -> Iterator[Watch]:
        """Watch the connections that are added while the block runs."""
        try:
            yield self
        finally:
            self._over.set()
            if self._thread.ident:
                self._thread.join()

    def _watch(self) -> None:
        before = 0
        while not self._over.wait(WATCH_SECONDS):
            if self._received - before < LEAST_BYTES:
                self.is_too_slow = True
                self._cut_off()
                return
            before = self._received

    def _cut_off(self) -> None:
        for connection in self._sockets:
            with suppress(OSError):
                # Not by an encrypted connection's own method, which waits for the other side.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)


def open_address(address: str, headers: dict[str, str], *, timeout_seconds: float, watch: Watch) -> requests.Response:
    """Send a request and return the answer after redirects, whatever its status, without its body.

    Raises:
        RefusedError: It will not succeed later either.
        FailedTryError: There is no answer.
    """
    with _Session(watch) as session:
        try:
            return session.get(address, headers=headers, timeout=timeout_seconds, stream=True)
        except requests.TooManyRedirects:
            raise RefusedError("it redirects in a circle, or too often") from None
        except ValueError as error:  # whose words may hold the address
            raise RefusedError(f"the address, or that of a proxy, is invalid: {type(error).__name__}") from error
        except (requests.RequestException, HTTPError) as error:
            reached = not any(isinstance(cause, UNCONNECTED) for cause in _causes(error))
            raise FailedTryError(_words(error, timeout_seconds), reached=reached) from error


def next_chunk(answer: requests.Response, *, timeout_seconds: float) -> bytes:
    """Return the bytes of an answer that have arrived, so that they are kept if the rest does not come.

    They are empty at the end, which may come before the announced one.

    Raises:
        FailedTryError: The connection fails.
    """
    try:
        chunk: bytes = answer.raw.read1(CHUNK_BYTES, decode_content=False)
    except (HTTPError, OSError, ValueError) as error:
        if any(isinstance(cause, IncompleteRead) for cause in _causes(error)):  # less than was announced
            return b""
        raise FailedTryError(_words(error, timeout_seconds)) from error
    return chunk


def one_line(words: object) -> str:
    """Return the words of a server or a library as a short line, without control characters."""
    return "".join(letter if letter.isprintable() else " " for letter in str(words))[:200].strip()


class _Session(requests.Session):
    """Follows redirects only to the web, and never from https to http; sends no password of a .netrc file."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.max_redirects = MOST_REDIRECTS
        self.auth = _without_password
        adapter = _WatchedAdapter(watch)
        self.mount("http://", adapter)
        self.mount("https://", adapter)

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Return where an answer redirects to, if it does; the body of a redirect may have no end and is not read."""
        if resp.status_code not in (301, 302, 303, 307, 308):
            return None
        resp.close()
        place = resp.headers.get("Location")
        if place is None:
            raise RefusedError(f"it redirects without saying where to, HTTP {resp.status_code}")
        try:
            parts = urlsplit(place)
            target, scheme, _ = super().get_redirect_target(resp), parts.scheme.lower(), parts.port
        except ValueError:
            raise RefusedError(f"it redirects to {shown_address(place)[:200]!r}, which is no address") from None
        if scheme not in ("", "http", "https"):
            raise RefusedError(f"it redirects to {shown_address(place)[:200]!r}, which is no address of the web")
        if scheme == "http" and urlsplit(resp.url).scheme == "https":
            raise RefusedError("it redirects from https to http, on which anybody on the way could change it")
        return target

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        """Send no password after a redirect either."""


def _without_password(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


class _WatchedAdapter(HTTPAdapter):
    """Has a watch look at all connections, and trusts the system's certificates besides those that requests brings."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        super().__init__()

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        if find_spec("socks") is None and options.get("proxies"):  # without PySocks, a SOCKS proxy would be an error
            options["proxies"] = {
                scheme: proxy for scheme, proxy in options["proxies"].items() if not proxy.startswith("socks")
            }
        return super().send(request, *args, **options)

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options, ssl_context=ssl.create_default_context())

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        return super().proxy_manager_for(proxy, **options, ssl_context=ssl.create_default_context())

    def get_connection_with_tls_context(self, *args: Any, **options: Any) -> HTTPConnectionPool:
        pool: HTTPConnectionPool = super().get_connection_with_tls_context(*args, **options)
        watch, connection_class = self._watch, type(pool).ConnectionCls

        class WatchedConnection(connection_class):  # type: ignore[misc, valid-type]
            def connect(self) -> None:
                super().connect()
                watch.add(self.sock)

        pool.ConnectionCls = WatchedConnection
        return pool


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error of an HTTP library and those that it wraps, the innermost last."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _words(error: BaseException, timeout_seconds: float) -> str:
    return reason_of_network(error, timeout_seconds) or "the connection was cut"


def reason_of_network(error: BaseException, timeout_seconds: float) -> str | None:
    """Return why a server could not be reached, as part of a sentence; None if an error has another cause."""
    *_, root = _causes(error)
    if isinstance(root, TimeoutError | ReadTimeoutError):
        return f"no answer for {timeout_seconds:g} seconds"
    if isinstance(root, socket.gaierror):
        return "there is no server of that name, or this machine is offline"
    if isinstance(root, OSError) and root.strerror:
        return one_line(root.strerror)
    return None
