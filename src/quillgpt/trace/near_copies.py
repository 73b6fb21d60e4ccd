"""Passages that are nearly copied: exact matches, one after another, with a few edits between them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace

import numpy as np
from rapidfuzz.distance import Levenshtein

from quillgpt.trace.matching import EncodedText, Matches
from quillgpt.trace.suffix_array import SuffixArray
from quillgpt.trace.training_text import DOCUMENT_END

SEED = 12
"""Characters of the shortest exact match that a near copy is looked for around."""

LEAST_LIKENESS = 0.85
LONGEST_GAP = 32
"""Characters between two exact matches of a near copy, and bytes of the source between them."""

OCCURRENCES = 32
"""Places of the source that are looked at for each exact match; what occurs more often is a figure of speech."""

BUCKET_BITS = 6  # two buckets are longer than a gap


@dataclass(frozen=True)
class NearCopy:
    """A passage, and the passage of the training text that it is aligned with.

    Attributes:
        start: Its first character.
        end: The character after its last one.
        source_start: The first byte of the passage of the training text.
        source_end: The byte after its last one.
        source_characters: The characters of that passage.
        edits: The Levenshtein distance of the two: inserted, deleted and replaced characters.
        matches: The first character and the byte of the training text of each exact match, in order.
    """

    start: int
    end: int
    source_start: int
    source_end: int
    source_characters: int
    edits: int
    matches: tuple[tuple[int, int], ...]

    @property
    def likeness(self) -> float:
        """1 minus the edits as a share of the longer passage: rapidfuzz's normalized Levenshtein similarity."""
        return 1 - self.edits / max(self.end - self.start, self.source_characters)

    def source_of(self, character: int, text: EncodedText) -> int:
        """Return about the byte of the training text that a character is aligned with."""
        first, byte = max(match for match in self.matches if match[0] <= character)
        return int(min(byte + text.offsets[character] - text.offsets[first], self.source_end - 1))


def near_copies(text: EncodedText, index: SuffixArray, seeds: Matches, least: int) -> list[NearCopy]:
    """Return the alignments of at least `least` characters and `LEAST_LIKENESS`, the longest first.

    Each exact match joins the longest alignment that ends shortly before it, in the text as in the source, if the
    whole stays alike enough. So an alignment takes time in proportion to its length.

    Args:
        text: The text.
        index: The training text.
        seeds: Maximal matches of at least `SEED` characters.
        least: The fewest characters of an alignment.
    """
    starts, ends = text.offsets[seeds.starts], text.offsets[seeds.ends]
    firsts, stops = index.ranges(text.content, starts, ends - starts)
    found: list[NearCopy] = []
    ending: dict[int, list[NearCopy]] = defaultdict(list)  # by the place of their ends in the source
    for start, end, first, stop in zip(
        seeds.starts.tolist(), seeds.ends.tolist(), firsts.tolist(), stops.tolist(), strict=True
    ):
        size = int(text.offsets[end] - text.offsets[start])
        for byte in index.suffixes[first : min(stop, first + OCCURRENCES)].tolist():
            match = NearCopy(start, end, byte, byte + size, end - start, 0, ((start, byte),))
            bucket = byte >> BUCKET_BITS
            earlier = (one for near in range(bucket - 1, bucket + 2) for one in ending.get(near, ()))
            joined = [whole for one in earlier if (whole := _join(one, match, text, index)) is not None]
            longest = max(joined, key=lambda whole: (whole.end - whole.start, -whole.edits), default=match)
            ending[longest.source_end >> BUCKET_BITS].append(longest)
            if len(longest.matches) > 1 and longest.end - longest.start >= least:
                found.append(longest)
    return sorted(found, key=lambda one: (one.start - one.end, one.edits))


def _join(before: NearCopy, match: NearCopy, text: EncodedText, index: SuffixArray) -> NearCopy | None:
    """Return an alignment with one more exact match, or None if they do not follow each other or are too unlike."""
    if match.start - before.end > LONGEST_GAP or match.source_start - before.source_end > LONGEST_GAP:
        return None
    # Where the two overlap, on either side, the match begins later.
    overlap = text.offsets[match.start] + before.source_end - match.source_start
    start = max(match.start, before.end, int(np.searchsorted(text.offsets, overlap)))
    if start >= match.end:
        return None
    source_start = match.source_start + int(text.offsets[start] - text.offsets[match.start])
    gap = text.text[before.end : start]
    source_gap = index.text[before.source_end : source_start].tobytes()
    if DOCUMENT_END in source_gap or len(source_gap) > LONGEST_GAP or len(gap) > LONGEST_GAP:
        return None
    in_source = source_gap.decode("utf-8", "replace")
    whole = replace(
        before,
        end=match.end,
        source_end=match.source_end,
        source_characters=before.source_characters + len(in_source) + match.end - start,
        edits=before.edits + Levenshtein.distance(gap, in_source),
        matches=(*before.matches, (start, source_start)),
    )
    return whole if whole.likeness >= LEAST_LIKENESS else None
