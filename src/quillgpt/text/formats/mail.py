"""Mails: subject and words of each message, without headers, attachments and, on demand, quotes and signatures."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from email import policy
from email.errors import MessageError
from email.header import decode_header, make_header
from email.message import Message
from email.parser import BytesParser
from email.utils import getaddresses
from pathlib import Path

from quillgpt.errors import DataError
from quillgpt.text.encodings.detection import look_at, read_pieces
from quillgpt.text.formats.anonymous import Names
from quillgpt.text.formats.html import text_of_html
from quillgpt.text.formats.limits import MOST_BYTES_AT_ONCE, MOST_MESSAGE_BYTES, MOST_PARTS, SECONDS_PER_MESSAGE
from quillgpt.text.formats.opened import CHUNK_CHARACTERS, Opened

BETWEEN = b"From "
"""How the line begins that stands before each message of a mailbox, after a blank line."""

QUOTED = re.compile(r"\s{0,3}>")
ATTRIBUTION = re.compile(
    r"(?i).{0,300}\b(?:wrote|writes|schrieb|geschrieben|a écrit|escribió|escreveu|ha scritto|schreef|napisał\(?a?\)?|"
    r"skrev|kirjoitti|пишет|писал\(?а?\)?|написал\(?а?\)?|yazdı)\b[^\n]{0,100}:\s*$"
)
ORIGINAL = re.compile(
    r"(?i)\s*-{2,}\s*(?:original message|ursprüngliche nachricht|original-nachricht|message d'origine|mensaje original|"
    r"messaggio originale|oorspronkelijk bericht|forwarded message|weitergeleitete nachricht)\s*-{2,}\s*$"
)
SIGNATURE = re.compile(r"--[ \t]?$")


ATTACHED = Message()
"""Stands for an attachment."""
ATTACHED["Content-Type"] = "application/octet-stream"


class _UnreadableError(Exception):
    """A message cannot be taken apart."""


def read_mailbox(file: Opened) -> Iterator[str]:
    """Yield the messages of a mailbox.

    Raises:
        DataError: It is no mailbox.
        UserError: A message is a web page, and the extra `documents` is missing.
    """
    names = _names(file)
    for content in _messages(file):
        file.more_time(SECONDS_PER_MESSAGE)
        if len(content) > MOST_MESSAGE_BYTES:
            file.tally.dropped["messages that are too large"] += 1
            continue
        try:
            text = _text(file, content, names)
        except _UnreadableError:
            file.tally.dropped["damaged messages"] += 1
            continue
        file.tally.read["messages"] += 1
        yield text


def read_message(file: Opened) -> Iterator[str]:
    """Yield the text of one message.

    Raises:
        DataError: It is no message, or too large.
        UserError: It is a web page, and the extra `documents` is missing.
    """
    file.check_size(MOST_BYTES_AT_ONCE)
    content = file.path.read_bytes()
    if not re.match(rb"(?:From |[\w-]{1,60}[ \t]*:)", content.lstrip(b"\xef\xbb\xbf\r\n")[:200]):
        raise file.damaged("it does not begin with headers such as From: and Subject:")
    file.tally.read["messages"] += 1
    try:
        yield _text(file, content, _names(file))
    except _UnreadableError as error:
        raise file.damaged(error) from error


def _names(file: Opened) -> Names:
    return Names(None, hide=file.wishes.anonymise)


def _messages(file: Opened) -> Iterator[bytes]:
    """Yield the messages of a mailbox; of one that is too large, only as much as shows that."""
    with file.path.open("rb") as mailbox:
        first = mailbox.readline(1000)
        if not first.startswith(BETWEEN):
            raise file.damaged("it does not begin with a line such as From anna@example.org Mon Jan 1 10:00:00 2024")
        message, size, after_blank = bytearray(), 0, False
        while line := mailbox.readline(1 << 20):
            if after_blank and line.startswith(BETWEEN):
                yield bytes(message)
                message.clear()
                size, after_blank = 0, False
                continue
            after_blank = line in (b"\n", b"\r\n")
            if size <= MOST_MESSAGE_BYTES:
                size += len(line)
                message += line[1:] if re.match(rb">+From ", line) else line
        yield bytes(message)


def _text(file: Opened, content: bytes, names: Names) -> str:
    try:
        message = BytesParser(policy=policy.compat32).parsebytes(content)
        parts = _parts(message)
        people = [name for field in ("From", "To", "Cc") for name, _ in getaddresses([_header(message, field)]) if name]
    except (MessageError, RecursionError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise _UnreadableError(f"{type(error).__name__}: {error}") from error
    for name in people:
        names.shown(name)
    plain = [part for part in parts if part.get_content_type() == "text/plain"]
    pages = [part for part in parts if part.get_content_type() == "text/html"]
    file.tally.dropped["attachments"] += len(parts) - len(plain) - len(pages)
    if plain:
        body = "\n\n".join(_decoded(file, part) for part in plain)
    else:
        body = "\n\n".join(text_of_html(_decoded(file, part), file) for part in pages)
    body = _without_rest(body.replace("\r\n", "\n").replace("\xa0", " "), file)
    return names.clean("\n\n".join(filter(None, [_header(message, "Subject"), body])), file.tally)


def _parts(message: Message) -> list[Message]:
    """Return the parts that are no containers, without those of a message that is attached."""
    parts, waiting = [], [message]
    while waiting:
        part = waiting.pop(0)
        if part.is_multipart() and part.get_content_maintype() == "multipart":
            waiting += [inner for inner in part.get_payload() if isinstance(inner, Message)]
        elif "attachment" in str(part.get("Content-Disposition", "")).lower() or part.is_multipart():
            parts.append(ATTACHED)
        else:
            parts.append(part)
        if len(parts) + len(waiting) > MOST_PARTS:
            raise _UnreadableError(f"it has more than {MOST_PARTS:,} parts")
    return parts


def _header(message: Message, name: str) -> str:
    given = message.get(name)
    if given is None:
        return ""
    try:
        value = str(make_header(decode_header(given)))
    except (LookupError, ValueError, MessageError, AssertionError):
        value = str(given)
    return " ".join(value.split())


def _decoded(file: Opened, part: Message) -> str:
    payload = part.get_payload(decode=True)
    content = payload if isinstance(payload, bytes) else b""
    charset = part.get_content_charset() or "us-ascii"
    try:
        return content.decode(charset)
    except (LookupError, ValueError):
        return _detected(file, content)


def _detected(file: Opened, content: bytes) -> str:
    """Return a text whose encoding is not said, or said wrongly."""
    with tempfile.TemporaryDirectory(prefix="quill-") as folder:
        path = Path(folder) / "message.txt"
        path.write_bytes(content)
        try:
            encoding = file.encoding or look_at(path, name=file.name).encoding
            return "".join(read_pieces(path, encoding, CHUNK_CHARACTERS, name=file.name))
        except DataError:
            file.tally.dropped["texts in an unknown encoding"] += 1
            return ""


def _without_rest(text: str, file: Opened) -> str:
    """Return the text without quotes and signature, if the user wants that."""
    lines = [line.rstrip() for line in text.split("\n")]
    if file.wishes.drop_quotes:
        before = len(lines)
        original = next((at for at, line in enumerate(lines) if ORIGINAL.match(line)), len(lines))
        lines = lines[:original]
        lines = [line for at, line in enumerate(lines) if not QUOTED.match(line) and not _introduces(lines, at)]
        file.tally.dropped["lines of quotes"] += before - len(lines)
    if file.wishes.drop_signatures:
        end = next((at for at, line in enumerate(lines) if SIGNATURE.match(line)), len(lines))
        file.tally.dropped["lines of signatures"] += len(lines) - end
        lines = lines[:end]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def _introduces(lines: list[str], at: int) -> bool:
    """Return whether a line such as `On Monday, Anna wrote:` stands before a quote."""
    if not ATTRIBUTION.match(lines[at]):
        return False
    following = next((line for line in lines[at + 1 :] if line.strip()), "")
    return QUOTED.match(following) is not None
