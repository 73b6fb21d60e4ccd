"""The data set of a run: opened, or prepared first, and checked against the model that the run starts from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from quillgpt.checkpoint import LoadedModel, TrainingState
from quillgpt.config.dataset_names import split_sources
from quillgpt.config.paths import exists
from quillgpt.config.runs import places_of
from quillgpt.config.schema import TrainSettings
from quillgpt.console import say, warn
from quillgpt.data.batches import Tokens
from quillgpt.data.dataset import Dataset, dataset_folder, find_dataset, open_dataset
from quillgpt.data.dataset_manifest import read_dataset_manifest
from quillgpt.data.overlap import warn_of_copy
from quillgpt.data.prepare import Maker, ensure_dataset, prepare
from quillgpt.errors import DataError, TokenizerError
from quillgpt.text.sources.addresses import is_web_address, shown_address
from quillgpt.text.tokenizers.tokenizer import Tokenizer
from quillgpt.training.start.starting_point import StartingPoint

SHORTEST_USEFUL_BLOCK = 8
"""Context below which a model learns nothing but letter frequencies; no shorter one is offered."""


def open_data(start: StartingPoint, make: Maker | None = None) -> Dataset:
    """Open or prepare the data set of a run; a resumed run needs the tokens that it was trained on.

    Args:
        start: What the run starts from.
        make: Makes a data set that is missing or has changed; by default it is built in its own folder.

    Raises:
        DataError: It is not there and cannot be prepared, or it is another one than a resumed run's.
        TokenizerError: It was prepared with another tokenizer than the model's.
    """
    settings, state = start.settings, start.state
    if not start.resumed:
        prepared = prepare_data(settings, start.parent, make)
        warn_of_copy(prepared)
        return prepared
    assert start.parent is not None
    dataset = find_same_data(settings.dataset, state.data_fingerprint, start.parent.tokenizer, settings)
    if dataset is None:
        try:
            dataset = prepare_data(with_moved_text(settings), start.parent, make)
        except DataError as error:
            places = ", ".join(str(place) for place in places_of(settings.data_dir, Path(settings.out_dir)))
            raise DataError(
                f"the data set that {settings.out_dir} was trained on, {settings.dataset} with the fingerprint "
                f"{state.data_fingerprint[:12]}, is in none of {places}, and cannot be made again: {error}"
            ) from error
    if dataset.fingerprint != state.data_fingerprint:
        raise DataError(
            f"the data set {dataset.name} is not what {settings.out_dir} was trained on (fingerprint "
            f"{dataset.fingerprint[:12]}, the run's is {state.data_fingerprint[:12]}); train into another --out_dir "
            f"with --init_from={settings.out_dir}"
        )
    return dataset


def without_secrets(settings: TrainSettings) -> TrainSettings:
    """Return the settings as they may be recorded: without secrets in addresses of texts."""
    changes = {}
    for name in ("data", "val"):
        given = getattr(settings, name)
        if given is not None:
            shown = [shown_address(source) if is_web_address(source) else source for source in split_sources(given)]
            changes[name] = ",".join(shown)
    changes = {name: value for name, value in changes.items() if value != getattr(settings, name)}
    return settings.model_copy(update=changes)


def open_replayed(settings: TrainSettings, dataset: Dataset, state: TrainingState) -> Dataset | None:
    """Open the data set that is replayed; None where there is none.

    Raises:
        DataError: It is missing, too short, or another one than a resumed run's.
        TokenizerError: It was prepared with another tokenizer than the new text.
    """
    if settings.replay_dataset is None:
        return None
    name, fingerprint = settings.replay_dataset, state.replay_fingerprint
    replayed = find_same_data(name, fingerprint, dataset.tokenizer, settings) if fingerprint else None
    replayed = replayed or open_dataset(name, Path(settings.data_dir))
    if replayed.tokenizer.fingerprint != dataset.tokenizer.fingerprint:
        raise TokenizerError(
            f"{replayed.folder} was prepared with the tokenizer {replayed.tokenizer.name}, {dataset.folder} with "
            f"another, {dataset.tokenizer.name}; prepare the text that is replayed with --tokenizer {dataset.folder}"
        )
    if state.replay_fingerprint not in ("", replayed.fingerprint):
        raise DataError(
            f"the data set {replayed.name} is not what {settings.out_dir} has replayed so far (fingerprint "
            f"{replayed.fingerprint[:12]}, the run's is {state.replay_fingerprint[:12]}); train into another --out_dir"
        )
    check_lengths(replayed.train, replayed.val, settings.model_copy(update={"dataset": replayed.name}))
    return replayed


def find_same_data(name: str, fingerprint: str, tokenizer: Tokenizer, settings: TrainSettings) -> Dataset | None:
    """Open the tokens that a resumed run was trained on, if they are still somewhere; its text need not be."""
    dataset = find_dataset(name, fingerprint, tokenizer, places_of(settings.data_dir, Path(settings.out_dir)))
    if dataset is not None and not is_in_place(dataset, name, settings):
        say(f"the data set {name} is found by its fingerprint: it is {dataset.folder}")
    return dataset


def is_in_place(dataset: Dataset, name: str, settings: TrainSettings) -> bool:
    """Whether a data set is where the settings say."""
    return dataset.folder.resolve() == dataset_folder(name, Path(settings.data_dir)).resolve()


def with_place_of(dataset: Dataset, start: StartingPoint) -> StartingPoint:
    """Return where a resumed run starts, with its data set where it was found."""
    if not start.resumed or is_in_place(dataset, start.settings.dataset, start.settings):
        return start
    place = {"dataset": dataset.name, "data_dir": str(dataset.folder.parent)}
    return replace(start, settings=start.settings.model_copy(update=place))


def with_moved_text(settings: TrainSettings) -> TrainSettings:
    """Return the settings of a resumed run with its texts where they are now, as seen from folders around the run."""
    run = Path(settings.out_dir)

    def moved(source: str) -> str:
        return next((str(place) for place in places_of(source, run) if exists(place)), source)

    data = None if settings.data is None else ",".join(map(moved, split_sources(settings.data)))
    val = None if settings.val is None else moved(settings.val)
    return settings.model_copy(update={"data": data, "val": val})


def prepare_data(settings: TrainSettings, parent: LoadedModel | None, make: Maker | None) -> Dataset:
    """Open or prepare the data set that the settings name; the tokenizer of a model that the run starts from wins."""
    data_dir = Path(settings.data_dir)
    if settings.data is not None:
        if parent is not None:
            check_dataset_is_free(settings, parent)
        return prepare(
            split_sources(settings.data),
            data_dir=data_dir,
            dataset=settings.dataset,
            tokenizer=parent.tokenizer if parent else settings.tokenizer,
            val=settings.val,
            val_fraction=settings.val_fraction,
            end_of_text_marks=settings.end_of_text_marks,
            deduplicate=settings.deduplicate,
            drop_repeated_lines=settings.drop_repeated_lines,
            encoding=settings.encoding,
            skip_unreadable=settings.skip_unreadable,
            follow_links=settings.follow_links,
            make=make,
        ).dataset
    warn_of_split(settings)
    tokenizer = None if parent else settings.tokenizer
    dataset = ensure_dataset(settings.dataset, data_dir=data_dir, tokenizer=tokenizer, make=make)
    if parent is not None:
        parent.check_tokenizer(dataset, data_dir)
    return dataset


def warn_of_split(settings: TrainSettings) -> None:
    """Warn that `val`, `val_fraction` and `encoding` do nothing without a text to prepare, if they would change it."""
    manifest = read_dataset_manifest(dataset_folder(settings.dataset, Path(settings.data_dir)))
    usual = TrainSettings.model_fields["val_fraction"].default
    split = usual if manifest is None or manifest.val_fraction is None else manifest.val_fraction
    encoding = None if manifest is None else manifest.encoding
    for name, value, expected in (
        ("val", settings.val, None),
        ("val_fraction", settings.val_fraction, split),
        ("encoding", settings.encoding, encoding),
    ):
        if value not in (expected, usual):
            what = "reads" if name == "encoding" else "splits"
            warn(
                f"{name} = {value} is not applied: it {what} a text, and no --data is given. To apply it: "
                f"quill prepare {settings.dataset} --{name}={value}"
            )


def check_dataset_is_free(settings: TrainSettings, parent: LoadedModel) -> None:
    """Check that preparing a text for a model would not replace a data set that another tokenizer's models need.

    Raises:
        TokenizerError: It would; names a place for the new one.
    """
    if settings.tokenizer is not None:
        say(f"the tokenizer of {parent.folder} is used; --tokenizer={settings.tokenizer} is not needed")
    folder = dataset_folder(settings.dataset, Path(settings.data_dir))
    manifest = read_dataset_manifest(folder)
    if manifest is not None and manifest.tokenizer.fingerprint != parent.tokenizer.fingerprint:
        raise TokenizerError(
            f"{folder} is already prepared with another tokenizer than the {parent.tokenizer.name} of {parent.folder}; "
            f"leave it to its own models and name another one: --dataset={settings.dataset}_2"
        )


def check_lengths(train: Tokens, val: Tokens, settings: TrainSettings) -> None:
    """Check that both splits hold at least one window.

    Raises:
        DataError: One does not; names the block size that would fit.
    """
    for split, tokens in (("training", train), ("validation", val)):
        if len(tokens) <= settings.block_size:
            fitting = min(len(train), len(val)) - 1
            shorter = f" or --block_size={fitting}" if fitting >= SHORTEST_USEFUL_BLOCK else ""
            held_out_little = split == "validation" and len(train) > 20 * settings.block_size
            more = ", or hold out more: quill prepare with a larger --val_fraction" if held_out_little else ""
            raise DataError(
                f"the {split} split of {settings.dataset} has {len(tokens):,} tokens, block_size = "
                f"{settings.block_size} needs {settings.block_size + 1:,}; use a longer text{shorter}{more}"
            )
