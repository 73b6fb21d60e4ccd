"""Chats: each message as `Name: text`; a long pause begins a document."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from quillgpt.errors import did_you_mean, join_names
from quillgpt.text.formats.anonymous import Names
from quillgpt.text.formats.archive import Archive
from quillgpt.text.formats.limits import MOST_UNPACKED_BYTES
from quillgpt.text.formats.opened import Opened
from quillgpt.text.formats.whatsapp import ZIPPED, NoChatError, whatsapp_messages

PAUSE = timedelta(hours=6)
"""The pause after which a conversation is another document."""


@dataclass(frozen=True)
class Message:
    """A message of a chat."""

    time: datetime
    name: str
    text: str


def read_whatsapp(file: Opened) -> Iterator[str]:
    """Yield the conversations of a chat that WhatsApp exported, with its media in an archive or without.

    Raises:
        DataError: It is no such chat.
    """
    text = _zipped(file) if zipfile.is_zipfile(file.path) else file.text()
    try:
        found = whatsapp_messages(text, file.tally)
    except NoChatError as error:
        raise file.damaged(error) from error
    yield from _conversations(file, (Message(*message) for message in found))


def _zipped(file: Opened) -> str:
    with Archive(file) as archive:
        found = filter(ZIPPED.fullmatch, archive.names)  # among them may be files that were sent
        chat = min(found, key=lambda name: name.lower() != "_chat.txt", default=None)
        if chat is None:
            raise file.refused("holds no chat of WhatsApp (_chat.txt, or WhatsApp Chat with NAME.txt)")
        return archive.read(chat, most=MOST_UNPACKED_BYTES).decode("utf-8-sig", "replace").replace("\r\n", "\n")


def read_telegram(file: Opened) -> Iterator[str]:
    """Yield the conversations of the result.json of Telegram, chat by chat.

    Raises:
        DataError: It is no such file.
    """
    content = _json(file)
    chats = content.get("chats", {})
    several = chats.get("list") if isinstance(chats, dict) else None
    for chat in several if isinstance(several, list) else [content]:
        messages = chat.get("messages") if isinstance(chat, dict) else None
        if not isinstance(messages, list):
            raise file.damaged("it has no list of messages")
        file.tally.read["chats"] += 1
        yield from _conversations(file, filter(None, (_of_telegram(file, message) for message in messages)))


def read_discord(file: Opened) -> Iterator[str]:
    """Yield the conversations of a channel that DiscordChatExporter wrote as JSON.

    Raises:
        DataError: It is no such file.
    """
    messages = _json(file).get("messages")
    if not isinstance(messages, list):
        raise file.damaged("it has no list of messages")
    yield from _conversations(file, filter(None, (_of_discord(file, message) for message in messages)))


def _json(file: Opened) -> dict[str, Any]:
    try:
        content = json.loads(file.text())
    except (ValueError, RecursionError) as error:
        raise file.damaged(error) from error
    if not isinstance(content, dict):
        raise file.damaged("it is no JSON object")
    return content


def _of_telegram(file: Opened, message: Any) -> Message | None:
    if not isinstance(message, dict) or message.get("type") != "message":
        file.tally.dropped["notices"] += 1
        return None
    parts = message.get("text")
    parts = parts if isinstance(parts, list) else [parts]
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    if message.keys() & {"photo", "file", "media_type", "contact_information", "poll"}:
        file.tally.dropped["attachments"] += 1
    return _message(file, message.get("date"), message.get("from"), "".join(t for t in texts if isinstance(t, str)))


def _of_discord(file: Opened, message: Any) -> Message | None:
    if not isinstance(message, dict) or message.get("type") not in ("Default", "Reply", 0, 19):
        file.tally.dropped["notices"] += 1
        return None
    author, attachments = message.get("author"), message.get("attachments")
    if isinstance(attachments, list) and attachments:
        file.tally.dropped["attachments"] += len(attachments)
    name = (author.get("nickname") or author.get("name")) if isinstance(author, dict) else None
    return _message(file, message.get("timestamp"), name, message.get("content"))


def _message(file: Opened, time: Any, name: Any, text: Any) -> Message | None:
    if not (isinstance(text, str) and text.strip()):
        return None
    try:
        at = datetime.fromisoformat(time)
    except (TypeError, ValueError):
        file.tally.dropped["messages without a time"] += 1
        return None
    at = at.replace(tzinfo=UTC) if at.tzinfo is None else at
    return Message(at, name if isinstance(name, str) and name.strip() else "Deleted account", text)


def _conversations(file: Opened, messages: Iterable[Message]) -> Iterator[str]:
    wishes = file.wishes
    names = Names(wishes.me, hide=wishes.anonymise)
    everything = list(messages)
    for message in everything:  # before any text is cleaned, which may name somebody who writes later
        names.shown(message.name)
    lines: list[str] = []
    last: datetime | None = None
    for message in everything:
        if last is not None and message.time - last >= PAUSE:
            yield "\n".join(lines)
            lines.clear()
        last = message.time
        lines.append(f"{names.shown(message.name)}: {names.clean(message.text.strip(), file.tally)}")
    if lines:
        yield "\n".join(lines)
    file.tally.read["messages"] += len(everything)
    if wishes.me is not None and everything and wishes.me not in names.met:
        people = [name for name, _ in names.met.most_common()]
        file.tally.remarks.append(
            f"nobody in it is called {wishes.me}; it has {join_names(people)}{did_you_mean(wishes.me, people)}"
        )
