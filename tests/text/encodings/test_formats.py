"""Texts for programs are recognised, with advice on what to give instead; prose is left alone."""

import json
import zipfile

import av
import numpy as np
import pytest

from languages import LEGACY
from quillgpt.errors import DataError
from quillgpt.text.encodings.detection import look_at
from quillgpt.text.encodings.formats import looks_like

ROWS = [{"id": number, "text": f"a story, number {number}, of a fox"} for number in range(20)]
CSV = "id,text\n" + "".join(f'{number},"a story, of {number} foxes"\n' for number in range(20))
SRT = "".join(f"{n}\n00:00:{n:02d},000 --> 00:00:{n + 1:02d},500\nHello there\n\n" for n in range(1, 20))


@pytest.mark.parametrize(
    ("name", "text", "what", "advice"),
    [
        ("a.jsonl", "\n".join(map(json.dumps, ROWS)) + "\n", "JSON lines", "give a.jsonl:text"),
        ("x/chat.txt", "\n".join(map(json.dumps, ROWS)) + "\n", "JSON lines", "give x/chat.txt:text --as=jsonl"),
        ("a.json", json.dumps(ROWS, indent=1), "JSON", "give a.json:text"),
        ("a.json", json.dumps(ROWS * 400), "JSON", "give a.json:text"),
        ("a.json", json.dumps({"text": {"a": "b"}}, indent=1), "JSON", "take its texts out"),
        ("a.json", json.dumps(["one text", "another"] * 9), "JSON", "take its texts out"),
        ("a.csv", CSV, "CSV", "give a.csv:text"),
        ("a.txt", CSV, "CSV", "give a.txt:text --as=csv"),
        ("a.csv", CSV.replace(",", ";"), "CSV", "give a.csv:text"),
        ("a.tsv", CSV.replace(",", "\t"), "TSV", "give a.tsv:text"),
        ("a.html", "<!DOCTYPE html>\n<p>Hello</p>\n", "HTML", "--as=html"),
        ("a.txt", "<p>Some <b>bold</b> text.</p>\n" * 9, "HTML", "--as=html"),
        ("a.xml", '<?xml version="1.0"?>\n<TEI><p>Hello</p></TEI>', "XML", "take its texts out"),
        ("a.txt", "<TEI><text><body><p>Hello there</p></body></text></TEI>", "XML", "take its texts out"),
        ("a.srt", SRT, "SubRip subtitles", "--as=srt"),
        ("a.txt", SRT, "SubRip subtitles", "--as=srt"),
        ("a.vtt", "WEBVTT\n\n00:01.000 --> 00:04.000\nHi\n", "WebVTT subtitles", "--as=vtt"),
        ("a.ass", "[Script Info]\nTitle: x\n", "SubStation subtitles", "the spoken lines"),
        ("a.lrc", "".join(f"[00:{n:02d}.00]la la\n" for n in range(9)), "lyrics or subtitles with times", "spoken"),
        ("a.eml", "From: a@b.c\nContent-Transfer-Encoding: base64\n\nSGk=\n", "e-mail as it is sent", "--as=eml"),
    ],
)  # fmt: skip
def test_what_is_written_for_programs_is_named_with_what_to_give_instead(name, text, what, advice):
    hint = looks_like(text[:8000], name)
    assert hint is not None
    assert hint.what == what
    assert advice in hint.advice


