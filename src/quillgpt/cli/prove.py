"""`quill prove`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from quillgpt.cli.completion import complete_path
from quillgpt.cli.flags import from_home, preset_argument, settings_flags, switch
from quillgpt.cli.train import check_source
from quillgpt.config.schema.base import MachineFields

KEEP = switch("--keep", "Keep the runs in the folder too, instead of removing them.")
OUT_DIR = Parameter(
    name="--out_dir",
    converter=from_home,
    help="Folder for proof.md and proof.json. [default: proof]",
    metavar="TEXT",
    show_default=False,
    group=KEEP.group,
    completer=complete_path,
)


@settings_flags(MachineFields)
def prove(
    source: Annotated[
        str | None,
        preset_argument(
            "Its architecture, sizes, optimizer, dropout and number format are proved, on a small text made for the "
            "proof. [default: two tiny models, one of each architecture, with one thread each]"
        ),
    ] = None,
    /,
    *,
    out_dir: Annotated[Path, OUT_DIR] = Path("proof"),
    keep: Annotated[bool, KEEP] = False,
    **flags: str,
) -> None:
    """Prove on this machine that training keeps its promises: kills, full disks, damage, exact numbers."""
    check_source(source, flags)

    from quillgpt.proof.prove import run_checks
    from quillgpt.proof.proved_model import proved_models
    from quillgpt.proof.sheet import conclude

    given = {"out_dir": str(out_dir)} if out_dir != Path("proof") else {}
    arguments = [*filter(None, [source]), *(f"--{name}={value}" for name, value in (given | flags).items())]
    command = shlex.join(["quill", "prove", *arguments, *(["--keep"] if keep else [])])
    conclude(run_checks(proved_models(source, flags), out_dir=out_dir, command=command, keep=keep), out_dir)
