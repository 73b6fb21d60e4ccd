"""Small files of the formats that people have, made by the libraries and programs that make them, or by hand."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

CONTAINER = (
    '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
    '<rootfile full-path="OEBPS/content.opf"/></rootfiles></container>'
)
WORDS = "The quick brown fox jumps over the lazy dog while seven wizards watch"


def page(body: str, head: str = "<title>left out</title>") -> str:
    return f'<html xmlns="http://www.w3.org/1999/xhtml"><head>{head}</head><body>{body}</body></html>'


def package(spine: Sequence[str], *items: str) -> str:
    listed = "".join(f'<item id="{id}" href="{id}.xhtml" media-type="application/xhtml+xml"/>' for id in spine)
    references = "".join(f'<itemref idref="{id}"/>' for id in spine)
    return (
        f'<package xmlns="http://www.idpf.org/2007/opf"><manifest>{listed}{"".join(items)}</manifest>'
        f"<spine>{references}</spine></package>"
    )


def zipped(path: Path, parts: Mapping[str, str | bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return path


def epub(path: Path, **changes: str | bytes) -> Path:
    """Write a book of two chapters, whose order is not that of its files; `changes` replaces parts by their stem."""
    nav = '<item id="toc" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/>'
    cover = '<item id="cover" href="cover.png" media-type="image/png"/>'
    parts: dict[str, str | bytes] = {
        "mimetype": "application/epub+zip",
        "META-INF/container.xml": CONTAINER,
        "OEBPS/content.opf": package(["two", "one"], nav, cover).replace("<spine>", '<spine><itemref idref="toc"/>'),
        "OEBPS/nav.xhtml": page("<nav><ol><li>Contents</li></ol></nav>"),
        "OEBPS/one.xhtml": page("<h1>One</h1><p>It ends in a caf&eacute;.</p>"),
        "OEBPS/two.xhtml": page(f"<h1>Two</h1><p>{WORDS},<br/>a new line.</p><ul><li>a</li><li>b</li></ul>"),
    }
    for name in list(parts):
        stem = Path(name).stem
        if stem in changes:
            parts[name] = changes[stem]
    return zipped(path, parts)


def docx(path: Path) -> Path:
    from docx import Document

    document = Document()
    document.add_heading("Of Foxes", 1)
    document.add_paragraph(f"{WORDS}.")
    document.add_paragraph("red", style="List Bullet")
    document.add_paragraph("grey", style="List Bullet")
    table = document.add_table(1, 2)
    table.cell(0, 0).text, table.cell(0, 1).text = "animal", "fox"
    document.sections[0].header.paragraphs[0].text = "a header"
    document.save(str(path))
    return path


def with_footnote(path: Path) -> Path:
    """Add a footnote to a Word document, as Word writes it."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    space = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
    parts["word/footnotes.xml"] = (
        f'<w:footnotes {space}><w:footnote w:type="separator" w:id="-1"><w:p/></w:footnote>'
        '<w:footnote w:id="2"><w:p><w:r><w:t>A note.</w:t></w:r></w:p></w:footnote></w:footnotes>'
    ).encode()
    kind = "application/vnd.openxmlformats-officedocument.wordprocessingml.footnotes+xml"
    parts["[Content_Types].xml"] = parts["[Content_Types].xml"].replace(
        b"</Types>", f'<Override PartName="/word/footnotes.xml" ContentType="{kind}"/></Types>'.encode()
    )
    relation = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/footnotes"
    parts["word/_rels/document.xml.rels"] = parts["word/_rels/document.xml.rels"].replace(
        b"</Relationships>",
        f'<Relationship Id="rId99" Type="{relation}" Target="footnotes.xml"/></Relationships>'.encode(),
    )
    parts["word/document.xml"] = parts["word/document.xml"].replace(
        b"watch.</w:t></w:r>", b'watch.</w:t></w:r><w:r><w:footnoteReference w:id="2"/></w:r>'
    )
    return zipped(path, parts)


