"""`quill report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from quillgpt.cli.completion import complete_model
from quillgpt.cli.flags import PATH, from_home
from quillgpt.errors import ConfigError
from quillgpt.run_files import REPORT
from quillgpt.runs.find import check_is_run, named

RUN = Parameter(
    name="RUN",
    converter=from_home,
    completer=complete_model,
    help="Folder of a run, finished or not; of several, the curves are drawn together, with the settings that differ.",
)
OUT_HELP = (
    "File to write, .html. [default: report.html in the run's folder; of several runs, report.html in the current one]"
)
FULL_HELP = "Tell absolute paths and the name of the user, too."


def report(
    *folders: Annotated[Path, RUN],
    out: Annotated[Path | None, PATH, Parameter(name=["--out", "-o"], help=OUT_HELP, show_default=False)] = None,
    full: Annotated[bool, Parameter(negative=(), show_default=False, help=FULL_HELP)] = False,
) -> None:
    """Write runs as one page that anybody can open: curves, samples, settings, data and machine."""
    if not folders:
        raise ConfigError("report needs the folder of a run: quill report out-shakespeare-char")
    runs = named([check_is_run(folder) for folder in folders])

    from quillgpt.ownership import claim, recorded
    from quillgpt.report.page import write_report

    own = next(iter(runs.values())) if len(runs) == 1 else None
    path = out or (own or Path()) / REPORT
    write_report(runs, path, full=full)
    if own is not None and path.resolve() == (own / REPORT).resolve() and recorded(own):
        claim(own, [REPORT])
    print(path)
