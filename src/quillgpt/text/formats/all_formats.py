"""The table of formats: how each is called, how its files are named, what it begins with, and what reads it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from quillgpt.config.format_rules import TEXT, FormatRules
from quillgpt.text.formats.chats import read_discord, read_telegram, read_whatsapp
from quillgpt.text.formats.docx import read_docx
from quillgpt.text.formats.epub import read_epub
from quillgpt.text.formats.html import read_html
from quillgpt.text.formats.mail import read_mailbox, read_message
from quillgpt.text.formats.opened import Opened
from quillgpt.text.formats.pdf import read_pdf
from quillgpt.text.formats.subtitles import read_subtitles
from quillgpt.text.formats.tables import read_table
from quillgpt.text.formats.whatsapp import is_whatsapp, is_zipped_whatsapp
from quillgpt.text.sources.compressed import COMPRESSED

PROBED_BYTES = 1 << 14


@dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        title: What a file is called, with its article.
        suffixes: How names of files end.
        read: Yields the documents of a file.
        holds_many: Whether a file has several documents.
        is_text: Whether its bytes are one text, whose encoding is detected.
        has_columns: Whether a column can be named.
    """

    title: str
    suffixes: tuple[str, ...]
    read: Callable[[Opened], Iterator[str]]
    holds_many: bool = False
    is_text: bool = True
    has_columns: bool = False


def _table(title: str, suffix: str, *, is_text: bool = True) -> Format:
    return Format(title, (suffix,), read_table, holds_many=True, is_text=is_text, has_columns=True)


FORMATS: dict[str, Format] = {
    "epub": Format("an e-book (EPUB)", (".epub",), read_epub, is_text=False),
    "html": Format("a web page", (".html", ".htm", ".xhtml"), read_html),
    "docx": Format("a Word document", (".docx",), read_docx, is_text=False),
    "pdf": Format("a PDF document", (".pdf",), read_pdf, is_text=False),
    "mbox": Format("a mailbox", (".mbox", ".mbx"), read_mailbox, holds_many=True, is_text=False),
    "eml": Format("a mail", (".eml",), read_message, is_text=False),
    "csv": _table("a CSV table", ".csv"),
    "tsv": _table("a TSV table", ".tsv"),
    "json": _table("JSON", ".json"),
    "jsonl": _table("JSON lines", ".jsonl"),
    "parquet": _table("a Parquet table", ".parquet", is_text=False),
    "srt": Format("subtitles (SubRip)", (".srt",), read_subtitles),
    "vtt": Format("subtitles (WebVTT)", (".vtt",), read_subtitles),
    "whatsapp": Format("a chat of WhatsApp", (), read_whatsapp, holds_many=True),
    "telegram": Format("chats of Telegram", (), read_telegram, holds_many=True),
    "discord": Format("a chat of Discord", (), read_discord, holds_many=True),
}

SUFFIXES: dict[str, str] = {suffix: name for name, format in FORMATS.items() for suffix in format.suffixes}
"""The format of each suffix."""

TELEGRAM = re.compile(
    r'"(?:type)"\s*:\s*"(?:personal_chat|bot_chat|saved_messages|(?:private|public)_(?:group|supergroup|channel))"'
)
DISCORD = re.compile(r'\{\s*"guild"\s*:\s*\{')


def format_of(path: Path, rules: FormatRules) -> str | None:
    """Return the name of a file's format, or None for a text: by the user's rules, its name, and how it begins."""
    named = rules.format_of(str(path.resolve()))
    if named is not None:
        return None if named == TEXT else named
    suffix = _suffix(path)
    by_name = SUFFIXES.get(suffix)
    if by_name is None or by_name == "json":
        return _chat(path) or by_name
    return by_name


def is_of_a_folder(path: Path, rules: FormatRules) -> bool:
    """Return whether a file of a folder is read although it is no plain text; JSON is, if it is a chat."""
    format = format_of(path, rules)
    return rules.format_of(str(path.resolve())) is not None or format not in (None, "json", "parquet")


def _suffix(path: Path) -> str:
    """Return the suffix that tells a file's format; only tables are read compressed."""
    suffix, inner = path.suffix.lower(), Path(path.stem).suffix.lower()
    is_table = inner in SUFFIXES and FORMATS[SUFFIXES[inner]].has_columns
    return inner if suffix in COMPRESSED and is_table else suffix


def _chat(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            head = file.read(PROBED_BYTES)
        if head.startswith(b"PK\3\4"):
            return "whatsapp" if is_zipped_whatsapp(path) else None
    except OSError:
        return None
    beginning = head.decode("utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8", "replace")
    if TELEGRAM.search(beginning) and '"messages"' in beginning:
        return "telegram"
    if DISCORD.match(beginning.lstrip("\ufeff \n\r\t")) and '"channel"' in beginning:
        return "discord"
    return "whatsapp" if is_whatsapp(beginning) else None
