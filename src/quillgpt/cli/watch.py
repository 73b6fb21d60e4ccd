"""`quill watch`; nothing slow is imported, neither at the top nor later, so that it shows something at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter, Token

from quillgpt.console import is_screen, stdout
from quillgpt.errors import DataError


def _from_home(_: Any, tokens: Sequence[Token]) -> Path:
    value = tokens[0].value
    if not value.startswith("~"):
        return Path(value)
    from quillgpt.config.paths import at_home

    return Path(at_home(value))


def _complete(word: Any) -> Iterable[str | tuple[str, str]]:
    from quillgpt.cli.completion import complete_model

    return complete_model(word)


RUN = Parameter(
    name="RUN",
    converter=_from_home,
    completer=_complete,
    help="Folder of a run, whether it trains, has ended, or is a copy. [default: all runs below this folder that "
    "train; if none does, the newest]",
)
ONCE = Parameter(negative=(), show_default=False, help="Print how the runs are now, and end.")


def watch(
    *runs: Annotated[Path, RUN],
    once: Annotated[bool, ONCE] = False,
) -> None:
    """Follow runs while they train: losses, learning rate, speed, time left, the newest sample, warnings.

    q ends it, the space bar pauses it, Tab shows the next run. The runs notice nothing.
    In a file or a pipe, each evaluation is a line.
    """
    from quillgpt.runs.find import check_is_run, named
    from quillgpt.runs.follow import Followed
    from quillgpt.runs.live import show_live, show_once, write_news

    folders = named([check_is_run(run, begun=False) for run in runs]) if runs else _here()
    followed = [Followed(name, folder) for name, folder in folders.items()]
    show = show_once if once else show_live if is_screen(stdout) else write_news
    show(followed, stdout)


def _here() -> dict[str, Path]:
    """Return the runs below the current folder that train; if none does, the newest.

    Raises:
        DataError: There is none.
    """
    from quillgpt.runs.find import find_runs, newest_first
    from quillgpt.runs.state import is_training

    found = find_runs(Path())
    names = newest_first(found)
    if not names:
        raise DataError("there is no run below this folder; name one: quill watch out-shakespeare-char")
    chosen = [name for name in names if is_training(found[name])] or names[:1]
    return {name: found[name] for name in chosen}
