import hashlib
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from pathlib import Path
from threading import Event

import pytest
from filelock import FileLock

from quillgpt.errors import DataError
from quillgpt.text.sources import connection, downloads, transfer
from quillgpt.text.sources.downloads import (
    GPT2_MERGES,
    GPT2_VOCABULARY,
    TINY_SHAKESPEARE,
    Download,
    MissingFileError,
    address_download,
    fetch,
)

CONTENT = b"".join(b"line %d of a long soliloquy\n" % number for number in range(8000))
CHANGED = CONTENT.replace(b"soliloquy", b"monologue")
FETCHING = "import sys; from quillgpt.text.sources.downloads import *; print(fetch(address_download(sys.argv[1])))"


def pinned(address, content=CONTENT):
    return Download("the soliloquy", address, hashlib.sha256(content).hexdigest(), "hamlet/input.txt")


def left_over(download):
    """List what a fetch left beside the file, but for the lock, which stays."""
    files = download.cached.parent.glob("*")
    return sorted(path.name for path in files if path != download.cached and path.suffix != ".lock")


def message_of(download, kind=DataError):
    with pytest.raises(kind) as caught:
        fetch(download)
    message = str(caught.value)
    assert "\n" not in message
    return message


def leave_partial(site, **behaviour):
    """Let a fetch be cut and give up; return its download and the page."""
    download = address_download(site.publish("/input.txt", CONTENT, cuts=[70_000], **behaviour))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connection, "PAUSES_SECONDS", ())
        assert "70,000 bytes that came are kept" in message_of(download)
    assert not download.cached.exists()
    return download, site.pages["/input.txt"]


def test_a_file_is_fetched_once_and_then_cached(site, tmp_path):
    download = pinned(site.publish("/input.txt", CONTENT))
    assert fetch(download) == fetch(download) == tmp_path / "home" / "downloads" / "hamlet" / "input.txt"
    assert download.cached.read_bytes() == CONTENT
    assert len(site.requests) == 1
    assert left_over(download) == []


def test_a_damaged_cached_file_is_fetched_again(site):
    download = pinned(site.publish("/input.txt", CONTENT))
    download.cached.parent.mkdir(parents=True)
    download.cached.write_bytes(CONTENT[:-1])
    assert fetch(download).read_bytes() == CONTENT


@pytest.mark.parametrize("is_pinned", [True, False])
def test_the_mirror_is_tried_before_the_network(site, tmp_path, monkeypatch, is_pinned):
    address = site.publish("/input.txt", CONTENT)
    download = pinned(address) if is_pinned else address_download(address)
    mirrored = tmp_path / "mirror" / download.place
    mirrored.parent.mkdir(parents=True)
    mirrored.write_bytes(CONTENT)
    monkeypatch.setenv("QUILL_MIRROR", str(tmp_path / "mirror"))
    assert fetch(download).read_bytes() == CONTENT
    assert site.requests == []


def test_a_wrong_file_in_the_mirror_is_named(site, tmp_path, monkeypatch):
    mirrored = tmp_path / "mirror" / "hamlet" / "input.txt"
    mirrored.parent.mkdir(parents=True)
    mirrored.write_bytes(b"Macbeth")
    monkeypatch.setenv("QUILL_MIRROR", str(tmp_path / "mirror"))
    message = message_of(pinned(site.publish("/input.txt", CONTENT)))
    assert hashlib.sha256(b"Macbeth").hexdigest() in message
    assert str(mirrored) in message


def test_a_cut_connection_is_continued_where_it_was_cut(site):
    address = site.publish("/input.txt", CONTENT, cuts=[70_000, 50_000])
    download = address_download(address)
    assert fetch(download).read_bytes() == CONTENT
    assert site.ranges == [None, "bytes=70000-", "bytes=120000-"]
    assert [headers.get("If-Range") for _, headers in site.requests] == [None, '"first"', '"first"']
    assert left_over(download) == []


def test_a_connection_that_is_cut_often_but_gets_on_is_followed_to_the_end(site):
    download = address_download(site.publish("/input.txt", CONTENT, cuts=[30_000] * 7))
    assert fetch(download).read_bytes() == CONTENT
    assert len(site.requests) == 8


