"""Builds a data set: documents are looked at, cleaned, split, encoded and written, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from quillgpt.console import progress, say, warn
from quillgpt.data.dataset import META_FILE
from quillgpt.data.dataset_manifest import (
    FORMAT_VERSION,
    DatasetManifest,
    RepeatedLine,
    Report,
    TokenizerRecord,
    again,
)
from quillgpt.data.document_stream import Documents, Survey, choose, survey, with_gaps, without_lines
from quillgpt.data.marks import WrittenMarks
from quillgpt.data.request import Cleaning, Request
from quillgpt.data.split import hold_out
from quillgpt.data.staging import TRAIN_FILE, VAL_FILE, keep_aside, staged
from quillgpt.data.token_file import batch_stream, chunk_stream, encode_batches, split_stream, write_tokens
from quillgpt.errors import DataError, UserError
from quillgpt.text.sources.documents import Piece
from quillgpt.text.tokenizers.bpe import BytePairTokenizer
from quillgpt.text.tokenizers.byte import ByteTokenizer
from quillgpt.text.tokenizers.char import CharTokenizer
from quillgpt.text.tokenizers.nanogpt_meta import read_nanogpt_meta
from quillgpt.text.tokenizers.round_trip import describe_loss, lost_text
from quillgpt.text.tokenizers.tokenizer import Tokenizer, tokenizer_from_spec

EXAMPLES = 5
SAMPLED_PIECES, SAMPLE_CHARACTERS = 64, 4096
NEVER_LOSING = (CharTokenizer, ByteTokenizer, BytePairTokenizer)
"""Tokenizers that give every text back by what they are; of others it is tried."""

FEWEST_REPETITIONS = 3
REPEATED_SHARE = 0.05
"""Share of the documents in which a line stands from which on it is worth a word."""


def build(
    request: Request, tokenizer: str | Tokenizer, folder: Path, *, chunk_characters: int, overwrite: bool = False
) -> Tokenizer:
    """Make the files of a data set, which replace those of an earlier one, and return their tokenizer.

    Args:
        request: What it is made from.
        tokenizer: A tokenizer, or the name of one.
        folder: Where the files go.
        chunk_characters: About how many characters are encoded at once.
        overwrite: Rename nanoGPT's meta.pkl where it describes other tokens.

    Raises:
        DataError: There is too little text, it cannot be read, or a meta.pkl describes other tokens.
        TokenizerError: The tokenizer cannot be made or cannot represent the text.
    """
    texts = request.texts()
    train = Documents(texts.train, chunk_characters, request.files)
    val = None if texts.val is None else Documents(texts.val, chunk_characters, request.files)
    if request.cleaning.end_of_text_marks:
        for text in (train, val):
            if text is not None:
                text.divide_at_marks()
    several = train.may_be_several or (val is not None and val.may_be_several)
    # Of the tokenizers that have yet to be made, char is the only one without an end of text.
    known = None if isinstance(tokenizer, str) and tokenizer.startswith(("char", "bpe:")) else tokenizer
    made = tokenizer_from_spec(known) if isinstance(known, str) else known
    ends = several and (tokenizer != "char" if made is None else made.end_of_text is not None)

    def marked(stream: Iterable[Piece]) -> Iterator[Piece]:
        if not several:
            return _plain(stream)
        return iter(stream) if ends else with_gaps(stream)

    found, val_found, report = _clean(train, val, request.cleaning)
    characters = int(found.lengths.sum()) + (found.gap_characters if several and not ends else 0)
    division = _divide(train, found, val, val_found, texts.val_fraction, characters, marked)
    if made is None:
        assert isinstance(tokenizer, str)
        # Merges are learned from what is trained on alone; of characters, those of the rest are needed too.
        trained_on, rest = division.parts()
        made = tokenizer_from_spec(tokenizer, _plain(chain(trained_on, rest if tokenizer == "char" else ())))

    dtype: Literal["uint16", "uint32"] = "uint16" if made.vocab_size <= 1 << 16 else "uint32"
    with (
        staged(folder) as staging,
        progress(f"Encoding {folder.name}", characters + int(val_found.lengths.sum())) as advance,
    ):
        splits = []
        for stream, name in zip(division.parts(), (TRAIN_FILE, VAL_FILE), strict=True):
            chunks = chunk_stream(stream, made.last_cut, chunk_characters)
            with (staging / name).open("wb") as file:
                encoded = encode_batches(batch_stream(chunks, chunk_characters), made)
                splits.append(write_tokens(encoded, file, dtype, on_progress=advance))
        if not isinstance(made, NEVER_LOSING) and (lost := lost_text(made, _samples(division.parts()[0]))):
            warn(describe_loss(made, lost))
        made.save(staging)
        _check_meta(folder / META_FILE, made, overwrite=overwrite)
        manifest = DatasetManifest(
            format_version=FORMAT_VERSION,
            name=folder.name,
            recipe=request.recipe,
            sources=train.records,
            val_fraction=texts.val_fraction if val is None else None,
            val_sources=None if val is None else val.records,
            split_by=division.by,
            encoding=str(request.files.encoding) or None,
            skipped=train.skipped + ([] if val is None else val.skipped),
            deduplicate=request.cleaning.deduplicate,
            drop_repeated_lines=request.cleaning.drop_repeated_lines,
            end_of_text_marks=request.cleaning.end_of_text_marks,
            report=report.model_copy(update={"shared_documents": division.shared_documents}),
            ends_documents=ends,
            tokenizer=TokenizerRecord(
                requested=tokenizer if isinstance(tokenizer, str) else None,
                name=made.name,
                fingerprint=made.fingerprint,
                vocab_size=made.vocab_size,
                end_of_text=made.end_of_text,
            ),
            dtype=dtype,
            train=splits[0],
            val=splits[1],
        )
        manifest.save(staging)
    return made


@dataclass(frozen=True)
class Division:
    """How a text is divided into what is trained on and what is validated on.

    Attributes:
        by: Whether the second part was given, is whole documents, or is the end of the text.
        shared_documents: How many documents of the second part equal one of the first.
        parts: Returns the two parts, from their beginning each time; the second is to be read after the first.
    """

    by: Literal["given", "documents", "characters"]
    shared_documents: int
    parts: Callable[[], tuple[Iterator[Piece], Iterator[Piece]]]


def _divide(
    train: Documents,
    found: Survey,
    val: Documents | None,
    val_found: Survey,
    val_fraction: float,
    characters: int,
    marked: Callable[[Iterable[Piece]], Iterator[Piece]],
) -> Division:
    if val is not None:
        shared = int(np.isin(val_found.hashes, found.hashes).sum())
        return Division("given", shared, lambda: (marked(train.stream()), marked(val.stream())))
    held_out = hold_out(found.lengths, found.hashes, val_fraction)
    if held_out is not None:  # equal documents are held out together, so none is shared
        kept = ~held_out
        return Division(
            "documents", 0, lambda: (marked(choose(train.stream(), kept)), marked(choose(train.stream(), held_out)))
        )
    cut = _place_of_cut(characters, val_fraction)
    in_val = np.cumsum(found.lengths) - found.lengths >= cut
    shared = int(np.isin(found.hashes[in_val], found.hashes[~in_val]).sum())
    return Division("characters", shared, lambda: split_stream(marked(train.stream()), cut))


def _clean(train: Documents, val: Documents | None, cleaning: Cleaning) -> tuple[Survey, Survey, Report]:
    """Look at the documents, take out what is to be left out, and return what is left and what was noticed."""
    marks = WrittenMarks()
    found = _look_at(train, marks)
    marks.say(heeded=cleaning.end_of_text_marks)
    repeated = found.repeated_lines(max(FEWEST_REPETITIONS, math.ceil(REPEATED_SHARE * len(found.lengths))))
    report = Report(
        documents=len(found.lengths),
        duplicate_documents=int(found.duplicates().sum()),
        shared_documents=0,
        repeated_lines=len(repeated),
        examples=[RepeatedLine(line=line, documents=count) for line, count in repeated[:EXAMPLES]],
    )
    val_found = survey([], count_lines=False) if val is None else _look_at(val)
    if cleaning.deduplicate:
        if val is not None:
            _leave_out(val, val_found.duplicates(), "validation documents")
        _leave_out(train, found.duplicates() | np.isin(found.hashes, val_found.hashes), "documents")
        found, val_found = _look_at(train), val_found if val is None else _look_at(val)
    if cleaning.drop_repeated_lines is not None:
        if not train.may_be_several:
            warn("drop_repeated_lines counts documents, and there is only one: nothing is left out")
        lines = dict(found.repeated_lines(cleaning.drop_repeated_lines))
        say(
            f"Leaving out {len(lines):,} different lines that stand in at least {cleaning.drop_repeated_lines} "
            f"documents ({sum(lines.values()):,} in all)"
        )
        for text in (train, val):
            if text is not None:
                text.change(lambda stream: without_lines(stream, lines))
        found, val_found = _look_at(train), val_found if val is None else _look_at(val)
    if not len(found.lengths) or (val is not None and not len(val_found.lengths)):
        nothing = "validation" if len(found.lengths) else "training"
        raise DataError(f"nothing is left of the {nothing} text after cleaning; leave something of it in")
    return found, val_found, report


def _samples(stream: Iterator[Piece]) -> Iterator[str]:
    """Yield the beginnings of pieces, some of each of the first documents."""
    return (piece[:SAMPLE_CHARACTERS] for piece in islice(_plain(stream), SAMPLED_PIECES))


def _leave_out(text: Documents, repeated: NDArray[np.bool_], what: str) -> None:
    if repeated.any():
        text.change(lambda stream: choose(stream, ~repeated))
        say(f"Leaving out {what} that are there already: {int(repeated.sum()):,}")


def _look_at(text: Documents, marks: WrittenMarks | None = None) -> Survey:
    with progress("Reading", sum(record.bytes for record in text.records)) as advance:
        stream = _counted(text.stream(), advance)
        return survey(stream if marks is None else marks.watch(stream), count_lines=text.may_be_several)


def _counted(stream: Iterable[Piece], advance: Callable[[float], object]) -> Iterator[Piece]:
    for piece in stream:
        if isinstance(piece, str):
            advance(len(piece))
        yield piece


def _check_meta(meta: Path, tokenizer: Tokenizer, *, overwrite: bool) -> None:
    """Check that nanoGPT's meta.pkl, which its checkpoints need, is still right, or keep it under another name."""
    if not meta.is_file():
        return
    with suppress(UserError):
        if read_nanogpt_meta(meta).fingerprint == tokenizer.fingerprint:
            return
    if not overwrite:
        raise DataError(
            f"{meta}, which is nanoGPT's, describes other tokens than these, and its checkpoints may need it; name "
            f"another data set, such as --dataset={meta.parent.name}_2, or let it be renamed: quill prepare PATH "
            f"{again(meta.parent)}"
        )
    keep_aside(meta.parent, [meta.name])


def _place_of_cut(characters: int, val_fraction: float) -> int:
    cut = int(characters * (1 - val_fraction))
    if cut == 0 or cut == characters:
        raise DataError(
            f"the text is too short to cut off val_fraction {val_fraction} of its characters (it has {characters:,}); "
            "give a longer text, another val_fraction, or --val PATH"
        )
    return cut


def _plain(stream: Iterable[Piece]) -> Iterator[str]:
    return (piece for piece in stream if isinstance(piece, str))
