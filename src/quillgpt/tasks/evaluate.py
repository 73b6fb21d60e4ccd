"""Loading tasks and scoring a model on them."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Final

import numpy as np
import torch
from lm_eval import evaluator
from lm_eval.api.task import ConfigurableTask

from quillgpt.console import warn
from quillgpt.errors import ConfigError, DataError, UserError, cut, join_names
from quillgpt.evaluation.uncertainty import Ratio
from quillgpt.tasks.catalogue import Catalogue
from quillgpt.tasks.language_model import QuillLM, generation_settings
from quillgpt.tasks.libraries import ALLOW, first_line, offline_if_unreachable, quiet_libraries, without_programs
from quillgpt.tasks.scores import DocumentSums, Scored, TaskScore, chance_level, read_sums, standard_error

PYTHON_SEED, SEED = 0, 1234
"""The seeds that lm-eval sets before it loads tasks."""

NOT_KNOWN: Final = "N/A"
"""A standard error that lm-eval does not know."""


def load_tasks(catalogue: Catalogue, name: str, *, num_fewshot: int | None = None) -> Any:
    """Return what lm-eval loads for a task, a group or a tag.

    Args:
        catalogue: The tasks that can be named.
        name: The name.
        num_fewshot: Examples in each prompt; None: as the task says. A task that is made for none keeps none.

    Raises:
        ConfigError: The task asks for what Quill cannot do, or runs code that is not allowed.
        DataError: A file of the task or its data are wrong, missing, or out of reach.
    """
    with without_programs(name, allowed=catalogue.may_run_code):
        loaded = _load(catalogue, name)
        for task_name, task in loaded["tasks"].items():
            _check_ability(task_name, task, may_run_code=catalogue.may_run_code)
            own = task.get_config("num_fewshot")
            if num_fewshot and own == 0:
                warn(f"{task_name} is made for prompts without examples; num_fewshot = {num_fewshot} is passed over")
            shots = num_fewshot if num_fewshot is not None else own or 0
            task.set_config(key="num_fewshot", value=0 if own == 0 else shots)
            _check_prompts(task_name, task)
            task.set_fewshot_seed(seed=SEED)
    return loaded


def _load(catalogue: Catalogue, name: str) -> Any:
    random.seed(PYTHON_SEED)
    np.random.seed(SEED)
    torch.manual_seed(SEED)
    hub_datasets = catalogue.hub_datasets(name)
    with quiet_libraries(), offline_if_unreachable(bool(hub_datasets)) as offline:
        try:
            return catalogue.manager(name).load([name])
        except (MemoryError, UserError):
            raise
        except Exception as error:  # the library, what it uses and what a task runs raise whatever they like
            raise _loading_error(name, error, hub_datasets, offline=offline) from error


def _check_ability(name: str, task: Any, *, may_run_code: bool) -> None:
    """Check that Quill can run a task, and may.

    Raises:
        ConfigError: It cannot, or may not.
    """
    if getattr(task, "MULTIMODAL", False):
        raise ConfigError(f"the task {name} has images or sounds; Quill's models read text only")
    if getattr(task, "UNSAFE_CODE", False) and not may_run_code:
        raise ConfigError(
            f"the task {name} runs the code that the model writes; allow it with {ALLOW}, best in a container"
        )


def _check_prompts(name: str, task: Any) -> None:
    """Check that the first prompt of a task can be made, before any model is read.

    Raises:
        ConfigError: The task has fewer examples than its prompts should have.
        DataError: A template or a function of the task fails.
    """
    shots, examples = task.get_config("num_fewshot"), getattr(getattr(task, "sampler", None), "df", None)
    if examples is not None and shots > len(examples):
        raise ConfigError(f"num_fewshot = {shots}, and the task {name} has {len(examples):,} examples; give no more")
    task.set_fewshot_seed(seed=SEED)
    with quiet_libraries():
        try:
            task.build_all_requests(limit=1)
            for request in task.instances:
                if request.request_type == "generate_until":
                    generation_settings(request.args[1])
        except UserError as error:
            raise DataError(f"the task {name} cannot be run: {error}") from None
        except MemoryError:
            raise
        except Exception as error:
            raise _loading_error(name, error, [], offline=False) from error


def score_tasks(
    language_model: QuillLM, loaded: Any, *, limit: float | None = None, may_run_code: bool = False
) -> list[Scored]:
    """Score a model on loaded tasks: one score for each metric of each task, and of each group after its tasks.

    Args:
        language_model: The model, as lm-eval asks it.
        loaded: The tasks, from `load_tasks`; load them again for another model.
        limit: Documents of each task, or below 1 their share; None: all.
        may_run_code: Run the code that a model writes, in tasks that need it.

    Raises:
        DataError: A task cannot be scored.
        TokenizerError: The model's tokenizer lacks a character of a task.
    """
    with quiet_libraries(), without_programs(join_names([*loaded["tasks"]]), allowed=may_run_code):
        try:
            results = evaluator.evaluate(
                language_model, loaded, limit=limit, bootstrap_iters=0, confirm_run_unsafe_code=may_run_code
            )
        except (MemoryError, UserError, RuntimeError):
            raise
        except Exception as error:  # from the functions, templates and data of a task
            raise DataError(f"{_words(error)}; check the task's file and its data") from error
        scored = [score for name, task in loaded["tasks"].items() for score in _scores_of_task(name, task, results)]
        for group in loaded.get("groups", {}).values():
            scored += _scores_of_group(group, scored, results)
    return scored


def _scores_of_task(name: str, task: Any, results: Mapping[str, Any]) -> list[Scored]:
    samples = results["samples"][name]
    own_scoring = task.get_config("process_results") is not None or (
        type(task).process_results is not ConfigurableTask.process_results
    )
    better = task.higher_is_better()
    scored = []
    for key, score in results["results"][name].items():
        metric, _, filter_name = key.partition(",")
        if not filter_name or metric.endswith("_stderr") or not _is_number(score):
            continue
        used = [sample for sample in samples if sample["filter"] == filter_name and metric in sample]
        values = [sample[metric] for sample in used]
        aggregation = task.aggregation().get(metric, import_module("lm_eval.api.metrics").mean)
        sums = read_sums(values, aggregation, tuple(sample["doc_hash"] for sample in used))
        scored.append(
            Scored(
                TaskScore(
                    task=name,
                    metric=metric,
                    filter=filter_name,
                    score=float(score),
                    standard_error=standard_error(float(score), sums, values, aggregation),
                    chance=chance_level(metric, task.OUTPUT_TYPE, used, has_own_scoring=own_scoring),
                    higher_is_better=better.get(metric),
                    documents=len(used),
                    num_fewshot=results["n-shot"].get(name),
                ),
                sums,
            )
        )
    return scored


def _scores_of_group(group: Any, scored: Sequence[Scored], results: Mapping[str, Any]) -> list[Scored]:
    """Return the scores of a group, computed by lm-eval from those of its tasks, and its chance levels likewise."""
    members = {task.task_name for task in group.get_all_tasks()}
    parts = [part for part in scored if part.score.task in members]
    means = group.aggregate(_as_lm_eval_has_them(parts, lambda score: score.score))
    chances = group.aggregate(
        _as_lm_eval_has_them(parts, lambda score: math.nan if score.chance is None else score.chance)
    )
    scores = []
    for key, mean in means.items():
        metric, _, filter_name = key.partition(",")
        if not filter_name or metric.endswith("_stderr"):
            continue
        alike = [part for part in parts if (part.score.metric, part.score.filter) == (metric, filter_name)]
        error = means.get(f"{metric}_stderr,{filter_name}", NOT_KNOWN)
        scores.append(
            Scored(
                TaskScore(
                    task=group.name,
                    metric=metric,
                    filter=filter_name,
                    score=float(mean),
                    standard_error=None if error == NOT_KNOWN else float(error),
                    chance=None if math.isnan(chances[key]) else float(chances[key]),
                    higher_is_better=results["higher_is_better"].get(group.name, {}).get(metric),
                    documents=sum(part.score.documents for part in alike),
                    num_fewshot=results["n-shot"].get(group.name),
                ),
                _joined_sums(alike, float(mean)),
            )
        )
    return scores


def _as_lm_eval_has_them(parts: Sequence[Scored], value: Any) -> dict[str, dict[str, Any]]:
    metrics: dict[str, dict[str, Any]] = {}
    for score in (part.score for part in parts):
        task = metrics.setdefault(score.task, {"sample_len": 0})
        task["sample_len"] = max(task["sample_len"], score.documents)
        task[f"{score.metric},{score.filter}"] = value(score)
        error = NOT_KNOWN if score.standard_error is None else score.standard_error
        task[f"{score.metric}_stderr,{score.filter}"] = error
    return metrics


def _joined_sums(parts: Sequence[Scored], score: float) -> DocumentSums | None:
    """Return the documents of all parts together, if their ratio is the score; not so for unweighted means of tasks."""
    known = [part.sums for part in parts if part.sums is not None and not part.sums.is_logarithm]
    if not known or len(known) < len(parts):
        return None
    joined = Ratio(
        np.concatenate([sums.ratio.totals for sums in known]), np.concatenate([sums.ratio.weights for sums in known])
    )
    if not math.isclose(joined.value, score, rel_tol=1e-9):
        return None
    return DocumentSums(joined, False, tuple(document for sums in known for document in sums.documents))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _loading_error(name: str, error: Exception, hub_datasets: Sequence[str], *, offline: bool) -> DataError:
    reason = _words(error)
    if not hub_datasets:
        return DataError(f"the task {name} cannot be loaded ({reason}); check its file and its data")
    needed = next((dataset for dataset in hub_datasets if dataset in reason), hub_datasets[0])
    if offline:
        return DataError(
            f"the task {name} needs the data set {needed}, which is not on this machine, and the Hugging Face hub "
            "cannot be reached; run it once with a connection, which keeps the data set here, or write a task with "
            "files of your own and name its folder with --include_path"
        )
    return DataError(f"the task {name} with the data set {needed} cannot be loaded ({reason})")


def _words(error: Exception) -> str:
    said = first_line(error)
    return cut(f"{type(error).__name__}: {said}" if said else type(error).__name__)
