"""The likelihood of a character in a language."""

from __future__ import annotations

import math
import unicodedata
from functools import cache

from quillgpt.text.encodings import alphabets

CAPITALS = " in capitals"
"""Suffix of a language's name, for texts entirely in capitals."""

_STRANGE_LETTER, _STRANGE_SIGN, _NO_CHARACTER = math.log(3e-4), math.log(1e-4), math.log(1e-6)
_TYPOGRAPHY, _RARE_TYPOGRAPHY = math.log(8e-3), math.log(2e-3)
_UPPER_CASE = math.log(0.25)

_FROM_THE_RIGHT = ("Arabic", "Persian", "Urdu")


@cache
def _frequencies(letters: str) -> dict[str, float]:
    weights = {letter: 1 / (rank + 3) for rank, letter in enumerate(letters)}
    total = sum(weights.values()) / 0.93
    return {letter: math.log(weight / total) for letter, weight in weights.items()}


def letter_likelihood(character: str, language: str) -> float:
    """Return the log-likelihood of a character beyond ASCII in a language, in nats."""
    name = language.removesuffix(CAPITALS)
    common = _frequencies(alphabets.LATIN.get(name) or alphabets.OTHERS[name])
    capitals = name != language
    if character in common:
        return common[character] + (_UPPER_CASE if capitals and character.upper() != character else 0)
    if character.isascii():  # some encodings have a second space and full stop, for scripts that run from the right
        if name not in _FROM_THE_RIGHT:
            return _STRANGE_SIGN
        return math.log(0.15) if character == " " else _TYPOGRAPHY
    lower = character.lower()
    if lower in common:
        return common[lower] + (0 if capitals else _UPPER_CASE)
    if character in alphabets.COMMON_TYPOGRAPHY:
        return _TYPOGRAPHY
    if character in alphabets.RARE_TYPOGRAPHY:
        return _RARE_TYPOGRAPHY
    if name == "Vietnamese" and "\u0300" <= character <= "\u0323":
        return math.log(0.06)
    category = unicodedata.category(character)
    if category in ("Cc", "Cn", "Co") or character == "\ufffd":
        return _NO_CHARACTER
    return _STRANGE_LETTER if category.startswith(("L", "M")) else _STRANGE_SIGN


HALF_WIDTH = "Japanese in half width"
EAST_ASIAN = ("Chinese", "Traditional Chinese", "Japanese", "Korean", HALF_WIDTH)
_SHARES = {  # of common characters, others of the first level, of the second level, and all others
    "Chinese": (0.5, 0.3, 0.02, 0.002),
    "Traditional Chinese": (0.5, 0.3, 0.02, 0.002),
    "Japanese": (0.1, 0.2, 0.01, 0.001),
    "Korean": (0.6, 0.3, 0.003, 0.003),
}
_LEVELS = {"Chinese": "gb2312", "Traditional Chinese": "big5", "Japanese": "euc_jp", "Korean": "euc_kr"}
_LAST_OF_FIRST_LEVEL = {"Chinese": 0xD7, "Traditional Chinese": 0xC6, "Japanese": 0xCF, "Korean": 0xC8}


@cache
def _common(language: str) -> dict[str, float]:
    characters = alphabets.COMMON_HANGUL if language == "Korean" else alphabets.COMMON_HANZI[language]
    likelihoods = _ranked(characters, _SHARES[language][0])
    if language == "Japanese":
        likelihoods |= _ranked(alphabets.KANA, 0.55)
    return likelihoods | dict.fromkeys(alphabets.EAST_ASIAN_PUNCTUATION, math.log(0.13 / 20))


def _ranked(characters: str, share: float) -> dict[str, float]:
    weights = {character: 1 / (rank + 8) for rank, character in enumerate(dict.fromkeys(characters))}
    return {character: math.log(share * weight / sum(weights.values())) for character, weight in weights.items()}


@cache
def east_asian_likelihood(character: str, language: str) -> float:
    """Return the log-likelihood of a character beyond ASCII in an East Asian language, in nats."""
    if language == HALF_WIDTH:
        is_half = "\uff61" <= character <= "\uff9f"
        return math.log(0.9 / 63) if is_half else math.log(0.1) + east_asian_likelihood(character, "Japanese")
    common = _common(language).get(character)
    if common is not None:
        return common
    _, first, second, beyond = _SHARES[language]
    name = unicodedata.name(character, "")
    if name.startswith("CJK UNIFIED") or (language == "Korean" and name.startswith("HANGUL SYLLABLE")):
        code = character.encode(_LEVELS[language], "ignore")
        if len(code) != 2 or (language == "Korean" and name.startswith("CJK")):
            return math.log(beyond / 10_000)
        return math.log((first if code[0] <= _LAST_OF_FIRST_LEVEL[language] else second) / 3500)
    if unicodedata.category(character) in ("Cc", "Cn", "Co") or character == "\ufffd":
        return _NO_CHARACTER
    if name.startswith(("FULLWIDTH", "BOX", "IDEOGRAPHIC")) or character in "·※★☆◎●○◆◇□■△▲▽▼→←↑↓〓":
        return math.log(0.04 / 120)
    if name.startswith("KATAKANA") and language == "Japanese":
        return math.log(0.03 / 80)
    return math.log(3e-6)
