"""report.html: runs as one page without scripts, that asks nothing of any network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from quillgpt import __version__
from quillgpt.errors import ConfigError
from quillgpt.files import write_text
from quillgpt.plots.record import Row, curve, loss_curves
from quillgpt.report.curves import picture, thinned
from quillgpt.report.privacy import Privacy
from quillgpt.report.told import Told, read_run
from quillgpt.runs.differences import settings_that_differ
from quillgpt.runs.small_files import number

TEMPLATE: Final = "page.html"
GENERATOR: Final = '<meta name="generator" content="Quill'
"""How a report of Quill's begins, which may be replaced by a new one."""

BEGINNING: Final = 400
MOST_RUNS: Final = 50
SAMPLES_SHOWN: Final = 8
SAMPLE_CHARACTERS: Final = 1_500
EVALUATIONS_SHOWN: Final = 12
FILES_SHOWN: Final = 100
EVENTS_SHOWN: Final = 40
MACHINES_SHOWN: Final = 3
LONGEST_WORDS: Final = 2_000
"""Characters of any other text that comes from a run; so the page stays small, whatever its files hold."""


def write_report(runs: Mapping[str, Path], path: Path, *, full: bool = False) -> None:
    """Write a report of runs.

    Args:
        runs: The folder of each run by its name.
        path: The file.
        full: Tell absolute paths and the name of the user, too.

    Raises:
        ConfigError: There are too many runs, or the file is not a report of Quill's.
    """
    if len(runs) > MOST_RUNS:
        raise ConfigError(f"a report has {MOST_RUNS} runs at most, and {len(runs)} are given; give fewer")
    check_may_write(path)
    write_text(path, page([read_run(name, folder) for name, folder in runs.items()], full=full))


def check_may_write(path: Path) -> None:
    """Check that a report may be written to a path.

    Raises:
        ConfigError: Something else is there, or the folder is not.
    """
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; give a file: -o {path / 'report.html'}")
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"{path.parent} is not a folder; make it first, or give another file")
    if path.is_symlink() or (path.exists() and not is_report(path)):
        raise ConfigError(f"{path} is there, and is not a report of Quill's; give another file with -o")