def pdf(pages: Sequence[Sequence[str] | None]) -> bytes:
    """Return a PDF document with the lines of each page; a page that is None has only a picture."""
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", "", "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"]
    image = (
        "<< /Type /XObject /Subtype /Image /Width 1 /Height 1 /ColorSpace /DeviceGray /BitsPerComponent 8 /Length 1 >>"
    )
    objects.append(f"{image}\nstream\n\0\nendstream")
    kids = []
    for lines in pages:
        shown = " ".join(f"({line}) Tj T*" for line in lines or ())
        stream = "q 500 0 0 500 50 50 cm /I Do Q" if lines is None else f"BT /F 12 Tf 72 750 Td 14 TL {shown} ET"
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {len(objects)} 0 R /Resources "
            "<< /Font << /F 3 0 R >> /XObject << /I 4 0 R >> >> >>"
        )
        kids.append(f"{len(objects)} 0 R")
    objects[1] = f"<< /Type /Pages /Count {len(kids)} /Kids [{' '.join(kids)}] >>"
    out, places = io.BytesIO(), []
    out.write(b"%PDF-1.4\n")
    for number, content in enumerate(objects, 1):
        places.append(out.tell())
        out.write(f"{number} 0 obj\n{content}\nendobj\n".encode("latin-1"))
    start = out.tell()
    entries = "".join(f"{place:010} 00000 n \n" for place in places)
    size = len(objects) + 1
    out.write(f"xref\n0 {size}\n0000000000 65535 f \n{entries}trailer << /Size {size} /Root 1 0 R >>\n".encode())
    out.write(f"startxref\n{start}\n%%EOF\n".encode())
    return out.getvalue()


MAIL = """From: Anna Smith <anna@example.org>
To: "Bob" <bob@example.org>
Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?= from the fox
MIME-Version: 1.0
Content-Type: text/plain; charset=iso-8859-1
Content-Transfer-Encoding: quoted-printable

Dear Bob, a caf=E9 is open. Call +49 170 1234567 or see https://example.org/x.
>From here on all is well.

On Monday, 1 January 2024, Bob <bob@example.org> wrote:
> Is it open?
> Tell me.

--\x20
Anna
The Café
"""

SUBTITLES = "1\n00:00:01,000 --> 00:00:02,500\n<i>Hello</i> there.\n\n2\n00:00:03,000 --> 00:00:04,000\n- Who?\n- Me.\n"
VTT = (
    "WEBVTT\n\nNOTE made by hand\n\n00:01.000 --> 00:02.000 align:start\n<v Anna>Hello <b>there</b>.\n\n"
    "00:02.000 --> 00:03.000\n<v Anna>Hello there.\n"
)
HTML = page(
    "<nav>menu</nav><h1>Of Foxes</h1><p>One <b>bold</b>\n fox.</p><ul><li>red</li><li>grey</li></ul>"
    "<table><tr><td>a</td><td>b</td></tr></table><pre>x  y\nz</pre><script>alert(1)</script>"
)
TELEGRAM = json.dumps(
    {
        "name": "Anna",
        "type": "personal_chat",
        "messages": [
            {
                "type": "message",
                "date": "2024-01-01T10:00:00",
                "from": "Anna",
                "text": ["See ", {"text": "https://x.org"}],
            },
            {"type": "service", "date": "2024-01-01T10:01:00", "action": "phone_call", "text": ""},
            {"type": "message", "date": "2024-01-01T10:02:00", "from": "Bob", "text": "Yes, Anna"},
            {"type": "message", "date": "2024-01-01T10:03:00", "from": "Bob", "photo": "p.jpg", "text": ""},
            {"type": "message", "date": "2024-01-02T10:00:00", "from": None, "text": "Later"},
        ],
    },
    indent=1,
)
ANNA, BOB = {"name": "a", "nickname": "Anna"}, {"name": "bob"}
DISCORD = json.dumps(
    {
        "guild": {"name": "g"},
        "channel": {"name": "c"},
        "messages": [
            {"type": "Default", "timestamp": "2024-01-01T10:00:00.1+01:00", "content": "Hi", "author": ANNA},
            {"type": "GuildMemberJoin", "timestamp": "2024-01-01T10:00:01+01:00", "content": "", "author": BOB},
            {
                "type": "Reply",
                "timestamp": "2024-01-01T10:00:02+01:00",
                "content": "Ho",
                "author": BOB,
                "attachments": [{"id": "1"}],
            },
        ],
    }
)

