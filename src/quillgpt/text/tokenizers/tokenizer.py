"""The protocol of all tokenizers, and the two ways to get one: from a folder, or from a name and a text."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

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
"""The files of older models, which have no tokenizer.json."""

OTHER_TOKENIZERS = {
    "vocab.txt": "a tokenizer of BERT's kind (BertTokenizer)",
    "tokenizer.model": "a tokenizer of sentencepiece",
    "spiece.model": "a tokenizer of sentencepiece",
    "sentencepiece.bpe.model": "a tokenizer of sentencepiece",
    "tekken.json": "a tokenizer of Mistral's",
    "vocab.json": "a vocabulary without its merges.txt",
    "merges.txt": "merges without their vocab.json",
}
"""Files of tokenizers that Quill cannot read."""

MARK = re.compile(r"<.*>|\[.*\]", re.DOTALL)
"""Names of special tokens, which a vocabulary may have without a merge."""


@runtime_checkable
class Tokenizer(Protocol):
    """Turns text into ids below `vocab_size` and back."""

    @property
    def name(self) -> str:
        """The name as one types it for `--tokenizer`."""

    @property
    def vocab_size(self) -> int:
        """The number of ids."""

    @property
    def end_of_text(self) -> int | None:
        """The id that ends a text, or None if there is none."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the content of tokenizer.json: equal exactly for equal tokenizers."""

    def encode(self, text: str) -> NDArray[np.uint32]:
        """Return the ids of a text; a special token that is written in it is ordinary text."""

    def encode_prompt(self, text: str) -> list[int]:
        """Return the ids of a prompt; a literal `<|endoftext|>` in it becomes the end-of-text id, if there is one."""

    def decode(self, ids: Sequence[int] | NDArray[Any]) -> str:
        """Return the text of ids; bytes that are no complete character become U+FFFD."""

    def byte_lengths(self) -> NDArray[np.int64]:
        """Return the number of UTF-8 bytes of each id, (vocab_size,); 0 for end of text."""

    def last_cut(self, text: str) -> int:
        """Return the last position at which the text may be cut before encoding, or 0 if none is known.

        At such a position p > 0, `encode(before + text[:p])` followed by `encode(text[p:] + after)` is the encoding of
        the whole, for every `before` and `after`.
        """

    def save(self, folder: Path) -> None:
        """Write tokenizer.json and tokenizer_config.json, each atomically."""


@dataclass(frozen=True)
class TokenizerKind:
    """A tokenizer that `--tokenizer` names.

    Attributes:
        from_content: Returns the tokenizer that a tokenizer.json describes, or None if it is of another kind.
        make: Makes the tokenizer from a text in pieces and from N, where the name is `kind:N`.
        made_from: The part of the text that it is made from.
        ends_texts: Whether it has an id that ends a text.
        usual_vocab_size: The number of ids that a dry run assumes if the text or a download is missing; None: N, or the
            number that it always has.
        check_size: Raises if N is too small or too large; None: the name has no N.
    """

    from_content: Callable[[dict[str, Any]], Tokenizer | None]
    make: Callable[[Iterable[str], int], Tokenizer]
    made_from: Literal["nothing", "training split", "all text"] = "nothing"
    ends_texts: bool = True
    usual_vocab_size: int | None = None
    check_size: Callable[[int], None] | None = None


TOKENIZERS: dict[str, TokenizerKind] = {
    "char": TokenizerKind(
        CharTokenizer.from_content,
        lambda pieces, _: CharTokenizer.from_text(pieces),
        made_from="all text",
        ends_texts=False,
        usual_vocab_size=100,
    ),
    "byte": TokenizerKind(ByteTokenizer.from_content, lambda *_: ByteTokenizer()),
    "gpt2": TokenizerKind(BytePairTokenizer.from_content, lambda *_: gpt2_tokenizer(), usual_vocab_size=50257),
    "bpe": TokenizerKind(
        BytePairTokenizer.from_content, BytePairTokenizer.train, made_from="training split", check_size=check_size
    ),
}

SHORTEST_FOR_MERGES = 130_000
"""Bytes of a text from which merges are learned where the user names no tokenizer."""

TOKENS_PER_ROOT, FEWEST_USUAL, MOST_USUAL = 1.3, 512, 32768
"""The vocabulary that is learned then: its ratio to the square root of the text's bytes, and bounds."""

SIZE = re.compile("[0-9]+")
LONGEST_SIZE = 12
"""Digits of N that are read; a longer number is too large anyway."""


