"""Builds a data set: surveys, cleans, splits, tokenizes and writes documents, in bounded memory."""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from quillgpt import __version__
from quillgpt.console import progress, say, warn
from quillgpt.data.announcements import Trim, announcements
from quillgpt.data.dataset import META_FILE
from quillgpt.data.dataset_manifest import (
    FORMAT_VERSION,
    TRAIN_FILE,
    VAL_FILE,
    DatasetManifest,
    RepeatedLine,
    Report,
    SharedEdge,
    TokenizerRecord,
    again,
)
from quillgpt.data.document_stream import Documents, Survey, choose, survey, with_gaps, without_lines
from quillgpt.data.edges import Side
from quillgpt.data.marks import WrittenMarks
from quillgpt.data.overlap import TokensOfFile, copied_share
from quillgpt.data.replacement import go_on
from quillgpt.data.request import Cleaning, Request
from quillgpt.data.shards import ShardsRecord, ShardWriter, no_shards, shards_done
from quillgpt.data.split import hold_out
from quillgpt.data.staging import keep_aside, staged
from quillgpt.data.token_file import Encode, batch_stream, chunk_stream, encode_batch, encoder, split_stream
from quillgpt.data.workers import number_of_processes, number_of_threads, threads, workers
from quillgpt.errors import DataError, UserError
from quillgpt.text.sources.documents import Piece
from quillgpt.text.tokenizers.bpe import BytePairTokenizer
from quillgpt.text.tokenizers.byte import ByteTokenizer
from quillgpt.text.tokenizers.char import CharTokenizer
from quillgpt.text.tokenizers.nanogpt_meta import read_nanogpt_meta
from quillgpt.text.tokenizers.round_trip import describe_lost_text, lost_text
from quillgpt.text.tokenizers.tokenizer import Tokenizer, load_tokenizer, tokenizer_from_spec, tokenizer_kind

EXAMPLES = 5
SAMPLED_PIECES, SAMPLE_CHARACTERS = 64, 4096
NEVER_LOSING = (CharTokenizer, ByteTokenizer, BytePairTokenizer)
"""Tokenizers that never lose text; others are tried on samples."""

LOOKING_UP = (CharTokenizer, ByteTokenizer)
"""Tokenizers that take no longer to encode a text than it takes to send it to another process."""

IN_THREADS = (BytePairTokenizer,)
"""Tokenizers that encode without holding Python's lock, so threads do what else takes processes."""

FEWEST_REPETITIONS = 3
REPEATED_SHARE = 0.05
"""Share of the documents; a line that occurs in more is reported."""


