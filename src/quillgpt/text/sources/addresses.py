"""Addresses of the web as messages and records show them: without the secrets that they may hold."""

from __future__ import annotations

import hashlib
import re

HIDDEN = "\u2026"
WEB = ("http://", "https://")


def is_web_address(word: str) -> bool:
    """Return whether a word is an address of the web."""
    return word[: len(WEB[1])].lower().startswith(WEB)


def shown_address(address: str) -> str:
    """Return an address without name and password, without the values of its query, and without its fragment."""
    if "://" not in address:  # a file, or a text by another name
        return address
    place, mark, query = re.sub(r"(?<=//)[^/?#]*@", f"{HIDDEN}@", address.partition("#")[0]).partition("?")
    parts = [
        name + equals + HIDDEN if equals else HIDDEN for name, equals, _ in (p.partition("=") for p in query.split("&"))
    ]
    return place + (mark + "&".join(parts) if query else mark)


def recorded_address(address: str) -> str:
    """Return an address as it is shown, with a hash of the whole address if that hides something."""
    shown = shown_address(address)
    return address if shown == address else f"{shown}#{hashlib.sha256(address.encode()).hexdigest()[:8]}"


def was_hidden(address: str) -> bool:
    """Return whether parts of an address were hidden when it was recorded."""
    return HIDDEN in address.partition("?")[2]
