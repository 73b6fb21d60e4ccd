"""A local server that answers as the Hugging Face hub does, and fails on demand."""

from __future__ import annotations

import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

REVISION = "0123456789abcdef0123456789abcdef01234567"
LARGE = ".safetensors"


class MiniHub(ThreadingHTTPServer):
    """Publishes folders as models.

    Attributes:
        models: Folders by the names under which they are published.
        requests: Method and path of what was asked for, in order.
        continued: Where answers began that went on with a file.
        cut_after: A file's bytes after which the connection ends, by name; each once.
        instead: Other content than what is promised, by name.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.models: dict[str, Path] = {}
        self.requests: list[str] = []
        self.continued: list[int] = []
        self.cut_after: dict[str, int] = {}
        self.instead: dict[str, bytes] = {}

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def fetched(self, name: str) -> int:
        """Say how often a file's content was asked for."""
        return sum(request.startswith("GET") and request.endswith("/" + name) for request in self.requests)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing about readers that went away."""


class _Handler(BaseHTTPRequestHandler):
    server: MiniHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = self.path.partition("?")[0]
        self.server.requests.append(f"{self.command} {path}")
        if match := re.fullmatch(r"/api/models/(.+?)/(revision|tree)/[^/]+/?", path):
            folder = self.server.models.get(match[1])
            if folder is None:
                self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
                return
            files = sorted(file for file in folder.iterdir())
            if match[2] == "tree":
                content: object = [_entry(file) for file in files]
            else:
                content = {"id": match[1], "sha": REVISION, "siblings": [{"rfilename": file.name} for file in files]}
            self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})
            return
        match = re.fullmatch(r"/(.+)/resolve/[^/]+/([^/]+)", path)
        folder = self.server.models.get(match[1]) if match else None
        if match is None or folder is None or not (folder / match[2]).is_file():
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        file = folder / match[2]
        content = self.server.instead.get(file.name, file.read_bytes())
        headers = {"ETag": f'"{_etag(file)}"', "X-Repo-Commit": REVISION, "Accept-Ranges": "bytes"}
        cut = self.server.cut_after.pop(file.name, None) if self.command == "GET" else None
        begin = int(re.match(r"bytes=(\d+)-", self.headers.get("Range", "bytes=0-"))[1])  # type: ignore[index]
        if begin:
            self.server.continued.append(begin)
            headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        self._send(206 if begin else 200, content[begin:], headers, cut=cut)

    def _send(self, status: int, content: bytes, headers: dict[str, str], cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[:cut])
        if cut is not None:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


def _etag(file: Path) -> str:
    content = file.read_bytes()
    if file.suffix == LARGE:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


def _entry(file: Path) -> dict[str, object]:
    size = file.stat().st_size
    entry: dict[str, object] = {"type": "file", "path": file.name, "size": size, "oid": _etag(file)}
    if file.suffix == LARGE:
        entry["lfs"] = {"oid": _etag(file), "size": size, "pointerSize": 130}
        entry["oid"] = hashlib.sha1(file.name.encode()).hexdigest()
    return entry
