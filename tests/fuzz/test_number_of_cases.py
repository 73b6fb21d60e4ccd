"""The suite tries at least ten thousand cases, and some of everything that reads what others wrote."""

import importlib.util
from pathlib import Path

import pytest

from fuzzing import CASES

AT_LEAST = 10_000
READERS = {
    "config loader": ("test_a_toml_file", "test_flags", "test_the_environment", "test_a_dotenv_file"),
    "reader of .py configs": ("test_a_python_file_is_read_and_never_run",),
    "tokenizers": ("test_every_text_comes_back", "test_a_changed_tokenizer", "test_a_damaged_tokenizer"),
    "decoding": ("test_any_bytes", "test_damaged_texts_in_any_encoding", "test_any_ids"),
    "prompts": ("test_every_prompt_comes_back",),
    "checkpoint loader": ("test_one_flipped_bit", "test_any_damage", "test_a_changed_config", "test_a_changed_state"),
    "checkpoints of other programs": ("test_a_changed_pickle", "test_a_damaged_pickle"),
    "manifests": ("test_a_changed_manifest", "test_a_damaged_data_set"),
    "documents": ("test_a_damaged_document",),
    "commands": ("test_any_command_line", "test_a_command_with_a_damaged_file"),
}


@pytest.fixture(scope="module")
def cases() -> dict[str, int]:
    """Return how many cases each property has at least; where it is tried with several fixtures, it has more."""
    for file in Path(__file__).parent.glob("test_*.py"):
        if file != Path(__file__):
            spec = importlib.util.spec_from_file_location(f"counted.{file.stem}", file)
            assert spec is not None
            assert spec.loader is not None
            spec.loader.exec_module(importlib.util.module_from_spec(spec))
    return {name.rpartition(".")[2]: count for name, count in CASES.items() if name.startswith("counted.")}


def test_there_are_ten_thousand_cases(cases: dict[str, int]) -> None:
    assert sum(cases.values()) >= AT_LEAST


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_has_cases(cases: dict[str, int], reader: str) -> None:
    assert sum(cases[name] for name in READERS[reader]) >= 100
