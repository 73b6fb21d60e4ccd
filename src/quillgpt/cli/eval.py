"""`quill eval`."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from quillgpt.cli.flags import JSON_FLAG, model_argument, settings_flags, switch
from quillgpt.config import EvalSettings, resolve_flat
from quillgpt.console import say, stdout, warn
from quillgpt.errors import ConfigError, TokenizerError, UserError

if TYPE_CHECKING:
    from quillgpt.api import Model
    from quillgpt.data.dataset import Dataset
    from quillgpt.evaluation import Result
    from quillgpt.tables import ResultTable
    from quillgpt.tasks.report import TaskResult
    from quillgpt.tasks.scores import Scored
    from quillgpt.tasks.suite import TaskSuite

SPLITS = {"both": ("train", "val"), "val": ("val",), "train": ("train",)}
MODELS = model_argument("Several, separated by commas, are compared with the first on the same text.")
MARKDOWN_FLAG = switch("--markdown", "Print tables in Markdown.")
CODE_FLAG = switch(
    "--confirm_run_unsafe_code",
    "Run Python code of task files outside lm-eval, metrics that are programs of the hub, and, in tasks that need it, "
    "what the model writes.",
)


@settings_flags(EvalSettings)
def evaluate(
    model: Annotated[str, MODELS],
    /,
    *,
    as_json: Annotated[bool, JSON_FLAG] = False,
    as_markdown: Annotated[bool, MARKDOWN_FLAG] = False,
    confirm_run_unsafe_code: Annotated[bool, CODE_FLAG] = False,
    **flags: str,
) -> None:
    """Measure models on data sets (loss with its standard error, perplexity, bits per byte) and on lm-eval's tasks."""
    settings = resolve_flat(EvalSettings, flags)
    if as_json and as_markdown:
        raise ConfigError("--json and --markdown are two forms of the same results; give one of them")
    names = model_names(model)
    suite = open_tasks(settings, flags, may_run_code=confirm_run_unsafe_code)

    from quillgpt.api import load
    from quillgpt.evaluation import compare_results, comparison_table, describe_text, result_table

    # Opened and checked together; the weights of each are read when it is its turn, and let go after it.
    models = [
        load(
            name,
            device=settings.device,
            dtype=settings.dtype,
            threads=settings.threads,
            data_dir=settings.data_dir,
            quantize=settings.quantize,
            attn_type=settings.attn_type,
            **settings.kernel_options,
        )
        for name in names
    ]
    only_tasks = suite is not None and settings.dataset is None
    datasets = [{} for _ in models] if only_tasks else open_datasets(models, names, settings)
    unit_size = max(settings.block_size or loaded.config.block_size for loaded in models)
    results: list[Result] = []
    task_results: list[TaskResult] = []
    for place, name in enumerate(names):
        loaded = models.pop(0)
        for result in measure(loaded, datasets[place], settings, place=place, name=name, unit_size=unit_size):
            results.append(result)
            if as_json:
                print(json.dumps(result.row()), flush=True)
            else:
                say(f"{name}, {describe_text(result)}: loss {result.score.loss:.4f} nats per token")
        if suite is not None:
            for scored in suite.score(loaded, batch_size=settings.batch_size, block_size=settings.block_size):
                task_results.append(task_result(scored, loaded, place=place, name=name))
                if as_json:
                    print(json.dumps(task_results[-1].row()), flush=True)
    comparisons = compare_results(results)
    for comparison in comparisons:
        if comparison.caveat:
            warn(comparison.caveat)
        if as_json and (row := comparison.row()):
            print(json.dumps(row), flush=True)
    if results and not as_json:
        publish(result_table(results), as_markdown=as_markdown)
        if shown := [comparison for comparison in comparisons if not isinstance(comparison.difference, str)]:
            publish(comparison_table(shown), as_markdown=as_markdown)
    if suite is not None:
        publish_task_results(task_results, as_json=as_json, as_markdown=as_markdown)
        suite.check_complete()


def open_tasks(settings: EvalSettings, flags: Mapping[str, str], *, may_run_code: bool) -> TaskSuite | None:
    """Return the tasks that are asked for, loaded and checked before a model is read; None if there are none.

    Raises:
        UserError: lm-eval is not installed, a task cannot be run, or a flag is for tasks and none is named.
    """
    if settings.tasks is None:
        given = [name for name in ("include_path", "num_fewshot", "limit") if name in flags]
        if may_run_code:
            given.append("confirm_run_unsafe_code")
        if given:
            raise ConfigError(f"--{given[0]} is for tasks; name them with --tasks, such as --tasks=hellaswag,arc_easy")
        return None

    from quillgpt.tasks.libraries import import_lm_eval

    import_lm_eval()

    from quillgpt.tasks.suite import TaskSuite

    return TaskSuite(
        [name for part in settings.tasks.split(",") if (name := part.strip())],
        include_path=settings.include_path,
        num_fewshot=settings.num_fewshot,
        limit=settings.limit,
        may_run_code=may_run_code,
    )


