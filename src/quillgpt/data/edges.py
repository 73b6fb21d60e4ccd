"""The first and the last words of documents, in a form in which announcements can be compared."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from os import SEEK_END
from pathlib import Path
from typing import Literal

LONGEST_EDGE = 1_500
MOST_WORDS = 200
"""Characters of a document's beginning and of its end, and the words in them, that are compared."""

MOST_EDGES = 1_024
"""Documents that are compared; of more, every second, fourth, eighth ... one."""

NUMBER = "#"
"""Stands for every number, so that "Chapter one" and "Chapter 2" begin alike."""

Side = Literal["opening", "ending"]

_HEADING = re.compile("第[0-9０-９一二三四五六七八九十百零〇]+([章回节節話话课課部卷集])")
_WORD = re.compile(
    _HEADING.pattern + r"|[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]|\d+(?:[.,]\d+)*|\w+(?:['’]\w+)*"
)
"""A number, a word, or a character of a script that writes no spaces between words."""

_CLOSES = re.compile(r"[.!?…。！？।؟\n]")
"""Between two words: the first ends a sentence or a line."""

_SENTENCE_END = re.compile(r"[.!?…。！？।؟]")
_ROMAN = re.compile(r"(?=[IVXLC])(?:XC|XL|L?X{0,3})(?:IX|IV|V?I{0,3})|C{1,3}(?:XC|XL|L?X{0,3})(?:IX|IV|V?I{0,3})")
_NUMBER_WORDS = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred first second third fourth fifth sixth seventh
eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth
twentieth thirtieth fortieth fiftieth
eins zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn sechzehn siebzehn achtzehn
neunzehn zwanzig erste erster erstes zweite zweiter zweites dritte dritter drittes vierte vierter viertes fünfte fünfter
fünftes sechste sechster sechstes siebte siebter siebtes achte achter achtes neunte neunter neuntes zehnte zehnter
zehntes
deux trois quatre cinq sept huit neuf dix onze douze treize quatorze quinze seize vingt trente premier première deuxième
troisième quatrième cinquième sixième septième huitième neuvième dixième
uno dos tres cuatro cinco seis siete ocho nueve diez doce trece catorce quince veinte primero primera segundo
segunda tercero tercera cuarto cuarta quinto quinta sexto sexta séptimo octavo noveno décimo
due tre quattro cinque sei sette otto nove dieci undici dodici primo prima secondo seconda terzo terza
一 二 三 四 五 六 七 八 九 十 百
"""
_NUMBERS = frozenset(_NUMBER_WORDS.split())


@dataclass(frozen=True)
class Word:
    """A word of a text.

    Attributes:
        key: The word without case, or `NUMBER`.
        start: Its first character in the text.
        end: The character after it.
        is_bounded: Whether a sentence or a line ends here: after the word in an opening, before it in an ending.
    """

    key: str
    start: int
    end: int
    is_bounded: bool


@dataclass(frozen=True)
class Edge:
    """The beginning or the end of a document.

    Attributes:
        text: Its text.
        words: Its words, from the document's first or last word on.
        is_whole: Whether it is the whole document.
        has_sentences: Whether its text marks the ends of sentences.
    """

    text: str
    words: Sequence[Word]
    is_whole: bool
    has_sentences: bool

    @property
    def keys(self) -> list[str]:
        """The keys of its words."""
        return [word.key for word in self.words]


def edge_of(text: str, side: Side, *, is_whole: bool) -> Edge:
    """Return the words at an edge of a document.

    Args:
        text: The beginning or the end of the document.
        side: Which of both.
        is_whole: Whether it is the whole document.
    """
    words = _words(text)
    if side == "ending":
        before = [True, *(word.is_bounded for word in words[:-1])]
        words = [
            Word(word.key, word.start, word.end, bounded) for word, bounded in zip(words, before, strict=bool(words))
        ][::-1]
    is_whole = is_whole and len(words) <= MOST_WORDS
    return Edge(text, words[:MOST_WORDS], is_whole, _SENTENCE_END.search(text) is not None)


def _words(text: str) -> list[Word]:
    """Return the words of a text; neighbouring numbers, such as twenty-one, are one."""
    words: list[Word] = []
    matches = list(_WORD.finditer(text))
    for index, match in enumerate(matches):
        after = text[match.end() : matches[index + 1].start() if index + 1 < len(matches) else len(text)]
        closes = index + 1 == len(matches) or _CLOSES.search(after) is not None
        key = _key(match.group(), is_after_word=bool(words), closes=closes)
        if key == NUMBER and words and words[-1].key == NUMBER and not words[-1].is_bounded:
            words[-1] = Word(key, words[-1].start, match.end(), closes)
        else:
            words.append(Word(key, match.start(), match.end(), closes))
    return words


def _key(word: str, *, is_after_word: bool, closes: bool) -> str:
    if heading := _HEADING.fullmatch(word):
        return f"第{NUMBER}{heading.group(1)}"
    key = word.casefold()
    if word[0].isdigit() or key in _NUMBERS:
        return NUMBER
    if _ROMAN.fullmatch(word) and (len(word) > 1 or (is_after_word and closes)):  # "I" is hardly ever a number
        return NUMBER
    return key.replace("’", "'")


@dataclass
class EdgeSample:
    """The beginnings and the ends of some of a text's documents, in bounded memory, evenly spread over the text.

    Attributes:
        stride: One of this many documents is kept.
        documents: Number of documents in the text.
        beginnings: The first `LONGEST_EDGE` characters of the kept documents.
        ends: Their last `LONGEST_EDGE` characters.
    """

    stride: int = 1
    documents: int = 0
    beginnings: list[str] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)
    _beginning: str = ""
    _end: str = ""

    def add(self, piece: str) -> None:
        """Take the next piece of a document."""
        if self.documents % self.stride:
            return
        if len(self._beginning) < LONGEST_EDGE:
            self._beginning += piece[: LONGEST_EDGE - len(self._beginning)]
        self._end = (piece if len(piece) >= LONGEST_EDGE else self._end + piece)[-LONGEST_EDGE:]

    def end_document(self) -> None:
        """Finish a document."""
        if self.documents % self.stride == 0:
            self.beginnings.append(self._beginning)
            self.ends.append(self._end)
        self._beginning = self._end = ""
        self.documents += 1
        if len(self.beginnings) > MOST_EDGES:
            self.stride *= 2
            self.beginnings, self.ends = self.beginnings[::2], self.ends[::2]

    def edges(self, side: Side) -> list[Edge]:
        """Return the beginnings or the ends of the kept documents, without those of equal documents."""
        kept = dict.fromkeys(zip(self.beginnings, self.ends, strict=True))
        texts = (beginning if side == "opening" else end for beginning, end in kept)
        return [edge_of(text, side, is_whole=len(text) < LONGEST_EDGE) for text in texts]


def sample_of_files(paths: Iterable[Path]) -> EdgeSample:
    """Return the sample of text files in UTF-8, without those that cannot be read; only their two ends are read."""

    def texts() -> Iterator[tuple[str, str]]:
        most = 4 * LONGEST_EDGE  # bytes of as many characters
        for path in paths:
            with suppress(OSError), path.open("rb") as file:
                beginning = file.read(most)
                file.seek(max(0, file.seek(0, SEEK_END) - most))
                yield beginning.decode("utf-8", "ignore"), file.read().decode("utf-8", "ignore")

    return sample_of(texts())


def sample_of(texts: Iterable[tuple[str, str]]) -> EdgeSample:
    """Return the sample of documents whose beginnings and ends are known."""
    sample = EdgeSample()
    for beginning, end in texts:
        sample._beginning, sample._end = beginning[:LONGEST_EDGE], end[-LONGEST_EDGE:]
        sample.end_document()
    return sample
