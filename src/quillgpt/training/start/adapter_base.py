"""The base of a run's adapters: recorded when the run begins, found again when it is resumed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from quillgpt.checkpoint import LoadedModel, TrainingState
from quillgpt.checkpoint.weights import StoredWeights
from quillgpt.config.runs import CHECKPOINTS, how_to_go_on, places_of
from quillgpt.config.schema import TrainSettings
from quillgpt.errors import CheckpointError, ConfigError, UserError
from quillgpt.files import sha256_of
from quillgpt.interop import holds_model, hub_repository, open_model
from quillgpt.model import GPT, add_adapters

LORA_SETTINGS = ("lora_rank", "lora_alpha", "lora_targets")
"""What fixes the adapters of a run."""


def describe_base(base: LoadedModel) -> dict[str, str]:
    """Return what a run with adapters records of their base."""
    return {"folder": str(base.folder.resolve()), "sha256": weights_sha256(base)}


def weights_sha256(loaded: LoadedModel) -> str:
    """Return a hash of the files that hold a model's weights."""
    stored = loaded.weights
    hashes = (
        [file.sha256() for file in stored.files] if isinstance(stored, StoredWeights) else [sha256_of(loaded.folder)]
    )
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def find_base(settings: TrainSettings, state: TrainingState) -> LoadedModel | None:
    """Return the base of a resumed run's adapters; None where all weights are trained.

    Raises:
        ConfigError: The settings ask for other adapters than the run has.
        CheckpointError: The base is gone or has changed.
    """
    for name in LORA_SETTINGS:
        before, now = state.settings.get(name, TrainSettings.model_fields[name].default), getattr(settings, name)
        if before != now:
            raise ConfigError(
                f"{name} = {now}, but the run in {settings.out_dir} has {name} = {before}; resume with its own "
                f"settings: {how_to_go_on(settings.out_dir)}"
            )
    if not settings.lora_rank:
        return None
    folder, given = state.base.get("folder", ""), str(state.settings.get("init_from", ""))
    for place in places_of_base(folder, given, Path(settings.out_dir)):
        try:
            base = open_model(place, data_dir=Path(settings.data_dir))
        except UserError:  # the error below says more
            continue
        if weights_sha256(base) == state.base.get("sha256"):
            return base
    raise CheckpointError(
        f"the adapters of {settings.out_dir} belong to {folder or given}, which is gone or has changed; "
        f"bring it back, or start from the two merged: --init_from={settings.out_dir} --out_dir=NEW"
    )


def places_of_base(folder: str, given: str, run: Path) -> Iterator[str | Path]:
    """Yield where the base of a run's adapters may be, also if both were moved together.

    Args:
        folder: The folder, absolute, in which it was.
        given: What it was called when the run began.
        run: The run.
    """
    yield from filter(None, (folder, given))
    for place in places_of(given, run):
        if holds_model(place):
            yield from (place, place / CHECKPOINTS / Path(folder).name)


def name_of_base(settings: TrainSettings, state: TrainingState) -> str:
    """Return the base of a run's adapters as other programs name it: its name on the hub, or its folder."""
    return hub_repository(settings.init_from) or state.base.get("folder", settings.init_from)


def with_adapters(model: GPT, settings: TrainSettings) -> GPT:
    """Give a model the adapters that the settings ask for, if any.

    Raises:
        ConfigError: Their rank is larger than the model is wide.
    """
    if settings.lora_rank > model.config.n_embd:
        raise ConfigError(
            f"lora_rank = {settings.lora_rank}, but the model is only {model.config.n_embd} wide, and a matrix has no "
            "larger rank; 8 to 64 is usual"
        )
    if settings.lora_rank:
        add_adapters(
            model,
            rank=settings.lora_rank,
            alpha=settings.adapter_alpha,
            dropout=settings.lora_dropout,
            targets=settings.lora_targets,
            seed=settings.seed,
        )
    return model
