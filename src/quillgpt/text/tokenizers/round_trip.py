"""Whether encoding and decoding gives a text back, and what is lost if not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from quillgpt.text.encodings.normal_forms import without_surrogates
from quillgpt.text.tokenizers.tokenizer import Tokenizer

EXAMPLE_CHARACTERS = 30
MOST_NAMED = 6


@dataclass(frozen=True)
class LostText:
    """What a tokenizer loses of a text.

    Attributes:
        share: The share of characters other than white space that are missing.
        missing: The most frequent missing characters.
        before: A piece of the text.
        after: The same piece, encoded and decoded.
    """

    share: float
    missing: list[str]
    before: str
    after: str


def lost_text(tokenizer: Tokenizer, samples: Iterable[str]) -> LostText | None:
    """Return what a tokenizer loses of some texts, or None if it loses nothing.

    Spaces at the beginning and end, which many tokenizers add or drop, do not count.
    """
    missing: Counter[str] = Counter()
    characters, example = 0, None
    for text in map(without_surrogates, samples):
        back = tokenizer.decode(tokenizer.encode(text))
        characters += len("".join(text.split()))
        if back.strip(" ") == text.strip(" "):
            continue
        missing += Counter(text) - Counter(back)
        example = example or _example(text, back)
    if example is None:
        return None
    gone = {character: count for character, count in missing.most_common() if not character.isspace()}
    return LostText(sum(gone.values()) / max(characters, 1), [*gone][:MOST_NAMED], *example)


def describe_lost_text(tokenizer: Tokenizer, lost: LostText) -> str:
    """Return the warning for a tokenizer that loses text."""
    change = "no character is lost, but the text differs"
    if lost.share:
        share = f"{lost.share:.1%}" if lost.share >= 0.001 else "less than 0.1%"
        change = f"{share} of the characters are lost, most of all {', '.join(map(repr, lost.missing))}"
    return (
        f"the tokenizer {tokenizer.name} does not give the text back unchanged: {change}; for example {lost.before!r} "
        f"becomes {lost.after!r}. A model learns only what its tokenizer keeps; --tokenizer=byte and bpe:1024 "
        "keep everything"
    )


def _example(text: str, back: str) -> tuple[str, str]:
    """Return both texts around the first word that differs."""
    words, others = text.strip(" ").split(" "), back.strip(" ").split(" ")
    same = next((at for at, (one, other) in enumerate(zip(words, others, strict=False)) if one != other), 0)
    before, after = (" ".join(side[max(0, same - 1) : same + 3]) for side in (words, others))
    return before[:EXAMPLE_CHARACTERS], after[:EXAMPLE_CHARACTERS]
