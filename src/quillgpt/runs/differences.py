"""In which settings runs differ, and which of them differ in their seed only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from quillgpt.config.schema import TrainFields, fields_in_order

NAMES: Final = frozenset(
    {"out_dir", "overwrite", "report", "wandb_log", "wandb_project", "wandb_run_name", "tensorboard"}
)
"""Settings that say where a run is kept and shown."""

WITHOUT_EFFECT: Final = NAMES | {
    *("threads", "devices", "strategy", "backend", "rank_timeout", "compile", "cuda_graph", "deterministic"),
    *("micro_batch_size", "gradient_checkpointing", "attn_path", "eval_iters", "log_interval"),
    *("always_save_checkpoint", "keep_last", "checkpoint_interval", "data_dir"),
    *("sample_interval", "sample_prompt", "trace_samples"),
}
"""Settings that change where and how fast a run computes, and what it keeps, but not what it learns beyond rounding."""

BY_THE_CLOCK: Final = frozenset({"max_iters", "lr_decay_iters", "warmup_iters", "eval_interval", "teacher_iters"})
"""Settings that follow the speed of a run that has minutes."""


def settings_that_differ(
    runs: Mapping[str, Mapping[str, Any]], *, leave_out: Iterable[str] = NAMES
) -> dict[str, dict[str, Any]]:
    """Return the settings in which runs differ, in the order of the schema.

    Args:
        runs: The content of each run's config.toml, by the run's name. One without any is not compared.
        leave_out: Settings that do not count.

    Returns:
        The value for each run, by the name of the setting. What a config.toml leaves out has its default. A run is left
        out of a setting that it does not tell: a resumed one no longer says what it began from.
    """
    known = {name: content for name, content in runs.items() if content}
    defaults = {name: field.default for name, field in fields_in_order(TrainFields).items()}
    others = dict.fromkeys(name for content in known.values() for name in content if name not in defaults)
    left_out = frozenset(leave_out)
    different = {}
    for setting in (*defaults, *others):
        values = {name: content.get(setting, defaults.get(setting)) for name, content in known.items()}
        if setting == "init_from":  # a resumed run does not say any more what it began from
            values = {name: value for name, value in values.items() if value != "resume"}
        if setting not in left_out and any(value != next(iter(values.values())) for value in values.values()):
            different[setting] = values
    return different


def same_but_for_seed(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two runs, by the content of their config.toml, learn the same but for the seed.

    Settings without an effect on that may differ, and those that follow the clock if both have the same minutes.
    """
    if not first or not second:
        return False
    minutes = first.get("minutes")
    clock = BY_THE_CLOCK if minutes is not None and minutes == second.get("minutes") else frozenset()
    return not settings_that_differ({"1": first, "2": second}, leave_out=WITHOUT_EFFECT | clock | {"seed"})


def grouped_by_seeds(runs: Mapping[str, Mapping[str, Any]]) -> list[Sequence[str]]:
    """Return the names of runs in groups that differ in their seed only, in the order of their first members."""
    groups: list[list[str]] = []
    for name, content in runs.items():
        group = next((group for group in groups if same_but_for_seed(runs[group[0]], content)), None)
        if group is None:
            groups.append([name])
        else:
            group.append(name)
    return [tuple(group) for group in groups]
