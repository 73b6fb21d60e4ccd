"""Which of the encodings from before Unicode a text is in, and how sure that is.

Each pair of an encoding and a language gives the bytes a likelihood: how often that language has the letters that the
bytes would be, and whether they stand beside each other as letters do. No encoding fails to give some letters; only the
right one gives those that a language has.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from dataclasses import dataclass
from enum import IntEnum, auto
from functools import cache

import numpy as np
from numpy.typing import NDArray

from quillgpt.text.encodings import alphabets
from quillgpt.text.encodings.letters import CAPITALS, EAST_ASIAN, HALF_WIDTH, east_asian_likelihood, letter_likelihood

# Nats by which an encoding is less common than the commonest; of equal readings the commonest is named.
_SINGLE_BYTE = {
    **dict.fromkeys(("cp1252", "cp1251", "cp1253", "cp1255", "cp1256", "cp874"), 0.0),
    **dict.fromkeys(("koi8_r", "cp1258"), 1.0),
    **dict.fromkeys(("cp1250", "cp1254", "cp1257"), 2.0),
    **dict.fromkeys(("iso8859_2", "iso8859_5", "iso8859_6", "iso8859_7", "iso8859_15", "koi8_u", "cp866"), 3.0),
    **dict.fromkeys(("mac_roman", "mac_cyrillic"), 3.5),
    **dict.fromkeys(("cp850", "cp852", "cp437"), 5.0),
    **dict.fromkeys(("iso8859_3", "iso8859_4", "iso8859_10", "iso8859_13", "iso8859_14", "iso8859_16"), 5.0),
    **dict.fromkeys(("cp737", "cp775", "cp855", "cp857", "cp862", "cp865", "cp869", "cp720", "cp1125"), 5.0),
    **dict.fromkeys(("mac_greek", "mac_latin2", "mac_turkish", "mac_iceland", "mac_croatian", "mac_romanian"), 5.0),
    **dict.fromkeys(("cp860", "cp861", "cp863", "cp858", "mac_arabic", "mac_farsi", "kz1048", "ptcp154"), 6.0),
    "koi8_t": 6.0,
}
_MULTI_BYTE = {"gb18030": 0.0, "big5hkscs": 0.5, "cp950": 1.0, "cp932": 0.0, "euc_jp": 0.5, "cp949": 0.0, "johab": 5.0}

_CHANCE = math.log(1 / 128)
"""Of a byte beyond ASCII, were they random."""
_ASCII_LETTER = 2.5
"""Nats that a letter of ASCII costs, where one encoding takes it for half of a character and another for a letter."""
_TEMPER = 2.0
"""Letters follow from each other, so that a text says less than as many that are drawn by chance."""
_LEEWAY = 8.0
_RARELY = 4.0
"""Nats by which a text in a rare language, or, twice that, in capitals throughout, is less likely."""
_ASCII, _BEYOND_ASCII = bytes(range(128)), bytes(range(128, 256))


@dataclass(frozen=True)
class Guess:
    """An encoding that a text may be in.

    Attributes:
        encoding: Its name.
        language: The language that it reads like.
        share: How likely it is, among those that give other letters, 0 to 1.
        nats: How likely each byte beyond ASCII is, read so, in nats.
        is_text: Whether it reads better than bytes that are drawn by chance would.
    """

    encoding: str
    language: str
    share: float
    nats: float
    is_text: bool


def guesses(sample: bytes, at_most: int = 4) -> list[Guess]:
    """Return the encodings that a sample may be in, the likeliest first; of those that read it alike, the commonest.

    Args:
        sample: Text with bytes beyond ASCII.
        at_most: How many are looked for.
    """
    sample = _different_words(sample)
    high = len(sample.translate(None, _ASCII))
    if high == 0:
        return [Guess("ascii", "English", 1.0, 0.0, True)]
    ranked = sorted((*_single_byte(sample), *_multi_byte(sample)), key=lambda each: -each[0])
    found: dict[str, tuple[float, float, str, str]] = {}
    for score, prior, encoding, language in ranked[: 6 * at_most]:
        found.setdefault(sample.decode(encoding, "replace"), (score, prior, encoding, language))
    chosen = list(found.values())[:at_most]
    weights = [math.exp((score - chosen[0][0]) / _TEMPER) for score, *_ in chosen]
    return [
        Guess(
            encoding,
            language,
            weight / sum(weights),
            (score + prior) / high,
            score + prior > _CHANCE * high - (_LEEWAY if high < 20 else 0),
        )
        for weight, (score, prior, encoding, language) in zip(weights, chosen, strict=True)
    ]


def _different_words(sample: bytes) -> bytes:
    """Return each word once: what comes again says nothing new."""
    return b" ".join(dict.fromkeys(sample.split()))


def _single_byte(sample: bytes) -> list[tuple[float, float, str, str]]:
    codes = np.frombuffer(sample, dtype=np.uint8)
    scores = []
    for encoding, prior in _SINGLE_BYTE.items():
        likelihoods = _single_byte_likelihoods(codes, encoding)
        scored = likelihoods - _tables().rarity - prior
        best = int(scored.argmax())
        less = prior + float(_tables().rarity[best])
        scores.append((float(scored[best]), less, encoding, _tables().languages[best]))
    return scores


def _single_byte_likelihoods(codes: NDArray[np.uint8], encoding: str) -> NDArray[np.float64]:
    """Return how likely the bytes are in each language, (languages,)."""
    tables = _tables()
    counts = np.bincount(codes, minlength=256)[128:]
    kinds = tables.kinds[encoding][codes]
    beside = np.bincount(kinds[:-1] * _COSTS + kinds[1:], minlength=_COSTS**2)
    likelihoods = tables.likelihoods[encoding] @ counts
    doubled = np.where(tables.is_vietnamese, 0.0, float(_DOUBLED.ravel() @ beside))
    return np.asarray(likelihoods + doubled + float(_BESIDE.ravel() @ beside))


def _multi_byte(sample: bytes) -> list[tuple[float, float, str, str]]:
    scores = []
    for encoding, prior in _MULTI_BYTE.items():
        likelihoods = _multi_byte_likelihood(sample, encoding)
        best = max(likelihoods, key=likelihoods.__getitem__)
        less = prior + (2 * _RARELY if best == HALF_WIDTH else 0)
        scores.append((likelihoods[best] - less, less, encoding, best))
    return scores


def _multi_byte_likelihood(sample: bytes, encoding: str) -> dict[str, float]:
    counts = Counter(sample.decode(encoding, "replace"))
    left = sum(count for character, count in counts.items() if character.isascii())
    taken = _ASCII_LETTER * (len(sample.translate(None, _BEYOND_ASCII)) - left)
    beyond = {character: count for character, count in counts.items() if not character.isascii()}
    return {
        language: taken + sum(count * east_asian_likelihood(each, language) for each, count in beyond.items())
        for language in EAST_ASIAN
    }


# Kinds of characters, by which it is judged what may stand beside what.
class _Kind(IntEnum):
    LOWER_ASCII = auto()
    UPPER_ASCII = auto()
    LOWER_LATIN = auto()
    UPPER_LATIN = auto()
    LOWER = auto()
    UPPER = auto()
    UNCASED = auto()
    FINAL = auto()
    MARK = auto()
    OPENING = auto()
    CLOSING = auto()
    SIGN = auto()
    REST = auto()


def _kind(character: str) -> int:
    category = unicodedata.category(character)
    if character in alphabets.FINAL_LETTERS:
        return _Kind.FINAL
    if category == "Mn":
        return _Kind.MARK if "\u0300" <= character <= "\u036f" else _Kind.UNCASED
    if category.startswith("L") and character not in "ªº":
        if character.isascii():
            return _Kind.LOWER_ASCII if character.islower() else _Kind.UPPER_ASCII
        latin = "LATIN" in unicodedata.name(character, "")
        if category == "Lu":
            return _Kind.UPPER_LATIN if latin else _Kind.UPPER
        if category == "Ll":
            return _Kind.LOWER_LATIN if latin else _Kind.LOWER
        return _Kind.UNCASED
    if character in "…»":
        return _Kind.CLOSING
    if character in "¼½¾¨´¸¤¦¬¯":
        return _Kind.SIGN
    if character in "’‘“” \u00a0\u00ad·ªº" or character.isascii():
        return _Kind.REST
    return _Kind.OPENING


def _beside() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what it costs that one kind follows another, in all languages and in those that double no accents."""
    cost = np.zeros((len(_Kind) + 1, len(_Kind) + 1))
    doubled = np.zeros((len(_Kind) + 1, len(_Kind) + 1))
    latin = (_Kind.LOWER_ASCII, _Kind.UPPER_ASCII, _Kind.LOWER_LATIN, _Kind.UPPER_LATIN)
    others = (_Kind.LOWER, _Kind.UPPER, _Kind.UNCASED, _Kind.FINAL)
    for first in latin:
        for second in others:
            cost[first, second] = cost[second, first] = -4
    for first, second in (
        (_Kind.LOWER_ASCII, _Kind.UPPER_LATIN),
        (_Kind.LOWER_LATIN, _Kind.UPPER_ASCII),
        (_Kind.LOWER_LATIN, _Kind.UPPER_LATIN),
    ):
        cost[first, second] = -3
    cost[_Kind.LOWER, _Kind.UPPER] = -3
    for first in (_Kind.LOWER, _Kind.UPPER):
        cost[first, _Kind.UNCASED] = cost[_Kind.UNCASED, first] = -4
    cost[_Kind.FINAL, [_Kind.LOWER, _Kind.UNCASED, _Kind.FINAL]] = -3
    for letter in (*latin, *others):
        cost[letter, _Kind.SIGN] = cost[_Kind.SIGN, letter] = -2.5
        cost[letter, _Kind.OPENING] = -4
        cost[_Kind.CLOSING, letter] = -2.5
    for kind in (*others, _Kind.MARK, _Kind.OPENING, _Kind.CLOSING, _Kind.SIGN, _Kind.REST):
        cost[kind, _Kind.MARK] = -4
    for first in (_Kind.LOWER_LATIN, _Kind.UPPER_LATIN):
        for second in (_Kind.LOWER_LATIN, _Kind.UPPER_LATIN):
            doubled[first, second] = -1.5
    return cost, doubled


