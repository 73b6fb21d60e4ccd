"""Which tasks can be named, what is refused, and what a score is worth."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("lm_eval")

from lm_eval.api import metrics

from quillgpt.api import Model, load
from quillgpt.errors import ConfigError, DataError
from quillgpt.tasks.language_model import generation_settings
from quillgpt.tasks.scores import Scored, chance_level, difference, read_sums, standard_error
from quillgpt.tasks.suite import TaskSuite

from .conftest import write_rows

MINIMAL = """
task: NAME
dataset_path: json
dataset_kwargs: {data_files: {test: "FOLDER/questions.jsonl"}}
test_split: test
output_type: multiple_choice
doc_to_text: question
doc_to_choice: choices
doc_to_target: answer
"""


def write_task(place: Path, name: str, data: Path, text: str = "", **changes: str) -> None:
    """Write a task file that is right, with some lines replaced, and `text` at its end."""
    content = MINIMAL.replace("NAME", name).replace("FOLDER", str(data))
    for key, value in changes.items():
        content = re.sub(rf"^{key}: .*\n", f"{key}: {value}\n" if value else "", content, flags=re.MULTILINE)
    (place / f"{name}.yaml").write_text(content + text, encoding="utf-8")


def refused(names: list[str], place: Path, kind: type[Exception] = ConfigError, **how: Any) -> str:
    """Return the one line with which tasks are refused."""
    with pytest.raises(kind) as caught:
        TaskSuite(names, include_path=str(place), **how)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_names_groups_and_files_mean_tasks(folder: Path, tmp_path: Path) -> None:
    assert TaskSuite(["choosing", "choosing"], include_path=str(folder)).names == ["choosing"]
    write_task(tmp_path, "cats_big", folder, "tag: cats\n")
    write_task(tmp_path, "cats_small", folder, "tag: [cats]\n")
    suite = TaskSuite(["cats", "cats_small", str(folder / "writing.yaml")], include_path=str(tmp_path))
    assert suite.names == ["cats", "cats_small", str(folder / "writing.yaml")]


def test_patterns_mean_tasks_and_a_missing_one_is_named_with_the_nearest(folder: Path, tmp_path: Path) -> None:
    assert refused(["choosing", "hellaswga"], folder) == (
        f"there is no task hellaswga in lm-eval, nor in {folder}; did you mean hellaswag?"
    )
    assert refused(["chosing"], folder).endswith("did you mean choosing?")
    assert "`lm-eval ls tasks`" in refused(["qqqqqqqqqqqq"], folder)
    assert TaskSuite(["*oosing"], include_path=str(folder)).names == ["choosing"]
    assert "no task has a name like nothing_*" in refused(["nothing_*"], folder)
    assert refused(["nowhere.yaml"], folder) == "there is no task file nowhere.yaml"
    assert "is no folder" in refused(["choosing"], folder / "absent")
    assert "names no task" in refused([], folder)
    (tmp_path / "some.yaml").write_text("group: some\ntask: [hellaswag, helaswag]\n", encoding="utf-8")
    assert refused(["some"], tmp_path) == "some names the task helaswag, which is unknown; did you mean hellaswag?"


def test_lm_evals_own_tasks_read_folders_that_are_named_like_their_data_sets(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    endings = {"ctx_a": "The fox", "ctx_b": "runs", "endings": ["fast", "[x] under", "in", "up"], "activity_label": "A"}
    text = {"text": "The fox sleeps under the hedge"}
    for place, rows in {
        "Rowan/hellaswag/train.jsonl": [{**endings, "ctx_a": "The dog", "label": "3"}] * 3,
        "Rowan/hellaswag/validation.jsonl": [{**endings, "label": str(label)} for label in range(4)],
        "EleutherAI/lambada_openai/test.jsonl": [text, text],
    }.items():
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        write_rows(tmp_path / place, rows)
    suite = TaskSuite(["hellaswag", "lambada_openai"], num_fewshot=1)
    scores = scores_of(suite, model)
    suite.check_complete()
    assert (scores["hellaswag", "acc"].score.documents, scores["hellaswag", "acc"].score.chance) == (4, 0.25)
    assert scores["hellaswag", "acc"].score.score == 0.25  # four times one document, with four answers
    assert scores["lambada_openai", "perplexity"].score.documents == 2


def test_broken_task_files_are_named_by_line(folder: Path, tmp_path: Path) -> None:
    write_task(tmp_path, "right", folder)
    (tmp_path / "broken.yaml").write_text("task: broken\nmetric_list: [a, b\n", encoding="utf-8")
    message = refused(["right"], tmp_path)
    assert re.match(rf"{tmp_path}/broken.yaml, line \d: the task file is no YAML", message)
    (tmp_path / "broken.yaml").write_text("include: absent.yaml\n", encoding="utf-8")
    assert f"{tmp_path}/absent.yaml, which {tmp_path}/broken.yaml includes, cannot be read" in refused(
        ["right"], tmp_path
    )
    (tmp_path / "broken.yaml").write_text("include: broken.yaml\n", encoding="utf-8")
    assert "includes itself" in refused(["right"], tmp_path)
    (tmp_path / "broken.yaml").write_bytes(b"\xff\xfe\x00task")
    assert "broken.yaml" in refused(["right"], tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"test_split": "validation"}, "validation"),
        ({"doc_to_text": "'{{nothing}}'"}, "nothing"),
        ({"doc_to_choice": "'{{question}}'"}, "cannot be loaded"),
        ({"output_type": "guessing"}, "guessing"),
        ({"dataset_kwargs": "{data_files: {test: absent.jsonl}}"}, "absent.jsonl"),
        ({"test_split": ""}, "valid or test docs"),
    ],
)
def test_what_is_wrong_with_a_task_is_said_in_one_line(
    folder: Path, tmp_path: Path, changes: dict[str, str], said: str
) -> None:
    write_task(tmp_path, "wrong", folder, **changes)
    message = refused(["wrong"], tmp_path, DataError)
    assert message.startswith("the task wrong cannot be loaded (")
    assert said in message


def test_what_the_sampling_lacks_is_said_before_a_model_is_read(folder: Path, tmp_path: Path) -> None:
    write_task(tmp_path, "beams", folder, "generation_kwargs: {num_beams: 3}\n", output_type="generate_until")
    assert "the task beams cannot be run: generation_kwargs has num_" in refused(["beams"], tmp_path, DataError)


def test_data_that_are_no_data_are_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"question": "Who', encoding="utf-8")
    write_task(tmp_path, "wrong", folder, dataset_kwargs=f"{{data_files: {{test: {tmp_path}/bad.jsonl}}}}")
    assert "the task wrong cannot be loaded" in refused(["wrong"], tmp_path, DataError)
    (tmp_path / "bad.jsonl").write_text("", encoding="utf-8")
    assert "the task wrong cannot be loaded" in refused(["wrong"], tmp_path, DataError)


CODE = "def run(documents):\n    raise RuntimeError('this ran')\n"


def test_code_beside_a_task_runs_only_if_that_is_allowed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text(CODE, encoding="utf-8")
    write_task(tmp_path, "coded", folder, "process_docs: !function code.run\n")
    write_task(tmp_path, "plain", folder)
    write_task(tmp_path, "including", folder, "include: coded.yaml\n", task="including")
    (tmp_path / "both.yaml").write_text("group: both\ntask: [plain, coded]\n", encoding="utf-8")
    assert refused(["coded"], tmp_path) == (
        f"the task coded runs Python code: {tmp_path}/coded.yaml, line 10, names the function code.run; if you trust "
        "it, allow it with --confirm_run_unsafe_code"
    )
    assert f"{tmp_path}/coded.yaml, line 10" in refused(["including"], tmp_path)
    assert "the task coded runs Python code" in refused(["both"], tmp_path)
    assert "runs Python code" in refused([str(tmp_path / "coded.yaml")], folder)
    assert TaskSuite(["plain"], include_path=str(tmp_path)).names == ["plain"]
    assert "RuntimeError: this ran" in refused(["coded"], tmp_path, DataError, may_run_code=True)


def test_templates_reach_no_python_objects(folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    attack = f"\"{{{{ cycler.__init__.__globals__.os.mkdir('{mark}') }}}}\""
    write_task(tmp_path, "attack", folder, doc_to_text=attack)
    assert "SecurityError" in refused(["attack"], tmp_path, DataError)
    assert not mark.exists()


def test_metrics_that_are_programs_are_not_fetched(folder: Path, tmp_path: Path) -> None:
    write_task(tmp_path, "measured", folder, "metric_list: [{metric: no_such_metric}]\n")
    assert "the task measured has the metric no_such_metric, which lm-eval lacks" in refused(["measured"], tmp_path)
    write_task(tmp_path, "measured", folder, "metric_list: [{metric: acc, hf_evaluate: true}]\n")
    assert "the task measured has the metric acc" in refused(["measured"], tmp_path)
    write_task(tmp_path, "scored", folder, "process_results: some text\nmetric_list: [{metric: no_such_metric}]\n")
    (tmp_path / "group.yaml").write_text("group: several\ntask: [{task: scored, process_results: null}]\n", "utf-8")
    assert "the task several has the metric no_such_metric" in refused(["several"], tmp_path)


def test_tasks_that_run_what_the_model_writes_must_be_allowed(folder: Path, tmp_path: Path) -> None:
    write_task(tmp_path, "programs", folder, "unsafe_code: true\n")
    assert "the task programs runs the code that the model writes" in refused(["programs"], tmp_path)
    assert TaskSuite(["programs"], include_path=str(tmp_path), may_run_code=True).names == ["programs"]


def test_without_a_network_a_task_of_the_hub_is_refused_at_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://hub.invalid")
    write_task(tmp_path, "remote", folder, dataset_path="nobody/questions", dataset_kwargs="")
    message = refused(["remote"], tmp_path, DataError)
    assert message.startswith(
        "the task remote needs the data set nobody/questions, which is not on this machine, and the Hugging Face hub "
        "cannot be reached; run it once with a connection"
    )
    from huggingface_hub import constants

    assert not constants.HF_HUB_OFFLINE


def test_the_task_of_the_documentation_runs(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for name, kind in {"animals.yaml": "yaml", "animals.jsonl": "json"}.items():
        (block,) = re.findall(rf"```{kind}\n(.*?)```", document, re.DOTALL)
        (tmp_path / name).write_text(block, encoding="utf-8")
    scores = scores_of(TaskSuite(["animals"], include_path="."), model)
    assert scores["animals", "acc_norm"].score.chance == pytest.approx(1 / 3)


def scores_of(suite: TaskSuite, model: Model, **how: Any) -> dict[tuple[str, str], Scored]:
    return {(scored.score.task, scored.score.metric): scored for scored in suite.score(model, **how)}


def test_scores_have_standard_errors_chance_levels_and_counts(folder: Path, model: Model) -> None:
    scores = scores_of(TaskSuite(["everything", "reading", "writing"], include_path=str(folder)), model)
    choosing, group = scores["choosing", "acc"].score, scores["everything", "acc"].score
    assert choosing.documents == 5
    assert choosing.chance == pytest.approx((1 / 3 + 1 / 2 + 1 / 4 + 1 / 2 + 1 / 2) / 5)
    accuracy = choosing.score
    assert choosing.standard_error == pytest.approx(math.sqrt(accuracy * (1 - accuracy) / 4))
    assert group.documents == 8
    assert group.chance == pytest.approx(choosing.chance * 5 / 8)
    assert group.score == pytest.approx(accuracy * 5 / 8)
    assert group.standard_error > 0
    assert scores["last_word", "acc"].score.chance == 0
    assert scores["last_word", "perplexity"].score.chance is None
    assert scores["reading", "word_perplexity"].score.higher_is_better is False
    assert scores["writing", "exact_match"].score.chance == 0


def test_limit_takes_some_documents_of_each_task(folder: Path, model: Model) -> None:
    for limit, taken in [(2, 2), (0.5, 3), (100, 5)]:
        suite = TaskSuite(["choosing"], include_path=str(folder), limit=limit)
        assert scores_of(suite, model)["choosing", "acc"].score.documents == taken


def test_standard_errors_of_perplexities_are_those_of_resampling() -> None:
    draw = np.random.default_rng(0)
    words = draw.integers(20, 200, size=400)
    texts = [(float(-3 * count + 4 * math.sqrt(count) * draw.normal()), int(count)) for count in words]
    for values, aggregation in [
        ([loglikelihood / 200 for loglikelihood, _ in texts], metrics.perplexity),
        (texts, metrics.weighted_perplexity),
        (texts, metrics.bits_per_byte),
    ]:
        score = aggregation(values)
        sums = read_sums(values, aggregation, ())
        picks = [draw.integers(0, 400, size=400) for _ in range(300)]
        resampled = np.std([aggregation([values[i] for i in pick]) for pick in picks])
        assert standard_error(score, sums, values, aggregation) == pytest.approx(resampled, rel=0.15)


def test_scores_that_are_no_means_are_resampled_or_have_no_standard_error() -> None:
    values = np.random.default_rng(0).normal(size=400).tolist()
    assert 0.04 < standard_error(0.0, None, values, metrics.median) < 0.09  # in theory 1.25 / sqrt(400)
    assert standard_error(0.3, None, values, max) is None
    assert read_sums([{"a": 1}], metrics.mean, ()) is None


def test_chance_knows_several_right_answers_and_what_it_cannot_know() -> None:
    asked = {"arguments": [("q", "a"), ("q", "b"), ("q", "c"), ("q", "d")], "metrics": ["acc"]}
    several = {**asked, "target": [0, 2]}
    assert chance_level("acc", "multiple_choice", [several], has_own_scoring=False) == 0.5
    twice = {**asked, "target": 1, "metrics": ["acc_mutual_info"]}
    assert chance_level("acc_mutual_info", "multiple_choice", [twice], has_own_scoring=False) == 0.5
    assert chance_level("acc", "multiple_choice", [several], has_own_scoring=True) is None
    assert chance_level("f1", "multiple_choice", [several], has_own_scoring=False) is None


def test_two_models_are_compared_document_by_document(folder: Path, model: Model, make_model: Any) -> None:
    other = load(make_model("second", seed=1), device="cpu", dtype="float32", threads=1)
    suite = TaskSuite(["choosing", "reading"], include_path=str(folder))
    one, two = scores_of(suite, model), scores_of(suite, other)
    for key in one:
        estimate = difference(one[key], two[key])
        assert estimate is not None
        assert estimate.groups == one[key].score.documents
        expected = one[key].score.score - two[key].score.score
        if key[1] == "word_perplexity":
            expected = math.log(one[key].score.score) - math.log(two[key].score.score)
        assert estimate.value == pytest.approx(expected)
    assert difference(one["choosing", "acc"], two["reading", "bits_per_byte"]) is None


def test_the_same_model_twice_gives_the_same_scores(folder: Path, model: Model) -> None:
    suite = TaskSuite(["choosing"], include_path=str(folder), num_fewshot=2)
    assert [part.score for part in suite.score(model)] == [part.score for part in suite.score(model)]


def test_research_kernels_answer_too(folder: Path, make_model: Any) -> None:
    changed = load(make_model("kernel"), device="cpu", dtype="float32", threads=1, attn_type="PA_relu")
    scores = scores_of(TaskSuite(["choosing", "writing"], include_path=str(folder)), changed)
    assert scores["choosing", "acc"].score.documents == 5


def test_a_character_that_the_model_lacks_is_named_and_other_tasks_go_on(folder: Path, make_model: Any) -> None:
    by_characters = load(make_model("char", tokenizer="char"), device="cpu", dtype="float32", threads=1)
    suite = TaskSuite(["reading", "last_word"], include_path=str(folder))
    assert {task for task, _ in scores_of(suite, by_characters)} == {"last_word"}
    with pytest.raises(DataError, match=r"task reading, document 2: the character 'ï' \(U\+00EF\) is unknown"):
        suite.check_complete()


def test_a_model_that_overflows_gets_no_score(folder: Path, make_model: Any) -> None:
    overflowing = load(make_model("overflow"), device="cpu", dtype="float32", threads=1)
    with torch.no_grad():
        overflowing.gpt.final_norm.weight.fill_(float("nan"))
    suite = TaskSuite(["choosing", "writing"], include_path=str(folder))
    assert scores_of(suite, overflowing) == {}
    with pytest.raises(DataError, match=r"writing could not be scored .* logits are NaN"):
        suite.check_complete()


def test_more_examples_than_there_are_are_refused(folder: Path) -> None:
    assert "num_fewshot = 6, and the task choosing has 5 examples" in refused(["choosing"], folder, num_fewshot=6)


def test_a_shorter_context_is_a_setting_and_a_longer_one_an_error(folder: Path, model: Model) -> None:
    suite = TaskSuite(["reading"], include_path=str(folder))
    whole, short = scores_of(suite, model), scores_of(suite, model, block_size=4)
    assert whole["reading", "bits_per_byte"].score.score != short["reading", "bits_per_byte"].score.score
    with pytest.raises(ConfigError, match="the model sees 48 tokens at once"):
        list(suite.score(model, block_size=49))


def test_generation_options_are_read_as_lm_eval_writes_them() -> None:
    greedy, stops = generation_settings({"until": "\n\n", "max_gen_toks": 5, "do_sample": False, "temperature": 0.7})
    assert (greedy.max_new_tokens, greedy.temperature, stops) == (5, 0.0, ("\n\n",))
    sampled, stops = generation_settings({"until": ["a", ""], "do_sample": True, "top_p": 0.9, "num_beams": 1})
    assert (sampled.max_new_tokens, sampled.temperature, sampled.top_p, stops) == (256, 1.0, 0.9, ("a",))
    for wrong in ({"num_beams": 4}, {"unknown": 1}, {"max_gen_toks": -1}, {"top_p": 7}):
        with pytest.raises(DataError, match="generation_kwargs"):
            generation_settings(wrong)
