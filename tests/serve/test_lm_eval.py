"""lm-eval, asking a server by its own client, finds the scores that Quill's evaluator has."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("lm_eval", reason="the package lm-eval is not installed")

from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

from quillgpt.tasks.catalogue import Catalogue
from quillgpt.tasks.evaluate import load_tasks, score_tasks
from quillgpt.tasks.language_model import QuillLM

ROWS = [
    {"text": "It was the best of", "last": "times", "page": "It was the best of times. " * 12},
    {"text": "naïve", "last": "café", "page": "naïve café, 東京. worst of times"},
    {"text": "It was the", "last": "worst of times", "page": "times"},
]
TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{folder}/rows.jsonl"}}}}
test_split: test
output_type: {kind}
doc_to_text: "{text}"
doc_to_target: "{target}"
metric_list:
  - {{metric: {metric}, aggregation: {aggregation}, higher_is_better: false}}
  {accuracy}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    likelihood = {
        "text": "{{text}}",
        "target": " {{last}}",
        "metric": "perplexity",
        "aggregation": "perplexity",
        "accuracy": "- {metric: acc, aggregation: mean, higher_is_better: true}",
    }
    rolling = {
        "text": "",
        "target": "{{page}}",
        "metric": "bits_per_byte",
        "aggregation": "bits_per_byte",
        "accuracy": "",
    }
    for name, kind, words in (("last", "loglikelihood", likelihood), ("pages", "loglikelihood_rolling", rolling)):
        text = TASK.format(name=name, kind=kind, folder=folder, **words)
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder


def test_scores_are_those_of_quill(running, folder, monkeypatch):
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda _: None)  # seconds of asking the system
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    asked = {
        "model": "tiny",
        "base_url": f"{running.url}/v1/completions",
        "tokenizer": str(running.model.folder),
        "max_length": running.model.config.block_size,
        "num_concurrent": 1,
    }
    manager = TaskManager(include_path=folder, include_defaults=False)
    found = simple_evaluate(
        "local-completions", model_args=asked, tasks=["last", "pages"], task_manager=manager, bootstrap_iters=0
    )["results"]
    # lm-eval's client cuts texts so that there is room for a token that it asks for in vain, and for the first one.
    ours = QuillLM(running.model, block_size=running.model.config.block_size - 2)
    compared = 0
    for name in ("last", "pages"):
        for scored in score_tasks(ours, load_tasks(Catalogue(str(folder)), name)):
            score = scored.score
            assert score.score == pytest.approx(found[score.task][f"{score.metric},none"], rel=1e-4)
            compared += 1
    assert compared == 3
