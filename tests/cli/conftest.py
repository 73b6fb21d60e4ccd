"""A command line in an empty folder and environment, whose calls into the package are recorded."""

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from quillgpt.cli import main
from quillgpt.config.layers import NOT_SETTINGS


class Interruption:
    """What `quill train` asks for its exit status."""

    requested = False
    exit_status = 130


class CommandLine:
    """Runs `quill` in this process and records what it would have called."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self.out = ""
        self.err = ""

    def replace(self, module: str, function: str, effect: Any = None) -> None:
        """Replace a function by one that records its arguments, and then raises or returns `effect`."""

        def record(*arguments: Any, **named: Any) -> Any:
            self.calls.append((arguments, named))
            if isinstance(effect, BaseException):
                raise effect
            return effect

        double = ModuleType(module)
        setattr(double, function, record)
        double.Interruption = Interruption  # type: ignore[attr-defined]
        self._monkeypatch.setitem(sys.modules, module, double)

    def __call__(self, *words: str) -> int:
        self.calls.clear()
        status = main(words)
        self.out, self.err = self._capsys.readouterr()
        return status

    def trained(self, *words: str) -> Any:
        """Return the settings that `quill train` resolves."""
        assert self("train", *words) == 0, self.err
        ((settings,), _) = self.calls[0]
        return settings

    def refused(self, *words: str) -> str:
        """Return the one line that a misused command line gives."""
        assert self(*words) == 2
        assert not self.calls
        assert self.err.count("\n") == 1
        assert self.err.startswith("quill: ")
        assert self.out == ""
        return self.err.removeprefix("quill: ").rstrip("\n")


@pytest.fixture
def quill(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> CommandLine:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("QUILL_") and name not in NOT_SETTINGS]:
        monkeypatch.delenv(name)
    line = CommandLine(monkeypatch, capsys)
    line.replace("quillgpt.training", "train", effect="a summary")
    return line