def task_result(scored: Scored, loaded: Model, *, place: int, name: str) -> TaskResult:
    """Return a score of a model as a result, and say it; `place` and `name` are those of `TaskResult`."""
    from quillgpt.tasks.report import TaskResult, describe_score

    say(f"{name}, {scored.score.task}: {scored.score.name} {describe_score(scored.score.score)}")
    return TaskResult(place, name, str(loaded.folder), scored)


def publish_task_results(results: Sequence[TaskResult], *, as_json: bool, as_markdown: bool) -> None:
    """Print the scores on tasks as a table, unless they are printed already, and the differences between models."""
    from quillgpt.tasks.report import compare_task_results, task_comparison_table, task_table

    comparisons = compare_task_results(results)
    if as_json:
        for comparison in comparisons:
            print(json.dumps(comparison.row()), flush=True)
        return
    if results:
        publish(task_table(results), as_markdown=as_markdown)
    if comparisons:
        publish(task_comparison_table(comparisons), as_markdown=as_markdown)


def model_names(given: str) -> list[str]:
    """Return the models that an argument names: one whose path has commas, or several separated by commas."""
    if Path(given).exists():
        return [given]
    return [name for part in given.split(",") if (name := part.strip())] or [given]


def open_datasets(models: Sequence[Model], names: Sequence[str], settings: EvalSettings) -> list[dict[str, Dataset]]:
    """Return the data sets that each model reads, by name.

    Of several models, each reads those that were prepared with its tokenizer.

    Raises:
        UserError: No data set is named, one is missing, or too short, or was prepared with no model's tokenizer; a
            model finds none.
    """
    asked = [name.strip() for name in (settings.dataset or "").split(",") if name.strip()]
    if settings.dataset is None:
        asked = list(dict.fromkeys(recorded for loaded in models for recorded in loaded.recorded_datasets))
    if weighted := next((name for name in asked if "=" in name), None):
        raise ConfigError(
            f"{weighted} has a weight, and eval measures each data set by itself; name it without =WEIGHT"
        )
    if not asked:
        raise ConfigError("eval needs a data set: --dataset NAME, or several separated by commas")
    opened: list[dict[str, Dataset]] = [{} for _ in models]
    unfit: list[dict[str, TokenizerError]] = [{} for _ in models]
    for place, dataset_name in itertools.product(range(len(models)), asked):
        try:
            opened[place][dataset_name] = models[place].open_dataset(dataset_name, data_dir=settings.data_dir)
        except TokenizerError as error:
            unfit[place][dataset_name] = error
    for errors in unfit:
        if len(errors) == len(set(asked)):
            raise errors[asked[0]]
    for dataset_name in asked:
        if all(dataset_name in errors for errors in unfit):
            raise unfit[0][dataset_name]
    for name, errors in zip(names, unfit, strict=True):
        for dataset_name in errors:
            say(f"{name} is not measured on {dataset_name}, which was prepared with another tokenizer")
    for loaded, name, of_model in zip(models, names, opened, strict=True):
        for dataset, split in itertools.product(of_model.values(), SPLITS[settings.split]):
            tokens = dataset.train if split == "train" else dataset.val
            try:
                loaded.windows(tokens, block_size=settings.block_size, stride=settings.stride)
            except UserError as error:
                raise type(error)(f"{name}: {error}") if len(models) > 1 else error from None
    return opened


def measure(
    loaded: Model, datasets: dict[str, Dataset], settings: EvalSettings, *, place: int, name: str, unit_size: int
) -> Iterator[Result]:
    """Yield the results of a model on its data sets; `place` and `name` are those of `Result`."""
    from quillgpt.evaluation import Result, published_losses

    if settings.attn_type is not None or settings.kernel_options:
        warn(f"attention is computed by {loaded.config.kernel}, whatever the model was trained with")
    for (dataset_name, dataset), split in itertools.product(datasets.items(), SPLITS[settings.split]):
        batches = settings.eval_iters if settings.split == "both" and split == "train" else None
        score = loaded.evaluate(
            dataset,
            split=split,
            data_dir=settings.data_dir,
            batch_size=settings.batch_size,
            block_size=settings.block_size,
            batches=batches,
            stride=settings.stride,
            unit_size=unit_size,
        )
        if not math.isfinite(score.loss):
            warn(
                f"the loss on {dataset_name} {split} is {score.loss}: the model overflows on this text. If its "
                "attention kernel is a polynomial, quill lab ranges shows the range of its arguments"
            )
        of_whole_blocks = score.block_size is None and score.stride is None
        published = published_losses(name, dataset_name) if of_whole_blocks else None
        yield Result(
            place=place,
            model=name,
            folder=str(loaded.folder),
            dataset=dataset_name,
            split=split,
            batches=batches,
            score=score,
            published=None if published is None else getattr(published, split),
        )


def publish(table: ResultTable, *, as_markdown: bool) -> None:
    """Print a table on standard output."""
    if as_markdown:
        stdout.print(table.markdown(), markup=False, emoji=False)
    else:
        table.show()
