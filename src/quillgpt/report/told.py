"""What the files of a run tell about it, each of which may be missing, damaged or from an older version."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from quillgpt.config.resolution import NAMED_AFTER
from quillgpt.config.runs import CHECKPOINTS, STATE
from quillgpt.config.schema import CHOSEN, TrainFields, fields_in_order
from quillgpt.config.values import spell_value
from quillgpt.console import clock_time
from quillgpt.plots.record import METRICS, Row, curve, read_metrics
from quillgpt.run_files import PROVENANCE
from quillgpt.runs.differences import NAMES, WITHOUT_EFFECT
from quillgpt.runs.small_files import number, read_object, read_origin, read_settings, read_summary
from quillgpt.runs.state import State, state_of

WHY: Final = {
    "device": "the fastest device here",
    "dtype": "the fastest number format of the device",
    "threads": "the cores that this process may use",
    "micro_batch_size": "as many sequences at once as are fast and fit into the memory",
    "attn_path": "the fastest way here that computes the same",
    "cuda_graph": "pays on a GPU if its kernels are short",
    "compile": "whether compiling gains more time in this run than it takes",
    "patience": "the default of a run of this kind",
    "dataset": "named after the text",
    "data_dir": "where its data set was found",
}
"""Why a run sets a setting itself, where its provenance.json has no reason."""

MACHINE: Final = {
    **{"device": "device", "dtype": "number format", "threads": "threads", "processes": "processes"},
    **{"system": "system", "python": "Python", "quill": "Quill"},
}
"""What a session says of its machine, and the words for it."""

BY_RULE: Final = frozenset({"minutes", "defaults"})
"""Settings by which a run chooses others, which a repetition gets as they were chosen."""

OF_A_REPETITION: Final = frozenset({"eval_iters", "data_dir"})
"""Settings that change nothing in what a run learns, but tell where its text is and which part evaluations read."""

OVERFITTED_FROM: Final = 2
"""Evaluations after the best one that make an overfitted run, if the training loss went on falling."""


@dataclass(frozen=True)
class Setting:
    """A setting: its value, the place that set it, and why where the run chose."""

    name: str
    value: str
    place: str
    why: str


@dataclass(frozen=True)
class Told:
    """A run, as its files tell.

    Attributes:
        name: Its name.
        settings: The content of config.toml.
        summary: That of summary.json.
        origin: What its best checkpoint says of its data.
        rows: The rows of metrics.jsonl.
        provenance: The content of provenance.json.
        last: The state in its last checkpoint.
        state: What has become of it.
    """

    name: str
    settings: dict[str, Any]
    summary: dict[str, Any]
    origin: dict[str, Any]
    rows: list[Row]
    provenance: dict[str, Any]
    last: dict[str, Any]
    state: State

    def of_kind(self, kind: str) -> list[Row]:
        """Return its rows of a kind."""
        return [row for row in self.rows if row["kind"] == kind]

    @property
    def sessions(self) -> list[dict[str, Any]]:
        """Its sessions, the first one first."""
        return _objects(self.provenance.get("sessions"))

    def machines(self) -> list[tuple[object, dict[str, object]]]:
        """Return what it ran on, and from which iteration on; sessions on the same machine are one."""
        machines: list[tuple[object, dict[str, object]]] = []
        for session in self.sessions:
            packages = session.get("packages")
            machine = {words: session.get(name) for name, words in MACHINE.items()}
            machine |= packages if isinstance(packages, dict) else {}
            if not machines or machines[-1][1] != machine:
                machines.append((session.get("iteration"), machine))
        return machines

    @property
    def data(self) -> list[dict[str, Any]]:
        """Its data sets."""
        return _objects(self.provenance.get("data"))

    @property
    def rollbacks(self) -> list[dict[str, Any]]:
        """Its rollbacks to an earlier checkpoint."""
        return _objects(self.last.get("rollbacks"))

    def best(self) -> Row | None:
        """Return the evaluation with the lowest validation loss."""
        rows = [row for row in self.of_kind("eval") if number(row, "val_loss") is not None]
        return min(rows, key=lambda row: float(row["val_loss"]), default=None)

    def overfitting(self) -> str | None:
        """Say from where the run overfits; None if it does not."""
        best, rows = self.best(), self.of_kind("eval")
        if best is None:
            return None
        length = number(self.settings, "teacher_iters")  # of several models, each is compared with itself
        end_of_model = math.ceil(max(1, best["iter"]) / length) * length if length else math.inf
        after = [row for row in rows if best["iter"] < row["iter"] <= end_of_model]
        after = [row for row in after if number(row, "val_loss") is not None]
        train, end = number(best, "train_loss"), number(after[-1], "train_loss") if after else None
        if len(after) < OVERFITTED_FROM or train is None or end is None or end >= train:
            return None
        return (
            f"It overfits from iteration {best['iter']:,} on: the validation loss rises from {best['val_loss']:.4f} to "
            f"{after[-1]['val_loss']:.4f}, while the training loss falls from {train:.4f} to {end:.4f}. The best "
            "checkpoint is the one before."
        )

    def shown_settings(self) -> list[Setting]:
        """Return the settings that are not the default, were given, or were chosen by the run."""
        given = self.sessions[0].get("given", {}) if self.sessions else {}
        given = given if isinstance(given, dict) else {}
        reasons = self._reasons()
        rows = []
        for name, field in fields_in_order(TrainFields).items():
            value = self.settings.get(name, field.default)
            asked = given.get(name)
            if isinstance(asked, dict) and _same(asked.get("value"), value):
                rows.append(Setting(name, _spelled(value), str(asked.get("place") or "given"), ""))
            elif value != field.default or name in CHOSEN or name in reasons:
                # Without a record of what was given, nobody knows who set a value that is not the default.
                is_chosen = name in CHOSEN or bool(self.sessions)
                place = "the run" if is_chosen and name not in NAMES else ""
                why = str(reasons.get(name, WHY.get(name, ""))) if place else ""
                rows.append(Setting(name, "" if value is None else _spelled(value), place, why))
        return rows

    def _reasons(self) -> dict[str, Any]:
        """Return why it set settings itself; what a later session has chosen anew has the reason of that one."""
        reasons: dict[str, Any] = {}
        for session in self.sessions:
            given = session.get("reasons")
            reasons |= given if isinstance(given, dict) else {}
        return reasons

    def command(self) -> str:
        """Return the command that repeats the run with all that it learns by, whatever the speed of the machine."""
        flags = ["quill", "train"]
        left_out = (WITHOUT_EFFECT | BY_RULE) - OF_A_REPETITION
        for name, field in fields_in_order(TrainFields).items():
            value = self.settings.get(name, field.default)
            if name == "init_from" and value == "resume":
                value = self.origin.get("init_from", field.default)
            if name not in left_out and value != field.default:
                flags.append(f"--{name}={_spelled(value)}")
        return " ".join(map(shlex.quote, [*flags, f"--out_dir={self.name}-again"]))

    def asked(self) -> str | None:
        """Return the command that began the run; None if that is not known or a program began it."""
        given = self.sessions[0].get("given") if self.sessions else None
        if not isinstance(given, dict) or not given:
            return None
        words, sources = [], []
        for name, asked in given.items():
            place = str(asked.get("place") or "") if isinstance(asked, dict) else ""
            if place.startswith("preset ") or place.endswith((".toml", ".py")):
                sources.append(place.removeprefix("preset "))
            elif place and place != NAMED_AFTER:
                words.append(f"--{name}={_spelled(asked.get('value'))}")
        return " ".join(map(shlex.quote, ["quill", "train", *dict.fromkeys(sources), *words]))

    def times(self) -> list[tuple[str, str]]:
        """Return how long it was to take, and how long it took."""
        rows = []
        actual = number(self.summary, "wall_seconds") or number(self.last, "seconds")
        start = number(self.last, "start_seconds")
        minutes = number(self.settings, "minutes")
        if minutes is not None:
            rows.append(("planned", f"{clock_time(60 * minutes)}, all in all"))
        elif (expected := self._expected_seconds()) is not None:
            rows.append(("expected at the speed of its first iterations", clock_time(expected)))
        if actual is not None:
            rows.append(("actual, from its first iteration to its end", clock_time(actual)))
        if start is not None:
            rows.append(("before the first iteration (start, text)", clock_time(start)))
        steps, saving = number(self.summary, "train_seconds"), number(self.summary, "saving_seconds")
        if actual is not None and steps is not None and saving is not None:
            rows.append(("of it in training steps", clock_time(steps)))
            rows.append(("in saves", clock_time(saving)))
            rows.append(("in evaluations, samples and the rest", clock_time(max(0.0, actual - steps - saving))))
        return rows

    def _expected_seconds(self) -> float | None:
        timed, length = curve(self.rows, "train", "seconds"), number(self.settings, "max_iters")
        if len(timed) < 2 or length is None or timed[1][0] <= timed[0][0]:
            return None
        (first, before), (second, after) = timed[:2]
        return before + (after - before) / (second - first) * (length - first)


def read_run(name: str, folder: Path) -> Told:
    """Read what the files of a run tell."""
    try:
        rows = [row for row in read_metrics(folder / METRICS) if number(row, "iter") is not None]
    except OSError:
        rows = []
    summary = read_summary(folder)
    return Told(
        name=name,
        settings=read_settings(folder),
        summary=summary,
        origin=read_origin(folder),
        rows=rows,
        provenance=read_object(folder / PROVENANCE),
        last=read_object(folder / CHECKPOINTS / "last" / STATE),
        state=state_of(folder, summary, rows[-1] if rows else None),
    )


def _objects(values: object) -> list[dict[str, Any]]:
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []


def _same(asked: object, value: object) -> bool:
    return asked == value and isinstance(asked, bool) == isinstance(value, bool)


def _spelled(value: object) -> str:
    return str(spell_value(value)) if not isinstance(value, Mapping) else str(dict(value))
