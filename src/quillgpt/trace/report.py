"""A traced text for people: in colours, and as a table of the spans that are not new."""

from __future__ import annotations

from pathlib import Path

from rich.text import Text

from quillgpt.console import is_screen, stdout
from quillgpt.errors import cut
from quillgpt.streams import visible
from quillgpt.tables import ResultTable
from quillgpt.trace.matching import Kind
from quillgpt.trace.tracer import Span, Trace

STYLES: dict[Kind, str] = {"copied": "bold red", "close": "yellow", "new": ""}
SHOWN_CHARACTERS = 40
FORMATS = {"span": ">s", "kind": "s", "from": "s", "occurs": ">,", "likeness": ">.0%", "text": "s"}


def show_text(trace: Trace) -> None:
    """Print the text on standard output, on a terminal with a colour for each kind of span."""
    if not is_screen(stdout):
        return
    shown = Text()
    for span in trace.spans:
        shown.append(visible(trace.text[span.start : span.end]), style=STYLES[span.kind])
    stdout.print(shown, end="" if trace.text.endswith("\n") else "\n")


def show_spans(trace: Trace) -> None:
    """Print the spans that are not new as a table, if there are any, and the summary."""
    found = [span for span in trace.spans if span.kind != "new"]
    if found:
        ResultTable("spans", FORMATS, [_row(span, trace.text) for span in found]).show()
    stdout.print(visible(trace.sentence), markup=False, emoji=False)


def _row(span: Span, text: str) -> dict[str, object]:
    return {
        "span": f"{span.start:,}-{span.end:,}",
        "kind": span.kind,
        "from": visible(_shown(span.place)),
        "occurs": span.occurrences,
        "likeness": span.similarity,
        "text": cut(repr(text[span.start : span.end]), SHOWN_CHARACTERS),
    }


def _shown(place: str) -> str:
    """Return the place in a file by the path from the current folder, if it is in it."""
    here = Path.cwd()
    return str(Path(place).relative_to(here)) if Path(place).is_relative_to(here) else place