_BESIDE, _DOUBLED = _beside()
_COSTS = len(_BESIDE)


@dataclass(frozen=True)
class _Tables:
    """What single-byte encodings are judged by.

    Attributes:
        languages: Their names.
        likelihoods: Of each encoding: how likely each byte beyond ASCII is in each language, (languages, 128).
        kinds: Of each encoding: of which kind the character of each byte is, (256,).
        is_vietnamese: Which languages have several accents side by side, (languages,).
        rarity: By how many nats texts in them are less likely, (languages,).
    """

    languages: list[str]
    likelihoods: dict[str, NDArray[np.float64]]
    kinds: dict[str, NDArray[np.int64]]
    is_vietnamese: NDArray[np.bool_]
    rarity: NDArray[np.float64]


@cache
def _tables() -> _Tables:
    decoded = {encoding: bytes(range(256)).decode(encoding, "replace") for encoding in _SINGLE_BYTE}
    characters = sorted(set().union(*decoded.values()))
    index = {character: place for place, character in enumerate(characters)}
    kinds = np.array([_kind(character) for character in characters])
    languages = [*alphabets.LATIN, *alphabets.OTHERS]
    rarity = [_RARELY * (language in alphabets.RARE) for language in languages]
    rarity += [2 * _RARELY + rare for rare in rarity]
    languages += [language + CAPITALS for language in languages]
    of_each = np.array([[letter_likelihood(each, language) for each in characters] for language in languages])
    return _Tables(
        languages,
        {name: of_each[:, [index[each] for each in text[128:]]] for name, text in decoded.items()},
        {name: kinds[[index[each] for each in text]] for name, text in decoded.items()},
        np.array([language.startswith("Vietnamese") for language in languages]),
        np.array(rarity),
    )


def is_known(encoding: str) -> bool:
    """Return whether an encoding is among those that are guessed."""
    return encoding in _SINGLE_BYTE or encoding in _MULTI_BYTE


def nats_of(sample: bytes, encoding: str, language: str | None = None) -> float:
    """Return how likely each byte beyond ASCII of a sample is, were it in an encoding, in nats.

    Args:
        sample: Text.
        encoding: One of those that are guessed.
        language: The language that it is read as; by default the likeliest.
    """
    sample = _different_words(sample)
    high = len(sample.translate(None, _ASCII))
    if high == 0:
        return 0.0
    if encoding in _MULTI_BYTE:
        by_language = _multi_byte_likelihood(sample, encoding)
    else:
        likelihoods = _single_byte_likelihoods(np.frombuffer(sample, dtype=np.uint8), encoding)
        by_language = dict(zip(_tables().languages, map(float, likelihoods), strict=True))
    return (max(by_language.values()) if language is None else by_language[language]) / high
