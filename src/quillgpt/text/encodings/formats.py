"""Recognises files that are no prose: documents and archives by their first bytes, and texts for programs."""

from __future__ import annotations

import csv
import json
import re
import shlex
from collections import Counter
from dataclasses import dataclass
from pathlib import PurePath

from quillgpt.errors import DataError

_SAVE = "open it, save it as plain text (UTF-8), and give that file"
_UNPACK = "unpack it and give the text in it"
_TEXT = "give a text file"
_AS = "to train on its text alone, give it with --as"
_TRANSCRIBE = "to turn its speech into text: quill transcribe PATH --out FOLDER"
_FORMATS = (
    (b"%PDF-", "a PDF document", f"{_AS}=pdf"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a document of an older Microsoft Office", _SAVE),
    (b"{\\rtf", "an RTF document", _SAVE),
    (b"ITOLITLS", "an e-book (LIT)", _SAVE),
    (b"ITSF\3", "a compiled help file (CHM)", _SAVE),
    (b"AT&TFORM", "a DjVu document", "take its text out (djvutxt FILE) and give that"),
    (b"%!PS", "a PostScript document", "take its text out (ps2ascii FILE) and give that"),
    (b"\x1f\x8b", "compressed with gzip", f"{_UNPACK}: gunzip -k FILE"),
    (b"\x1f\x9d", "compressed with compress", f"{_UNPACK}: gunzip FILE"),
    (b"BZh91AY&SY", "compressed with bzip2", f"{_UNPACK}: bunzip2 -k FILE"),
    (b"\xfd7zXZ\0", "compressed with xz", f"{_UNPACK}: unxz -k FILE"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", f"{_UNPACK}: unzstd FILE"),
    (b"\x04\x22\x4d\x18", "compressed with lz4", f"{_UNPACK}: unlz4 FILE"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", _UNPACK),
    (b"Rar!\x1a\7", "a RAR archive", _UNPACK),
    (b"MSCF\0\0\0\0", "a Windows cabinet", _UNPACK),
    (b"PAR1", "a Parquet file", "give the texts of a column: FILE:COLUMN --as=parquet"),
    (b"ARROW1", "an Arrow file", "export its texts and give that file"),
    (b"\x89HDF\r\n", "an HDF5 file", "export its texts and give that file"),
    (b"\x93NUMPY", "an array of NumPy", _TEXT),
    (b"\x89PNG\r\n", "a PNG image", _TEXT),
    (b"\xff\xd8\xff", "a JPEG image", _TEXT),
    (b"GIF8", "a GIF image", _TEXT),
    (b"II*\0", "a TIFF image", _TEXT),
    (b"MM\0*", "a TIFF image", _TEXT),
    (b"ID3", "an MP3 recording", _TRANSCRIBE),
    (b"OggS\0", "an Ogg recording", _TRANSCRIBE),
    (b"fLaC\0", "a FLAC recording", _TRANSCRIBE),
    (b"riff\x2e\x91\xcf\x11", "a recording", _TRANSCRIBE),
    (b".snd\0", "a recording", _TRANSCRIBE),
    (b"caff\0", "a recording", _TRANSCRIBE),
    (b"#!AMR", "an AMR recording", _TRANSCRIBE),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "a recording or a video (WMA, WMV)", _TRANSCRIBE),
    (b"\x1a\x45\xdf\xa3", "a video or a recording (Matroska, WebM)", _TRANSCRIBE),
    (b"\0\0\x01\xba", "a video (MPEG)", _TRANSCRIBE),
    (b"SQLite format 3\0", "an SQLite database", "export its texts and give that file"),
    (b"\x7fELF", "a program", _TEXT),
    (b"MZ\x90\0", "a program", _TEXT),
    (b"\xcf\xfa\xed\xfe", "a program", _TEXT),
    (b"\xca\xfe\xba\xbe\0", "a program", _TEXT),
    (b"\0asm", "a program", _TEXT),
    (b"version https://git-lfs.github.com/spec/", "a pointer of Git LFS", "fetch the file itself: git lfs pull"),
)
_ZIPPED = (
    (b"mimetypeapplication/epub+zip", "an e-book (EPUB)", f"{_AS}=epub"),
    (b"mimetypeapplication/vnd.oasis.opendocument", "an OpenDocument file", _SAVE),
    (b"word/", "a Word document", f"{_AS}=docx"),
    (b"xl/", "an Excel workbook", _SAVE),
    (b"ppt/", "a PowerPoint presentation", _SAVE),
)
_IMAGES = tuple(b"ftyp" + brand for brand in (b"heic", b"heix", b"mif1", b"msf1", b"avif"))
_FRAMES = (b"\xff\xfb", b"\xff\xfa", b"\xff\xf3", b"\xff\xf2", b"\xff\xf1", b"\xff\xf9")
"""The first bytes of MP3 and AAC without a header."""

_RECORDINGS = ((b"RIFF", b"WAVE"), (b"RIFF", b"AVI "), (b"RF64", b"WAVE"), (b"FORM", b"AIFF"), (b"FORM", b"AIFC"))


def check_format(head: bytes, name: str) -> None:
    """Check that a file is not in a format that holds no plain text, such as PDF.

    Raises:
        DataError: It is; the message names the format and how to get its text.
    """
    for signature, what, remedy in _FORMATS:
        if head.startswith(signature):
            remedy = remedy.replace("FILE", PurePath(name).name).replace("PATH", shlex.quote(name))
            raise DataError(f"{name} is {what}, not plain text; {remedy}")
    if head.startswith(b"PK\3\4"):
        archive = "a Word document, an e-book or another zip archive", _SAVE
        if name.lower().endswith(".zip"):
            archive = "a zip archive", "unpack it and give the folder, or the files in it that are text"
        what, remedy = next(((what, remedy) for mark, what, remedy in _ZIPPED if mark in head[:8192]), archive)
        raise DataError(f"{name} is {what}, not plain text; {remedy}")
    if head[60:68] == b"BOOKMOBI":
        raise DataError(f"{name} is an e-book (MOBI), not plain text; {_SAVE}")
    if head[257:262] == b"ustar":
        raise DataError(f"{name} is a tar archive, not plain text; {_UNPACK}: tar xf {PurePath(name).name}")
    if (head.startswith(b"RIFF") and head[8:12] == b"WEBP") or head[4:12] in _IMAGES:
        raise DataError(f"{name} is an image, not plain text; {_TEXT}")
    container = head[:4], head[8:12]
    is_frame = head[:2] in _FRAMES and b"\0" in head  # the first letters of some texts, but those have no NUL
    if head[4:8] == b"ftyp" or container in _RECORDINGS or is_frame:
        remedy = _TRANSCRIBE.replace("PATH", shlex.quote(name))
        raise DataError(f"{name} is a recording or a video, not plain text; {remedy}")


@dataclass(frozen=True)
class FormatHint:
    """The format of a text that is no prose.

    Attributes:
        what: The format.
        advice: What to give to Quill instead.
    """

    what: str
    advice: str


def looks_like(text: str, name: str) -> FormatHint | None:
    """Return the format of a text that is written for programs, or None if it is prose.

    Args:
        text: Its first few thousand characters.
        name: The path of its file, as the user gave it.
    """
    begins = text.lstrip("\ufeff \t\n")
    lines = [line for line in text.split("\n")[:-1] if line.strip()] or [text]
    return _json(begins, lines, name) or _marked_up(begins) or _subtitles(begins, lines) or _table(text, name)


def _rows(name: str, ending: str, column: str | None) -> str:
    called_so = "" if PurePath(name).suffix.lower() == ending else f" --as={ending.removeprefix('.')}"
    return f"to train on its texts alone, give {name}:{column or 'COLUMN'}{called_so}"


def _json(begins: str, lines: list[str], name: str) -> FormatHint | None:
    if begins[:1] not in ("{", "["):
        return None
    records = []
    for line in lines[:20]:
        try:
            records.append(json.loads(line))
        except (ValueError, RecursionError):
            break
    if len(records) >= min(2, len(lines)) and all(isinstance(record, dict | list) for record in records):
        if len(lines) > 1 and isinstance(records[0], dict):
            return FormatHint("JSON lines", _rows(name, ".jsonl", _longest_text(records)))
        return FormatHint("JSON", _of_json(records[0], name))
    if re.match(r'\{\s*"(?:[^"\\]|\\.)*"\s*:|\[\s*(?:\{\s*"|\[|"(?:[^"\\\n]|\\.)*"\s*,)', begins):
        first = re.match(r"\[\s*", begins)
        record = _first_record(begins[first.end() :]) if first else None
        return FormatHint("JSON", _of_json([record] if record else None, name))
    return None


def _first_record(text: str) -> object:
    try:
        return json.JSONDecoder().raw_decode(text)[0]
    except (ValueError, RecursionError):
        return None


def _of_json(value: object, name: str) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return _rows(name, ".json", _longest_text(value))
    return "take its texts out and give those"


def _longest_text(records: list[object]) -> str | None:
    lengths: Counter[str] = Counter()
    for record in records:
        for key, value in record.items() if isinstance(record, dict) else ():
            lengths[key] += len(value) if isinstance(value, str) else 0
    best = lengths.most_common(1)
    return best[0][0] if best and best[0][1] else None


def _marked_up(begins: str) -> FormatHint | None:
    tags = re.findall(r"</?([a-zA-Z][\w:.-]*)(?:\s[^<>]*)?/?>", begins)
    if re.match(r"(?i)<!doctype html|<html[\s>]", begins) or _are_html(tags, begins):
        return FormatHint("HTML", f"{_AS}=html")
    if begins.startswith("<?xml") or (begins.startswith("<") and 8 * len(tags) > begins.count(" ") and len(tags) > 3):
        return FormatHint("XML", "take its texts out and give those")
    if re.match(r"(?i)(?:from:? |return-path:|received:|mime-version:)", begins) and re.search(
        r"(?im)^content-transfer-encoding: (?:quoted-printable|base64)", begins
    ):
        return FormatHint("e-mail as it is sent", f"{_AS}=eml")
    return None


def _are_html(tags: list[str], begins: str) -> bool:
    known = {"p", "br", "div", "span", "a", "i", "b", "em", "strong", "h1", "h2", "h3", "li", "ul", "td", "tr", "img"}
    lines = [line.lstrip() for line in begins.split("\n") if line.strip()]
    begin_so = sum(line.startswith("<") for line in lines)
    return len([tag for tag in tags if tag.lower() in known]) > 5 and 3 * begin_so > len(lines)


def _subtitles(begins: str, lines: list[str]) -> FormatHint | None:
    advice = "take numbers and times out, and give the spoken lines"
    if begins.startswith("WEBVTT"):
        return FormatHint("WebVTT subtitles", f"{_AS}=vtt")
    if begins.startswith("[Script Info]"):
        return FormatHint("SubStation subtitles", advice)
    times = sum(bool(re.match(r"\s*\d+:\d\d:\d\d[,.]\d+ *--> *\d+:\d\d:\d\d", line)) for line in lines)
    if times >= 2 and 6 * times >= len(lines):
        return FormatHint("SubRip subtitles", f"{_AS}=srt")
    stamps = sum(bool(re.match(r"(?:\[\d\d:\d\d(?:[.:]\d+)?\]|\{\d+\}\{\d+\})", line)) for line in lines)
    return FormatHint("lyrics or subtitles with times", advice) if stamps >= 3 and 2 * stamps > len(lines) else None


def _table(text: str, name: str) -> FormatHint | None:
    lines = text.split("\n")[:-1] if len(text) > 2000 else text.split("\n")
    for delimiter, what, ending, fewest in ((",", "CSV", ".csv", 3), ("\t", "TSV", ".tsv", 2), (";", "CSV", ".csv", 3)):
        try:
            rows = [row for row in csv.reader(lines, delimiter=delimiter, strict=True) if row]
        except csv.Error:  # a quoted value goes on beyond the lines that were read, or this is no table
            rows = [row for row in csv.reader(lines, delimiter=delimiter) if row][:-1]
        widths = Counter(map(len, rows))
        width, count = widths.most_common(1)[0] if widths else (0, 0)
        named = PurePath(name).suffix.lower() == ending and width >= 2 and len(rows) >= 2
        is_wide = width >= fewest or (width == 2 and f'{delimiter}"' in text)
        is_table = is_wide and len({*map(tuple, rows)}) >= 5 and not _is_prose(text, delimiter, rows)
        if count == len(rows) and (named or is_table):
            header: dict[str, int] = {
                name: sum(len(row[place]) for row in rows[1:]) for place, name in enumerate(rows[0])
            }
            column = max(header, key=header.__getitem__)
            usable = re.fullmatch(r"\w[\w .-]*", column)
            return FormatHint(what, _rows(name, ending, column if usable else None))
    return None


def _is_prose(text: str, delimiter: str, rows: list[list[str]]) -> bool:
    """Return whether the delimiters are those of sentences or of indented lines."""
    return 2 * text.count(f"{delimiter} ") > text.count(delimiter) or not all(row[0].strip() for row in rows)
