"""The one protocol of all tokenizers, and the two ways to get one: from a folder, or from a name and a text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from quillgpt.config.paths import expand
from quillgpt.errors import TokenizerError, check_is_no_pointer, did_you_mean
from quillgpt.files import sha256_of
from quillgpt.text.sources.documents import Piece
from quillgpt.text.tokenizers.added_tokens import FolderTokens, read_folder_tokens, with_folder_tokens
from quillgpt.text.tokenizers.bpe import BytePairTokenizer, check_size
from quillgpt.text.tokenizers.byte import ByteTokenizer
from quillgpt.text.tokenizers.char import CharTokenizer
from quillgpt.text.tokenizers.gpt2 import GPT2_SAVED_SHA256, gpt2_tokenizer, saved_gpt2_tokenizer
from quillgpt.text.tokenizers.ids import IdTokenizer
from quillgpt.text.tokenizers.nanogpt_meta import read_nanogpt_meta
from quillgpt.text.tokenizers.tokenizer_files import TOKENIZER_FILE, byte_level_bpe, read_json_object

OLDER_FILES = ("vocab.json", "merges.txt")
"""What stands in a tokenizer.json's place in models from before there was one."""

OTHER_TOKENIZERS = {
    "vocab.txt": "a tokenizer of BERT's kind (BertTokenizer)",
    "tokenizer.model": "a tokenizer of sentencepiece",
    "spiece.model": "a tokenizer of sentencepiece",
    "sentencepiece.bpe.model": "a tokenizer of sentencepiece",
    "tekken.json": "a tokenizer of Mistral's",
    "vocab.json": "a vocabulary without its merges.txt",
    "merges.txt": "merges without their vocab.json",
}
"""Files in which other tokenizers are kept."""

MARK = re.compile(r"<.*>|\[.*\]", re.DOTALL)
"""How the names of special tokens look, which a vocabulary may have without a merge that makes them."""

KINDS = "char, byte, gpt2, bpe:N (such as bpe:1024) or the path of a tokenizer.json"

_DIGITS = 12
"""Of a number so many are read: already these are too many ids."""


@runtime_checkable
class Tokenizer(Protocol):
    """Turns text into ids below `vocab_size` and back."""

    @property
    def name(self) -> str:
        """What a person would type for `--tokenizer`."""

    @property
    def vocab_size(self) -> int:
        """The number of ids."""

    @property
    def end_of_text(self) -> int | None:
        """The id that ends a text, or None where there is none."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what tokenizer.json says: equal for two tokenizers exactly where they are the same."""

    def encode(self, text: str) -> NDArray[np.uint32]:
        """Return the ids of a text; a special token written out in it is ordinary text."""

    def encode_prompt(self, text: str) -> list[int]:
        """Return the ids of a prompt; a literal `<|endoftext|>` in it is the id that ends a text, if there is one."""

    def decode(self, ids: Sequence[int] | NDArray[Any]) -> str:
        """Return the text of some ids; bytes that are no whole character become U+FFFD."""

    def byte_lengths(self) -> NDArray[np.int64]:
        """Return the UTF-8 bytes that each id stands for, (vocab_size,); the end of a text stands for none."""

    def last_cut(self, text: str) -> int:
        """Return the last place at which encoding may be cut, 0 where none is known.

        At a place p > 0, `encode(before + text[:p])` followed by `encode(text[p:] + after)` is the encoding of the
        whole, whatever `before` and `after` are.
        """

    def save(self, folder: Path) -> None:
        """Write tokenizer.json and tokenizer_config.json, each atomically."""


def load_tokenizer(folder: Path) -> Tokenizer:
    """Load the tokenizer of a data set, a checkpoint, or any Hugging Face folder.

    Raises:
        TokenizerError: There is no tokenizer.json, or none that can be used.
    """
    if not (folder / TOKENIZER_FILE).is_file():
        if all((folder / name).is_file() for name in OLDER_FILES):
            return _load_older(folder)
        if other := next((name for name in OTHER_TOKENIZERS if (folder / name).is_file()), None):
            raise TokenizerError(
                f"{folder} has no {TOKENIZER_FILE}, but {other}, {OTHER_TOKENIZERS[other]}; with transformers, write "
                f"it as {TOKENIZER_FILE}: AutoTokenizer.from_pretrained({str(folder)!r}).save_pretrained("
                f"{str(folder)!r})"
            )
        raise TokenizerError(
            f"{folder} has no {TOKENIZER_FILE}; give a data set, a checkpoint, or a Hugging Face folder"
        )
    return _load(folder / TOKENIZER_FILE, name=TOKENIZER_FILE)


def encode_pieces(tokenizer: Tokenizer, pieces: Sequence[Piece]) -> NDArray[np.uint32]:
    """Return the ids of pieces of text, each encoded on its own, and the id that ends a text for each mark."""
    if isinstance(tokenizer, BytePairTokenizer):
        return tokenizer.encode_pieces(pieces)
    end = np.array([] if tokenizer.end_of_text is None else [tokenizer.end_of_text], dtype=np.uint32)
    return np.concatenate([tokenizer.encode(piece) if isinstance(piece, str) else end for piece in pieces])


