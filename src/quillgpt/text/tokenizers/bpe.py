"""Byte-level byte-pair encoding with GPT-2's pre-tokenizer: `gpt2` with its published merges, or `bpe:N`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tiktoken
from numpy.typing import NDArray

from quillgpt.console import say
from quillgpt.errors import TokenizerError
from quillgpt.text.encodings.normal_forms import without_surrogates
from quillgpt.text.sources.documents import Mark, Piece
from quillgpt.text.tokenizers.bulk import LONG_PIECE, LONG_WORD, BulkEncoder, divided
from quillgpt.text.tokenizers.byte_alphabet import BYTE_TO_CHARACTER, unspell_bytes
from quillgpt.text.tokenizers.merges import learn_merges
from quillgpt.text.tokenizers.tokenizer_files import (
    END_OF_TEXT,
    byte_level_bpe,
    checked_ids,
    save_tokenizer,
    tokenizer_fingerprint,
)
from quillgpt.text.tokenizers.words import encode_long_word, last_cut_of_gpt2

SMALLEST_VOCABULARY = 257  # every byte, and the end-of-text token
LARGEST_VOCABULARY = 1_000_000  # four times that of the largest models

# GPT-2's pattern (openai/gpt-2, encoder.py) with possessive quantifiers: the same matches without backtracking, so
# that a megabyte of spaces does not overflow the stack.
PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"

GPT2_FINGERPRINT = "9400cf24e4f9e6f53a72423efafae22b61d31d9169917b1e0762ca90982c40fe"
_CHARACTERS_PER_TOKEN = 40  # that tiktoken encodes in the time in which fastokens loads a token


class BytePairTokenizer:
    """Encodes with tiktoken, and saves itself as an equivalent tokenizer.json.

    tiktoken merges the neighbours whose joined bytes have the lowest id; tokenizer.json lists the pairs themselves.
    The two agree for learned merges: the merges within a token's bytes do not depend on the surrounding bytes, so
    a token always comes from the one pair that it was learned from.
    """

    def __init__(
        self, vocab: dict[str, int], merges: Sequence[Sequence[str]], *, fingerprint: str | None = None
    ) -> None:
        """Make a tokenizer from a vocabulary and merges as in GPT-2's files.

        Args:
            vocab: Ids by printable token, with end of text: first the bytes, then one token per merge, in order.
            merges: Pairs of printable tokens, by rank.
            fingerprint: The tokenizer's fingerprint, if known.
        """
        self.vocab_size = len(vocab)
        self.end_of_text: int = vocab[END_OF_TEXT]
        self.vocab, self.merges = vocab, merges
        self._content = byte_level_bpe(vocab, merges, self.end_of_text, use_regex=True)
        self.fingerprint = fingerprint or tokenizer_fingerprint(self._content)
        self._bulk: BulkEncoder | None = None
        self.name = "gpt2" if self.fingerprint == GPT2_FINGERPRINT else f"bpe:{self.vocab_size}"

    @cached_property
    def _ranks(self) -> dict[bytes, int]:
        return {unspell_bytes(token): rank for token, rank in self.vocab.items() if token != END_OF_TEXT}

    @cached_property
    def _engine(self) -> tiktoken.Encoding:
        return tiktoken.Encoding(
            self.name,
            pat_str=PATTERN,
            mergeable_ranks=self._ranks,
            special_tokens={END_OF_TEXT: self.end_of_text},
        )

    def _encode_word(self, word: bytes) -> list[int]:
        rank = self._ranks.get(word)  # as tiktoken does: a word that is a token needs no merges
        if rank is not None:
            return [rank]
        engine = self._engine
        if len(word) <= LONG_WORD:
            return engine._encode_single_piece(word)
        return encode_long_word(engine._encode_single_piece, engine.decode_single_token_bytes, word, window=LONG_WORD)

    @classmethod
    def from_content(cls, content: dict[str, Any]) -> BytePairTokenizer | None:
        """Return the tokenizer that a tokenizer.json describes, or None if that is of another kind.

        The file may differ from Quill's own where ids and text are the same, so that GPT-2's own file is recognised.
        """
        model = content.get("model") or {}
        vocab, merges = model.get("vocab"), model.get("merges")
        if model.get("type", "BPE") != "BPE" or not isinstance(vocab, dict) or not isinstance(merges, list):
            return None
        plain = not any(model.get(key) for key in ("dropout", "unk_token", "byte_fallback", "ignore_merges"))
        plain = plain and not (model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"))
        if not plain or content.get("normalizer") or not _splits_as_gpt2(content):
            return None
        pairs = _pairs(merges)
        added = [entry for entry in content.get("added_tokens") or [] if isinstance(entry, dict)]
        if [entry.get("content") for entry in added] != [END_OF_TEXT] or not _is_plain(added[0]):
            return None
        vocab = vocab | {END_OF_TEXT: added[0].get("id")}
        in_order = sorted(vocab, key=vocab.__getitem__)
        joined = [first + second for first, second in pairs]
        if set(in_order[:256]) != set(BYTE_TO_CHARACTER) or in_order[256:] != [*joined, END_OF_TEXT]:
            return None
        if [vocab[token] for token in in_order] != list(range(len(vocab))) or {*map(type, vocab.values())} != {int}:
            return None  # 1.0 and true equal 1, but are no ids
        if not set("".join(joined)) <= set(BYTE_TO_CHARACTER):
            return None
        return cls({token: vocab[token] for token in in_order}, pairs)

    @classmethod
    def train(cls, pieces: Iterable[str], vocab_size: int) -> BytePairTokenizer:
        """Learn merges from a text; the same text gives the same tokenizer.

        Args:
            pieces: The text, cut anywhere.
            vocab_size: The number of ids, with end of text; too small a text gives fewer, which is reported.

        Raises:
            TokenizerError: `vocab_size` is too small or too large.
        """
        check_size(vocab_size)
        learned, merges = learn_merges(pieces, vocab_size - 1, name=f"bpe:{vocab_size}")
        vocab = learned | {END_OF_TEXT: len(learned)}
        in_order = {token: vocab[token] for token in sorted(vocab, key=vocab.__getitem__)}
        if len(in_order) < vocab_size:
            say(
                f"The text is too small for bpe:{vocab_size}: it has repeated pairs for only {len(in_order)} tokens, "
                f"so the tokenizer is bpe:{len(in_order)}."
            )
        return cls(in_order, _pairs(merges))

    def encode(self, text: str) -> NDArray[np.uint32]:
        """Return the ids of a text; a literal `<|endoftext|>` in it is ordinary text."""
        ids: NDArray[np.uint32] = self._engine.encode_to_numpy(without_surrogates(text), disallowed_special=())
        return ids

    def expect(self, characters: int) -> None:
        """Begin to load what encodes much text faster, if this is much."""
        if characters > _CHARACTERS_PER_TOKEN * self.vocab_size and self._bulk is None:
            self._bulk = BulkEncoder(self._content)

    def encode_pieces(self, pieces: Iterable[Piece]) -> NDArray[np.uint32]:
        """Return the ids of pieces of text, every piece encoded by itself as `encode` does, and marks as end of text.

        After `expect` this is several times as fast as `encode`. Threads may call it at the same time.
        """
        texts: list[str] = []
        known: list[tuple[int, int]] = []  # an id, and the number of texts before it
        for piece in pieces:
            if isinstance(piece, Mark):
                known.append((len(texts), self.end_of_text))
            elif len(piece) <= LONG_PIECE:
                texts.append(piece)
            else:
                for part in divided(piece):
                    if isinstance(part, str):
                        texts.append(part)
                    else:
                        known += [(len(texts), id) for word in part for id in self._encode_word(word)]
        ids, bounds = self._encode_texts(texts)
        if not known:
            return ids
        before, inserted = np.array(known, dtype=np.int64).T
        return np.insert(ids, bounds[before], inserted)

    def _encode_texts(self, texts: list[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """Return the ids of texts, one text after the other, and where in them each text begins and the last ends."""
        if self._bulk is not None:
            return self._bulk.encode(texts)
        parts = [self.encode(text) for text in texts]
        return np.concatenate([np.empty(0, np.uint32), *parts]), np.cumsum([0, *map(len, parts)])

    def encode_prompt(self, text: str) -> list[int]:
        """Return the ids of a prompt; a literal `<|endoftext|>` in it becomes the end-of-text id."""
        ids: list[int] = self._engine.encode(without_surrogates(text), allowed_special={END_OF_TEXT})
        return ids

    def decode(self, ids: Sequence[int] | NDArray[Any]) -> str:
        """Return the text of ids; bytes that are no complete character become U+FFFD."""
        checked = checked_ids(ids, name=self.name, vocab_size=self.vocab_size)
        content: bytes = self._engine.decode_bytes(checked.tolist())
        return content.decode("utf-8", "replace")

    def byte_lengths(self) -> NDArray[np.int64]:
        """Return the number of bytes of each id, (vocab_size,); 0 for end of text."""
        lengths = np.zeros(self.vocab_size, dtype=np.int64)
        for token, rank in self._ranks.items():
            lengths[rank] = len(token)
        return lengths

    def last_cut(self, text: str) -> int:
        """Return the last position between a non-space character and a space or line end; 0 if there is none."""
        return last_cut_of_gpt2(text)

    def save(self, folder: Path) -> None:
        """Write tokenizer.json and tokenizer_config.json."""
        save_tokenizer(folder, self._content, kind=self.name, end_of_text=END_OF_TEXT)


def check_size(vocab_size: int) -> None:
    """Check that a vocabulary of this size can be learned.

    Raises:
        TokenizerError: It is too small for every byte and the end of a text, or larger than any model's.
    """
    if vocab_size < SMALLEST_VOCABULARY:
        raise TokenizerError(
            f"bpe:{vocab_size} is too small: {SMALLEST_VOCABULARY} ids are needed for every byte and the end of "
            f"a text; give --tokenizer bpe:{SMALLEST_VOCABULARY} or more"
        )
    if vocab_size > LARGEST_VOCABULARY:
        raise TokenizerError(
            f"bpe:{vocab_size} is too large: {LARGEST_VOCABULARY:,} ids are the most that can be "
            "learned; give --tokenizer bpe:1024 for a book, bpe:32768 for a gigabyte"
        )


def _pairs(merges: list[Any]) -> list[tuple[str, str]]:
    # Older files write a pair with a space between; printable tokens have none of their own.
    split = (merge.split(" ") if isinstance(merge, str) else merge for merge in merges)
    return [(first, second) for first, second in split]


def _splits_as_gpt2(content: dict[str, Any]) -> bool:
    pre_tokenizer, decoder = content.get("pre_tokenizer") or {}, content.get("decoder") or {}
    return (
        pre_tokenizer.get("type") == "ByteLevel"
        and pre_tokenizer.get("add_prefix_space") is False
        and pre_tokenizer.get("use_regex", True) is True
        and decoder.get("type") == "ByteLevel"
        and _adds_nothing(content.get("post_processor") or {"type": "ByteLevel"})
    )


def _adds_nothing(post_processor: dict[str, Any]) -> bool:
    """Whether a post-processor leaves ids as they are; transformers 5 saves GPT-2's with a template of one text."""
    if post_processor.get("type") != "TemplateProcessing":
        return post_processor.get("type") == "ByteLevel"
    single = post_processor.get("single") or []
    return len(single) == 1 and single[0].get("Sequence", {}).get("id") == "A"


def _is_plain(entry: dict[str, Any]) -> bool:
    return entry.get("special") is True and not any(entry.get(key) for key in ("single_word", "lstrip", "rstrip"))
