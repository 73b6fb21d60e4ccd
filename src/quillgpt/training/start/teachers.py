"""The models that teach a run: opened and checked, and found again where the run is resumed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from quillgpt.checkpoint import LoadedModel
from quillgpt.checkpoint.load import identify
from quillgpt.config.dataset_names import split_sources
from quillgpt.config.runs import CHECKPOINTS, how_to_go_on, places_of
from quillgpt.config.schema import TrainSettings
from quillgpt.errors import CheckpointError, ConfigError, TokenizerError, UserError
from quillgpt.interop import holds_model, open_model
from quillgpt.model import GPT
from quillgpt.model.distillation import in_form_of_teacher
from quillgpt.model.gpt import FUSED
from quillgpt.native import why_unavailable
from quillgpt.training.start.adapter_base import weights_sha256
from quillgpt.training.start.choices import Machine
from quillgpt.training.start.starting_point import StartingPoint


def with_teachers(start: StartingPoint, tokenizer_fingerprint: str | None) -> StartingPoint:
    """Return what a run starts from with its teachers, on its device.

    Args:
        start: What the run starts from, with its context.
        tokenizer_fingerprint: That of the run's tokenizer; None: not known yet.

    Raises:
        ConfigError: A teacher's context is shorter than the run's, one is named twice, or the run would take its place.
        TokenizerError: A teacher has another tokenizer.
        CheckpointError: There is no such model, or it has changed since the run began.
    """
    settings = start.settings
    if settings.teachers is None or settings.eval_only:
        return start
    found = {}
    for name in split_sources(settings.teachers):
        teacher = find_teacher(name, settings, start.state.teachers.get(name))
        if tokenizer_fingerprint not in (None, teacher.tokenizer.fingerprint):
            raise TokenizerError(
                f"{name} cannot teach: its tokenizer is {identify(teacher.tokenizer)}, and the text was prepared with "
                f"another; prepare the text with --tokenizer={teacher.folder}, or name models that were trained on it"
            )
        if teacher.folder.resolve().is_relative_to((Path(settings.out_dir) / CHECKPOINTS).resolve()):
            raise ConfigError(f"{name} cannot teach a run that takes its place; train into another --out_dir")
        if teacher.config.block_size < settings.block_size:
            raise ConfigError(
                f"{name} cannot teach: its context is {teacher.config.block_size} tokens, and block_size = "
                f"{settings.block_size}; use --block_size={teacher.config.block_size}"
            )
        found[name] = teacher
    if not found:
        raise ConfigError(f"teachers = {settings.teachers!r} names no model; separate models by commas")
    models = tuple(build_teacher(teacher, start.machine) for teacher in found.values())
    hashes = {name: weights_sha256(teacher) for name, teacher in found.items()}
    if len(set(hashes.values())) < len(hashes):
        raise ConfigError(f"teachers = {settings.teachers} names a model twice; name each once")
    return replace(start, teachers=models, teacher_hashes=hashes)


def build_teacher(teacher: LoadedModel, machine: Machine) -> GPT:
    """Return a teacher on the device of the run that it teaches, in the form that computes fastest there."""
    is_fused = machine.device.type == "cpu" and teacher.config.fusible and why_unavailable(machine.dtype) is None
    model = replace(teacher, dropout=0.0, attn_path=FUSED if is_fused else teacher.attn_path).build()
    return in_form_of_teacher(model.to(machine.device))


def find_teacher(name: str, settings: TrainSettings, known_hash: str | None) -> LoadedModel:
    """Open a teacher; that of a resumed run may have been moved together with the run, but must not have changed.

    Args:
        name: Its name in the settings.
        settings: The run's.
        known_hash: That of its weights, if it has taught the run before.

    Raises:
        UserError: There is no such model, it is damaged, or it has changed.
    """
    if known_hash is None:
        return open_model(name, data_dir=Path(settings.data_dir))
    for place in places_of_teacher(name, Path(settings.out_dir)):
        try:
            teacher = open_model(place, data_dir=Path(settings.data_dir))
        except UserError:  # the error below says more
            continue
        if weights_sha256(teacher) == known_hash:
            return teacher
    raise CheckpointError(
        f"{name}, which teaches the run in {settings.out_dir}, is gone or has changed; bring it back, or go on without "
        f"teachers: {how_to_go_on(settings.out_dir)} --teachers=none"
    )


def places_of_teacher(name: str, run: Path) -> Iterator[str | Path]:
    """Yield where a teacher may be: under its name, or beside a run that was moved."""
    yield name
    yield from (place for place in places_of(name, run) if holds_model(place))
