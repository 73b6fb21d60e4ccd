import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from quillgpt.errors import DataError
from quillgpt.text.downloads import GPT2_MERGES, GPT2_VOCABULARY, TINY_SHAKESPEARE, Download, fetch

CONTENT = b"To be, or not to be\n" * 10_000


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests += 1
        if self.path == "/missing":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[:70_000] if self.path == "/cut" else CONTENT)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("QUILL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("QUILL_MIRROR", raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.requests = 0
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def download_of(server, page="/file", content=CONTENT):
    address = f"http://127.0.0.1:{server.server_port}{page}"
    return Download("the soliloquy", address, hashlib.sha256(content).hexdigest(), "hamlet/input.txt")


def left_over(download):
    return [path for path in download.cached.parent.glob("*") if path != download.cached]


def test_a_file_is_fetched_once_and_then_cached(server, tmp_path):
    download = download_of(server)
    assert fetch(download) == fetch(download) == tmp_path / "home" / "downloads" / "hamlet" / "input.txt"
    assert download.cached.read_bytes() == CONTENT
    assert server.requests == 1
    assert left_over(download) == []


def test_a_damaged_cached_file_is_fetched_again(server):
    download = download_of(server)
    download.cached.parent.mkdir(parents=True)
    download.cached.write_bytes(CONTENT[:-1])
    assert fetch(download).read_bytes() == CONTENT


def test_the_mirror_is_tried_before_the_network(server, tmp_path, monkeypatch):
    mirrored = tmp_path / "mirror" / "hamlet" / "input.txt"
    mirrored.parent.mkdir(parents=True)
    mirrored.write_bytes(CONTENT)
    monkeypatch.setenv("QUILL_MIRROR", str(tmp_path / "mirror"))
    assert fetch(download_of(server)).read_bytes() == CONTENT
    assert server.requests == 0


def test_a_wrong_file_in_the_mirror_is_named(server, tmp_path, monkeypatch):
    mirrored = tmp_path / "mirror" / "hamlet" / "input.txt"
    mirrored.parent.mkdir(parents=True)
    mirrored.write_bytes(b"Macbeth")
    monkeypatch.setenv("QUILL_MIRROR", str(tmp_path / "mirror"))
    with pytest.raises(DataError, match=hashlib.sha256(b"Macbeth").hexdigest()) as caught:
        fetch(download_of(server))
    assert str(mirrored) in str(caught.value)


@pytest.mark.parametrize(
    ("page", "reason"), [("/missing", "HTTP 404"), ("/cut", "the connection ended after 70,000 of 200,000 bytes")]
)
def test_what_cannot_be_fetched_is_one_line_with_address_place_and_remedy(server, page, reason):
    download = download_of(server, page)
    with pytest.raises(DataError) as caught:
        fetch(download)
    message = str(caught.value)
    for expected in (reason, download.address, str(download.cached), "QUILL_MIRROR"):
        assert expected in message
    assert "\n" not in message
    assert not download.cached.exists()
    assert left_over(download) == []


def test_another_content_names_both_hashes_and_is_not_kept(server):
    download = download_of(server, content=b"expected")
    with pytest.raises(DataError) as caught:
        fetch(download)
    assert download.sha256 in str(caught.value)
    assert hashlib.sha256(CONTENT).hexdigest() in str(caught.value)
    assert not download.cached.exists()


def test_an_unreachable_address_is_one_line(server):
    server.server_close()
    with pytest.raises(DataError, match="could not be fetched"):
        fetch(download_of(server))


@pytest.mark.download
@pytest.mark.parametrize("download", [TINY_SHAKESPEARE, GPT2_MERGES, GPT2_VOCABULARY], ids=lambda d: d.place)
def test_published_files_hash_as_pinned(published, download):
    assert hashlib.sha256(published(download).read_bytes()).hexdigest() == download.sha256
