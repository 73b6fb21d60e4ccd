"""The data sets of a run: opened, or prepared first, and checked against the model that the run starts from."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from quillgpt.checkpoint import LoadedModel, TrainingState
from quillgpt.config.dataset_names import split_mixture, split_sources
from quillgpt.config.paths import exists
from quillgpt.config.runs import places_of
from quillgpt.config.schema import TrainSettings
from quillgpt.console import say, warn
from quillgpt.data.announcements import remarks
from quillgpt.data.dataset import Dataset, dataset_folder, find_dataset, open_dataset
from quillgpt.data.dataset_manifest import read_dataset_manifest
from quillgpt.data.mixture import Mixture
from quillgpt.data.overlap import warn_of_copy
from quillgpt.data.prepare import Maker, ensure_dataset, prepare
from quillgpt.errors import ConfigError, DataError, TokenizerError
from quillgpt.text.formats.opened import Wishes
from quillgpt.text.sources.addresses import is_web_address, shown_address
from quillgpt.text.tokenizers.tokenizer import Tokenizer
from quillgpt.training.start.starting_point import StartingPoint

SHORTEST_USEFUL_BLOCK = 8
"""Context below which a model learns nothing but letter frequencies; no shorter one is offered."""

DONE_TO_A_TEXT = {
    "val": "splits",
    "val_fraction": "splits",
    **dict.fromkeys(("encoding", "read_as", "me", "anonymise"), "reads"),
    "end_of_text_marks": "divides",
    **dict.fromkeys(
        (
            "deduplicate",
            "drop_repeated_lines",
            "drop_openings",
            "drop_endings",
            "drop_quotes",
            "drop_signatures",
        ),
        "cleans",
    ),
}
"""Settings that are used when a text is prepared, and what they do to it."""


def open_data(start: StartingPoint, make: Maker | None = None) -> Mixture:
    """Open or prepare the data sets of a run; a resumed run needs the tokens that it was trained on.

    Args:
        start: What the run starts from.
        make: Makes a data set that is missing or has changed; by default it is built in its own folder.

    Raises:
        ConfigError: Their names or weights make no mixture.
        DataError: One is not there and cannot be prepared, or it is another one than a resumed run's.
        TokenizerError: One was prepared with another tokenizer than the model's, or than another one.
    """
    weights = named_datasets(start.settings)
    fingerprints = expected_fingerprints(start, list(weights)) if start.resumed else dict.fromkeys(weights, "")
    datasets = []
    for name, fingerprint in fingerprints.items():
        alone = replace(start, settings=start.settings.model_copy(update={"dataset": name}))
        datasets.append(reopen_dataset(alone, fingerprint, make) if start.resumed else first_opened(alone, make))
    return Mixture.of(datasets, [weights[name] for name in fingerprints])


def named_datasets(settings: TrainSettings) -> dict[str, float | None]:
    """Return the data sets that `dataset` names, with their weights; a folder of the whole name is a single one.

    Raises:
        ConfigError: Names or weights are missing or impossible.
    """
    given = settings.dataset
    if not {",", "="} & {*given} or is_prepared_name(given, Path(settings.data_dir)):
        return {given: None}
    weights = split_mixture(given)
    if settings.data is not None:
        raise ConfigError(
            f"dataset = {given} names a mixture, and data = {without_secrets(settings).data} is a text for one data "
            "set; prepare it first (quill prepare PATH --dataset NAME), then mix it by --dataset alone"
        )
    return weights


def is_prepared_name(given: str, data_dir: Path) -> bool:
    """Whether a name with commas or equals signs inside is that of a single folder of data_dir."""
    if given.strip(" ,=") != given.strip():
        return False
    with suppress(ConfigError):  # a path, or too long for a folder: not a single data set
        return dataset_folder(given, data_dir).is_dir()
    return False


def recorded_weights(state: TrainingState) -> list[float | None]:
    """Return the weights with which a resumed run's data sets were mixed so far, in their order."""
    count = len(state.data_fingerprint.split(","))
    return list(split_mixture(state.settings["dataset"]).values()) if count > 1 else [None]


