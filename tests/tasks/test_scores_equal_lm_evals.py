"""Answers and scores are those of lm-eval's own class `hf` on the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval")
pytest.importorskip("transformers")

from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from quillgpt.api import Model
from quillgpt.tasks.catalogue import Catalogue
from quillgpt.tasks.evaluate import load_tasks, score_tasks
from quillgpt.tasks.language_model import QuillLM

LONG = "The fox sleeps under the hedge. " * 30


@pytest.fixture(scope="module")
def theirs(model_folder: Path) -> HFLM:
    return HFLM(pretrained=str(model_folder), device="cpu", dtype="float32", batch_size=2)


@pytest.fixture(scope="module")
def ours(model: Model) -> QuillLM:
    return QuillLM(model)


def requests(kind: str, *arguments: tuple[Any, ...]) -> list[Instance]:
    metadata = ("a task", 0, 1)
    return [Instance(kind, {}, given, number, metadata=metadata) for number, given in enumerate(arguments)]


def test_log_likelihoods_and_greediness_are_the_same(theirs: HFLM, ours: QuillLM) -> None:
    (greedy,) = theirs.generate_until(requests("generate_until", ("The fox", {"until": [], "max_gen_toks": 2})))
    asked = requests(
        "loglikelihood",
        ("The fox", " sleeps under the hedge."),
        ("The fox  ", "sleeps"),  # spaces at the end of the context belong to the continuation
        ("The fox sle", "eps"),  # the texts together have a token that neither has
        ("The fox", greedy),
        ("", "The dog barks."),
        ("", "<|endoftext|>The dog barks."),
        ("<|endoftext|>The fox", " runs<|endoftext|>"),
        ("Q: who?\nA:", " a"),
        ("Q: who?\nA:", " b"),
        (LONG, " barks"),
        ("naïve café 🦊", " 東京"),
    )
    expected, given = theirs.loglikelihood(asked), ours.loglikelihood(asked)
    assert [sum for sum, _ in given] == pytest.approx([sum for sum, _ in expected], rel=1e-5)
    assert [is_greedy for _, is_greedy in given] == [is_greedy for _, is_greedy in expected]
    assert given[3][1]
    assert not given[0][1]


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_the_number_of_texts_at_once_changes_nothing(model: Model, ours: QuillLM, batch_size: int) -> None:
    asked = requests("loglikelihood", *[(LONG[: 7 * length + 3], " fox") for length in range(1, 20)])
    batched = QuillLM(model, batch_size=batch_size).loglikelihood(asked)
    assert [sum for sum, _ in batched] == pytest.approx([sum for sum, _ in ours.loglikelihood(asked)], rel=1e-5)


def test_texts_longer_than_the_context_are_read_in_the_same_blocks(theirs: HFLM, ours: QuillLM) -> None:
    asked = requests("loglikelihood_rolling", ("The fox.",), (LONG,), (LONG * 2 + "!",))
    assert ours.loglikelihood_rolling(asked) == pytest.approx(theirs.loglikelihood_rolling(asked), rel=1e-5)


def test_generated_texts_are_the_same_up_to_the_first_stop(theirs: HFLM, ours: QuillLM) -> None:
    contexts = ["The fox", "The dog barks at the gate, and", "Where?", "A", LONG]
    unstopped = {"until": [], "max_gen_toks": 20}
    free = theirs.generate_until(requests("generate_until", *[(context, unstopped) for context in contexts]))
    stops = [free[0][3:5], free[1][6:8], "no such text"]
    options: list[dict[str, Any]] = [
        unstopped,
        {"until": stops, "max_gen_toks": 20},
        {"until": stops[0], "max_new_tokens": 9, "do_sample": False, "temperature": 0.0},
    ]
    asked = requests("generate_until", *[(context, option) for option in options for context in contexts])
    expected = theirs.generate_until(asked)
    assert ours.generate_until(asked) == expected
    assert len(set(expected)) > len(contexts)


@pytest.mark.parametrize("num_fewshot", [None, 2])
def test_scores_of_whole_tasks_are_the_same(
    folder: Path, ours: QuillLM, theirs: HFLM, num_fewshot: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda _: None)  # seconds of asking the system
    manager = TaskManager(include_path=folder, include_defaults=False)
    tasks = ["everything", "reading", "writing"]
    expected = simple_evaluate(theirs, tasks=tasks, num_fewshot=num_fewshot, task_manager=manager, bootstrap_iters=0)
    catalogue = Catalogue(str(folder))
    compared = 0
    for name in tasks:
        for scored in score_tasks(ours, load_tasks(catalogue, name, num_fewshot=num_fewshot)):
            score = scored.score
            assert score.score == pytest.approx(expected["results"][score.task][f"{score.metric},none"], rel=1e-4)
            assert score.num_fewshot == expected["n-shot"][score.task]
            compared += 1
    assert compared == 8
