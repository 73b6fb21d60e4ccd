"""A followed run as lines of text that fit a terminal, or a file.

What comes from a run (its name, samples, warnings) is text and nothing else: without markup, and its control characters
are escaped.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from quillgpt.console import clock_time
from quillgpt.plots.chart import HEIGHT, draw_losses, short_number
from quillgpt.plots.record import Row
from quillgpt.runs.follow import Followed
from quillgpt.runs.small_files import number
from quillgpt.runs.state import State
from quillgpt.streams import visible

STYLES: Final[dict[State, str]] = {"running": "green", "finished": "bold", "interrupted": "yellow", "failed": "red"}
CHART_FRAME: Final = 3
"""Lines of a chart besides the plot: its legend, axis and numbers."""

TALLEST_CHART: Final = 21
WARNINGS_SHOWN: Final = 2
FEWEST_SAMPLE_LINES: Final = 3
SAMPLE_LINES_UNFOLDED: Final = 12
"""Lines of a sample where the height is not limited."""

KEYS: Final = "q quit   space pause"
TAB: Final = "   tab next run"
LABEL: Final = 7
USUAL_START: Final = 30.0
"""Seconds from the command to the first iteration, which count as minutes and are in no row."""

NEARLY: Final = 0.05
"""Share of its minutes by which a run is off its plan before that is said."""

GAP: Final = "   "


@dataclass(frozen=True)
class Frame:
    """Where and how a run is shown.

    Attributes:
        width: The longest line, in cells of the terminal.
        height: The number of lines; None: not limited, and without the line about keys.
        encoding: That of the terminal.
        place: Which of the runs it is, and how many there are.
        paused: Whether the user has asked for a pause.
        has_keys: Whether keys can be pressed.
    """

    width: int = 80
    height: int | None = None
    encoding: str = "utf-8"
    place: tuple[int, int] = (1, 1)
    paused: bool = False
    has_keys: bool = True


def compose(run: Followed, frame: Frame) -> list[Text]:
    """Return the lines that show a run; exactly `height` of them if that is limited."""
    widest = None if frame.height is None else frame.width
    top = [_heading(run, frame), *(_fact(label, values, widest) for label, values in _facts(run))]
    warnings = [Text(f"warning {text}", style="yellow") for text in warnings_of(run)]
    sample = list(_sample(run, frame.width))
    if frame.height is None:
        chart = _chart(run, frame, HEIGHT)
        shown = sample[: SAMPLE_LINES_UNFOLDED + 1]
        more = [Text("  ...")] if len(sample) > len(shown) else []
        return [*top, *chart, *warnings, *shown, *more]
    rest = frame.height - len(top) - 1
    warnings = warnings[-WARNINGS_SHOWN:] if rest > WARNINGS_SHOWN else []
    rest -= len(warnings)
    kept = min(len(sample), FEWEST_SAMPLE_LINES) + max(0, len(sample) - FEWEST_SAMPLE_LINES) // 2
    chart = []
    if rest >= HEIGHT + CHART_FRAME:
        height = min(TALLEST_CHART, max(HEIGHT, rest - kept - CHART_FRAME))
        chart = _chart(run, frame, height - (height + 1) % 2)
    sample = sample[: max(0, rest - len(chart))]
    lines = [*top, *chart, *warnings, *sample][: frame.height - 1]
    lines += [Text("")] * (frame.height - 1 - len(lines))
    shown = [_cut(line, frame.width) for line in [*lines, _footer(frame)]]
    return shown[-frame.height :] if frame.height > 0 else []


def line_of(run: Followed) -> str:
    """Return one line about a run, for a list of several or a log."""
    parts = [f"{plain(run.name)}: {run.state}"]
    if run.iteration is not None:
        parts.append(_progress(run))
    evaluation, train = run.latest.get("eval", {}), run.latest.get("train", {})
    parts += [f"{label} {loss}" for label, loss in _losses(train, evaluation)]
    if (left := run.seconds_left) is not None:
        parts.append(f"{clock_time(left)} left")
    return ", ".join(parts)


def warnings_of(run: Followed) -> Iterator[str]:
    """Yield what a user should know about a run, the newest last."""
    if run.damaged:
        lines = "a line" if run.damaged == 1 else f"{run.damaged:,} lines"
        yield f"{lines} of its record cannot be read, and what stood there is not shown"
    yield from (f"at iter {iteration:,}: {plain(text)}" for iteration, text in run.warnings)
    if run.quiet:
        yield f"no new numbers for {run.quiet} min, which is longer than usual"


def plain(text: str) -> str:
    """Return a text on one line, with its control characters escaped."""
    return visible(" ".join(text.split("\n")).expandtabs(4).replace("\u2028", " ").replace("\u2029", " "))


def _heading(run: Followed, frame: Frame) -> Text:
    heading = Text.assemble((plain(run.name), "bold"), GAP, (run.state, STYLES[run.state]))
    if run.iteration is None:
        return heading.append(f"{GAP}no numbers yet; the first come with the first evaluation")
    heading.append(f"{GAP}{_progress(run)}")
    number_of_run, runs = frame.place
    if runs > 1:
        heading.append(f"{GAP}run {number_of_run} of {runs}", "cyan")
    if run.is_behind:
        heading.append(f"{GAP}(still reading its record)", "dim")
    return heading


def _progress(run: Followed) -> str:
    iteration, length = run.iteration or 0, run.length
    return f"iter {iteration:,}" + ("" if length is None else f" of {length:,} ({iteration / length:.0%})")


def _facts(run: Followed) -> Iterator[tuple[str, list[str]]]:
    """Yield what is said about a run: a label, and values from the most to the least important one."""
    if run.iteration is None:
        return
    train, evaluation = run.latest.get("train", {}), run.latest.get("eval", {})
    yield "loss", [f"{label} {loss}" for label, loss in _losses(train, evaluation)] + list(_of_best(run))
    yield "step", [*_rate(train), *_speed(train)]
    yield "time", list(_time(run))


def _losses(train: Row, evaluation: Row) -> Iterator[tuple[str, str]]:
    is_newer = train.get("iter", -1) > evaluation.get("iter", -1)
    loss = number(train, "loss") if is_newer else number(evaluation, "train_loss")
    if loss is not None:
        yield "train", _loss(loss)
    if (loss := number(evaluation, "val_loss")) is not None:
        yield "val", _loss(loss)


def _of_best(run: Followed) -> Iterator[str]:
    if run.best is not None:
        yield f"lowest {_loss(run.best['val_loss'])} at {int(run.best['iter']):,}"
        if (bits := number(run.best, "val_bits_per_byte")) is not None:
            yield f"{bits:.3f} bits/byte"
        if run.since_best:
            yield f"{run.since_best} {'evaluation' if run.since_best == 1 else 'evaluations'} since"


def _rate(train: Row) -> Iterator[str]:
    if (rate := number(train, "lr")) is not None:
        yield f"learning rate {rate:.2e}"
        norm = number(train, "grad_norm")
        yield f"gradient norm {'not finite' if norm is None else f'{norm:.3g}'}"


def _speed(train: Row) -> Iterator[str]:
    if (speed := number(train, "tokens_per_second")) is not None:
        yield f"{short_number(round(speed))} tokens/s"
    if (used := number(train, "mfu")) is not None:
        yield f"mfu {used:.1%}"


def _time(run: Followed) -> Iterator[str]:
    seconds, left, minutes = run.seconds, run.seconds_left, number(run.settings, "minutes")
    if seconds is not None:
        yield clock_time(seconds) + ("" if minutes is None else f" of {minutes:g} min planned")
    if seconds is None or left is None:
        return
    yield f"{clock_time(left)} left"
    if minutes is not None:
        late = seconds + left - 60 * minutes
        word = "over the plan" if late > 0 else "to spare"
        usual = max(USUAL_START, 60 * minutes * NEARLY)
        yield "as planned" if abs(late) <= usual else f"{clock_time(abs(late))} {word}"
    yield f"ends about {time.strftime('%H:%M', time.localtime(time.time() + left))}"


def _loss(loss: float) -> str:
    return f"{loss:.4f}" if abs(loss) < 1e5 else f"{loss:.4g}"


def _fact(label: str, values: list[str], width: int | None) -> Text:
    """Return a line of values, without the last ones that do not fit."""
    line = GAP.join(values)
    while width is not None and len(values) > 1 and LABEL + cell_len(line) > width:
        values = values[:-1]
        line = GAP.join(values)
    return Text.assemble((f"{label:{LABEL}}", "cyan"), line)


def _chart(run: Followed, frame: Frame, height: int) -> list[Text]:
    drawn = draw_losses(run.losses, width=frame.width, height=height, encoding=frame.encoding)
    return [Text(line) for line in drawn.split("\n")] if drawn else []


def _sample(run: Followed, width: int) -> Iterator[Text]:
    """Yield the newest sample: a heading, and its lines folded to the width."""
    row = run.latest.get("sample")
    if row is None or not isinstance(row.get("text"), str):
        return
    yield Text(f"sample at iter {int(row['iter']):,}", style="cyan")
    for line in row["text"].splitlines():
        if line.strip():
            yield from (Text(f"  {part}") for part in _folded(visible(line.expandtabs(4)), max(1, width - 2)))


def _folded(line: str, width: int) -> Iterator[str]:
    words, part = line.split(" "), ""
    for word in words:
        longer = f"{part} {word}" if part else word
        if cell_len(longer) <= width:
            part = longer
            continue
        if part:
            yield part
        while cell_len(word) > width:
            head = set_cell_size(word, width).rstrip(" ") or word[0]
            yield head
            word = word[len(head) :]
        part = word
    if part:
        yield part


def _footer(frame: Frame) -> Text:
    if not frame.has_keys:
        return Text("Ctrl-C ends this view; the run goes on", style="dim")
    words = KEYS.replace("pause", "go on") if frame.paused else KEYS
    tab = TAB if frame.place[1] > 1 else ""
    return Text.assemble(("paused   " if frame.paused else "", "yellow"), (words + tab, "dim"))


def _cut(line: Text, width: int) -> Text:
    if line.cell_len > width:
        line.truncate(max(0, width - 3))
        line.append("..."[: max(0, width)])
    return line