def build(
    request: Request,
    tokenizer: str | Tokenizer,
    folder: Path,
    *,
    chunk_characters: int,
    overwrite: bool = False,
    num_proc: int | None = 1,
) -> Tokenizer:
    """Make the files of a data set, which replace those of an earlier one, and return the tokenizer.

    Args:
        request: The texts and options.
        tokenizer: A tokenizer, or the name of one.
        folder: The folder of the data set.
        chunk_characters: About how many characters are encoded at once.
        overwrite: Rename nanoGPT's meta.pkl if it describes other tokens.
        num_proc: The number of cores that encode; None takes what is fastest.

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
    kind = tokenizer_kind(tokenizer) if isinstance(tokenizer, str) else None
    made: Tokenizer | None = None
    if kind is not None and kind.made_from != "nothing":
        ends = several and kind.ends_texts
    else:
        made = tokenizer_from_spec(tokenizer) if isinstance(tokenizer, str) else tokenizer
        ends = several and made.end_of_text is not None
        if isinstance(made, IN_THREADS):
            made.expect(sum(record.bytes for record in train.records))

    def marked(stream: Iterable[Piece]) -> Iterator[Piece]:
        if not several:
            return _plain(stream)
        return iter(stream) if ends else with_gaps(stream)

    train_survey, val_survey, report = _clean(train, val, request.cleaning)
    characters = int(train_survey.lengths.sum()) + (train_survey.gap_characters if several and not ends else 0)
    split = _split(train, train_survey, val, val_survey, texts.val_fraction, characters, marked)
    total = characters + int(val_survey.lengths.sum())
    named = tokenizer if isinstance(tokenizer, str) else None
    work = _work(request, train, val, split, named if made is None else made.fingerprint, chunk_characters)
    with staged(folder, work) as staging:
        done = shards_done(staging)
        if made is None:
            made = None if done is None else _learned(staging, done)
            if made is None:
                assert named is not None
                assert kind is not None
                # Merges are learned from the training text alone; char also needs characters of the validation text.
                train_stream, val_stream = split.streams()
                whole = chain(train_stream, val_stream if kind.made_from == "all text" else ())
                made = tokenizer_from_spec(named, _plain(whole))
                made.save(staging)
                done = None
        else:
            made.save(staging)
        dtype: Literal["uint16", "uint32"] = "uint16" if made.vocab_size <= 1 << 16 else "uint32"
        record = done or no_shards(work, made.fingerprint, split.characters)
        writer = ShardWriter(staging, record)
        where, encoders = _encoders(made, dtype, staging, num_proc, total, chunk_characters)
        _tell(record, where)
        with progress(f"Encoding {folder.name}", total) as advance, encoders as encode:
            records = []
            for stream, name in zip(split.streams(), (TRAIN_FILE, VAL_FILE), strict=True):
                batches = batch_stream(chunk_stream(stream, made.last_cut, chunk_characters), chunk_characters)
                records.append(writer.write(name, batches, encode, on_progress=advance))
        if not isinstance(made, NEVER_LOSING) and (lost := lost_text(made, _samples(split.streams()[0]))):
            warn(describe_lost_text(made, lost))
        _check_meta(folder / META_FILE, made, overwrite=overwrite)
        manifest = DatasetManifest(
            format_version=FORMAT_VERSION,
            name=folder.name,
            recipe=request.recipe,
            sources=train.records,
            val_fraction=texts.val_fraction if val is None else None,
            val_sources=None if val is None else val.records,
            split_by=split.by,
            encoding=str(request.files.encoding) or None,
            read_as=str(request.files.wishes.read_as) or None,
            me=request.files.wishes.me,
            anonymise=request.files.wishes.anonymise,
            drop_quotes=request.files.wishes.drop_quotes,
            drop_signatures=request.files.wishes.drop_signatures,
            skipped=train.skipped + ([] if val is None else val.skipped),
            deduplicate=request.cleaning.deduplicate,
            drop_repeated_lines=request.cleaning.drop_repeated_lines,
            drop_openings=request.cleaning.drop_openings,
            drop_endings=request.cleaning.drop_endings,
            end_of_text_marks=request.cleaning.end_of_text_marks,
            report=report.model_copy(
                update={
                    "shared_documents": split.shared_documents,
                    "copied_share": _copied_share(staging, dtype),
                }
            ),
            ends_documents=ends,
            tokenizer=TokenizerRecord(
                requested=named,
                name=made.name,
                fingerprint=made.fingerprint,
                vocab_size=made.vocab_size,
                end_of_text=made.end_of_text,
            ),
            dtype=dtype,
            train=records[0],
            val=records[1],
        )
        manifest.save(staging)
    return made


@dataclass(frozen=True)
class Split:
    """The split of a text into training and validation text.

    Attributes:
        by: Whether the validation text was given, is whole documents, or is the end of the text.
        shared_documents: Number of validation documents that equal a training document.
        characters: The length of the training and of the validation text.
        streams: Returns the training and the validation text, from the beginning at every call; the validation text
            must be read after the training text.
    """

    by: Literal["given", "documents", "characters"]
    shared_documents: int
    characters: tuple[int, int]
    streams: Callable[[], tuple[Iterator[Piece], Iterator[Piece]]]


def _split(
    train: Documents,
    train_survey: Survey,
    val: Documents | None,
    val_survey: Survey,
    val_fraction: float,
    characters: int,
    marked: Callable[[Iterable[Piece]], Iterator[Piece]],
) -> Split:
    if val is not None:
        shared = int(val_survey.are_in(train_survey).sum())
        lengths = characters, int(val_survey.lengths.sum())
        return Split("given", shared, lengths, lambda: (marked(train.stream()), marked(val.stream())))
    held_out = hold_out(train_survey.lengths, train_survey.hashes, val_fraction)
    if held_out is not None:  # equal documents are held out together, so none is shared
        kept = ~held_out
        lengths = int(train_survey.lengths[kept].sum()), int(train_survey.lengths[held_out].sum())
        return Split(
            "documents",
            0,
            lengths,
            lambda: (marked(choose(train.stream(), kept)), marked(choose(train.stream(), held_out))),
        )
    cut = _cut_position(characters, val_fraction)
    in_val = np.cumsum(train_survey.lengths) - train_survey.lengths >= cut
    shared = int(np.isin(train_survey.hashes[in_val], train_survey.hashes[~in_val]).sum())
    return Split("characters", shared, (cut, characters - cut), lambda: split_stream(marked(train.stream()), cut))


def _work(
    request: Request, train: Documents, val: Documents | None, split: Split, tokenizer: str | None, characters: int
) -> str:
    """Return the hash of everything that decides the tokens; a tokenizer that is learned counts by its name."""
    texts = [
        [(record.sha256, record.encoding, record.format, record.column) for record in text.records]
        for text in (train, val)
        if text is not None
    ]
    decisive = {
        "quill": __version__,
        "python": platform.python_version_tuple()[:2],
        "texts": texts,
        "cleaning": asdict(request.cleaning),
        "wishes": asdict(request.files.wishes),
        "split": [split.by, split.characters],
        "tokenizer": tokenizer,
        "characters": characters,
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def _copied_share(staging: Path, dtype: str) -> float:
    train, val = (TokensOfFile(staging / name, dtype) for name in (TRAIN_FILE, VAL_FILE))
    with progress("Comparing the two splits, tokens", len(train)) as advance:
        return round(copied_share(train, val, on_progress=advance), 4)


def _encoders(
    tokenizer: Tokenizer, dtype: str, staging: Path, num_proc: int | None, total: int, chunk_characters: int
) -> tuple[str, AbstractContextManager[Encode]]:
    """Return in words who encodes, and the function that does: in this process, its threads, or several processes."""
    if isinstance(tokenizer, IN_THREADS):
        tokenizer.expect(total)
        count = number_of_threads(num_proc, total, chunk_characters)
        where = f" in {count:,} threads" if count else ""
        return where, threads(lambda batch: encode_batch(batch, tokenizer, dtype), count)
    if num_proc is None and isinstance(tokenizer, LOOKING_UP):
        num_proc = 1
    processes = number_of_processes(num_proc, total, chunk_characters)
    if processes == 1:
        return "", nullcontext(lambda batches: (encode_batch(batch, tokenizer, dtype) for batch in batches))
    return f" in {processes:,} processes", workers(encoder, str(staging), dtype, processes=processes)


def _tell(record: ShardsRecord, where: str) -> None:
    if record.shards:
        say(f"Going on with {record.in_words()}{where}")
    elif record.are_kept:
        say(f"Encoding {record.expected:,} shards{where}; after an interruption, {go_on()}")
    elif where:
        say(f"Encoding{where}")


def _learned(staging: Path, done: ShardsRecord) -> Tokenizer | None:
    """Return the tokenizer that an interrupted preparation learned, or None if it is damaged."""
    with suppress(UserError):
        tokenizer = load_tokenizer(staging)
        if tokenizer.fingerprint == done.tokenizer:
            return tokenizer
    return None


def _clean(train: Documents, val: Documents | None, cleaning: Cleaning) -> tuple[Survey, Survey, Report]:
    """Survey and clean the documents; return the surveys of the cleaned texts and a report on the original ones."""
    marks = WrittenMarks()
    train_survey = _look_at(train, marks)
    marks.say(heeded=cleaning.end_of_text_marks)
    repeated = train_survey.repeated_lines(
        max(FEWEST_REPETITIONS, math.ceil(REPEATED_SHARE * len(train_survey.lengths)))
    )
    report = Report(
        documents=len(train_survey.lengths),
        duplicate_documents=int(train_survey.duplicates().sum()),
        shared_documents=0,
        repeated_lines=len(repeated),
        examples=[RepeatedLine(line=line, documents=count) for line, count in repeated[:EXAMPLES]],
        openings=_shared_edges(train_survey, "opening"),
        endings=_shared_edges(train_survey, "ending"),
    )
    val_survey = survey([], compare=False) if val is None else _look_at(val)
    if cleaning.deduplicate:
        if val is not None:
            _leave_out(val, val_survey.duplicates(), "validation documents")
        _leave_out(train, train_survey.duplicates() | train_survey.are_in(val_survey), "documents")
        train_survey, val_survey = _look_at(train), val_survey if val is None else _look_at(val)
    if cleaning.drop_repeated_lines is not None:
        if not train.may_be_several:
            warn("drop_repeated_lines needs several documents, and there is only one; no line is left out")
        lines = dict(train_survey.repeated_lines(cleaning.drop_repeated_lines))
        say(
            f"Leaving out {len(lines):,} different lines that occur in at least {cleaning.drop_repeated_lines} "
            f"documents ({sum(lines.values()):,} in all)"
        )
        for text in (train, val):
            if text is not None:
                text.change(lambda stream: without_lines(stream, lines))
        train_survey, val_survey = _look_at(train), val_survey if val is None else _look_at(val)
    sides: tuple[tuple[Side, int | None], ...] = (
        ("opening", cleaning.drop_openings),
        ("ending", cleaning.drop_endings),
    )
    trims = [(side, _trims(train, val, train_survey, side, least)) for side, least in sides if least is not None]
    if trims:
        train_survey, val_survey = _look_at(train), val_survey if val is None else _look_at(val)
    for side, trimmed in trims:
        documents, characters = sum(trim.documents for trim in trimmed), sum(trim.characters for trim in trimmed)
        say(f"Left out the {side}s of {documents:,} documents ({characters:,} characters)")
        report = report.model_copy(update={f"dropped_{side}s": documents})
    if not len(train_survey.lengths) or (val is not None and not len(val_survey.lengths)):
        nothing = "validation" if len(train_survey.lengths) else "training"
        raise DataError(f"nothing is left of the {nothing} text after cleaning; remove less of it")
    return train_survey, val_survey, report


def _shared_edges(surveyed: Survey, side: Side) -> list[SharedEdge]:
    shared = announcements(surveyed.edges, side)
    return [SharedEdge(text=one.text, documents=one.documents) for one in shared[:EXAMPLES]]


def _trims(train: Documents, val: Documents | None, surveyed: Survey, side: Side, least: int) -> list[Trim]:
    """Leave out of all later streams what many training documents begin or end with."""
    if not train.may_be_several:
        warn(f"drop_{side}s needs several documents, and there is only one; nothing is left out")
    shared = announcements(surveyed.edges, side, least)
    number = f"{len(shared):,} {side}{'s' * (len(shared) != 1)}"
    say(f"Leaving out {number} that at least {least:,} documents share")
    trims = []
    for text in (train, val):
        if text is not None:
            trims.append(Trim(shared, side))
            text.change(trims[-1].stream)
    return trims


def _samples(stream: Iterator[Piece]) -> Iterator[str]:
    """Yield the beginnings of the first pieces."""
    return (piece[:SAMPLE_CHARACTERS] for piece in islice(_plain(stream), SAMPLED_PIECES))


def _leave_out(text: Documents, repeated: NDArray[np.bool_], what: str) -> None:
    if repeated.any():
        text.change(lambda stream: choose(stream, ~repeated))
        say(f"Leaving out duplicate {what}: {int(repeated.sum()):,}")


def _look_at(text: Documents, marks: WrittenMarks | None = None) -> Survey:
    with progress("Reading", sum(record.bytes for record in text.records)) as advance:
        stream = _counted(text.stream(), advance)
        return survey(stream if marks is None else marks.watch(stream), compare=text.may_be_several)


def _counted(stream: Iterable[Piece], advance: Callable[[float], object]) -> Iterator[Piece]:
    for piece in stream:
        if isinstance(piece, str):
            advance(len(piece))
        yield piece


def _check_meta(meta: Path, tokenizer: Tokenizer, *, overwrite: bool) -> None:
    """Check that nanoGPT's meta.pkl, which its checkpoints need, fits the tokenizer, or rename it."""
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


def _cut_position(characters: int, val_fraction: float) -> int:
    cut = int(characters * (1 - val_fraction))
    if cut == 0 or cut == characters:
        raise DataError(
            f"the text is too short to hold out val_fraction {val_fraction} of its characters (it has {characters:,}); "
            "give a longer text, another val_fraction, or --val PATH"
        )
    return cut


def _plain(stream: Iterable[Piece]) -> Iterator[str]:
    return (piece for piece in stream if isinstance(piece, str))