@pytest.mark.parametrize(
    "text",
    [
        *(text for text, _ in LEGACY.values()),
        "Tyger, tyger, burning bright,\nIn the forests of the night,\nWhat immortal hand or eye,\n" * 5,
        "one, two\nthree, four\nfive, six\nseven, eight\nnine, ten\n",
        "".join(f"Then came {n} men, {n} women, and {n} dogs.\n" for n in range(30)),
        "[Enter HAMLET]\nHAMLET. To be, or not to be.\n[Exit]\n" * 9,
        "# Title\n\nSome *text*, [a link](http://x) and `<b>code</b>`.\n\n| a | b |\n|---|---|\n| 1 | 2 |\n" * 5,
        "def f(x):\n    return {x: [1, 2]}\n" * 9,
        "{\n  int a = 1;\n  return a;\n}\n" * 9,
        "if a < b and c > d then x < y\n" * 9,
        "".join(f"\tParagraph {n} is indented.\n" for n in range(9)),
        "[1] First note.\n[2] Second note.\n" * 9,
        "[",
        "{",
        "<",
    ],
)
def test_prose_poems_plays_markdown_and_code_are_left_alone(text):
    assert looks_like(text, "a.txt") is None


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("word/document.xml", "is a Word document"),
        ("xl/workbook.xml", "is an Excel workbook"),
        ("ppt/presentation.xml", "is a PowerPoint presentation"),
        ("mimetype", "is an e-book (EPUB)"),
        ("a.txt", "is a Word document, an e-book or another zip archive"),
    ],
)
def test_zipped_documents_are_called_what_they_are(tmp_path, entry, words):
    with zipfile.ZipFile(tmp_path / "book.txt", "w") as archive:
        archive.writestr(entry, "application/epub+zip")
    with pytest.raises(DataError) as caught:
        look_at(tmp_path / "book.txt")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
            "Git LFS.*git lfs pull",
        ),
        (b"\x1f\x8b\x08\0", r"gunzip -k book\.txt"),
        (b"\xfd7zXZ\0\0", r"unxz -k book\.txt"),
        (b"PAR1\0\0", r"Parquet file.*book\.txt:COLUMN --as=parquet"),
        (b"x" * 60 + b"BOOKMOBI", "MOBI"),
        (b"a.txt" + b"\0" * 252 + b"ustar\x0000", "tar archive"),
        (b"\0\0\0\x18ftypmp42", "recording"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "recording"),
        (b"Rar!\x1a\7\0", "RAR archive"),
        (b"GIF89a", "GIF image"),
        (b"OggS\0\2", "Ogg recording"),
        (b"\x93NUMPY\1\0", "array of NumPy"),
    ],
)
def test_binary_files_are_called_what_they_are_with_what_to_do(tmp_path, content, words):
    (tmp_path / "book.txt").write_bytes(content)
    with pytest.raises(DataError, match=words):
        look_at(tmp_path / "book.txt")


CODECS = {
    "pcm_s16le": ("wav", "avi", "w64", "mka"),
    "pcm_s16be": ("aiff", "caf", "au"),
    "aac": ("aac", "m4a", "mp4"),
    "libopus": ("ogg", "opus", "webm"),
    "libmp3lame": ("mp3",),
    "flac": ("flac",),
}


@pytest.mark.parametrize(("codec", "ending"), [(codec, ending) for codec in CODECS for ending in CODECS[codec]])
def test_recordings_are_named_with_the_command_that_turns_them_into_text(tmp_path, codec, ending):
    path = tmp_path / f"my talk.{ending}"
    noise = np.random.default_rng(0).integers(-9000, 9000, (1, 48_000), dtype=np.int16)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=48_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(noise, format="s16", layout="mono")
        frame.sample_rate = 48_000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    with pytest.raises(DataError, match=rf"quill transcribe '.*my talk\.{ending}' --out FOLDER"):
        look_at(path)


@pytest.mark.parametrize("words", ["ясно и тихо было в поле", "яблоко упало", "ящик стоял", "Ъ"])
def test_a_text_in_an_older_encoding_is_no_recording(tmp_path, words):
    (tmp_path / "text.txt").write_bytes((f"{words}, и снова наступило утро. " * 20).encode("cp1251"))
    assert look_at(tmp_path / "text.txt").encoding == "cp1251"


def test_endlessly_nested_text_is_no_error():
    for text in ("[" * 8000, '{"a":' * 1600, "<a>" * 2600, '"' * 8000, ",\n" * 4000):
        looks_like(text, "a.txt")
