"""A small web site on this machine that can be told to misbehave."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from quillgpt.text.sources import connection


@dataclass
class Page:
    """The content under one path, and how its next answers fail."""

    content: bytes
    headers: dict[str, str] = field(default_factory=lambda: {"ETag": '"first"'})
    continues: bool = True
    states_length: bool = True
    failures: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    silences: list[float] = field(default_factory=list)


class Site(ThreadingHTTPServer):
    """The pages by path, and the requests for them."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages: dict[str, Page] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []

    def publish(self, path: str, content: bytes, **behaviour: Any) -> str:
        """Add or replace a page, and return its address."""
        self.pages[path] = Page(content, **behaviour)
        return self.address(path)

    def address(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"

    @property
    def ranges(self) -> list[str | None]:
        """The range of every request."""
        return [headers.get("Range") for _, headers in self.requests]

    def close(self) -> None:
        """Stop answering."""
        self.shutdown()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing about clients that disconnect."""


class Handler(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        self.server.requests.append((self.path, dict(self.headers)))
        page = self.server.pages.get(self.path)
        if page is None:
            self.send_error(404)
            return
        if page.failures:
            status, headers = page.failures.pop(0)
            self._head(status, {"Content-Length": "0", **headers})
            return
        begin = self._begin(page)
        if begin > len(page.content) or (begin and begin == len(page.content)):
            self._head(416, {"Content-Length": "0", "Content-Range": f"bytes */{len(page.content)}"})
            return
        rest = page.content[begin:]
        headers = dict(page.headers)
        if page.states_length:
            headers["Content-Length"] = str(len(rest))
        if begin:
            headers["Content-Range"] = f"bytes {begin}-{len(page.content) - 1}/{len(page.content)}"
        self._head(206 if begin else 200, headers)
        if page.silences:
            self.wfile.write(rest[:1000])
            self.wfile.flush()
            time.sleep(page.silences.pop(0))
            rest = rest[1000:]
        self.wfile.write(rest[: page.cuts.pop(0)] if page.cuts else rest)

    def _begin(self, page: Page) -> int:
        asked, version = self.headers.get("Range"), self.headers.get("If-Range")
        versions = (None, page.headers.get("ETag"), page.headers.get("Last-Modified"))
        if not page.continues or asked is None or version not in versions:
            return 0
        return int(asked.removeprefix("bytes=").removesuffix("-"))

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site(tmp_path, monkeypatch) -> Iterator[Site]:
    """Run an empty site, with an empty cache folder and no mirror; new tries are made without a pause."""
    monkeypatch.setenv("QUILL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("QUILL_MIRROR", raising=False)
    monkeypatch.setattr(connection, "PAUSES_SECONDS", (0.0, 0.0, 0.0))
    running = Site()
    threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield running
    running.close()