def is_report(path: Path) -> bool:
    """Whether a file is a report that Quill wrote."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return GENERATOR.encode() in file.read(BEGINNING)


def page(runs: Sequence[Told], *, full: bool = False) -> str:
    """Return the report of runs as HTML."""
    from jinja2 import Environment, PackageLoader
    from markupsafe import Markup, escape

    privacy = Privacy(full=full)

    def finalize(value: Any) -> Any:
        if value is None:
            return ""
        is_words = isinstance(value, str) and not isinstance(value, Markup)
        return _clean(privacy.told(value[:LONGEST_WORDS])) if is_words else value

    environment = Environment(
        loader=PackageLoader("quillgpt.report", "."),
        autoescape=True,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "written": lambda text: Markup(escape(_clean(privacy.text(text[:SAMPLE_CHARACTERS])))),
        "count": lambda value: f"{value:,}" if isinstance(value, int | float) else value,
        "loss": lambda value: f"{value:.4f}" if isinstance(value, int | float) else "",
        "share": lambda value: f"{value:.1%}" if isinstance(value, int | float) else "",
    }
    shown = _one(runs[0]) if len(runs) == 1 else _several(runs)
    return environment.get_template(TEMPLATE).render(version=__version__, full=full, runs=runs, **shown)


def _one(run: Told) -> dict[str, Any]:
    """Return what the page of a single run has."""
    best = run.best()
    words = "" if best is None else "overfits from here" if run.overfitting() else "best"
    pictures = [
        picture("Loss, nats per token", _losses(run), mark="validation", words=words),
        picture("Bits per byte of the validation text", {"validation": curve(run.rows, "eval", "val_bits_per_byte")}),
        picture("Copied share of its samples", _copied(run)),
        picture("Learning rate", {"learning rate": curve(run.rows, "train", "lr")}),
    ]
    evaluations = run.of_kind("eval")
    return {
        "run": run,
        "best": best,
        "overfitting": run.overfitting(),
        "pictures": [drawn for drawn in pictures if drawn is not None],
        "evaluations": _spread(evaluations, EVALUATIONS_SHOWN, keep=best),
        "samples": _spread([row for row in run.of_kind("sample") if isinstance(row.get("text"), str)], SAMPLES_SHOWN),
        "facts": _facts(run, best),
        "events": _events(run),
        "machines": run.machines()[-MACHINES_SHOWN:],
        "files_shown": FILES_SHOWN,
    }


def _several(runs: Sequence[Told]) -> dict[str, Any]:
    """Return what the page of several runs has."""
    names = {
        "Validation loss, nats per token": "val_loss",
        "Bits per byte of the validation text": "val_bits_per_byte",
    }
    pictures = [
        picture(title, {run.name: curve(run.rows, "eval", key) for run in runs}) for title, key in names.items()
    ]
    pictures.append(
        picture(
            "Validation loss over time",
            {run.name: [(x / 60, y) for x, y in curve(run.rows, "eval", "val_loss", axis="seconds")] for run in runs},
            x_label="minutes",
        )
    )
    last = {run.name: run.of_kind("sample")[-1:] for run in runs}
    return {
        "run": None,
        "pictures": [drawn for drawn in pictures if drawn is not None],
        "different": settings_that_differ({run.name: run.settings for run in runs}),
        "results": [(run, run.best()) for run in runs],
        "last_samples": [
            (name, row) for name, rows in last.items() for row in rows if isinstance(row.get("text"), str)
        ],
    }


def _losses(run: Told) -> dict[str, list[tuple[float, float]]]:
    curves = loss_curves(run.rows)
    return {"validation": curves["val"], "training": curves["train"]}


def _copied(run: Told) -> dict[str, list[tuple[float, float]]]:
    return {
        "copied": curve(run.rows, "eval", "copied_share"),
        "of held-out text": curve(run.rows, "eval", "expected_copied_share"),
    }


def _spread(rows: list[Row], most: int, *, keep: Row | None = None) -> list[Row]:
    """Return rows from all over a run, with the first, the last and one that must not be missing."""
    places = [(float(place), 0.0) for place in range(len(rows))]
    kept = {int(place) for place, _ in thinned(places, most - 1)}
    if keep is not None:
        kept |= {place for place, row in enumerate(rows) if row is keep}
    return [rows[place] for place in sorted(kept)]


def _facts(run: Told, best: Row | None) -> list[tuple[str, str]]:
    """Return what one wants to know of a run first."""
    summary = run.summary
    loss, part = number(summary, "val_loss_full"), number(summary, "val_loss_part")
    share, copied = number(summary, "val_part"), number(summary, "copied_share")
    facts: list[tuple[str, str]] = []
    if loss is not None:
        facts.append(("loss on the whole validation text", f"{loss:.4f}"))
    elif part is not None and share is not None:
        facts.append((f"loss on {share:.1%} of the validation text", f"{part:.4f}"))
    if best is not None:
        facts.append(("best evaluation", f"{best['val_loss']:.4f} at iteration {best['iter']:,}"))
        if (bits := number(best, "val_bits_per_byte")) is not None:
            facts.append(("bits per byte there", f"{bits:.3f}"))
    whole = (("iterations", "iterations"), ("tokens read", "tokens"), ("parameters", "parameters"))
    facts += [(words, f"{int(value):,}") for words, name in whole if (value := number(summary, name)) is not None]
    if copied is not None:
        facts.append(("copied share", f"{copied:.1%}"))
    return facts


def _events(run: Told) -> list[tuple[int, str]]:
    """Return what happened on the way: resumptions, rollbacks, warnings, the error that ended it."""
    events: list[tuple[float, str]] = []
    for session in run.sessions[1:]:
        began = str(session.get("began", "")).replace("T", " ").removesuffix("Z")
        events.append((number(session, "iteration") or 0, f"resumed, {began} UTC"))
    for rollback in run.rollbacks:
        at, back = number(rollback, "iteration") or 0, number(rollback, "back_to") or 0
        words = f"rolled back to iteration {back:,.0f}: {rollback.get('reason', '')}"
        events.append((at + 1, f"{words}; iteration {at + 1:,.0f} is left out"))
    for row in run.rows:
        if row["kind"] in ("warning", "failed"):
            events.append((row["iter"], f"{row['kind']}: {row.get('text', '')}"))
        elif row["kind"] == "compiled":
            events.append((row["iter"], "compiled code took over"))
    if overflows := number(run.summary, "overflows"):
        events.append((run.summary.get("iterations", 0), f"float16 left out {overflows:,.0f} updates"))
    return [(int(at), words) for at, words in sorted(events, key=lambda event: event[0])][-EVENTS_SHOWN:]


def _clean(words: str) -> str:
    """Return words without what no page may have: other control characters than line ends and tabs, half characters."""
    whole = words.encode("utf-8", "replace").decode("utf-8")
    return "".join(letter if letter >= " " or letter in "\n\t" else "\N{REPLACEMENT CHARACTER}" for letter in whole)
