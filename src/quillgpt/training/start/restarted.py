"""A run whose ranks torchrun starts again goes on from the checkpoint that it has saved."""

from __future__ import annotations

from pathlib import Path

from quillgpt.checkpoint.manifest import MANIFEST
from quillgpt.checkpoint.names import has_checkpoint, numbered
from quillgpt.config.runs import how_to_go_on
from quillgpt.config.schema import TrainSettings
from quillgpt.console import say
from quillgpt.distributed import World
from quillgpt.distributed.reporting import present_meeting
from quillgpt.distributed.restart import restarts, restarts_left, unlike_before
from quillgpt.files import sha256_of


def going_on(settings: TrainSettings, world: World) -> TrainSettings:
    """Return the settings of a run; if its ranks were started again and it has saved since, it is resumed.

    Args:
        settings: As they were given, at every start.
        world: The ranks. The first one decides.
    """
    meeting = present_meeting()
    if meeting is None or settings.eval_only:
        return settings
    is_ours = world.is_main and unlike_before(meeting.lasting_store, newest_checkpoint(Path(settings.out_dir)))
    if not world.broadcast(bool(restarts() and is_ours)):
        return settings
    say(f"the ranks were started again; going on with the run in {settings.out_dir}")
    return settings.model_copy(update={"init_from": "resume", "overwrite": False})


def newest_checkpoint(out_dir: Path) -> str:
    """Return what tells the newest checkpoint of a folder from all others; an empty text if there is none."""
    manifests = [path / MANIFEST for path in numbered(out_dir)]
    newest = max((path for path in manifests if path.is_file()), key=lambda path: path.parent.name, default=None)
    return "" if newest is None else f"{newest.parent.name} {sha256_of(newest)}"


def after_loss(settings: TrainSettings) -> str:
    """Return what follows after a rank was lost, as the end of a message."""
    if restarts_left() > 0:
        return "; torchrun starts them again"
    if settings.eval_only:
        return ""
    if has_checkpoint(Path(settings.out_dir)):
        return f"; go on with: {how_to_go_on(settings.out_dir)}"
    return "; nothing was saved yet"