def test_a_connection_that_does_not_get_on_is_given_up_and_the_next_call_goes_on_from_there(site, capsys):
    download = address_download(site.publish("/input.txt", CONTENT, cuts=[70_000, 0, 0, 0]))
    message = message_of(download)
    assert "the connection ended after 70,000 of" in message
    assert "the 70,000 bytes that came are kept and the next try goes on from there" in message
    assert len(site.requests) == 4
    assert fetch(download).read_bytes() == CONTENT
    assert site.ranges[-1] == "bytes=70000-"
    assert "Continuing to download input.txt after 70,000 bytes" in capsys.readouterr().err


def test_a_chunked_answer_that_is_cut_is_no_whole_file(site):
    chunk = b"10000\r\n" + CONTENT[: 1 << 16] + b"\r\n"
    headers = {"Transfer-Encoding": "chunked"}
    address = site.publish("/input.txt", chunk, headers=headers, states_length=False, continues=False)
    download = address_download(address)
    assert "the connection was cut" in message_of(download)
    site.pages["/input.txt"].content = chunk + b"0\r\n\r\n"
    assert fetch(download).read_bytes() == CONTENT[: 1 << 16]


def test_a_file_that_changed_meanwhile_is_started_anew(site):
    download, page = leave_partial(site)
    page.content, page.headers = CHANGED, {"ETag": '"second"'}
    assert fetch(download).read_bytes() == CHANGED


def test_a_file_without_a_strong_tag_is_recognised_by_its_date(site):
    date = formatdate(0, usegmt=True)
    download, _ = leave_partial(site, headers={"ETag": 'W/"weak"', "Last-Modified": date})
    assert fetch(download).read_bytes() == CONTENT
    assert site.requests[-1][1]["If-Range"] == date
    assert site.ranges[-1] == "bytes=70000-"


@pytest.mark.parametrize("is_pinned", [True, False])
def test_a_file_of_no_known_version_is_continued_only_where_a_hash_will_tell(site, monkeypatch, is_pinned):
    monkeypatch.setattr(connection, "PAUSES_SECONDS", (0.0,))
    address = site.publish("/input.txt", CONTENT, headers={}, cuts=[70_000])
    assert fetch(pinned(address) if is_pinned else address_download(address)).read_bytes() == CONTENT
    assert site.ranges == [None, "bytes=70000-" if is_pinned else None]


def test_a_server_that_sends_the_whole_file_instead_of_the_rest_is_understood(site):
    download, page = leave_partial(site)
    page.continues = False
    assert fetch(download).read_bytes() == CONTENT


def test_a_partial_file_that_is_longer_than_the_file_is_started_anew(site):
    download, page = leave_partial(site)
    page.content = CONTENT[:1000]
    assert fetch(download).read_bytes() == CONTENT[:1000]


@pytest.mark.parametrize("note", ["", "[]", '{"address": "http://elsewhere/", "version": "1"}'])
def test_a_partial_file_with_a_damaged_or_foreign_note_is_started_anew(site, note):
    download, page = leave_partial(site)
    page.content = CHANGED
    Path(f"{download.cached}.part.json").write_text(note)
    assert fetch(download).read_bytes() == CHANGED


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL")
def test_a_killed_download_is_continued(site):
    download = address_download(site.publish("/input.txt", CONTENT, silences=[30.0]))
    command = [sys.executable, "-c", FETCHING, download.address]
    partial = Path(f"{download.cached}.part")
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 20
        while not (partial.is_file() and partial.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert partial.stat().st_size == 1000
    assert fetch(download).read_bytes() == CONTENT
    assert site.ranges[-1] == "bytes=1000-"


def test_two_processes_fetch_a_file_once(site):
    address = site.publish("/input.txt", CONTENT, silences=[1.0])
    command = [sys.executable, "-c", FETCHING, address]
    first, second = (subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2))
    printed = [process.communicate(timeout=30) for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0]
    cached = address_download(address).cached
    assert [out.decode().strip() for out, _ in printed] == [str(cached)] * 2
    assert cached.read_bytes() == CONTENT
    assert len(site.requests) == 1


def test_a_fetch_waits_for_another_that_holds_the_lock(site, monkeypatch):
    said, waits = [], Event()
    monkeypatch.setattr(downloads, "say", lambda words: (said.append(words), waits.set()))
    download = address_download(site.publish("/input.txt", CONTENT))
    download.cached.parent.mkdir(parents=True)
    with ThreadPoolExecutor() as pool:
        with FileLock(download.cached.with_name(".input.txt.lock")):
            fetched = pool.submit(fetch, download)
            assert waits.wait(timeout=30)
            assert said == ["Waiting for another process that is fetching input.txt"]
            assert not fetched.done()
            download.cached.write_bytes(CONTENT)
        assert fetched.result(timeout=10) == download.cached
    assert site.requests == []


