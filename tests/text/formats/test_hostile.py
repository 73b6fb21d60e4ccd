"""Files that are made to do harm are refused by name, soon and in little memory, and write and fetch nothing."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import pytest

from own_files import CONTAINER, MAIL, docx, epub, package, page, pdf, zipped
from quillgpt.errors import DataError
from quillgpt.text.formats.mail import read_mailbox

GIGABYTE = 1_000_000_000
LAUGHS = (
    '<?xml version="1.0"?><!DOCTYPE html [<!ENTITY a "ha">'
    + "".join(f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">' for n in range(10))
    + "]><html><body><p>&k;</p></body></html>"
)
PROGRAM = """
import atexit, resource, socket, sys
from pathlib import Path

@atexit.register  # first, so that it is called last, when the process that reads has ended
def tell_usage():
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(max(one.ru_maxrss for one in usage) * 1024, sum(one.ru_utime + one.ru_stime for one in usage))

from quillgpt.errors import UserError
from quillgpt.text.sources.documents import source_of_file
from quillgpt.text.formats.opened import PLAIN

def no_network(*_, **__):
    raise AssertionError("the network is asked for")

socket.socket.connect = socket.getaddrinfo = no_network
for path in sys.argv[1:]:
    try:
        source_of_file(Path(path), PLAIN).look_at()
        print("read")
    except UserError as error:
        print(error)
