"""Every setting has a description, and docs/settings.md is current."""

from itertools import pairwise
from pathlib import Path

import pytest

from quillgpt.config.documentation import settings_markdown
from quillgpt.config.schema import (
    COMMAND_SETTINGS,
    Settings,
    TrainFields,
    TrainSettings,
    fields_in_order,
    grouped_fields,
)
from quillgpt.config.values import expectation, read_value, spell_value

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


@pytest.mark.parametrize("schema", COMMAND_SETTINGS.values())
def test_every_setting_is_in_one_group_and_explained(schema: type[Settings]) -> None:
    fields = fields_in_order(schema)
    assert set(fields) == set(schema.model_fields)
    assert sum(map(len, grouped_fields(schema).values())) == len(fields)
    for name, field in fields.items():
        assert field.description, name
        assert field.description.endswith("."), name
        assert expectation(field), name


@pytest.mark.parametrize("schema", COMMAND_SETTINGS.values())
def test_default_is_spelled_so_that_it_reads_back(schema: type[Settings]) -> None:
    for name, field in schema.model_fields.items():
        assert read_value(field, spell_value(field.default), lax=True) == field.default, name


def test_groups_are_in_the_order_of_the_work() -> None:
    names = list(fields_in_order(TrainFields))
    places = [names.index(name) for name in ("out_dir", "dataset", "n_layer", "learning_rate", "eval_iters", "device")]
    assert all(earlier < later for earlier, later in pairwise(places))


def test_settings_cannot_change_nor_take_unknown_names() -> None:
    settings = TrainSettings()
    with pytest.raises(ValueError, match="frozen"):
        settings.seed = 3  # type: ignore[misc]
    with pytest.raises(ValueError, match="learning_rat"):
        TrainSettings(learning_rat=3)  # type: ignore[call-arg]


def test_page_is_current() -> None:
    command = "python -m quillgpt.config.documentation > docs/settings.md"
    assert PAGE.read_text(encoding="utf-8") == settings_markdown(), f"run {command}"
