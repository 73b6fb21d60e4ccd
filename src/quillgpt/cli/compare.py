"""`quill compare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from quillgpt.cli.completion import complete_model
from quillgpt.cli.flags import JSON_FLAG, from_home
from quillgpt.console import say, stdout, warn
from quillgpt.errors import ConfigError
from quillgpt.runs.comparison import compare as compare_runs
from quillgpt.runs.comparison import measure_for, open_run, scoring_of, siblings
from quillgpt.runs.comparison_report import MOST_CURVES, chart, results, rows, sentences, settings_table
from quillgpt.runs.differences import settings_that_differ
from quillgpt.runs.find import check_is_run, named
from quillgpt.runs.screen import plain

RUN = Parameter(
    name="RUN",
    converter=from_home,
    completer=complete_model,
    help="Folders of two runs or more; the others are compared with the first one. Those that differ in their seed "
    "only count as one, and tell how much seeds matter. So do such runs in folders beside them.",
)
WIDEST_CHART = 80


def compare(
    *folders: Annotated[Path, RUN],
    as_json: Annotated[bool, JSON_FLAG] = False,
) -> None:
    """Compare runs: settings that differ, curves together, and whether seeds explain the difference."""
    places = named([check_is_run(folder) for folder in folders])
    if len(places) < 2:
        raise ConfigError("compare needs two runs or more: quill compare out-a out-b")
    runs = [open_run(name, folder) for name, folder in places.items()]
    measure = measure_for(runs)
    scoring = None if measure is None else scoring_of(runs, measure)
    comparison = None if scoring is None else compare_runs(runs, scoring, siblings(places, runs))
    if measure is None:
        warn("these runs were evaluated on different texts, so that their losses do not tell which one is better")
    elif comparison is None:
        without = [plain(run.name) for run in runs if run.lowest(measure) is None]
        warn(f"{without[0] if without else 'one of these runs'} has no evaluation yet, so that nothing can be said")
    if without := [plain(run.name) for run in runs if not run.settings]:
        warn(f"{without[0]} has no config.toml that can be read, so that its settings are not compared")
    if as_json:
        different = settings_that_differ({run.name: run.settings for run in runs})
        print(json.dumps({"runs": [run.overview.as_json() for run in runs], "settings": different}, default=str))
        for row in [] if comparison is None else rows(comparison):
            print(json.dumps(row))
        return
    results(runs, measure or "nats per token").show()
    settings = settings_table(runs)
    print()
    if settings is None:
        print("settings that differ: none")
    else:
        settings.show()
    width = min(WIDEST_CHART, stdout.width)
    for axis in ("iter", "seconds"):
        if drawn := chart(runs, measure or "nats per token", axis, width=width, encoding=stdout.encoding):
            print(f"\n{drawn}")
    if len(runs) > MOST_CURVES:
        say(f"the charts have the first {MOST_CURVES} of {len(runs)} runs; quill plot draws all")
    if comparison is not None:
        print()
        print("\n".join(sentences(comparison, runs)))
