"""The data set of a dry run, opened or prepared elsewhere: no file of the user's is changed."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from quillgpt.config.schema import TrainSettings
from quillgpt.console import quietly
from quillgpt.data.batches import Tokens
from quillgpt.data.build import build
from quillgpt.data.dataset import dataset_folder, prepare_hint
from quillgpt.data.mixture import equivalent_tokens
from quillgpt.data.prepare import CHUNK_CHARACTERS
from quillgpt.data.request import Request
from quillgpt.errors import DataError, UserError
from quillgpt.text.formats.take_out import SEPARATOR
from quillgpt.text.sources.corpora import RECIPES, Texts, recipe_named
from quillgpt.text.sources.documents import Source
from quillgpt.text.sources.downloads import DownloadNeededError, without_downloads
from quillgpt.text.tokenizers.tokenizer import Tokenizer, size_in, tokenizer_from_spec, tokenizer_kind, usual_tokenizer
from quillgpt.training.planning.budget import choose_context
from quillgpt.training.planning.scaling import Text
from quillgpt.training.start.run_data import named_datasets, open_data, open_replayed, without_secrets
from quillgpt.training.start.starting_point import StartingPoint

MOST_BYTES_PREPARED = 50_000_000
"""Size of a text above which only its beginning is prepared, and the rest estimated."""

EXCERPT_BYTES = 10_000_000

USUAL_BYTES = 1_000_000
"""Size that is assumed of a text that is not here: a book's."""

MOST_TOKENS_DRAWN = 1_000_000
"""Random tokens to try iterations on, where the text is not here."""


@dataclass(frozen=True)
class DryRunPart:
    """A data set of a run that has not begun.

    Attributes:
        name: Its name.
        share: Its share of the sequences.
        train_tokens: The length of its training split.
        val_tokens: Likewise for validation.
    """

    name: str
    share: float
    train_tokens: int
    val_tokens: int


@dataclass(frozen=True)
class DryRunData:
    """The data set of a run that has not begun.

    Attributes:
        described: Where it is, or what a run would do first to have it.
        tokenizer: The name of its tokenizer.
        vocab_size: The tokenizer's ids.
        train: Tokens to try a step on: the training split, a part of it, or tokens drawn at random.
        val: Likewise for validation.
        train_tokens: The length of the training split, or the equivalent one of a mixture, for the passes over it; None
            where it is not known.
        val_tokens: The length of the validation split, or of the shortest one of a mixture.
        parts: The data sets of a mixture, or the only one; none where they are not known.
        counted: Whether the lengths were counted and not estimated.
        assumed: Whether the size of the vocabulary is an assumption.
        bytes_per_token: Mean bytes of a token to train on.
        replayed_val_tokens: The length of the validation split of the replayed data set; 0 without one.
        obstacle: The error that would keep a run from starting; None if nothing would.
        tokenizer_fingerprint: The tokenizer's; None where it is not known.
    """

    described: str
    tokenizer: str
    vocab_size: int
    train: Tokens
    val: Tokens
    train_tokens: int | None = None
    val_tokens: int | None = None
    parts: tuple[DryRunPart, ...] = ()
    counted: bool = True
    assumed: bool = False
    bytes_per_token: float = 1.0
    replayed_val_tokens: int = 0
    obstacle: UserError | None = None
    tokenizer_fingerprint: str | None = None


def dry_run_data(start: StartingPoint, spool: Path) -> DryRunData:
    """Do what a run would do to get its data set, in a temporary folder and without a download.

    Args:
        start: What the run starts from.
        spool: An empty folder, in which a data set is prepared that is not prepared yet.

    Raises:
        UserError: The run could not train.
    """
    settings = without_secrets(start.settings)
    preparation = DryRunPreparation(spool)
    try:
        with quietly(), without_downloads():
            mixture = open_data(start, preparation.make)
    except DownloadNeededError as needed:
        return _unseen(start, f"{needed.title} is not here, and a run would fetch it first; or", None)
    except DataError as error:
        recipes = [name for name in named_datasets(settings) if settings.data is None and recipe_named(name)]
        if all(dataset_folder(name, Path(settings.data_dir)).exists() for name in recipes):
            raise
        return _unseen(start, "it is too large to be prepared by the way;", error)
    text = Text.of(mixture)
    with quietly():
        replayed = open_replayed(choose_context(start, text)[0].settings, mixture, start.state)
    described = [describe_place(dataset.name, settings, preparation) for dataset in mixture.datasets]
    parts = []
    for dataset, share in zip(mixture.datasets, mixture.shares, strict=True):
        train_scale, val_scale = preparation.scales.get(dataset.name, (1.0, 1.0))
        parts.append(
            DryRunPart(
                dataset.name, share, round(len(dataset.train) * train_scale), round(len(dataset.val) * val_scale)
            )
        )
    first = mixture.datasets[0]
    return DryRunData(
        "; ".join(described),
        mixture.tokenizer.name,
        mixture.tokenizer.vocab_size,
        first.train,
        first.val,
        equivalent_tokens([part.train_tokens for part in parts], mixture.shares),
        min(part.val_tokens for part in parts),
        tuple(parts),
        counted=all(train == 1 for train, _ in preparation.scales.values()),
        bytes_per_token=text.bytes_per_token,
        replayed_val_tokens=0 if replayed is None else len(replayed.val),
        tokenizer_fingerprint=mixture.tokenizer.fingerprint,
    )


