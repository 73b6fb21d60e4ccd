"""`quill transcribe`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group, Parameter

from quillgpt.cli.completion import complete_path
from quillgpt.cli.flags import from_home, settings_flags, switch
from quillgpt.config import TranscribeSettings, resolve_flat
from quillgpt.console import clock_time, table
from quillgpt.errors import ConfigError, UserError, join_names, shorten

if TYPE_CHECKING:
    from quillgpt.speech.recognition.transcribe import Report

AUDIO = Parameter(
    name="AUDIO",
    help="Recordings: files, folders, or patterns such as 'talks/*.mp3'. wav, flac, mp3, ogg, m4a and so on; of a "
    "video, the sound.",
    completer=complete_path,
)
OUT = Parameter(
    "--out",
    converter=from_home,
    help="Folder for the transcripts, which quill prepare takes as it is.",
    metavar="FOLDER",
    group=Group("The command", sort_key=-1),
)
OVERWRITE = switch("--overwrite", "Transcribe again what has been transcribed before.")


@settings_flags(TranscribeSettings)
def transcribe(
    *recordings: Annotated[str, AUDIO],
    out: Annotated[str, OUT],
    overwrite: Annotated[bool, OVERWRITE] = False,
    **flags: str,
) -> None:
    """Turn recordings of speech into text: a .txt for each, and a .json with time codes and confidence."""
    if not recordings:
        raise ConfigError("transcribe needs recordings: quill transcribe talks --out texts")
    if not out:
        raise ConfigError("--out is empty; give a folder for the transcripts, such as --out=texts")
    settings, folder = resolve_flat(TranscribeSettings, flags), Path(out)

    from quillgpt.speech.recognition.transcribe import transcribe as transcribe_recordings

    report = transcribe_recordings(list(recordings), folder, settings, overwrite=overwrite)
    table(f"transcripts in {folder}", _summary(report, folder))
    if report.failed:
        done = len(report.transcripts) + report.before
        raise UserError(f"{len(report.failed):,} failed, as said above; transcripts in {folder}: {done:,}")


def _summary(report: Report, out: Path) -> dict[str, object]:
    rows: dict[str, object] = {
        "recordings": f"{len(report.transcripts):,} transcribed, {report.before:,} done before, "
        f"{len(report.failed):,} failed"
    }
    if report.seconds:
        pace = report.seconds / max(report.wall_seconds, 1e-3)
        rows["sound"] = f"{clock_time(report.seconds)} in {clock_time(report.wall_seconds)}, {pace:.1f} times real time"
    if len(report.languages) > 1:  # one may be a mistake of the recognizer
        rows["languages"] = ", ".join(f"{language} {count:,}" for language, count in report.languages.most_common())
    for reason, segments in report.left_out.items():
        examples = join_names([shorten(segment.text, 60) for segment in segments[:3]])
        rows[f"left out: {reason}"] = f"{len(segments):,}, such as {examples}"
    for reason, count in report.marked.items():
        rows[f"marked: {reason}"] = f"{count:,}"
    if report.transcripts or report.before:
        rows |= _next(out)
    return rows


def _next(out: Path) -> dict[str, object]:
    """Return the command that prepares the transcripts, without what many of them begin and end with."""
    from quillgpt.data.announcements import announcements, flag, in_words
    from quillgpt.data.edges import sample_of_files

    sample = sample_of_files(sorted(out.rglob("*.txt")))
    rows: dict[str, object] = {}
    command = ["quill", "prepare", shlex.quote(str(out))]
    if openings := announcements(sample, "opening"):
        rows["openings"] = in_words(openings, "opening", sample.documents)
        command.append(flag("opening", sample.documents))
    if endings := announcements(sample, "ending"):
        rows["endings"] = in_words(endings, "ending", sample.documents)
        command.append(flag("ending", sample.documents))
    return rows | {"next": " ".join(command)}
