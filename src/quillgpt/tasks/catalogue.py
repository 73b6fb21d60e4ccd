"""Tasks by name: lm-eval's own, and a user's; code in a user's file runs only if that is allowed."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

from lm_eval.tasks import TaskManager

from quillgpt.console import say
from quillgpt.errors import ConfigError, did_you_mean
from quillgpt.tasks.files import dataset_paths, named_functions, read_task_file
from quillgpt.tasks.libraries import ALLOW, import_lm_eval

PATTERN: Final = frozenset("*?[")
SUFFIXES: Final = (".yaml", ".yml")

FILE_FORMATS: Final = frozenset({"arrow", "csv", "json", "parquet", "text", "xml"})
"""What `dataset_path` may say instead of the name of a data set: the format of `data_files`."""


class Catalogue:
    """The tasks that can be named.

    Args:
        include_path: A folder with a user's task files; None: only lm-eval's own tasks are known.
        may_run_code: Allow code from outside the package lm-eval, such as functions that task files name.

    Raises:
        ConfigError: The folder is missing, or a file in it is no YAML.
    """

    def __init__(self, include_path: str | None = None, *, may_run_code: bool = False) -> None:
        import_lm_eval()
        self.may_run_code = may_run_code
        self._folder = None if include_path is None else Path(include_path)
        if self._folder is not None:
            if not self._folder.is_dir():
                raise ConfigError(f"include_path = {include_path} is no folder; give the folder with your task files")
            for path in sorted(self._folder.rglob("*.yaml")):  # lm-eval passes over files that it cannot read
                read_task_file(path)
        self._own = TaskManager(include_path=self._folder, include_defaults=False)

    def select(self, given: Sequence[str]) -> list[str]:
        """Return the tasks, groups and tags that are meant by names, by patterns such as `mmlu_*`, and by files.

        Raises:
            ConfigError: There is no such task, or it would run code that is not allowed.
        """
        names: list[str] = []
        for name in given:
            if PATTERN & {*name}:
                matching = sorted(known for known in self._index() if fnmatchcase(known, name))
                if not matching:
                    raise ConfigError(f"no task has a name like {name}; `lm-eval ls tasks` lists lm-eval's own")
                names += matching
            else:
                names.append(name)
        names = list(dict.fromkeys(names))
        for name in names:
            self._check_code(name)
        return names

    def manager(self, name: str) -> Any:
        """Return lm-eval's `TaskManager` that knows a task and all that it consists of."""
        own = self._own.task_index
        if all(member in own for member in self._members(name, own) if not _is_file(member)):
            return self._own
        if not any(member in own or _is_file(member) for member in self._members(name, self._index())):
            return _lm_eval_tasks()
        return self._all_tasks

    def hub_datasets(self, name: str) -> list[str]:
        """Return the data sets of the hub that a task and all that it consists of read."""
        index = self.manager(name).task_index
        contents = [content for member in self._members(name, index) if (content := self._content(member, index))]
        paths = [path for content in contents for path in dataset_paths(content)]
        return [path for path in dict.fromkeys(paths) if path not in FILE_FORMATS and not Path(path).exists()]

    def _content(self, name: str, index: Mapping[str, Any]) -> Any:
        path = Path(name) if _is_file(name) else index[name].yaml_path if name in index else None
        return None if path is None else read_task_file(path)

    @functools.cached_property
    def _all_tasks(self) -> Any:
        return TaskManager(include_path=self._folder)

    def _index(self) -> Mapping[str, Any]:
        """Return what is known by name, the user's before lm-eval's."""
        return {**_lm_eval_tasks().task_index, **self._own.task_index}

    def _check_code(self, name: str) -> None:
        """Check that a task exists, and that it runs no code that is not allowed."""
        index = self._own.task_index
        if not all(member in index or _is_file(member) for member in self._members(name, index)):
            index = self._index()
        if _is_file(name):
            if not Path(name).is_file():
                raise ConfigError(f"there is no task file {name}")
        elif name not in index:
            hint = did_you_mean(name, index) or "; `lm-eval ls tasks` lists lm-eval's own"
            also = "" if self._folder is None else f", nor in {self._folder}"
            raise ConfigError(f"there is no task {name} in lm-eval{also}{hint}")
        for member in self._members(name, index):
            if member not in index and not _is_file(member):
                raise ConfigError(f"{name} names the task {member}, which is unknown{did_you_mean(member, index)}")
            self._check_content(member, self._content(member, index))

    def _members(self, name: str, index: Mapping[str, Any]) -> Iterator[str]:
        """Yield a name and those of all tasks, groups and tags in it, also of such that the index lacks."""
        waiting, seen = [name], set()
        while waiting:
            member = waiting.pop()
            if member in seen:
                continue
            seen.add(member)
            yield member
            if member in index and index[member].kind.name == "TAG":
                waiting += sorted(index[member].tags)
                continue
            if _is_file(member):
                content = read_task_file(Path(member)) if Path(member).is_file() else None
            else:
                content = index[member].cfg if member in index else None
            tasks = content.get("task") if isinstance(content, dict) else None
            waiting += _named(tasks if isinstance(tasks, list) else [])

    def _check_content(self, name: str, content: Any) -> None:
        if self.may_run_code:
            return
        for function in named_functions(content):
            if not function.is_of_lm_eval:
                raise ConfigError(
                    f"the task {name} runs Python code: {function.file}, line {function.line}, names the function "
                    f"{function.name}; if you trust it, allow it with {ALLOW}"
                )


@functools.cache
def _lm_eval_tasks() -> Any:
    """Return the manager of lm-eval's own tasks; reading their files takes seconds."""
    say("reading the names of lm-eval's tasks")
    return TaskManager()


def _is_file(name: str) -> bool:
    return Path(name).suffix in SUFFIXES


def _named(members: Sequence[Any]) -> Iterator[str]:
    """Yield the names in a group's list of tasks; what is written out in it has none."""
    for member in members:
        if isinstance(member, str):
            yield member
        elif isinstance(member, dict) and "dataset_path" not in member:
            tasks = member.get("task")
            if isinstance(tasks, list):
                yield from _named(tasks)
            elif isinstance(name := member.get("group", tasks), str):
                yield name
