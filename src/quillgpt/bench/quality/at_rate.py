"""What `own_text` would choose on a machine of a given speed, so that a comparison does not depend on this one's."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from quillgpt.config import resolve
from quillgpt.config.schema import TrainSettings
from quillgpt.config.sources import OWN_TEXT
from quillgpt.config.values import spell_value
from quillgpt.console import quietly
from quillgpt.training.planning import scaling
from quillgpt.training.planning.scaling import Text, cost_of
from quillgpt.training.start.choices import Machine
from quillgpt.training.start.model_config import config_for
from quillgpt.training.start.run_data import open_data
from quillgpt.training.start.starting_point import StartingPoint


def flags_at_rate(flags: Mapping[str, str], operations: float) -> dict[str, str]:
    """Prepare a text and return the flags of a run of so many operations, with a value for all that the rules choose.

    Args:
        flags: The flags of `quill train own_text`, with its text, its minutes and what is not for the rules to choose.
        operations: Operations of all iterations.

    Raises:
        UserError: The flags or the text cannot be used.
    """
    given = resolve(OWN_TEXT, flags)
    start = StartingPoint(given, Machine(torch.device("cpu"), torch.float32), parent=None, stored=None)
    with quietly():
        mixture = open_data(start)
    planned = scaled_to(given, Text.of(mixture), operations)
    values = planned.model_dump()
    chosen = {name: value for name, value in values.items() if value != getattr(given, name)}
    kept = {name: value for name, value in flags.items() if name != "minutes"}
    chosen |= {"tokenizer": mixture.tokenizer.name, "defaults": "fixed"}
    return kept | {name: spell_value(value) for name, value in chosen.items() if name != "minutes"}


def scaled_to(settings: TrainSettings, text: Text, operations: float) -> TrainSettings:
    """Return settings with all that the rules of own_text choose for a run of so many operations."""
    settings = scaling.with_block(settings, text, None)
    settings = scaling.with_learning_rates(settings, finetuning=False)
    settings = scaling.with_size(settings, text, operations)
    cost = cost_of(config_for(settings, text.tokenizer, text.vocab_size))
    return scaling.with_schedule(settings, text, cost, operations)
