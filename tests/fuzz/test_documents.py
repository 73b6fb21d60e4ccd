"""Whatever happens to the bytes of a document: its text, or one clear line."""

import functools
import tempfile
from pathlib import Path
from random import Random

import pytest

from fuzzing import check_message, damage, fuzz, randoms
from own_files import CHATS, DISCORD, HTML, MAIL, SUBTITLES, TELEGRAM, VTT, docx, epub, pdf, whatsapp, with_footnote
from quillgpt.errors import UserError
from quillgpt.text.formats.opened import Wishes
from quillgpt.text.sources.documents import source_of_file

WISHES = Wishes(me="Anna", anonymise=True, drop_quotes=True, drop_signatures=True)
BETWEEN = "From a@b.c Mon Jan  1 10:00:00 2024\n"
TEXTS = {
    "p.html": HTML,
    "s.srt": SUBTITLES,
    "s.vtt": VTT,
    "m.eml": MAIL,
    "m.mbox": f"{BETWEEN}{MAIL}\n{BETWEEN}{MAIL}",
    "result.json": TELEGRAM,
    "channel.json": DISCORD,
    "t.csv": 'id,text\n1,"one\nmore"\n2,two\n',
    "t.jsonl": '{"text": "one"}\n{"text": "two"}\n',
    **{f"{number}.txt": whatsapp(locale) for number, locale in enumerate(CHATS)},
}


@functools.cache
def originals() -> dict[str, bytes]:
    """Return the bytes of a file of each format."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        book = epub(folder / "b.epub").read_bytes()
        word = with_footnote(docx(folder / "d.docx")).read_bytes()
    printed = pdf([["A page of foxes"], None, ["and another"]])
    return {"b.epub": book, "d.pdf": printed, "d.docx": word, **{name: text.encode() for name, text in TEXTS.items()}}


def what_is_said(path: Path) -> str:
    """Return what is said of a file that is refused; nothing of one that has text."""
    try:
        source = source_of_file(path, WISHES)
        reading = source.look_at()
        text = "".join(piece for piece in source.pieces(reading.encoding, 1000) if isinstance(piece, str))
        assert text.strip() or source.conversion is None
    except UserError as error:
        return check_message(str(error))
    return ""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "only").mkdir()
    return tmp_path / "only"


@fuzz(cases=360, random=randoms)
def test_a_damaged_document(folder: Path, random: Random) -> None:
    name, content = random.choice(list(originals().items()))
    for _ in range(random.randint(1, 3)):
        content = damage(content, random)
    path = folder / name
    for other in folder.iterdir():  # of the case before, which failed
        other.unlink()
    path.write_bytes(content)
    said = what_is_said(path)
    assert list(folder.iterdir()) == [path]
    assert "could not be read (" not in said, said  # an error of the process that reads, which nobody foresaw
