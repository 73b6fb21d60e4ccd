"""The chats that WhatsApp exports: a line for each message, written as the language of the telephone writes dates.

Android writes `31.12.23, 21:15 - Anna: Hello`, iOS `[12/31/23, 9:15:07 PM] Anna: Hello`. The order of day and month,
the marks between them, the words for morning and evening and the digits differ. Which number is the day follows from
all lines together: dates must exist, and a chat goes forward in time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

from quillgpt.text.formats.opened import Tally

MARKS = "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff"
"""Marks of direction, which stand before dates, names and notices."""

_PERIOD = r"(?:[^\W\d_]\.?\s?){1,8}"
HEAD = re.compile(
    rf"[{MARKS}]*(?P<bracket>\[)?[{MARKS}]*"
    rf"(?P<a>\d{{1,4}})[{MARKS}]*\s?[./\-年년][{MARKS}]*\s?(?P<b>\d{{1,2}})[{MARKS}]*\s?[./\-月월][{MARKS}]*\s?"
    rf"(?P<c>\d{{1,4}})[{MARKS}]*\s?[.日일]?(?:\s?г\.)?"
    rf"[,،]?\s{{1,2}}(?:(?:klo|um|kl\.|kl|à|alle|в|às|o)\s)?(?P<before>{_PERIOD})?"
    rf"(?P<hour>\d{{1,2}})[:.](?P<minute>\d\d)(?:[:.]\d\d)?\s?(?P<after>{_PERIOD})?[{MARKS}]*"
    r"(?(bracket)\]\s?|(?:\s?[-–—]\s|,\s(?=[^\n]{1,80}\s:\s)))"
    r"(?P<rest>.*)",
    re.DOTALL,
)
"""Date and time at the beginning of a message; `\\d` are the digits of any script, `\\s` also U+202F and U+00A0."""

SENDER = re.compile(rf"[{MARKS}~\u202f\u00a0 ]*(?P<name>[^:\n]{{1,80}}?)\s?:\s(?P<text>.*)", re.DOTALL)
AFTERNOON = re.compile(r"(?i)p|μ\.?μ|м\.?м|下午|晚上|中午|午後|오후|م|בערב|אחה|अपराह|বিকাল|ch|du|ö\.?s|so")
"""The words for the later half of the day, by what only they have."""

EDITED = re.compile(
    rf"\s?[{MARKS}]*<[^<>\n]{{0,40}}(?:edited|bearbeitet|edit|modifi|modificat|bewerkt|изменен)[^<>\n]{{0,40}}>$"
)
ATTACHMENT = re.compile(
    rf"(?i)[{MARKS}]*(?:<[^<>\n]{{3,60}}>|\S[^\n]{{0,120}}\.\w{{2,4}} \([^()\n]{{4,40}}\)|null)[{MARKS}]*$"
)
"""A line that stands for a picture or another file: `<Media omitted>`, `IMG-1.jpg (file attached)`."""

ATTACHED_BELOW = re.compile(r"\s?\u200e<[^<>\n]{3,140}>$")
"""How iOS names a file behind the words that were sent with it."""

DELETED = re.compile(
    r"(?i)(?:this message was deleted|you deleted this message|diese nachricht wurde gelöscht|du hast diese nachricht "
    r"gelöscht|ce message a été supprimé|vous avez supprimé ce message|se eliminó este mensaje|eliminaste este mensaje|"
    r"mensagem apagada|essa mensagem foi apagada|questo messaggio è stato eliminato|данное сообщение удалено)\.?$"
)
PROBED_LINES = 40

ZIPPED = re.compile(r"(?i)(?:_chat|[^/]*whatsapp[^/]*)\.txt")
"""The name of a chat in an archive: `_chat.txt`, `WhatsApp Chat with Anna.txt`."""

_LISTED = re.compile(rb"(?is)PK\x01\x02.{42}(?:_chat|[^/\0]{0,200}whatsapp[^/\0]{0,200})\.txt")
LISTED_BYTES = 2_000_000
"""The names of an archive's files are in its last bytes."""


class NoChatError(Exception):
    """A text is no export of WhatsApp."""


