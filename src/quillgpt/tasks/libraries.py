"""lm-eval and the libraries below it: quiet, without telemetry, and offline where there is no network."""

from __future__ import annotations

import functools
import io
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from typing import Any, Final, NoReturn

from quillgpt.errors import ConfigError
from quillgpt.extras import import_extra
from quillgpt.files import let_hub_libraries_keep_files

ALLOW: Final = "--confirm_run_unsafe_code"

NOISY: Final = ("lm_eval", "datasets", "huggingface_hub", "httpx", "evaluate", "absl", "filelock", "fsspec", "urllib3")
"""Loggers whose messages are left out; what goes wrong is said by an error."""

PRIVATE: Final = {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_UPDATE_DOWNLOAD_COUNTS": "0", "DO_NOT_TRACK": "1"}

ANSWER_SECONDS: Final = 5.0
"""How long the hub may take to answer before it counts as unreachable."""


def import_lm_eval() -> None:
    """Import lm-eval, and let its templates run no code.

    Raises:
        UserError: It is not installed.
    """
    for name, value in PRIVATE.items():
        os.environ.setdefault(name, value)
    let_hub_libraries_keep_files()
    import_extra("lm_eval", extra="eval", purpose="--tasks")
    _confine_templates()


@functools.cache
def _confine_templates() -> None:
    """Replace lm-eval's environment of templates, in which a template may reach any Python object, by a sandbox."""
    sandbox = import_module("jinja2.sandbox")
    utils: Any = import_module("lm_eval.utils")
    loose = utils.env
    utils.env = sandbox.SandboxedEnvironment(
        loader=loose.loader, undefined=loose.undefined, keep_trailing_newline=loose.keep_trailing_newline
    )
    utils.env.filters.update(loose.filters)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Leave out what lm-eval and the libraries below it log, print and draw, while the block runs."""
    datasets, hub_utils = import_module("datasets"), import_module("huggingface_hub.utils")
    building: Any = import_module("lm_eval.api.task")
    loggers = {name: logging.getLogger(name) for name in NOISY}
    levels = {name: logger.level for name, logger in loggers.items()}
    had_bars, bar = datasets.are_progress_bars_disabled(), building.tqdm
    for logger in loggers.values():
        logger.setLevel(logging.CRITICAL)
    datasets.disable_progress_bars()
    hub_utils.disable_progress_bars()
    building.tqdm = functools.partial(bar, disable=True)
    try:
        with warnings.catch_warnings(action="ignore"), redirect_stdout(io.StringIO()):
            yield
    finally:
        building.tqdm = bar
        if not had_bars:
            datasets.enable_progress_bars()
            hub_utils.enable_progress_bars()
        for name, logger in loggers.items():
            logger.setLevel(levels[name])


@contextmanager
def without_programs(task: str, *, allowed: bool) -> Iterator[None]:
    """Let no metric be fetched as a program and run while the block runs, unless that is allowed.

    Raises:
        ConfigError: The task has such a metric.
    """
    evaluate: Any = import_module("evaluate")
    load, refused = evaluate.load, []

    def refuse(name: str, *_: Any, **__: Any) -> NoReturn:
        refused.append(name)
        raise _refusal(task, name)

    if not allowed:
        evaluate.load = refuse
    try:
        yield
    finally:
        evaluate.load = load
        if refused:  # the error itself may have been swallowed
            raise _refusal(task, refused[0]) from None


def _refusal(task: str, metric: str) -> ConfigError:
    return ConfigError(
        f"the task {task} has the metric {metric}, which lm-eval lacks: it would be fetched as a program, and run; use "
        f"another metric, or allow it with {ALLOW}"
    )


@contextmanager
def offline_if_unreachable(needed: bool) -> Iterator[bool]:
    """Use only files that are here while the block runs, if the hub is needed and does not answer; yield whether so.

    The libraries by themselves would try again for half a minute.
    """
    constants: Any = import_module("huggingface_hub.constants")
    config: Any = import_module("datasets.config")
    before = constants.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE
    offline = any(before) or (needed and not _answers(constants.ENDPOINT))
    constants.HF_HUB_OFFLINE = config.HF_HUB_OFFLINE = offline
    try:
        yield offline
    finally:
        constants.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE = before


def _answers(address: str) -> bool:
    import requests

    try:
        requests.head(address, timeout=ANSWER_SECONDS)
    except requests.RequestException:
        return False
    return True


def first_line(error: BaseException) -> str:
    """Return what a library's error says, on one line."""
    return " ".join(str(error).split())
