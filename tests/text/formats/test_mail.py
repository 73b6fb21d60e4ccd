"""Mails: the words of each message; quotes, signatures and names are left out where somebody says so."""

from __future__ import annotations

import mailbox
from email.message import EmailMessage
from pathlib import Path

import pytest

from own_files import MAIL
from quillgpt.errors import DataError


def test_a_mail_is_its_subject_and_its_words(read) -> None:
    found = read("m.eml", MAIL)
    assert found.documents[0].startswith("Grüße from the fox\n\nDear Bob, a café is open.")
    assert "> Is it open?" in found.documents[0]
    assert "anna@example.org" not in found.documents[0]


def test_quotes_and_signatures_are_left_out_and_counted(read) -> None:
    found = read("m.eml", MAIL.replace(">From", "From"), drop_quotes=True, drop_signatures=True)
    assert found.documents[0].endswith("From here on all is well.")
    assert found.tally.dropped == {"attachments": 0, "lines of quotes": 3, "lines of signatures": 4}


def test_names_numbers_and_addresses_are_replaced(read) -> None:
    (text,) = read("m.eml", MAIL, anonymise=True).documents
    assert "Dear Person 2, a café is open. Call <number> or see <address>" in text
    assert not {"Anna", "Bob", "Smith", "1234567"} & {*text.replace(",", " ").split()}


def test_a_mailbox_has_a_document_for_each_message(read, tmp_path: Path) -> None:
    box = mailbox.mbox(tmp_path / "all.mbox")
    for number in range(3):
        message = EmailMessage()
        message["From"], message["Subject"] = "Anna <a@b.c>", f"Number {number}"
        message.set_content(f"Text {number}\nFrom here on: é\n")
        message.add_alternative("<p>the same</p>", subtype="html")
        message.add_attachment(b"\x89PNG", maintype="image", subtype="png", filename="a.png")
        box.add(message)
    page = EmailMessage()
    page["Subject"] = "Page"
    page.set_content("<p>Only <b>HTML</b></p>", subtype="html")
    box.add(page)
    box.close()
    found = read(tmp_path / "all.mbox")
    assert found.documents == [*(f"Number {n}\n\nText {n}\nFrom here on: é" for n in range(3)), "Page\n\nOnly HTML"]
    assert found.tally.read == {"messages": 4}
    assert found.tally.dropped["attachments"] == 3


def test_the_encoding_of_a_mail_that_names_none_is_detected(read) -> None:
    words = "Ёжик и лисица живут в большом лесу, и медведь тоже. " * 4
    found = read("m.eml", b"Subject: x\n\n" + words.encode("koi8-r"))
    assert words.strip() in found.documents[0]


def test_what_is_no_mail_is_refused(read) -> None:
    with pytest.raises(DataError, match=r"m.eml is damaged or not a mail"):
        read("m.eml", "Once upon a time")
    with pytest.raises(DataError, match=r"m.mbox is damaged or not a mailbox"):
        read("m.mbox", "Once upon a time")