def load_tokenizer(folder: Path) -> Tokenizer:
    """Load the tokenizer of a data set, a checkpoint, or any Hugging Face folder.

    Raises:
        TokenizerError: There is no tokenizer.json, or it cannot be used.
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
    """Return the ids of pieces of text, every piece encoded by itself, and of marks as end of text."""
    if isinstance(tokenizer, BytePairTokenizer):
        return tokenizer.encode_pieces(pieces)
    end = np.array([] if tokenizer.end_of_text is None else [tokenizer.end_of_text], dtype=np.uint32)
    return np.concatenate([tokenizer.encode(piece) if isinstance(piece, str) else end for piece in pieces])


def tokenizer_from_spec(spec: str, pieces: Iterable[str] = ()) -> Tokenizer:
    """Make or load a tokenizer by its name.

    Args:
        spec: `char`, `byte`, `gpt2`, `bpe:N`, or the path of a tokenizer.json or of a folder that has one.
        pieces: The text to learn from; used by `char` and `bpe:N` only.

    Raises:
        TokenizerError: The name is unknown, or the tokenizer cannot be made.
        DataError: The files of `gpt2` are neither in the cache nor reachable.
    """
    check_spec(spec)
    if (kind := tokenizer_kind(spec)) is not None:
        return kind.make(pieces, size_in(spec) or 0)
    path = expand(spec)
    return _load(path / TOKENIZER_FILE if path.is_dir() else path, name=spec)


def usual_tokenizer(text_bytes: int) -> str:
    """Return the name of the usual tokenizer of a text of so many bytes.

    It is `bpe:N`, where N is a little above their square root, and `byte` for a text that is too short to learn merges
    from. Both can read and write whatever a prompt has. docs/recipes.md has the measurements.
    """
    if text_bytes < SHORTEST_FOR_MERGES:
        return "byte"
    size = 2 ** round(math.log2(TOKENS_PER_ROOT * math.sqrt(text_bytes)))
    return f"bpe:{min(max(size, FEWEST_USUAL), MOST_USUAL)}"


def tokenizer_kind(spec: str) -> TokenizerKind | None:
    """Return the kind that a name for `--tokenizer` means; None if it is a path."""
    name, colon, size = spec.partition(":")
    kind = TOKENIZERS.get(name)
    if kind is None:
        return None
    fits = not colon if kind.check_size is None else SIZE.fullmatch(size)
    return kind if fits else None


def size_in(spec: str) -> int | None:
    """Return N of a name `kind:N`; None if the name has no N."""
    _, colon, size = spec.partition(":")
    return int(size.lstrip("0")[:LONGEST_SIZE] or 0) if colon else None


def check_spec(spec: str) -> None:
    """Check that a name for `--tokenizer` is known or an existing path.

    Raises:
        TokenizerError: It is neither, or N in bpe:N is too small or too large.
    """
    if (kind := tokenizer_kind(spec)) is not None:
        if kind.check_size is not None:
            kind.check_size(size_in(spec) or 0)
        return
    path = expand(spec)
    with suppress(OSError):  # the name is too long for a path
        if path.is_file() or (path / TOKENIZER_FILE).is_file():
            return
    sized = [name for name, kind in TOKENIZERS.items() if kind.check_size is not None]
    names = [f"{name}:N (such as {name}:1024)" if name in sized else name for name in TOKENIZERS]
    hint = did_you_mean(spec, [name for name in TOKENIZERS if name not in sized])
    if meant := next(filter(spec.startswith, sized), None):
        hint = f"; did you mean {meant}:1024?"
    raise TokenizerError(
        f"{spec[:80]} is no tokenizer; expected {', '.join(names)} or the path of a tokenizer.json{hint}"
    )


def _load_older(folder: Path) -> Tokenizer:
    """Load a tokenizer from vocab.json and merges.txt, the files in which GPT-2's was first published.

    Raises:
        TokenizerError: They are no byte-level tokenizer like GPT-2's.
    """
    vocabulary, merges = (folder / name for name in OLDER_FILES)
    folder_tokens = read_folder_tokens(folder, is_gpt2=_kind_of_model(folder) in (None, "gpt2"))
    content = read_json_object(vocabulary)
    try:
        written = merges.read_bytes()
    except OSError as error:
        raise TokenizerError(f"{merges} cannot be read ({error.strerror}); copy the two files again") from None
    check_is_no_pointer(written, merges, TokenizerError)
    lines = written.decode("utf-8", errors="replace").split("\n")
    pairs = [line.split() for line in lines if line.strip() and not line.startswith("#version")]
    if not folder_tokens.is_gpt2 or not content or not all(len(pair) == 2 for pair in pairs):
        raise TokenizerError(
            f"{vocabulary} and {merges.name} are no byte-level tokenizer like GPT-2's; save the model with a "
            f"{TOKENIZER_FILE} (AutoTokenizer.from_pretrained(...).save_pretrained(...))"
        )
    made = {first + second for first, second in pairs} | {declared.token.content for declared in folder_tokens.declared}
    unmade = next(
        (token for token in content if len(token) > 1 and token not in made and not MARK.fullmatch(token)), ""
    )
    if unmade:
        raise TokenizerError(
            f"{vocabulary} has the token {unmade!r:.80}, which no line of {merges.name} makes and no file declares as "
            "an added token; copy the two files again, or name it in added_tokens.json"
        )
    whole = byte_level_bpe(content, pairs, None, use_regex=True)
    return _from_content(
        with_folder_tokens(whole, folder_tokens, vocabulary), name=vocabulary.name, folder_tokens=folder_tokens
    )


def _kind_of_model(folder: Path) -> object:
    """Return `model_type` from config.json, or None if there is no such file."""
    path = folder / "config.json"
    return read_json_object(path).get("model_type") if path.is_file() else None


def _load(path: Path, *, name: str) -> Tokenizer:
    if path.suffix == ".pkl":
        return read_nanogpt_meta(path)
    folder_tokens = read_folder_tokens(path.parent) if path.name == TOKENIZER_FILE else FolderTokens()
    if folder_tokens.is_plain_gpt2 and path.is_file() and sha256_of(path) == GPT2_SAVED_SHA256:
        return saved_gpt2_tokenizer(path)
    return _from_content(
        with_folder_tokens(read_json_object(path), folder_tokens, path), name=name, folder_tokens=folder_tokens
    )


def _from_content(content: dict[str, Any], *, name: str, folder_tokens: FolderTokens) -> Tokenizer:
    own = dict.fromkeys(kind.from_content for kind in TOKENIZERS.values())
    for from_content in (*own, IdTokenizer.from_content):
        with suppress(AttributeError, KeyError, TypeError, ValueError):  # no file of this kind
            tokenizer = from_content(content)
            if tokenizer is not None:
                return tokenizer
    from quillgpt.text.tokenizers.tokenizer_json import (
        HuggingFaceTokenizer,  # imports a library that our own tokenizers do without
    )

    return HuggingFaceTokenizer(content, name=name, end=folder_tokens.end_of_text)