def expected_fingerprints(start: StartingPoint, names: Sequence[str]) -> dict[str, str]:
    """Return the fingerprints that the data sets of a resumed run must have, in the order in which it has read them.

    Raises:
        DataError: It was trained on other data sets.
    """
    settings, state = start.settings, start.state
    fingerprints = state.data_fingerprint.split(",")
    recorded = str(state.settings.get("dataset", settings.dataset))
    before = [recorded] if len(fingerprints) == 1 else list(split_mixture(recorded))
    if len(names) != len(fingerprints):
        raise DataError(
            f"{settings.out_dir} was trained on {recorded}, and --dataset={settings.dataset} names other data sets; "
            f"go on with the same ones, or train into another --out_dir with --init_from={settings.out_dir}"
        )
    known = dict(zip(before, fingerprints, strict=True))
    # A data set may have another name now; it takes the place of one that is no longer named.
    renamed = iter([name for name in names if name not in known])
    return {name if name in names else next(renamed): fingerprint for name, fingerprint in known.items()}


def first_opened(start: StartingPoint, make: Maker | None) -> Dataset:
    """Open or prepare the single data set of a run that begins."""
    dataset = prepare_data(start.settings, start.parent, make)
    warn_of_copy(dataset)
    return dataset


def reopen_dataset(start: StartingPoint, fingerprint: str, make: Maker | None) -> Dataset:
    """Open the single data set of a resumed run by its fingerprint, or prepare it again.

    Raises:
        DataError: It is gone, or it is another one.
    """
    settings = start.settings
    assert start.parent is not None
    dataset = find_same_data(settings.dataset, fingerprint, start.parent.tokenizer, settings)
    if dataset is None:
        try:
            dataset = prepare_data(with_moved_text(settings), start.parent, make)
        except DataError as error:
            places = ", ".join(str(place) for place in places_of(settings.data_dir, Path(settings.out_dir)))
            raise DataError(
                f"the data set that {settings.out_dir} was trained on, {settings.dataset} with the fingerprint "
                f"{fingerprint[:12]}, is in none of {places}, and cannot be made again: {error}"
            ) from error
    if dataset.fingerprint != fingerprint:
        raise DataError(
            f"the data set {dataset.name} is not what {settings.out_dir} was trained on (fingerprint "
            f"{dataset.fingerprint[:12]}, the run's is {fingerprint[:12]}); train into another --out_dir "
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


def open_replayed(settings: TrainSettings, mixture: Mixture, state: TrainingState) -> Dataset | None:
    """Open the data set that is replayed; None where there is none.

    Raises:
        ConfigError: Several are named.
        DataError: It is missing, too short, or another one than a resumed run's.
        TokenizerError: It was prepared with another tokenizer than the new text.
    """
    if settings.replay_dataset is None:
        return None
    if {",", "="} & {*settings.replay_dataset} and not is_prepared_name(
        settings.replay_dataset, Path(settings.data_dir)
    ):
        raise ConfigError(
            f"replay_dataset = {settings.replay_dataset} names a mixture, and one data set is replayed; name one, and "
            "mix the others by --dataset"
        )
    name, fingerprint = settings.replay_dataset, state.replay_fingerprint
    replayed = find_same_data(name, fingerprint, mixture.tokenizer, settings) if fingerprint else None
    replayed = replayed or open_dataset(name, Path(settings.data_dir))
    dataset = mixture.datasets[0]
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
    check_lengths(replayed.name, len(replayed.train), len(replayed.val), settings)
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


def with_place_of(mixture: Mixture, start: StartingPoint) -> StartingPoint:
    """Return where a resumed run starts, with its data sets where they were found, in the order of the run."""
    settings = start.settings
    if not start.resumed:
        return start
    place = {} if mixture.is_single else {"dataset": mixture.name}
    names = named_datasets(settings)
    found = {dataset.folder.resolve() for dataset in mixture.datasets}
    if found != {dataset_folder(name, Path(settings.data_dir)).resolve() for name in names}:
        place = {"dataset": mixture.name}
        parents = {dataset.folder.parent for dataset in mixture.datasets}
        if len(parents) == 1:  # else they are found by their fingerprints again
            place["data_dir"] = str(parents.pop())
    return replace(start, settings=settings.model_copy(update=place))


def with_moved_text(settings: TrainSettings) -> TrainSettings:
    """Return the settings of a resumed run with its texts where they are now, as seen from folders around the run."""
    run = Path(settings.out_dir)

    def moved(source: str) -> str:
        path, colon, column = source.rpartition(":")
        for name, rest in ((source, ""), (path, colon + column)):
            found = next((str(place) for place in places_of(name, run) if name and exists(place)), None)
            if found is not None:
                return found + rest
        return source

    data = None if settings.data is None else ",".join(map(moved, split_sources(settings.data)))
    val = None if settings.val is None else moved(settings.val)
    return settings.model_copy(update={"data": data, "val": val})


def prepare_data(settings: TrainSettings, parent: LoadedModel | None, make: Maker | None) -> Dataset:
    """Open or prepare the data set that the settings name; the tokenizer of a model that the run starts from wins."""
    data_dir = Path(settings.data_dir)
    if settings.data is not None:
        if parent is not None:
            check_dataset_is_free(settings, parent)
        prepared = prepare(
            split_sources(settings.data),
            data_dir=data_dir,
            dataset=settings.dataset,
            tokenizer=parent.tokenizer if parent else settings.tokenizer,
            val=settings.val,
            val_fraction=settings.val_fraction,
            end_of_text_marks=settings.end_of_text_marks,
            deduplicate=settings.deduplicate,
            drop_repeated_lines=settings.drop_repeated_lines,
            drop_openings=settings.drop_openings,
            drop_endings=settings.drop_endings,
            encoding=settings.encoding,
            skip_unreadable=settings.skip_unreadable,
            follow_links=settings.follow_links,
            wishes=Wishes.of(settings),
            make=make,
        )
        for side, remark in remarks(prepared.manifest).items():
            if not prepared.reused and getattr(settings, f"drop_{side}") is None:
                say(remark)
        return prepared.dataset
    warn_of_text_settings(settings)
    tokenizer = None if parent else settings.tokenizer
    dataset = ensure_dataset(settings.dataset, data_dir=data_dir, tokenizer=tokenizer, make=make)
    if parent is not None:
        parent.check_tokenizer(dataset, data_dir)
    return dataset


def warn_of_text_settings(settings: TrainSettings) -> None:
    """Warn of settings that do nothing without a text to prepare, if they would change the data set."""
    manifest = read_dataset_manifest(dataset_folder(settings.dataset, Path(settings.data_dir)))
    for name, does in DONE_TO_A_TEXT.items():
        value, usual = getattr(settings, name), TrainSettings.model_fields[name].default
        made_with = usual if manifest is None or name == "val" else getattr(manifest, name)
        if value not in (made_with, usual):
            warn(
                f"{name} = {value} is not applied: it {does} a text, and no --data is given. To apply it: "
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


def check_lengths(name: str, train: int, val: int, settings: TrainSettings) -> None:
    """Check that both splits hold at least one window.

    Raises:
        DataError: One does not; names the block size that would fit.
    """
    for split, tokens in (("training", train), ("validation", val)):
        if tokens <= settings.block_size:
            fitting = min(train, val) - 1
            shorter = f" or --block_size={fitting}" if fitting >= SHORTEST_USEFUL_BLOCK else ""
            held_out_little = split == "validation" and train > 20 * settings.block_size
            more = ", or hold out more: quill prepare with a larger --val_fraction" if held_out_little else ""
            raise DataError(
                f"the {split} split of {name} has {tokens:,} tokens, block_size = "
                f"{settings.block_size} needs {settings.block_size + 1:,}; use a longer text{shorter}{more}"
            )
