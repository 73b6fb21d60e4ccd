"""Guesses which encoding older than Unicode a text is in, and how sure the guess is.

Every pair of an encoding and a language gives the bytes a likelihood, from the frequencies of the decoded letters in
the language and from which kinds of characters stand side by side. Every encoding decodes the bytes to some letters;
only the right one gives the letters of a language.
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

# Prior of each encoding, in nats below the commonest one; among equal decodings the commonest encoding is named.
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
"""Log-likelihood of a byte beyond ASCII if such bytes were random."""
_ASCII_LETTER = 2.5
"""Nats for an ASCII letter that one encoding takes for half of a character and another for a letter."""
_TEMPER = 2.0
"""Divides log-likelihoods: neighbouring letters are not independent, so a text is weaker evidence."""
_LEEWAY = 8.0
_RARELY = 4.0
"""Nats by which a text in a rare language is less likely; a text entirely in capitals by twice that."""
_ASCII, _BEYOND_ASCII = bytes(range(128)), bytes(range(128, 256))


@dataclass(frozen=True)
class Guess:
    """An encoding that a text may be in.

    Attributes:
        encoding: Its name.
        language: The language that it reads like.
        share: Its probability among the encodings that decode the text differently, 0 to 1.
        nats: Mean log-likelihood of a byte beyond ASCII in this encoding, in nats.
        is_text: Whether it is likelier than random bytes would be.
    """

    encoding: str
    language: str
    share: float
    nats: float
    is_text: bool


def guesses(sample: bytes, at_most: int = 4) -> list[Guess]:
    """Return the likeliest encodings of a sample, the likeliest first.

    Of encodings that decode it to the same text, only the commonest is returned.

    Args:
        sample: Text with bytes beyond ASCII.
        at_most: The largest number of encodings to return.
    """
    sample = _different_words(sample)
    high = len(sample.translate(None, _ASCII))
    if high == 0:
        return [Guess("ascii", "English", 1.0, 0.0, True)]
    ranked = sorted((*_single_byte(sample), *_multi_byte(sample)), key=lambda scored: -scored[0])
    distinct: dict[str, tuple[float, float, str, str]] = {}
    for score, prior, encoding, language in ranked[: 6 * at_most]:
        distinct.setdefault(sample.decode(encoding, "replace"), (score, prior, encoding, language))
    chosen = list(distinct.values())[:at_most]
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
    """Return every different word once: repetitions are no further evidence."""
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
    """Return the log-likelihood of the bytes in each language, (languages,)."""
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
        language: taken + sum(count * east_asian_likelihood(character, language) for character, count in beyond.items())
        for language in EAST_ASIAN
    }


# Kinds of characters; some pairs of kinds hardly ever stand side by side.
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
    """Return the costs of one kind after another: in all languages, and in those without accents in a row."""
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
    """Tables for the likelihoods of single-byte encodings.

    Attributes:
        languages: The names of the languages.
        likelihoods: By encoding: the log-likelihood of each byte beyond ASCII in each language, (languages, 128).
        kinds: By encoding: the kind of each byte's character, (256,).
        is_vietnamese: Which languages have accents in a row, (languages,).
        rarity: Nats by which texts in each language are less likely, (languages,).
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
    likelihoods = np.array([[letter_likelihood(letter, language) for letter in characters] for language in languages])
    return _Tables(
        languages,
        {name: likelihoods[:, [index[letter] for letter in text[128:]]] for name, text in decoded.items()},
        {name: kinds[[index[letter] for letter in text]] for name, text in decoded.items()},
        np.array([language.startswith("Vietnamese") for language in languages]),
        np.array(rarity),
    )


def is_known(encoding: str) -> bool:
    """Return whether `guesses` can return an encoding."""
    return encoding in _SINGLE_BYTE or encoding in _MULTI_BYTE


def nats_of(sample: bytes, encoding: str, language: str | None = None) -> float:
    """Return the mean log-likelihood of a sample's bytes beyond ASCII in an encoding, in nats.

    Args:
        sample: Text.
        encoding: An encoding that `is_known`.
        language: The language of the text; by default the likeliest.
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
