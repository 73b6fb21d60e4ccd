"""The held-out part of a text: cut off before any candidate sees the text, and what a candidate pays for it."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from quillgpt.errors import DataError
from quillgpt.text.encodings.detection import detect_encoding, read_pieces

HELD_OUT = 0.1
FEWEST_BYTES, MOST_BYTES = 5_000, 2_000_000
PIECE_CHARACTERS = 1 << 20

CODE_POINTS = 0x110000 - 0x800
"""Characters of Unicode, without halves of pairs."""


@dataclass(frozen=True)
class SplitText:
    """A text in two parts.

    Attributes:
        name: Its name.
        sha256: The hash of the whole text in UTF-8.
        train: The part that candidates see.
        held: The part that they are judged by: its last tenth, 5 KB to 2 MB, in whole lines.
    """

    name: str
    sha256: str
    train: str
    held: str

    @property
    def train_bytes(self) -> int:
        """Bytes of the part that candidates see."""
        return len(self.train.encode("utf-8"))

    @property
    def held_bytes(self) -> int:
        """Bytes of the part that they are judged by."""
        return len(self.held.encode("utf-8"))


def split_text(path: Path, name: str) -> SplitText:
    """Read a text file and cut off its held-out part.

    Raises:
        DataError: It is no text, or too short.
    """
    text = "".join(read_pieces(path, detect_encoding(path), PIECE_CHARACTERS, name=str(path)))
    whole = text.encode("utf-8")
    size = int(min(max(FEWEST_BYTES, HELD_OUT * len(whole)), MOST_BYTES))
    if len(whole) < 2 * size:
        raise DataError(f"{path} has {len(whole):,} bytes, and the benchmark needs {2 * size:,}; give a longer text")
    wanted = len(whole) - size
    cut = whole.rfind(b"\n", 0, wanted) + 1
    if len(whole) - cut > MOST_BYTES:
        cut = whole.find(b"\n", wanted) + 1
    if not wanted - size < cut < wanted + size / 2:  # a text in a few long lines
        cut = wanted
        while whole[cut] & 0xC0 == 0x80:  # inside of a character
            cut -= 1
    return SplitText(name, hashlib.sha256(whole).hexdigest(), whole[:cut].decode("utf-8"), whole[cut:].decode("utf-8"))


@dataclass(frozen=True)
class Readable:
    """What a tokenizer of characters can read of a held-out part, and what it pays for the rest.

    Attributes:
        text: The held-out part without characters that the tokenizer lacks.
        unknown: How many it lacks.
        bits: What these cost, and what it costs that others might have been among them.
    """

    text: str
    unknown: int
    bits: float


def readable_part(split: SplitText, alphabet: Collection[str] | None) -> Readable:
    """Return the part of a held-out text that a tokenizer can read, and the price of the rest.

    A tokenizer of characters has no code for a new one. It is charged as if each character were preceded by a sign that
    says whether it is new. The probability of a new one is Good and Turing's: the share of characters that the training
    part has once. The new character itself costs as much as any of Unicode.

    Args:
        split: The text.
        alphabet: The characters that the tokenizer knows; None if it can read every text.
    """
    if alphabet is None:
        return Readable(split.held, 0, 0.0)
    known = frozenset(alphabet)
    counts = Counter(split.train)
    once = sum(count == 1 for count in counts.values())
    new = (once + 1) / (len(split.train) + 2)
    text = "".join(character for character in split.held if character in known)
    unknown = len(split.held) - len(text)
    bits = -len(text) * math.log2(1 - new) + unknown * (math.log2(CODE_POINTS) - math.log2(new))
    return Readable(text, unknown, bits)
