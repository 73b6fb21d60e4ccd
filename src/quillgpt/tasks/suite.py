"""The tasks that one evaluation asks for: all checked and loaded before a model is read, then scored one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from quillgpt.api import Model
from quillgpt.console import say, warn
from quillgpt.errors import ConfigError, DataError, UserError
from quillgpt.tasks.catalogue import Catalogue
from quillgpt.tasks.evaluate import load_tasks, score_tasks
from quillgpt.tasks.language_model import QuillLM
from quillgpt.tasks.scores import Scored


class TaskSuite:
    """Tasks, and how they are asked.

    Args:
        names: Names of tasks, groups and tags, patterns such as `mmlu_*`, and task files.
        include_path: A folder with a user's task files.
        num_fewshot: Examples in each prompt; None: as each task says.
        limit: Documents of each task, or below 1 their share; None: all.
        may_run_code: Allow code of task files outside lm-eval, metrics that are programs, and tasks that run the code
            that a model writes.

    Raises:
        ConfigError: There is no such task, or it cannot be run.
        DataError: A file of a task or its data are wrong, missing, or out of reach.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        include_path: str | None = None,
        num_fewshot: int | None = None,
        limit: float | None = None,
        may_run_code: bool = False,
    ) -> None:
        if not names:
            raise ConfigError("tasks names no task; give names separated by commas, such as hellaswag,arc_easy")
        self._catalogue = Catalogue(include_path, may_run_code=may_run_code)
        self._num_fewshot = num_fewshot
        self._limit = limit
        self.names = self._catalogue.select(names)
        self._failures: list[str] = []
        self._loaded: dict[str, Any] = {}
        for name in self.names:
            self._loaded[name] = self._load(name)

    def score(self, model: Model, *, batch_size: int | None = None, block_size: int | None = None) -> Iterator[Scored]:
        """Yield the scores of a model, task after task; a task that fails is left out.

        Args:
            model: The model.
            batch_size: Texts computed at once; None: chosen.
            block_size: Tokens that the model may see at once; None: as many as it can.

        Raises:
            ConfigError: The block is longer than the model's.
        """
        language_model = QuillLM(model, batch_size=batch_size, block_size=block_size)
        yielded = set()  # a task may be in several groups
        for name in self.names:
            try:
                # The tasks remember what they drew and the answers that they got, so each model gets its own.
                loaded = self._loaded.pop(name, None) or self._load(name)
                say(f"scoring {model.folder} on {name}")
                may_run_code = self._catalogue.may_run_code
                for scored in score_tasks(language_model, loaded, limit=self._limit, may_run_code=may_run_code):
                    if scored.score.key not in yielded:
                        yielded.add(scored.score.key)
                        yield scored
            except UserError as error:
                say(f"{name} could not be scored")
                self._failures.append(f"{name} could not be scored with {model.folder}: {error}")

    def check_complete(self) -> None:
        """Raise an error if tasks failed, and warn of all but the last; called after the results are printed.

        Raises:
            DataError: A task failed, for at least one model.
        """
        for failure in self._failures[:-1]:
            warn(failure)
        if self._failures:
            raise DataError(self._failures[-1])

    def _load(self, name: str) -> Any:
        return load_tasks(self._catalogue, name, num_fewshot=self._num_fewshot)