def is_whatsapp(beginning: str) -> bool:
    """Return whether a text begins like an export: with a date, and with several messages or nothing else."""
    lines = [line for line in beginning.split("\n")[:PROBED_LINES] if line.strip()]
    if not lines or HEAD.match(lines[0]) is None:
        return False
    heads = [found for found in map(HEAD.match, lines) if found]
    sent = [found for found in heads if SENDER.match(found["rest"])]
    return bool(sent) and (len(heads) > 1 or len(lines) == 1)


def is_zipped_whatsapp(path: Path) -> bool:
    """Return whether a zip archive is an export with the media: it holds a chat."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - LISTED_BYTES))
        return _LISTED.search(file.read()) is not None


def whatsapp_messages(text: str, tally: Tally) -> list[tuple[datetime, str, str]]:
    """Return time, sender and text of all messages, and count notices and attachments.

    Raises:
        NoChatError: No line begins with a date, a time and a name.
    """
    found: list[tuple[re.Match[str], list[str]]] = []
    for line in text.split("\n"):
        head = HEAD.match(line) if line[:1] in "[" or line[:1].isdigit() or line[:1] in MARKS else None
        if head is not None:
            found.append((head, [head["rest"]]))
        elif found:
            found[-1][1].append(line)
    if not any(SENDER.match(rows[0]) for _, rows in found):
        raise NoChatError("no line is like 31.12.23, 21:15 - Anna: Hello or [12/31/23, 9:15:07 PM] Anna: Hello")
    order = _order([_numbers(head) for head, _ in found])
    messages: list[tuple[datetime, str, str]] = []
    for head, rows in found:
        sender = SENDER.match("\n".join(rows).rstrip())
        time = _time(head, order)
        if sender is None or time is None:
            tally.dropped["notices"] += 1
            continue
        content, removed = ATTACHED_BELOW.subn("", EDITED.sub("", sender["text"]))
        first, *others = content.split("\n")
        if DELETED.match(first.lstrip(MARKS)):
            content = ""
        elif first[:1] in MARKS or ATTACHMENT.match(first):
            content, removed = "\n".join(others), removed + 1
        tally.dropped["attachments"] += removed
        if content.strip():
            messages.append((time, sender["name"].strip(), content))
        elif not removed:
            tally.dropped["notices"] += 1
    return messages


def _numbers(head: re.Match[str]) -> tuple[int, int, int]:
    return int(head["a"]), int(head["b"]), int(head["c"])


def _order(dates: Sequence[tuple[int, int, int]]) -> tuple[int, int, int]:
    """Return which of three numbers are year, month and day: the order in which the dates exist and go forward."""
    orders = ((2, 1, 0), (2, 0, 1), (0, 1, 2))

    def faults(order: tuple[int, int, int]) -> int:
        days = [_date(date, order) for date in dates]
        known = [day for day in days if day is not None]
        back = sum(later < earlier for earlier, later in pairwise(known))
        return 1000 * (len(days) - len(known)) + back + _leaps(known)

    return min(orders, key=faults)


def _leaps(days: Sequence[tuple[int, int, int]]) -> int:
    """Return how often more than a month passes: the 1st and 2nd of a month are taken for two months if swapped."""
    return sum((later[0] - earlier[0]) * 12 + later[1] - earlier[1] > 0 for earlier, later in pairwise(days))


def _date(numbers: tuple[int, int, int], order: tuple[int, int, int]) -> tuple[int, int, int] | None:
    year, month, day = (numbers[place] for place in order)
    if year < 100:
        year += 2000
    elif year > 2400:  # of the Buddhist calendar
        year -= 543
    elif 1300 < year < 1500:  # of the Persian calendar, whose months begin on other days; pauses stay about right
        year += 621
    return (year, month, day) if 2000 <= year < 2200 and 1 <= month <= 12 and 1 <= day <= 31 else None


def _time(head: re.Match[str], order: tuple[int, int, int]) -> datetime | None:
    date = _date(_numbers(head), order)
    hour, minute = int(head["hour"]), int(head["minute"])
    period = head["before"] or head["after"]
    if period:
        hour = hour % 12 + 12 * bool(AFTERNOON.match(period.strip())) if hour <= 12 else hour
    try:
        return datetime(*date, hour, minute, tzinfo=UTC) if date else None
    except ValueError:
        return None
