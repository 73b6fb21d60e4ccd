"""A tiny random model with a BPE tokenizer of its own, and tasks of every kind in files that are written here."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from quillgpt.api import Model, load
from quillgpt.checkpoint import save_model
from quillgpt.text.tokenizers.tokenizer import tokenizer_from_spec
from tiny import GPT2, tiny_model

PROSE = (
    "The fox sleeps under the hedge. The dog barks at the gate, and the fox runs. A child asks: where is the fox? "
    "The answer is under the hedge. What does the dog do? It barks. What does the child do? She asks. \n"
) * 3

QUESTIONS: list[dict[str, Any]] = [
    {"question": "What does the dog do?", "choices": ["barks", "sleeps", "asks the child"], "answer": 0},
    {"question": "Where is the fox?", "choices": ["at the gate", "under the hedge"], "answer": 1},
    {"question": "Who asks ", "choices": ["the dog", "the fox", "the child", "the gate"], "answer": 2},
    {"question": "What does the fox do under the hedge? " * 6, "choices": ["sleeps", "barks"], "answer": 0},
    {"question": "Is the dog a dog?", "choices": ["yes", "no"], "answer": 0},
]
PASSAGES = [
    {"text": "The fox sleeps under the", "last": "hedge"},
    {"text": "The dog barks at the", "last": "gate"},
    {"text": "A child asks: where is the", "last": "fox"},
]
PAGES = [{"page": PROSE[:400]}, {"page": "The fox runs."}, {"page": "naïve café 🦊"}]
SUMS = [{"text": "fox fox fox", "reply": "fox"}, {"text": "The dog barks", "reply": " at"}, {"text": "A", "reply": "b"}]

CHOOSING = """
task: choosing
dataset_path: json
dataset_kwargs: {data_files: {test: "FOLDER/questions.jsonl", train: "FOLDER/questions.jsonl"}}
training_split: train
test_split: test
output_type: multiple_choice
doc_to_text: "Q: {{question}}\\nA:"
doc_to_choice: choices
doc_to_target: answer
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""
LAST_WORD = """
task: last_word
dataset_path: json
dataset_kwargs: {data_files: {test: "FOLDER/passages.jsonl"}}
test_split: test
output_type: loglikelihood
doc_to_text: text
doc_to_target: "{{' ' + last}}"
metric_list:
  - {metric: perplexity, aggregation: perplexity, higher_is_better: false}
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""
READING = """
task: reading
dataset_path: json
dataset_kwargs: {data_files: {test: "FOLDER/pages.jsonl"}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: page
metric_list:
  - {metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}
  - {metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}
"""
WRITING = """
task: writing
dataset_path: json
dataset_kwargs: {data_files: {test: "FOLDER/sums.jsonl"}}
test_split: test
output_type: generate_until
doc_to_text: text
doc_to_target: reply
generation_kwargs: {until: [" the", "x"], max_gen_toks: 12}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""
GROUP = """
group: everything
task: [choosing, last_word]
aggregate_metric_list:
  - {metric: acc, aggregation: mean, weight_by_size: true}
"""


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the files of tasks, and their data."""
    folder = tmp_path_factory.mktemp("tasks")
    for name, rows in {"questions": QUESTIONS, "passages": PASSAGES, "pages": PAGES, "sums": SUMS}.items():
        write_rows(folder / f"{name}.jsonl", rows)
    for name, text in {
        "choosing": CHOOSING,
        "last_word": LAST_WORD,
        "reading": READING,
        "writing": WRITING,
        "everything": GROUP,
    }.items():
        (folder / f"{name}.yaml").write_text(text.replace("FOLDER", str(folder)), encoding="utf-8")
    return folder


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


MakeModel = Callable[..., Path]


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> MakeModel:
    """Return a function that saves a random model as a Hugging Face folder."""

    def make(name: str, *, tokenizer: str = "bpe:300", seed: int = 0, **changes: Any) -> Path:
        made = tokenizer_from_spec(tokenizer, [PROSE])
        model = tiny_model(
            GPT2, seed=seed, **{"vocab_size": made.vocab_size, "block_size": 48, "n_layer": 2, **changes}
        )
        folder = tmp_path_factory.mktemp("model") / name
        folder.mkdir()
        save_model(folder, model, made, about={})
        return folder

    return make


@pytest.fixture(scope="session")
def model_folder(make_model: MakeModel) -> Path:
    return make_model("first")


@pytest.fixture(scope="session")
def model(model_folder: Path) -> Model:
    return load(model_folder, device="cpu", dtype="float32", threads=1)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what `datasets` converts out of the person's cache."""
    datasets = pytest.importorskip("datasets")
    cache = tmp_path_factory.getbasetemp() / "datasets"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