def tokenizer_from_spec(spec: str, pieces: Iterable[str] = ()) -> Tokenizer:
    """Make or load the tokenizer that a person named.

    Args:
        spec: `char`, `byte`, `gpt2`, `bpe:N`, or the path of a tokenizer.json or of a folder that has one.
        pieces: The text to learn from; used by `char` and `bpe:N` only.

    Raises:
        TokenizerError: The name is unknown, or the tokenizer cannot be made.
        DataError: `gpt2`'s files are neither at hand nor reachable.
    """
    check_spec(spec)
    if spec == "char":
        return CharTokenizer.from_text(pieces)
    if spec == "byte":
        return ByteTokenizer()
    if spec == "gpt2":
        return gpt2_tokenizer()
    if spec.startswith("bpe:"):
        return BytePairTokenizer.train(pieces, int(spec.removeprefix("bpe:")))
    path = expand(spec)
    return _load(path / TOKENIZER_FILE if path.is_dir() else path, name=spec)


def names_kind(spec: str) -> bool:
    """Return whether a name for `--tokenizer` is one of Quill's own kinds, and no path."""
    return spec in ("char", "byte", "gpt2") or re.fullmatch(r"bpe:[0-9]+", spec) is not None


def check_spec(spec: str) -> None:
    """Check that a name for `--tokenizer` means something.

    Raises:
        TokenizerError: It does not, or its number is too small or too large.
    """
    if names_kind(spec):
        if spec.startswith("bpe:"):
            check_size(int(spec.removeprefix("bpe:").lstrip("0")[:_DIGITS] or 0))
        return
    path = expand(spec)
    with suppress(OSError):  # a name longer than any
        if path.is_file() or (path / TOKENIZER_FILE).is_file():
            return
    hint = did_you_mean(spec, ("char", "byte", "gpt2"))
    if spec.startswith("bpe"):
        hint = "; did you mean bpe:1024?"
    raise TokenizerError(f"{spec[:80]} is no tokenizer; expected {KINDS}{hint}")


def _load_older(folder: Path) -> Tokenizer:
    """Load a tokenizer from the two files in which GPT-2's was first given.

    Raises:
        TokenizerError: They are none of the kind of GPT-2's.
    """
    vocabulary, merges = (folder / name for name in OLDER_FILES)
    found = read_folder_tokens(folder, is_gpt2=_kind_of_model(folder) in (None, "gpt2"))
    content = read_json_object(vocabulary)
    try:
        written = merges.read_bytes()
    except OSError as error:
        raise TokenizerError(f"{merges} cannot be read ({error.strerror}); copy the two files again") from None
    check_is_no_pointer(written, merges, TokenizerError)
    lines = written.decode("utf-8", errors="replace").split("\n")
    pairs = [line.split() for line in lines if line.strip() and not line.startswith("#version")]
    if not found.is_gpt2 or not content or not all(len(pair) == 2 for pair in pairs):
        raise TokenizerError(
            f"{vocabulary} and {merges.name} make no byte-level tokenizer of GPT-2's kind; save the model with a "
            f"{TOKENIZER_FILE} (AutoTokenizer.from_pretrained(...).save_pretrained(...))"
        )
    made = {first + second for first, second in pairs} | {each.token.content for each in found.declared}
    unmade = next(
        (token for token in content if len(token) > 1 and token not in made and not MARK.fullmatch(token)), ""
    )
    if unmade:
        raise TokenizerError(
            f"{vocabulary} has the token {unmade!r:.80}, which no line of {merges.name} makes and no file names as an "
            "added one; copy the two files again, or name it in added_tokens.json"
        )
    whole = byte_level_bpe(content, pairs, None, use_regex=True)
    return _from_content(with_folder_tokens(whole, found, vocabulary), name=vocabulary.name, found=found)


def _kind_of_model(folder: Path) -> object:
    """Return what config.json says the model is; None where there is none."""
    path = folder / "config.json"
    return read_json_object(path).get("model_type") if path.is_file() else None


def _load(path: Path, *, name: str) -> Tokenizer:
    if path.suffix == ".pkl":
        return read_nanogpt_meta(path)
    found = read_folder_tokens(path.parent) if path.name == TOKENIZER_FILE else FolderTokens()
    if found.is_plain_gpt2 and path.is_file() and sha256_of(path) == GPT2_SAVED_SHA256:
        return saved_gpt2_tokenizer(path)
    return _from_content(with_folder_tokens(read_json_object(path), found, path), name=name, found=found)


def _from_content(content: dict[str, Any], *, name: str, found: FolderTokens) -> Tokenizer:
    for family in (CharTokenizer, ByteTokenizer, BytePairTokenizer, IdTokenizer):
        with suppress(AttributeError, KeyError, TypeError, ValueError):  # not even the outline of a file of ours
            tokenizer = family.from_content(content)
            if tokenizer is not None:
                return tokenizer
    from quillgpt.text.tokenizers.tokenizer_json import (
        HuggingFaceTokenizer,  # brings a library that our own tokenizers do without
    )

    return HuggingFaceTokenizer(content, name=name, end=found.end_of_text)