N, L = "\u202f", "\u200e"
CHATS: dict[str, tuple[str, str, str]] = {
    "German Android": ("30.12.23, 21:15 - ", "31.12.23, 08:05 - ", "<Medien ausgeschlossen>"),
    "US Android": (f"12/30/23, 9:15{N}PM - ", f"12/31/23, 8:05{N}AM - ", "<Media omitted>"),
    "US iOS": (f"[12/30/23, 9:15:07{N}PM] ", f"[12/31/23, 8:05:01{N}AM] ", f"{L}image omitted"),
    "British Android": ("30/12/2023, 21:15 - ", "31/12/2023, 08:05 - ", "<Media omitted>"),
    "Australian Android": ("30/12/23, 9:15 pm - ", "31/12/23, 8:05 am - ", "IMG-1.jpg (file attached)"),
    "German iOS": ("[30.12.23, 21:15:07] ", "[31.12.23, 08:05:01] ", f"{L}Bild weggelassen"),
    "Spanish": ("30/12/23, 9:15 p. m. - ", "31/12/23, 8:05 a. m. - ", "<Multimedia omitido>"),
    "French": ("30/12/2023, 21:15 - ", "31/12/2023, 08:05 - ", "<Médias omis>"),
    "Brazilian": ("30/12/2023 21:15 - ", "31/12/2023 08:05 - ", "<Mídia oculta>"),
    "Dutch": ("30-12-2023 21:15 - ", "31-12-2023 08:05 - ", "<Media weggelaten>"),
    "Italian iOS": ("[30/12/23, 21:15:07] ", "[31/12/23, 08:05:01] ", f"{L}immagine omessa"),
    "Finnish": ("30.12.2023 klo 21.15 - ", "31.12.2023 klo 8.05 - ", "<Media jätettiin pois>"),
    "Danish": ("30.12.2023 21.15 - ", "31.12.2023 08.05 - ", "<Mediefil udeladt>"),
    "Swedish": ("2023-12-30 21:15 - ", "2023-12-31 08:05 - ", "<Media utelämnad>"),
    "Japanese": ("2023/12/30 21:15 - ", "2023/12/31 08:05 - ", "<メディアは含まれていません>"),
    "Chinese": ("2023/12/30 晚上9:15 - ", "2023/12/31 上午8:05 - ", "<省略多媒體檔案>"),
    "Korean iOS": ("[2023. 12. 30. 오후 9:15:07] ", "[2023. 12. 31. 오전 8:05:01] ", f"{L}이미지 생략됨"),
    "Hungarian": ("2023. 12. 30. 21:15 - ", "2023. 12. 31. 8:05 - ", "<Hiányzó médiafájl>"),
    "Bulgarian": ("30.12.23 г., 21:15 ч. - ", "31.12.23 г., 8:05 ч. - ", "<Без файл>"),
    "Greek": ("30/12/23, 9:15 μ.μ. - ", "31/12/23, 8:05 π.μ. - ", "<Παραλείπεται>"),
    "Arabic": ("٣٠\u200f/١٢\u200f/٢٠٢٣, ٩:١٥ م - ", "٣١\u200f/١٢\u200f/٢٠٢٣, ٨:٠٥ ص - ", "<تم استبعاد الوسائط>"),
    "Russian": ("30.12.2023, 21:15 - ", "31.12.2023, 08:05 - ", "<Без медиафайлов>"),
}
"""How WhatsApp begins a message in the evening and one on the next morning, and what stands for a picture."""


def whatsapp(locale: str) -> str:
    """Return an export: a notice, a message of two lines, a picture, an answer, and a message on the next morning."""
    evening, morning, picture = CHATS[locale]
    return (
        f"{evening}{L}Messages are end-to-end encrypted.\n{evening}Anna Smith: Hello: Bob\nsecond line\n\nfourth line\n"
        f"{evening}Bob: {picture}\n{evening}Bob: Hi Anna, 0170 1234567\n{morning}Anna Smith: Good morning\n"
    )
