"""Where the documents of a split end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from quillgpt.data.dataset import Dataset
from quillgpt.errors import TokenizerError

if TYPE_CHECKING:  # batches.py imports torch
    from quillgpt.data.batches import Tokens

TOKENS_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class DocumentEnds:
    """The last tokens of the documents of a split.

    Attributes:
        tokens: The split, (tokens,).
        mark: The id of end of text, or of a line feed if blank lines separate documents.
        blank_lines: Whether a document ends with the last of at least two marks in a row that more text follows.
    """

    tokens: Tokens
    mark: int
    blank_lines: bool = False

    def within(self, first: int, stop: int) -> NDArray[np.bool_]:
        """Return whether each of the tokens first .. stop - 1 ends a document."""
        if not self.blank_lines:
            return np.asarray(self.tokens[first:stop] == self.mark)
        marks = np.asarray(self.tokens[max(0, first - 1) : stop + 1] == self.mark)
        # No mark is before the split; after it, the last document has no end.
        marks = np.pad(marks, (int(first == 0), int(stop == len(self.tokens))), constant_values=(False, True))
        return np.asarray(marks[1:-1] & marks[:-2] & ~marks[2:])

    def any_within(self, first: int, stop: int) -> bool:
        """Return whether a document ends among the tokens first .. stop - 1; reads no further than its first end."""
        starts = range(first, stop, TOKENS_AT_ONCE)
        return any(self.within(start, min(start + TOKENS_AT_ONCE, stop)).any() for start in starts)

    def count(self) -> int:
        """Return the number of ends in the split."""
        starts = range(0, len(self.tokens), TOKENS_AT_ONCE)
        return sum(int(self.within(start, min(start + TOKENS_AT_ONCE, len(self.tokens))).sum()) for start in starts)


def document_ends(dataset: Dataset, split: Literal["train", "val"]) -> DocumentEnds | None:
    """Return where the documents of a split end, or None if that cannot be told from its tokens.

    Without an end of text, documents are separated by blank lines. These say where documents end only if there are no
    others, so their number must be that of the documents in dataset.json.
    """
    tokens = dataset.train if split == "train" else dataset.val
    end = dataset.tokenizer.end_of_text
    if end is not None:
        return DocumentEnds(tokens, end) if dataset.ends_documents else None
    if dataset.manifest is None:
        return None
    documents = (dataset.manifest.train if split == "train" else dataset.manifest.val).documents
    if documents < 2:
        return None
    try:
        line_feed = dataset.tokenizer.encode("\n")
    except TokenizerError:
        return None
    ends = DocumentEnds(tokens, int(line_feed[0]), blank_lines=True)
    return ends if len(line_feed) == 1 and ends.count() == documents - 1 else None