def test_a_silent_server_is_asked_again(site, monkeypatch, capsys):
    monkeypatch.setattr(downloads, "TIMEOUT_SECONDS", 0.2)
    download = address_download(site.publish("/input.txt", CONTENT, silences=[0.6]))
    assert fetch(download).read_bytes() == CONTENT
    assert site.ranges == [None, "bytes=1000-"]
    assert "no answer for 0.2 seconds; trying again" in capsys.readouterr().err


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_server_in_trouble_is_asked_again(site, status):
    download = pinned(site.publish("/input.txt", CONTENT, failures=[(status, {})] * 3))
    assert fetch(download).read_bytes() == CONTENT
    assert len(site.requests) == 4


def test_a_server_that_stays_in_trouble_is_given_up_after_growing_pauses(site, monkeypatch):
    slept = []
    monkeypatch.setattr(connection, "PAUSES_SECONDS", (1.0, 4.0, 15.0))
    monkeypatch.setattr(transfer, "sleep", slept.append)
    assert "HTTP 503" in message_of(pinned(site.publish("/input.txt", CONTENT, failures=[(503, {})] * 9)))
    assert slept == [1.0, 4.0, 15.0]


def test_a_server_may_ask_for_a_pause_in_seconds_or_by_a_date_within_reason(site, monkeypatch):
    slept = []
    monkeypatch.setattr(transfer, "sleep", slept.append)
    date = formatdate(time.time() + 30, usegmt=True)
    failures = [(429, {"Retry-After": "7"}), (503, {"Retry-After": date}), (503, {"Retry-After": "soon"})]
    assert fetch(pinned(site.publish("/input.txt", CONTENT, failures=failures))).read_bytes() == CONTENT
    assert slept == [7.0, pytest.approx(30, abs=3), 0.0]
    late = site.publish("/late.txt", CONTENT, failures=[(429, {"Retry-After": "3600"})])
    assert "HTTP 429" in message_of(address_download(late))
    assert len(slept) == 3


def test_a_redirect_is_followed_also_when_it_is_continued(site):
    site.publish("/moved/here.txt", CONTENT, cuts=[70_000])
    moved = (302, {"Location": "/moved/here.txt"})
    download = address_download(site.publish("/input.txt", b"", failures=[moved, moved]))
    assert fetch(download).read_bytes() == CONTENT
    assert [(path, headers.get("Range")) for path, headers in site.requests] == [
        ("/input.txt", None),
        ("/moved/here.txt", None),
        ("/input.txt", "bytes=70000-"),
        ("/moved/here.txt", "bytes=70000-"),
    ]


def test_a_socks_proxy_is_passed_over_where_nothing_can_use_it(site, monkeypatch):
    monkeypatch.setattr(connection, "find_spec", lambda _: None)
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("all_proxy", "socks5://ada:s3cret@127.0.0.1:1")
    site.publish("/moved.txt", CONTENT)
    moved = (302, {"Location": "/moved.txt"})
    assert fetch(address_download(site.publish("/input.txt", b"", failures=[moved]))).read_bytes() == CONTENT