def describe_place(name: str, settings: TrainSettings, preparation: DryRunPreparation) -> str:
    """Say where a data set is, or how a run would make it."""
    place = Path(settings.data_dir) / name
    if name not in preparation.scales:
        return f"{place}, which is prepared"
    source = f"from {settings.data}" if settings.data else "first"
    return f"{place}, which would be prepared {source}; {preparation.said(name)}"


@dataclass
class DryRunPreparation:
    """Prepares a data set in another folder, and of a long text only the beginning.

    Attributes:
        spool: The folder to prepare in.
        scales: For each data set that had to be prepared, how many times longer its training text is than the part that
            was prepared, and likewise for validation.
    """

    spool: Path
    scales: dict[str, tuple[float, float]] = field(default_factory=dict, init=False)

    def said(self, name: str) -> str:
        """Return the preparation of a data set in words."""
        train_scale, _ = self.scales[name]
        if train_scale == 1:
            return "now done in a temporary folder, to count"
        return f"estimated from {1 / train_scale:.1%} of the text"

    def make(self, request: Request, tokenizer: str | Tokenizer, folder: Path) -> Path:
        """Prepare the request's data set, or a part of it, in a folder of this name below the spool."""
        texts, train_scale, val_scale = request.texts(), 1.0, 1.0
        if sum(source.path.stat().st_size for source in (*texts.train, *(texts.val or []))) > MOST_BYTES_PREPARED:
            train, train_scale = _excerpt(texts.train, self.spool / f"{folder.name} train")
            val, val_scale = (None, train_scale)
            if texts.val is not None:
                val, val_scale = _excerpt(texts.val, self.spool / f"{folder.name} val")
            texts = Texts(train, val, texts.val_fraction)
            request = replace(request, own=texts, val_sources=None, val_fraction=None)
        self.scales[folder.name] = train_scale, val_scale
        place = self.spool / folder.name
        build(request, tokenizer, place, chunk_characters=CHUNK_CHARACTERS)
        return place


def _excerpt(sources: Sequence[Source], folder: Path) -> tuple[list[Source], float]:
    """Copy the beginning of a text; return it, and how many times longer the text is."""
    folder.mkdir()
    taken, copied = 0, []
    sources = [source.as_text() for source in sources]
    for number, source in enumerate(sources):
        if taken >= EXCERPT_BYTES:
            break
        with source.path.open("rb") as file:
            head = file.read(EXCERPT_BYTES - taken)
            whole = not file.read(1)
        if not whole:
            head = head[: _last_cut(head, source)]
        copy = folder / f"{number}.txt"
        copy.write_bytes(head)
        copied.append(replace(source, path=copy, recorded_sha256=None))
        taken += len(head)
    return copied, sum(source.path.stat().st_size for source in sources) / taken


def _last_cut(head: bytes, source: Source) -> int:
    """Return the last place at which a file's beginning can be cut without breaking a character or a document."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return len(head) // 4 * 4
    return head.rfind(SEPARATOR.encode() if source.holds_many else b"\n") + 1 or len(head)


def _unseen(start: StartingPoint, reason: str, obstacle: UserError | None) -> DryRunData:
    """Return what is known about a data set whose text is not here."""
    settings = without_secrets(start.settings)
    names = [] if settings.data is not None else list(named_datasets(settings))
    recipe = next(filter(None, map(recipe_named, names)), None)
    name, vocab_size, assumed = _vocabulary(start, recipe)
    about = f" ({RECIPES[recipe].description})" if recipe else ""
    missing = [name for name in names if not dataset_folder(name, Path(settings.data_dir)).exists()]
    hint = prepare_hint((missing or [settings.dataset])[0], Path(settings.data_dir), what=settings.data)
    draw = np.random.default_rng(settings.seed)
    count = max(settings.block_size, min(16 * settings.block_size, MOST_TOKENS_DRAWN)) + 1
    tokens = draw.integers(vocab_size, size=count, dtype=np.uint32)
    return DryRunData(
        f"{settings.data or settings.dataset}{about}: {reason} {hint}",
        name,
        vocab_size,
        tokens,
        tokens,
        counted=False,
        assumed=assumed,
        obstacle=obstacle,
    )


def _vocabulary(start: StartingPoint, recipe: str | None) -> tuple[str, int, bool]:
    """Return the name and the size of the tokenizer of a text that is not here, and whether the size is assumed."""
    if start.parent is not None:
        return start.parent.tokenizer.name, start.parent.tokenizer.vocab_size, False
    spec = start.settings.tokenizer or (RECIPES[recipe].tokenizer if recipe else usual_tokenizer(USUAL_BYTES))
    kind = tokenizer_kind(spec)
    if kind is not None and kind.usual_vocab_size is not None:
        usual_size = kind.usual_vocab_size
        if kind.made_from == "nothing":
            return spec, usual_size, False
        return spec, min(usual_size, start.settings.vocab_size or usual_size), True
    size = size_in(spec) if kind is not None else None
    is_usual = start.settings.tokenizer is None and recipe is None
    return spec, size or tokenizer_from_spec(spec).vocab_size, is_usual
