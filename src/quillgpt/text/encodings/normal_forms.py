"""Characters with several forms (accents, look-alikes): choosing the form that an alphabet has."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterator
from typing import Literal

LOOK_ALIKES = ("'\u2019\u2018\u02bc\u00b4`", '"\u201c\u201d\u201e\u00ab\u00bb', "-\u2010\u2011\u2012\u2013\u2014\u2212")
"""Characters that keyboards and programs write for each other, the plainest first."""

FORMS: tuple[Literal["NFC", "NFD", "NFKC", "NFKD"], ...] = ("NFC", "NFD", "NFKC", "NFKD")
"""Unicode's normal forms; the last two also turn wide letters, ligatures and unusual spaces into usual ones."""


def in_known_form(text: str, alphabet: Collection[str]) -> tuple[str, dict[str, str]]:
    """Replace characters that an alphabet lacks by a form that it has; return the text and the replacements.

    A character without such a form stays.
    """
    if all(character in alphabet for character in text):
        return text, {}
    clusters = list(_clusters(text))
    known = {cluster: _known(cluster, alphabet) for cluster in dict.fromkeys(clusters)}
    return "".join(known[cluster] for cluster in clusters), {old: new for old, new in known.items() if old != new}


def spelled_out(characters: str) -> str:
    """Return characters with their code points, which tell look-alikes apart."""
    return f"{characters} ({' '.join(f'U+{ord(character):04X}' for character in characters)})"


def _clusters(text: str) -> Iterator[str]:
    """Yield every character with its accents, and Korean syllables whole."""
    cluster = ""
    for character in text:
        joins = unicodedata.combining(character) or "\u1160" <= character <= "\u11ff"
        if cluster and not joins:
            yield cluster
            cluster = ""
        cluster += character
    if cluster:
        yield cluster


def _known(cluster: str, alphabet: Collection[str]) -> str:
    others = [other for group in LOOK_ALIKES if cluster in group for other in group]
    for form in (cluster, *(unicodedata.normalize(form, cluster) for form in FORMS), *others):
        if form and all(character in alphabet for character in form):
            return form
    return cluster


def without_surrogates(text: str) -> str:
    """Replace lone surrogates, which UTF-8 cannot write, by U+FFFD."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
