"""Chats of all locales are the same conversations; names, numbers and addresses are replaced on demand."""

from __future__ import annotations

import pytest

from own_files import CHATS, DISCORD, TELEGRAM, WORDS, whatsapp, zipped
from quillgpt.config.format_rules import FormatRules
from quillgpt.errors import DataError
from quillgpt.text.encodings.detection import look_at

EVENING = "Anna Smith: Hello: Bob\nsecond line\n\nfourth line\nBob: Hi Anna, 0170 1234567"


@pytest.mark.parametrize("locale", CHATS)
def test_whatsapp_in_every_locale(read, locale: str) -> None:
    found = read("chat.txt", whatsapp(locale))
    assert found.format == "whatsapp"
    assert found.documents == [EVENING, "Anna Smith: Good morning"]
    assert found.tally.read == {"messages": 3}
    assert sum(found.tally.dropped.values()) == 2


@pytest.mark.parametrize("name", ["_chat.txt", "WhatsApp Chat with B: c.txt", "Discussion WhatsApp avec B.txt"])
def test_whatsapp_with_its_media(read, tmp_path, name: str) -> None:
    first = {"my WhatsApp words.txt": WORDS} if name == "_chat.txt" else {}
    media = {f"{number:08}-PHOTO-2024-03-04.jpg": "no picture" for number in range(50)}
    found = read(zipped(tmp_path / "export.zip", {**media, **first, name: "\ufeff" + whatsapp("US iOS"), "z.vcf": ""}))
    assert found.format == "whatsapp"
    assert found.documents == [EVENING, "Anna Smith: Good morning"]


def test_an_archive_without_a_chat_is_to_be_unpacked(read, tmp_path) -> None:
    path = zipped(tmp_path / "export.zip", {"notes.txt": WORDS})
    with pytest.raises(DataError, match=r"is a zip archive, not plain text; unpack it and give the folder"):
        look_at(path)
    with pytest.raises(DataError, match=r"export\.zip holds no chat of WhatsApp \(_chat\.txt"):
        read(path, read_as=FormatRules.parse("whatsapp"))


def test_there_are_more_than_a_dozen_locales() -> None:
    assert len({begin for begin, _, _ in CHATS.values()}) >= 12


def test_words_that_were_sent_with_a_picture_are_kept(read) -> None:
    android = "30.12.23, 21:15 - Anna: IMG-1.jpg (Datei angehängt)\nThe fox\nof today\n30.12.23, 21:16 - Bob: Ah\n"
    ios = "[30.12.23, 21:15:07] Anna: The fox\nof today \u200e<attached: 1.jpg>\n[30.12.23, 21:16:07] Bob: Ah\n"
    for text in (android, ios):
        found = read("chat.txt", text)
        assert found.documents == ["Anna: The fox\nof today\nBob: Ah"]
        assert +found.tally.dropped == {"attachments": 1}
    deleted = "[30.12.23, 21:17:07] Anna: \u200eThis message was deleted.\n"
    assert read("chat.txt", ios + deleted).tally.dropped == {"attachments": 1, "notices": 1}


def test_day_and_month_follow_from_all_lines(read) -> None:
    # As months, these dates would be half a year apart or go back.
    lines = [f"{day:02}/03/24, 10:00 - Anna: day {day}" for day in range(1, 13)]
    assert len(read("chat.txt", "\n".join(lines)).documents) == 12
    hourly = [f"03/04/24, {hour}:00 PM - Anna: hour {hour}" for hour in range(1, 6)]
    assert len(read("chat.txt", "\n".join(hourly)).documents) == 1


def test_a_text_with_a_date_is_no_chat(tmp_path) -> None:
    from quillgpt.text.formats.all_formats import format_of

    for number, text in enumerate(
        (WORDS, "12.05.2020, 10:15 - it rained\nand so on\n", f"1/2/23 {WORDS}", "[1] Anna: x\n", "10:15 - Anna: x\n")
    ):
        path = tmp_path / f"{number}.txt"
        path.write_text(text)
        assert format_of(path, FormatRules()) is None


def test_as_names_the_format_where_detection_fails(read) -> None:
    text = "Chat with Anna\n\n" + whatsapp("US iOS")
    found = read("chat.txt", text, read_as=FormatRules.parse("whatsapp"))
    assert found.documents[0] == EVENING
    with pytest.raises(DataError, match=r"chat.txt is damaged or not a chat of WhatsApp .*31.12.23, 21:15 - Anna"):
        read("chat.txt", WORDS, read_as=FormatRules.parse("whatsapp"))


def test_me_and_anonymise(read) -> None:
    found = read("chat.txt", whatsapp("German iOS"), me="Bob", anonymise=True)
    assert found.documents[0] == "Person 1: Hello: Me\nsecond line\n\nfourth line\nMe: Hi Person 1, <number>"
    assert found.tally.dropped["numbers (replaced)"] == 1
    found = read("chat.txt", whatsapp("German iOS"), me="Bpb")
    assert found.tally.remarks == ["nobody in it is called Bpb; it has Anna Smith, Bob; did you mean Bob?"]


def test_telegram(read) -> None:
    found = read("result.json", TELEGRAM)
    assert found.documents == ["Anna: See https://x.org\nBob: Yes, Anna", "Deleted account: Later"]
    assert found.tally.dropped == {"notices": 1, "attachments": 1}
    both = f'{{"about": "x", "chats": {{"list": [{TELEGRAM}, {TELEGRAM}]}}}}'
    assert len(read("result.json", both, anonymise=True).documents) == 4


def test_discord(read) -> None:
    found = read("channel.json", DISCORD)
    assert (found.format, found.documents) == ("discord", ["Anna: Hi\nbob: Ho"])
    assert found.tally.dropped == {"notices": 1, "attachments": 1}
