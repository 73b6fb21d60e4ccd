"""`quill runs`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from quillgpt.cli.completion import complete_model
from quillgpt.cli.flags import JSON_FLAG, from_home
from quillgpt.errors import DataError
from quillgpt.run_files import METRICS
from quillgpt.runs.find import find_runs
from quillgpt.runs.overview import Order, overviews, table

FOLDER = Parameter(
    name="FOLDER",
    converter=from_home,
    completer=complete_model,
    show_default=False,
    help="Where to look: in its folders, and in those one level below. [default: the current folder]",
)
SORT = Parameter(
    show_default=False,
    help="What to sort by, from the lowest up: loss is the best validation loss, bits the same in bits per byte. "
    "[default: newest, the run that has grown last]",
)


def runs(
    folder: Annotated[Path, FOLDER] = Path(),
    /,
    *,
    sort: Annotated[Order, SORT] = "newest",
    json_: Annotated[bool, JSON_FLAG] = False,
) -> None:
    """List runs: what they have reached, and whether they train, are finished, were interrupted or have failed."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; give the one in which the folders of runs are")
    found = find_runs(folder)
    if (folder / METRICS).is_file():
        own = folder.resolve().name
        found = {own: folder} | {f"{own}/{name}": run for name, run in found.items()}
    if not found:
        raise DataError(f"there is no run below {folder.resolve()}; quill train makes one")
    listed = overviews(found, sort)
    if json_:
        for run in listed:
            print(json.dumps(run.as_json()))
        return
    table(listed, "runs").show()
