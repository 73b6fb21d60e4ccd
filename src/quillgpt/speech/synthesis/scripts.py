"""Which voice reads the script of a text."""

from __future__ import annotations

import unicodedata
from collections import Counter

LANGUAGES = {
    "CYRILLIC": "ru uk bg be mk sr bs kk ky tt ba cv nog uz tk kaa",
    "GREEK": "el grc",
    "ARABIC": "ar fa ur ug sd ku",
    "HEBREW": "he yi",
    "DEVANAGARI": "hi mr ne kok",
    "CJK": "cmn yue hak ja zh",
    "HIRAGANA": "ja",
    "KATAKANA": "ja",
    "HANGUL": "ko",
    "THAI": "th",
    "BENGALI": "bn as bpy",
    "GUJARATI": "gu",
    "GURMUKHI": "pa",
    "ORIYA": "or",
    "TAMIL": "ta",
    "TELUGU": "te",
    "KANNADA": "kn",
    "MALAYALAM": "ml",
    "SINHALA": "si",
    "MYANMAR": "my shn",
    "ETHIOPIC": "am ti",
    "GEORGIAN": "ka",
    "ARMENIAN": "hy hyw",
    "CHEROKEE": "chr",
}
"""The codes of languages that a script, as Unicode names its letters, is written in; the most spoken first."""


def better_voice(text: str, language: str) -> str | None:
    """Return the code of a voice for the script of most letters of a text; None if `language` is written in it too."""
    scripts = Counter(unicodedata.name(letter, "").split(" ")[0] for letter in text if letter.isalpha())
    if not scripts:
        return None
    if scripts["HIRAGANA"] or scripts["KATAKANA"]:  # Japanese has Chinese characters among them
        scripts["HIRAGANA"] += scripts.pop("CJK", 0)
    languages = LANGUAGES.get(scripts.most_common(1)[0][0], "").split()
    return languages[0] if languages and language.partition("-")[0] not in languages else None