def test_no_password_of_a_netrc_file_is_sent_not_even_after_a_redirect(site, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login ada password s3cret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    site.publish("/moved.txt", CONTENT)
    moved = (302, {"Location": "/moved.txt"})
    assert fetch(address_download(site.publish("/input.txt", b"", failures=[moved]))).read_bytes() == CONTENT
    assert len(site.requests) == 2
    assert not any("Authorization" in headers for _, headers in site.requests)


@pytest.mark.parametrize(
    ("status", "words", "kind"),
    [
        (404, "there is nothing at this address, HTTP 404", MissingFileError),
        (410, "any more, HTTP 410", MissingFileError),
        (403, "the server does not give it to programs", DataError),
        (401, "a name and a password", DataError),
        (418, "HTTP 418", DataError),
    ],
)
def test_a_refusal_is_final_and_says_why_and_what_to_do(site, status, words, kind):
    failures = [(status, {})] * 9
    download = pinned(site.publish("/input.txt", CONTENT, failures=failures))
    message = message_of(download, kind)
    for expected in (words, download.address, str(download.cached), "QUILL_MIRROR"):
        assert expected in message
    assert len(site.requests) == 1
    message = message_of(address_download(download.address), kind)
    assert words in message
    assert "save the text as a file" in message
    assert "QUILL_MIRROR" not in message
    assert left_over(download) == []


@pytest.mark.parametrize("cuts", [[], [70_000]])
def test_another_content_names_both_hashes_and_is_not_kept(site, cuts):
    download = pinned(site.publish("/input.txt", CONTENT, cuts=cuts), content=b"expected")
    message = message_of(download)
    assert download.sha256 in message
    assert hashlib.sha256(CONTENT).hexdigest() in message
    assert not download.cached.exists()
    assert left_over(download) == []


def test_an_unreachable_address_is_said_at_once(site, monkeypatch):
    site.close()
    monkeypatch.setattr(transfer, "sleep", lambda _: pytest.fail("waited"))
    assert "Connection refused" in message_of(pinned(site.address("/input.txt")))


def test_a_connection_that_breaks_down_after_a_first_answer_is_tried_again(site, monkeypatch):
    slept = []

    def leave(seconds):
        slept.append(seconds)
        site.close()

    monkeypatch.setattr(transfer, "sleep", leave)
    assert "bytes that came are kept" in message_of(address_download(site.publish("/a.txt", CONTENT, cuts=[70_000])))
    assert len(slept) == 3


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/files/1513-0.txt?download=1#top", "1513-0.txt"),
        ("/B%C3%BCcher/F%C3%BCr%20Elise.txt", "Für Elise.txt"),
        ("/Bücher/Für Elise.txt", "Für Elise.txt"),
        ("/a%2F..%5C..%2Fpasswd", "passwd"),
        ("/a:b*c.txt", "a_b_c.txt"),
        ("/" + 300 * "x" + ".txt", 96 * "x" + ".txt"),
        ("/", "example.org"),
        ("", "example.org"),
        ("/..", "example.org"),
    ],
)
def test_an_address_has_a_folder_of_its_own_and_a_file_name_that_every_system_takes(path, name):
    download = address_download(f"https://example.org{path}")
    folder, key, last = download.place.split("/")
    assert (folder, len(key), last) == ("addresses", 16, name)
    assert download.sha256 is None
    assert download.place != address_download(f"https://example.org{path}?other").place
    assert download.address.isascii()
    assert " " not in download.address


def test_an_address_with_letters_that_cannot_be_sent_as_they_are_is_fetched(site):
    site.publish("/B%C3%BCcher/a%20b.txt?q=%C3%BC", CONTENT)
    assert fetch(address_download(site.address("/Bücher/a b.txt?q=ü"))).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("file:///etc/passwd", "no http or https address"),
        ("ftp://example.org/a.txt", "no http or https address"),
        ("https://", "no http or https address"),
        ("http://example.org:abc/", "no address"),
        ("http://[::1/", "no address"),
        ("http://a..b/c.txt", "no address"),
        ("https://ada:secret@example.org/a.txt", "name and a password"),
    ],
)
def test_what_is_no_address_is_refused(address, words):
    with pytest.raises(DataError, match=words) as caught:
        address_download(address)
    assert "secret" not in str(caught.value)


def test_a_cached_copy_of_an_address_says_how_old_it_is_and_how_to_renew_it(site, capsys):
    download = address_download(site.publish("/input.txt", CONTENT))
    fetch(download)
    assert "Using" not in capsys.readouterr().err
    site.publish("/input.txt", CHANGED)
    assert fetch(download).read_bytes() == CONTENT
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    for expected in (str(download.cached), time.strftime("%Y-%m-%d"), "delete it to fetch it again"):
        assert expected in said
    download.cached.unlink()
    assert fetch(download).read_bytes() == CHANGED


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/xhtml+xml"])
def test_a_web_page_is_refused_unless_the_address_says_that_it_is_one(site, kind):
    download = address_download(site.publish("/hamlet", b"<html>", headers={"Content-Type": kind}))
    assert "it is a web page, not a plain text" in message_of(download)
    assert left_over(download) == []
    page = site.publish("/hamlet.html", b"<html>", headers={"Content-Type": kind})
    assert fetch(address_download(page)).read_bytes() == b"<html>"


@pytest.mark.download
@pytest.mark.parametrize("download", [TINY_SHAKESPEARE, GPT2_MERGES, GPT2_VOCABULARY], ids=lambda d: d.place)
def test_published_files_hash_as_pinned(published, download):
    assert hashlib.sha256(published(download).read_bytes()).hexdigest() == download.sha256
