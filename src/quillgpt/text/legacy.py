"""Which of the encodings from before Unicode a text is in."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise

# The commonest comes first: what reads equally well in several is taken to be in the first of them.
_LATIN = ("cp1252", "cp1250", "iso8859_2", "cp1254", "cp1257", "mac_roman", "cp850")
# Each is the largest of its family: EUC-KR is part of cp949, GB 2312 and GBK of gb18030, Shift-JIS of cp932.
_ASIAN = ("cp932", "euc_jp", "gb18030", "big5hkscs", "cp950", "cp949")
_OTHERS = ("cp1251", "koi8_r", "koi8_u", "cp866", "cp1253", "cp1255", "cp1256")

TITLES = {
    "utf-16": "UTF-16",
    "utf-16-le": "UTF-16 without a mark",
    "utf-16-be": "UTF-16 without a mark",
    "utf-32": "UTF-32",
    "cp932": "Shift-JIS (cp932)",
    "euc_jp": "EUC-JP",
    "gb18030": "GB 18030",
    "big5hkscs": "Big5",
    "cp950": "Big5 (cp950)",
    "cp949": "EUC-KR (cp949)",
    "koi8_r": "KOI8-R",
    "koi8_u": "KOI8-U",
    "iso8859_2": "ISO-8859-2",
    "mac_roman": "Mac Roman",
}
"""What people call an encoding, where Python calls it otherwise."""

_ALPHABETS = {
    "Catalan": "àçéèíïóòúü·",
    "Croatian": "čćđšž",
    "Czech": "áčďéěíňóřšťúůýž",
    "Danish": "æøåéó",
    "Dutch": "áéëèïíóöü",
    "Estonian": "õäöüšž",
    "French": "àâæçéèêëîïôœùûüÿ",
    "German": "äöüß",
    "Hungarian": "áéíóöőúüű",
    "Icelandic": "áðéíóúýþæö",
    "Italian": "àèéìíîòóùú",
    "Latvian": "āčēģīķļņšūž",
    "Lithuanian": "ąčęėįšųūž",
    "Polish": "ąćęłńóśźż",
    "Portuguese": "áâãàçéêíóôõúªº",
    "Romanian": "ăâîşţ",
    "Slovak": "áäčďéíĺľňóôŕšťúýž",
    "Spanish": "áéíñóúü¿¡ªº",
    "Swedish": "åäöé",
    "Turkish": "çğıöşüâîûİ",
}
_LETTERS = [set(alphabet + alphabet.upper()) for alphabet in _ALPHABETS.values()]
_TYPOGRAPHY = set("“”‘’‚„«»‹›–—…·•†‡°§©®™€£\u00a0")
_RUN = re.compile(r"[^\x00-\x7f]{2,}")
_CLEARLY_MORE = 0.02
_HALF = 0.5


def legacy_encoding(sample: bytes) -> str | None:
    """Return the name of the encoding that a sample with bytes beyond ASCII is in, or None where none is likely.

    The statistics of charset_normalizer tell scripts apart, but not the encodings of Latin letters, which differ in
    few characters. Of these the one is chosen in which one language's alphabet has most of those characters.
    """
    from charset_normalizer import from_bytes  # most texts are UTF-8 and do without its tables

    best = from_bytes(sample, cp_isolation=[*_LATIN, *_ASIAN, *_OTHERS]).best()
    if best is not None and best.encoding not in _LATIN and _stands_in_runs(str(best)):
        return best.encoding
    # A stray byte that an encoding lacks is found and named when the whole text is read.
    shares = {encoding: _share_explained(sample.decode(encoding, errors="replace")) for encoding in _LATIN}
    chosen = _LATIN[0]
    for encoding in _LATIN[1:]:
        if shares[encoding] > shares[chosen] + _CLEARLY_MORE:
            chosen = encoding
    if shares[chosen] >= _HALF:
        return chosen
    if best is None:
        return None
    return "cp1252" if "cp1252" in best.could_be_from_charset else best.encoding


def _stands_in_runs(text: str) -> bool:
    """Tell whether most characters beyond ASCII stand side by side, as those of other scripts than Latin do."""
    return sum(map(len, _RUN.findall(text))) > _HALF * sum(not character.isascii() for character in text)


def _share_explained(text: str) -> float:
    """Return how many of the characters beyond ASCII the alphabet explains that explains most of them."""
    found: Counter[str] = Counter()
    total = 0
    for before, character in pairwise(" " + text):
        if character.isascii() or character in _TYPOGRAPHY:
            continue
        total += 1
        if not (before.islower() and character.isupper()):  # no language writes that
            found[character] += 1
    if total == 0:
        return 1.0
    return max(sum(found[letter] for letter in letters) for letters in _LETTERS) / total
