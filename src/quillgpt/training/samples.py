"""What a run writes while it trains: now and then a sample, always with the same prompt and seed.

Nothing of the run changes by it: the random numbers are its own, and the model's mode is restored.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from quillgpt.checkpoint import TrainingState
from quillgpt.config.schema import Sampling, TrainSettings
from quillgpt.data.dataset import Dataset
from quillgpt.data.mixture import Mixture
from quillgpt.distributed import World
from quillgpt.errors import ConfigError
from quillgpt.extras import import_extra
from quillgpt.generation import Sample, draw_samples, prompt_ids, read_start
from quillgpt.model import GPT
from quillgpt.trace import check_has_text
from quillgpt.training.compilation import uncompiled
from quillgpt.training.run import Prompt, Run

SAMPLE_TOKENS = 200

SHOWN_LINES, SHOWN_CHARACTERS = 4, 100
"""Lines of a sample that a person is shown, and characters of each."""

RECORDED_PROMPT = 1000
"""Characters of a prompt, at its end, that a sample's row has; a prompt from a file may have millions."""


def is_writing(settings: TrainSettings) -> bool:
    """Whether a run is asked for samples, to be shown or to be traced."""
    return not settings.eval_only and (settings.sample_interval > 0 or settings.trace_samples)


def check_samples(settings: TrainSettings, world: World) -> None:
    """Check that a run can write and be traced, as far as that is known before its data is opened.

    Raises:
        ConfigError: Each rank holds a part of the weights.
        UserError: The extra `trace` is missing.
    """
    if not is_writing(settings):
        return
    if settings.strategy == "fsdp" and world.size > 1:
        asked = f"sample_interval = {settings.sample_interval}" if settings.sample_interval else "trace_samples = true"
        raise ConfigError(
            f"{asked} needs whole weights in a process, and strategy = fsdp divides them between {world.size}; train "
            "with --strategy=ddp, or without it"
        )
    if settings.trace_samples:
        import_extra("pydivsufsort", extra="trace", purpose="--trace_samples")


def prompt_of_samples(settings: TrainSettings, mixture: Mixture, replayed: Dataset | None) -> Prompt | None:
    """Return the prompt of a run's samples; where none is set, the start of a text, as its model learns it.

    Args:
        settings: The run's.
        mixture: What it learns from.
        replayed: What it should not forget, if anything.

    Returns:
        None where it writes nothing.

    Raises:
        DataError: The samples are to be traced, and the text of the tokens is not known.
        UserError: The prompt's file cannot be read, or the tokenizer lacks one of its characters.
    """
    if not is_writing(settings):
        return None
    if settings.trace_samples:
        check_has_text([*mixture.datasets, *([] if replayed is None else [replayed])])
    start = None if settings.sample_prompt is None else read_start(settings.sample_prompt)
    return prompt_ids(mixture.tokenizer, start, starts_with_end_of_text=mixture.ends_documents)


def sample_is_due(state: TrainingState, settings: TrainSettings) -> bool:
    """Whether a run writes a sample now: every `sample_interval` iterations, and at its end."""
    interval, iteration = settings.sample_interval, state.iteration
    return interval > 0 and iteration > 0 and (iteration % interval == 0 or iteration >= settings.max_iters)


def samples_to_come(iteration: int, end: int, settings: TrainSettings) -> int:
    """Return how many samples come after an iteration in a run that ends at iteration `end`."""
    interval = settings.sample_interval
    if not interval or end <= iteration:
        return 0
    return end // interval - iteration // interval + (end % interval > 0)


def draw_sample(run: Run) -> Sample:
    """Return what the model that a run evaluates writes now, as `quill sample` does with the run's seed."""
    assert run.prompt is not None
    sampling = Sampling(num_samples=1, max_new_tokens=SAMPLE_TOKENS, seed=run.settings.seed)
    with writing(run.evaluated_model) as model:
        return next(draw_samples(model, run.mixture.tokenizer, run.prompt, sampling))


@contextmanager
def writing(model: GPT) -> Iterator[GPT]:
    """Let a model write while the block runs: without dropout, and uncompiled, as it comes token by token."""
    was_training = model.training
    model.eval()
    try:
        with uncompiled(model):
            yield model
    finally:
        model.train(was_training)


def shown(text: str) -> str:
    """Return the beginning of a sample as a few indented lines."""
    lines = [line for line in text.splitlines() if line.strip()]
    cut = [line if len(line) <= SHOWN_CHARACTERS else f"{line[:SHOWN_CHARACTERS]}..." for line in lines[:SHOWN_LINES]]
    return "\n".join(f"  {line}" for line in [*cut, *(["..."] if len(lines) > SHOWN_LINES else [])])
