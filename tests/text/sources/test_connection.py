"""Servers that answer oddly, slowly, without end or elsewhere: each comes to one line, and soon."""

import io
import json
import socket
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from fuzzing import only_user_errors
from quillgpt.data.prepare import prepare
from quillgpt.errors import DataError
from quillgpt.text.sources import addresses, connection, downloads, transfer
from quillgpt.text.sources.addresses import recorded_address, shown_address
from quillgpt.text.sources.connection import RefusedError
from quillgpt.text.sources.downloads import address_download, fetch

TEXT = b"To be, or not to be, that is the question:\n" * 100
HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Keep out of the person's cache folder, and make new tries without a pause."""
    monkeypatch.setenv("QUILL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(connection, "PAUSES_SECONDS", (0.0,))


@pytest.fixture
def hasty(monkeypatch):
    """Look at progress every fifth of a second."""
    monkeypatch.setattr(connection, "WATCH_SECONDS", 0.2)


@contextmanager
def answering(*parts, pause=0.0, endless=b""):
    """Answer each request with these bytes, part by part, and then with others until nobody listens."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(20)

    def answer(client):
        with client:
            try:
                client.recv(65536)
                for part in parts:
                    client.sendall(part)
                    time.sleep(pause)
                while endless:
                    client.sendall(endless)
                    time.sleep(pause)
            except OSError:
                pass

    def serve():
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(client,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/a.txt"
    finally:
        listener.close()


def message_of(address):
    began = time.monotonic()
    with pytest.raises(DataError) as caught:
        fetch(address_download(address))
    message = str(caught.value)
    assert message.isprintable(), message
    assert len(message) < 900
    assert time.monotonic() - began < 15
    return message


def left_of(address):
    return [path.name for path in address_download(address).cached.parent.glob("*.part*")]


def test_one_byte_at_a_time_is_too_slow_and_what_came_is_kept(hasty):
    head = HEAD + b'Content-Length: 100000\r\nETag: "1"\r\n\r\n'
    with answering(head, pause=0.02, endless=b"x") as address:
        assert "it comes too slowly, fewer than 6,000 bytes in 0.2 s" in message_of(address)
        assert sorted(left_of(address)) == ["a.txt.part", "a.txt.part.json"]


def test_headers_and_chunks_that_come_byte_by_byte_are_too_slow_as_well(hasty):
    with answering(HEAD, pause=0.02, endless=b"x") as address:
        assert "too slowly" in message_of(address)
    with answering(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", pause=0.02, endless=b"0") as address:
        assert "too slowly" in message_of(address)


def test_a_body_without_end_is_cut_off_and_not_kept(monkeypatch):
    monkeypatch.setattr(transfer, "MOST_UNSTATED_BYTES", 1_000_000)
    for head in (HEAD + b"\r\n", HEAD + b"Transfer-Encoding: chunked\r\n\r\n"):
        endless = b"x" * 65536 if b"chunked" not in head else b"10000\r\n" + b"x" * 65536 + b"\r\n"
        with answering(head, endless=endless) as address:
            assert "goes on, after not saying how much it is going to be" in message_of(address)
            assert left_of(address) == []


def test_more_than_there_is_room_for_is_refused_before_it_is_fetched_or_when_the_room_is_used_up(monkeypatch):
    with answering(HEAD + b"Content-Length: 999999999999999999\r\n\r\n", endless=b"x" * 65536) as address:
        assert "999,999,999,999,999,999 bytes are still to come, and only" in message_of(address)
    rooms = iter([10**9, 10**9, 10**6])
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda _: type("", (), {"free": next(rooms)}))
    monkeypatch.setattr(transfer, "ASKED_EVERY_BYTES", 100_000)
    with answering(HEAD + b"\r\n", endless=b"x" * 65536) as address:
        assert "there are only 1,000,000 bytes free for it" in message_of(address)
        assert left_of(address) == []


def test_a_server_that_gives_a_byte_for_each_request_is_given_up():
    with answering(HEAD + b'Content-Length: 100000\r\nETag: "1"\r\n\r\nx') as address:
        assert "the connection ended after 1 of 100,000 bytes" in message_of(address)


@pytest.mark.parametrize(
    "headers",
    [
        "Content-Length: \xb2",
        "Content-Length: " + "9" * 5000,
        "Content-Length: -1",
        "Content-Length: 1e3",
        "Content-Length: \u0661".encode().decode("latin-1"),
        "Content-Range: bytes 0-1/\xb2",
        "Content-Range: bytes " + "9" * 5000 + "-1/2",
        "ETag: \x01\x1b[31m",
        "ETag: " + "e" * 60_000,
        "Last-Modified: \xff",
        "Content-Type: text/plain; charset=\xff\xfe",
        "Content-Type: ;;;===",
        "No colon here",
        ": no name",
    ],
    ids=lambda headers: ascii(headers)[:40],
)
@pytest.mark.parametrize("status", ["200 OK", "206 Partial Content"])
def test_odd_headers_do_not_matter_where_the_text_comes(headers, status):
    head = f"HTTP/1.1 {status}\r\n{headers}\r\n\r\n".encode("latin-1")
    with answering(head + TEXT) as address, only_user_errors():
        assert fetch(address_download(address)).read_bytes()[-10:] == TEXT[-10:]


@pytest.mark.parametrize(
    "retry",
    ["\xb2", "9" * 5000, "-5", "1e9", "Mon, 01 Jan 99999 00:00:00 GMT", "Mon, 01 Jan 0000 00:00:00 GMT", "soon"],
)
def test_odd_times_to_wait_are_passed_over_or_too_long(retry):
    with answering(
        f"HTTP/1.1 503 \x1b[31mno\r\nContent-Length: 0\r\nRetry-After: {retry}\r\n\r\n".encode("latin-1")
    ) as it:
        assert "HTTP 503" in message_of(it)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("file:///etc/passwd", "no address of the web"),
        ("ftp://example.org/a.txt", "no address of the web"),
        ("data:text/plain,hello", "no address of the web"),
        ("javascript:alert(1)", "no address of the web"),
        ("http://[::1/x", "which is no address"),
        ("http://example.org:port/x", "could not be fetched"),
        ("/a.txt", "in a circle"),
        ("http:///x", "could not be fetched"),
        ("\xff\xfe", "could not be fetched"),
        (None, "without saying where to"),
    ],
)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_to_what_is_not_followed(place, words, status):
    to = "" if place is None else f"Location: {place}\r\n"
    with answering(f"HTTP/1.1 {status} Go\r\nContent-Length: 0\r\n{to}\r\n".encode("latin-1")) as address:
        assert words in message_of(address)


def test_the_body_of_a_redirect_may_have_no_end():
    with answering(b"HTTP/1.1 302 Go\r\nLocation: /b.txt\r\n\r\n", endless=b"x" * 65536) as address:
        assert "in a circle" in message_of(address)


def test_answers_that_only_announce_others_come_to_an_end(hasty):
    with answering(endless=b"HTTP/1.1 100 Continue\r\n\r\n" * 1000) as address:
        assert "too slowly" in message_of(address)
    with answering(HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", endless=b"A: b\r\n" * 1000) as address:
        assert "could not be fetched" in message_of(address)


def test_a_redirect_from_https_to_http_is_refused():
    answer = requests.Response()
    answer.status_code, answer.url, answer.raw = 302, "https://example.org/a.txt", io.BytesIO()
    session = connection._Session(connection.Watch())
    answer.headers["Location"] = "http://example.org/a.txt"
    with pytest.raises(RefusedError, match="from https to http"):
        session.get_redirect_target(answer)
    for place in ("https://example.org/b.txt", "//example.org/b.txt", "/b.txt"):
        answer.headers["Location"] = place
        assert session.get_redirect_target(answer) == place


def test_what_comes_compressed_though_it_should_not_is_named():
    with answering(HEAD + b"Content-Encoding: gzip\r\n\r\n\x1f\x8b") as address:
        assert "the server sends it compressed (gzip)" in message_of(address)


@pytest.mark.parametrize(
    "note",
    [
        b"",
        b"[" * 100_000,
        b'{"address": 3, "version": null}',
        b'{"address": "KEY", "version": 3}',
        b'{"address": "KEY", "version": ["a"]}',
        b'{"address": "KEY", "version": "a\\r\\nHost: elsewhere"}',
        b'{"address": "KEY", "version": "\\u20ac"}',
        b'{"address": "KEY", "version": "' + b"v" * 100_000 + b'"}',
        b"\xff\xfe\0",
        b"9" * 5000,
    ],
    ids=lambda note: repr(note[:40]),
)
def test_a_damaged_note_beside_what_has_come_begins_anew(note):
    with answering(HEAD + b"Content-Length: %d\r\n\r\n" % len(TEXT) + TEXT) as address:
        download = address_download(address)
        partial = transfer.Partial(Path(f"{download.cached}.part"), download.address, pinned=False)
        partial.path.parent.mkdir(parents=True)
        partial.path.write_bytes(b"half")
        Path(f"{partial.path}.json").write_bytes(note.replace(b"KEY", partial._key.encode()))
        assert fetch(download).read_bytes() == TEXT


SECRETS = [
    "https://example.org/a.txt?token=s3cret",
    "https://example.org/a.txt?s3cret",
    "https://example.org/a.txt?a=1&sig=s3cret&b",
    "https://example.org/a.txt#s3cret",
    "https://ada:s3cret@example.org/a.txt",
    "https://ada:s3@cret@example.org/a.txt",
    "HTTPS://s3cret@example.org/a.txt?x=s3cret",
    "ftp://ada:s3cret@example.org/a.txt",
    "https://ada:s3cret@[::1/a.txt",
    "https://example.org:s3cret/a.txt?token=s3cret",
]


@pytest.mark.parametrize("address", SECRETS)
def test_a_shown_address_shows_no_secret(address):
    shown = shown_address(address)
    assert "cret" not in shown.replace(":s3cret/", "")
    assert shown_address(shown) == shown
    assert "example.org" in shown or "[::1" in shown
    assert shown_address("https://example.org/a/b.txt") == "https://example.org/a/b.txt"
    assert recorded_address(SECRETS[0]) != recorded_address(SECRETS[0] + "2")


def test_secrets_of_an_address_are_neither_said_nor_recorded(tmp_path, capsys):
    with answering(HEAD + b"Content-Length: %d\r\n\r\n" % len(TEXT) + TEXT) as address:
        secret = f"{address}?token=s3cret"
        folder = prepare([secret], data_dir=tmp_path / "data").dataset.folder
        prepare([secret], data_dir=tmp_path / "data")
    with answering(b"HTTP/1.1 404 no\r\n\r\n") as address, pytest.raises(DataError) as caught:
        prepare([f"{address}?token=s3cret"], data_dir=tmp_path / "data")
    said = capsys.readouterr().err + str(caught.value)
    assert f"?token={addresses.HIDDEN}" in said
    assert "s3cret" not in said
    assert json.loads((folder / "dataset.json").read_text())["sources"][0]["location"].startswith("http://127")
    for file in [*tmp_path.rglob("*.json"), *tmp_path.rglob("*.lock")]:
        assert "s3cret" not in file.read_text()
    with pytest.raises(DataError, match="was recorded without the values"):
        address_download(shown_address("https://example.org/a.txt?token=s3cret"))


@pytest.mark.parametrize("address", [each for each in SECRETS if "@" in each or ":s3cret/" in each])
def test_what_cannot_be_fetched_is_refused_without_its_secret(address, tmp_path):
    with pytest.raises(DataError) as caught:
        prepare([address], data_dir=tmp_path / "data")
    assert "s3cret@" not in str(caught.value)
    assert "token=s3cret" not in str(caught.value)


def test_an_address_may_be_in_capitals():
    with answering(HEAD + b"Content-Length: %d\r\n\r\n" % len(TEXT) + TEXT) as address:
        assert downloads.fetch(address_download(address.replace("http://", "HTTP://"))).read_bytes() == TEXT
