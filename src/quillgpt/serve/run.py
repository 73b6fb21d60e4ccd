"""The server as a process: listening, and ending soon when it is asked to."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from types import FrameType
from typing import Final

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from quillgpt.errors import UserError
from quillgpt.serve.app import Server
from quillgpt.serve.completion import ServedModel

LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
HEAD_SECONDS: Final = 10
"""The head of a request must have come this long after a client has connected."""

GRACE_SECONDS: Final = 1
"""How long answers may still take when the server ends."""

MOST_CONNECTIONS: Final = 512
BACKLOG: Final = 128


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        UserError: The address is not this machine's, or in use.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except OSError as error:
        raise UserError(
            f"cannot listen at {host}, port {port} ({error.strerror or error}); give another --port or --host"
        ) from None
    return sock


def check_access(host: str, api_key: str | None) -> None:
    """Check that nobody on the network can use the server without a key.

    Raises:
        UserError: The host is not this machine alone, and there is no key.
    """
    if host not in LOOPBACK and not api_key:
        raise UserError(
            f"--host={host} lets others on the network use the server; give --api_key too, or leave out --host"
        )


def run(models: Mapping[str, ServedModel], sock: socket.socket, *, host: str, api_key: str | None) -> None:
    """Answer requests until a signal ends the process."""
    server = Server(models, host=host, api_key=api_key)
    _Process(server).run(sockets=[sock])


def configuration(server: Server) -> uvicorn.Config:
    """Return how uvicorn runs a server."""
    return uvicorn.Config(
        server.app,
        http=_ImpatientProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="critical",  # what goes wrong is answered, and said in one line
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
        limit_concurrency=MOST_CONNECTIONS,
    )


class _Process(uvicorn.Server):
    """A server that computes nothing any more once a signal has come."""

    def __init__(self, server: Server) -> None:
        super().__init__(configuration(server))
        self._turns = server.turns

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._turns.end()
        super().handle_exit(sig, frame)


class _ImpatientProtocol(H11Protocol):
    """HTTP for clients that send the head of their first request soon; others are disconnected."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._deadline = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _give_up(self) -> None:
        if self.cycle is None:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._deadline.cancel()
        super().connection_lost(exc)