"""


def judged(*paths: Path) -> tuple[list[str], int, float]:
    """Return what another process says of files, the largest memory in bytes, and the time in seconds, for all files.

    The process that reads is counted, too. A shell starts it, because Linux counts the memory of whoever starts a
    program as the program's.
    """
    command = ["sh", "-c", '"$@"; exit $?', "sh", sys.executable, "-c", PROGRAM, *map(str, paths)]
    *messages, usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    memory, seconds = usage.split()
    return messages, int(memory), float(seconds)


def bomb(folder: Path) -> Path:
    """Write an archive that is a book and, by another name, a Word document; a part unpacks from 4 MB to a gigabyte."""
    path = folder / "a.epub"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("META-INF/container.xml", CONTAINER)
        archive.writestr("OEBPS/content.opf", package(["one"]))
        with archive.open("OEBPS/one.xhtml", "w") as file:
            for _ in range(100):
                file.write(b" " * 10_000_000)
    shutil.copyfile(path, folder / "a.docx")
    return path


def hostile(folder: Path) -> dict[str, tuple[Path, str]]:
    """Return files, and what each is refused for."""
    files = {
        "bomb of a book": (bomb(folder), "1,000,000,000 bytes"),
        "bomb of a Word document": (folder / "a.docx", "1,000,000,000 bytes"),
        "laughs in a chapter": (epub(folder / "b.epub", one=LAUGHS), "defines entities"),
        "laughs in a package": (epub(folder / "c.epub", content=LAUGHS), "defines entities"),
        "a chapter elsewhere": (
            epub(folder / "d.epub", content=package(["../../../../etc/passwd"])),
            r"damaged or not an e-book \(EPUB\) \(it lacks .*etc/passwd",
        ),
        "a book elsewhere": (
            epub(folder / "e.epub", container=CONTAINER.replace("OEBPS/content.opf", "/etc/passwd")),
            "it lacks /etc/passwd",
        ),
        "a deep chapter": (epub(folder / "f.epub", one=page("<p>" * 9000 + "</p>" * 9000)), "within each other"),
        "many files": (zipped(folder / "g.epub", {str(n): "" for n in range(20_001)}), "holds 20,001 files"),
    }
    with zipfile.ZipFile(docx(folder / "h.docx")) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    files["laughs in a Word document"] = (
        zipped(folder / "h.docx", {**parts, "word/document.xml": LAUGHS}),
        "has a document type",
    )
    files["a bomb of a chat"] = zipped(folder / "m.zip", {"_chat.txt": " " * 100_000_000}), "100,000,000 bytes"
    (folder / "i.html").write_text("<div>" * 5000)
    files["a deep page"] = folder / "i.html", "within each other"
    (folder / "j.html").write_text("<b>" * 2_100_000)
    files["a page of tags"] = folder / "j.html", "more than 2,000,000 elements"
    (folder / "k.json").write_text('{"type": "personal_chat", "messages": ' + "[" * 100_000)
    files["a deep chat"] = folder / "k.json", "damaged or not chats of Telegram"
    nested = "".join(f'Content-Type: multipart/mixed; boundary="b{n}"\n\n--b{n}\n' for n in range(3000))
    (folder / "l.eml").write_text(f"From: a@b.c\n{nested}")
    files["a deep mail"] = folder / "l.eml", "damaged or not a mail|has no text"
    return files


def pdf_bomb() -> bytes:
    """Return a PDF document whose only page unpacks to a gigabyte of text commands."""
    whole = pdf([["x"]])
    start = whole.index(b"<< /Length", whole.index(b"endstream"))
    end = whole.index(b"endobj", start)
    packer = zlib.compressobj(9)
    chunk = b"BT /F 12 Tf 9 9 Td (x) Tj ET\n" * 35_000
    first, again = (packer.compress(chunk) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    content = zlib.compress(first + again * 999 + packer.flush(), 9)
    head = f"<< /Length {len(content)} /Filter [/FlateDecode /FlateDecode] >>\nstream\n".encode()
    return whole[:start] + head + content + b"\nendstream\n" + whole[end:]


def test_they_are_refused_by_name_in_ten_seconds_and_a_gigabyte_together(tmp_path: Path) -> None:
    files = hostile(tmp_path)
    before = sorted(tmp_path.iterdir())
    messages, memory, seconds = judged(*(path for path, _ in files.values()))
    assert len(messages) == len(files)
    for message, (path, reason) in zip(messages, files.values(), strict=True):
        assert message.startswith(f"{path} "), message
        assert re.search(reason, message), message
    assert memory <= GIGABYTE
    assert seconds <= 10
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.csv", 'text\n"' + ("a b " * 20 + "\n") * 400_000, "a row has more than 32,000,000 characters"),
        ("b.csv", "text\n" + "a b " * 9_000_000, "line 2: it has more than 32,000,000 characters"),
        ("c.csv", "text" + "," * 9_000_000, "line 1: it has more than 8,000,000 values"),
        ("d.jsonl", '{"text": "' + "a b " * 9_000_000, "line 1: it has more than 32,000,000 characters"),
        ("e.jsonl", '{"text": [' + "{}," * 4_000_000, "line 1: it has more than 8,000,000 values"),
        ("f.json", '{"text": ' + "[" * 1_000_000, "no JSON"),
        pytest.param(
            "g.json",
            "[" + '{"a": "' + "b " * 101_000_000,
            "more than 200,000,000 characters and is no JSON lines",
            marks=pytest.mark.deep,
        ),
    ],
    ids=lambda value: value if len(value) < 10 else "",
)
def test_a_table_without_an_end_is_refused(tmp_path: Path, name: str, content: str, reason: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    messages, memory, seconds = judged(path)
    path.unlink()  # pytest would keep it
    assert re.search(rf"^{re.escape(str(path))}[:,] .*{reason}", messages[0])
    assert memory <= GIGABYTE, memory
    assert seconds <= 10, seconds


@pytest.mark.deep
@pytest.mark.parametrize("kind", ["page", "PDF"])
def test_what_keeps_a_parser_busy_is_refused_in_ten_seconds_and_a_gigabyte(tmp_path: Path, kind: str) -> None:
    """Such a parser is in C, and cannot be interrupted: the system ends its process."""
    path = tmp_path / ("a.html" if kind == "page" else "a.pdf")
    path.write_bytes(b"<div>" * 200_000 if kind == "page" else pdf_bomb())
    messages, memory, seconds = judged(path)
    assert re.search(r"^\S+ (takes more than 8 s|needs more memory)", messages[0])
    assert memory <= GIGABYTE
    assert seconds <= 10


@pytest.mark.parametrize("kind", ["epub", "docx"])
def test_a_truncated_file_is_refused(read, tmp_path: Path, kind: str) -> None:
    whole = {"epub": epub, "docx": docx}[kind](tmp_path / f"whole.{kind}").read_bytes()
    with pytest.raises(DataError, match=rf"cut.{kind} is damaged or not"):
        read(f"cut.{kind}", whole[: len(whole) // 2])


def test_encrypted_files_are_refused(read, tmp_path: Path) -> None:
    path = epub(tmp_path / "b.epub")
    locked = bytearray(path.read_bytes())
    for mark, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = locked.find(mark)
        while at >= 0:
            locked[at + place] |= 1
            at = locked.find(mark, at + 4)
    with pytest.raises(DataError, match=r"locked.epub is encrypted.*password"):
        read("locked.epub", bytes(locked))
    rights = '<encryption><CipherReference URI="OEBPS/one.xhtml"/></encryption>'
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("META-INF/encryption.xml", rights)
    with pytest.raises(DataError, match=r"b.epub is encrypted .*copy protection"):
        read(path)
    trailer = (
        b"/Encrypt << /Filter /Standard /V 1 /R 2 /O (" + b"x" * 32 + b") /U (" + b"y" * 32 + b") /P -1 >> /ID [(a)(a)]"
    )
    with pytest.raises(DataError, match=r"d.pdf is encrypted"):
        read("d.pdf", pdf([["x"]]).replace(b"trailer << ", b"trailer << " + trailer))


def test_a_huge_message_of_a_mailbox_is_left_out_and_counted(opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quillgpt.text.formats.mail.MOST_MESSAGE_BYTES", 2000)
    huge = MAIL + "x" * 5000 + "\n"
    between = "From a@b.c Mon Jan  1 10:00:00 2024\n"
    mailbox = opened("all.mbox", f"{between}{MAIL}\n{between}{huge}\n{between}{MAIL}")
    assert len(list(read_mailbox(mailbox))) == 2
    assert mailbox.tally.read == {"messages": 2}
    assert mailbox.tally.dropped["messages that are too large"] == 1
