"""`quill prepare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from quillgpt.cli.completion import complete_source
from quillgpt.cli.flags import settings_flags
from quillgpt.cli.messages import unknown_word
from quillgpt.config import PrepareSettings, preset_names, resolve_flat
from quillgpt.config.sources import OWN_TEXT
from quillgpt.console import say, stdout, table
from quillgpt.errors import ConfigError
from quillgpt.streams import visible

if TYPE_CHECKING:
    from quillgpt.data.dataset_manifest import DatasetManifest
    from quillgpt.data.near_duplicates import NearDuplicates
    from quillgpt.data.prepare import Preparation

SOURCE_HELP = (
    "A recipe (shakespeare_char, shakespeare, python_docs, openwebtext, fineweb, tinystories, wikitext, ptb, lambada), "
    "or one or several texts: files (also .epub, .docx, .pdf, .html, .mbox, .eml, .srt, .vtt, chats, and columns of "
    "tables: notes.csv:body), folders, patterns such as 'books/*.txt', http(s) addresses, gutenberg:1513, "
    "hf:owner/name[/config][:column], pipes, or - for standard input."
)

SOURCE = Parameter(name="SOURCE", help=SOURCE_HELP, allow_leading_hyphen=True, completer=complete_source)


@settings_flags(PrepareSettings)
def prepare(*sources: Annotated[str, SOURCE], **flags: str) -> None:
    """Turn a text into a data set: tokens for training and for validation."""
    for source in sources:
        if source.startswith("-") and source != "-":  # words with a hyphen are only accepted for `-` itself
            known = {f"--{name}" for name in PrepareSettings.model_fields}
            raise ConfigError(unknown_word(source, known, "quill prepare --help lists the flags"))
    if not sources:
        raise ConfigError("prepare needs a recipe or a text: quill prepare shakespeare_char, quill prepare a.txt")
    settings = resolve_flat(PrepareSettings, flags)

    from quillgpt.data.overlap import warn_of_copy
    from quillgpt.data.prepare import prepare as prepare_data_set
    from quillgpt.text.formats.opened import Wishes

    prepared = prepare_data_set(
        list(sources),
        data_dir=Path(settings.data_dir),
        dataset=settings.dataset,
        tokenizer=settings.tokenizer,
        val=settings.val,
        val_fraction=settings.val_fraction,
        end_of_text_marks=settings.end_of_text_marks,
        deduplicate=settings.deduplicate,
        drop_repeated_lines=settings.drop_repeated_lines,
        drop_openings=settings.drop_openings,
        drop_endings=settings.drop_endings,
        encoding=settings.encoding,
        skip_unreadable=settings.skip_unreadable,
        follow_links=settings.follow_links,
        wishes=Wishes.of(settings),
        replace=settings.dataset is not None,
        overwrite=settings.overwrite,
        near_duplicates=settings.near_duplicates,
        num_proc=settings.num_proc,
    )
    table(f"data set {prepared.manifest.name}", _summary(prepared))
    warn_of_copy(prepared.dataset)
    if prepared.near_duplicates is not None:
        _show_near_duplicates(prepared.near_duplicates, settings.near_duplicates)


def _show_near_duplicates(found: NearDuplicates, least: float | None) -> None:
    similar = sum(len(group) - 1 for group in found.groups)
    say(
        f"{similar:,} of {found.documents:,} documents are similar to an earlier one (at least {least:g}), in "
        f"{len(found.groups):,} groups"
    )
    for group in found.groups:
        lines = [f"{member.similarity:.2f} {member.name}  {member.beginning}" for member in group]
        stdout.print(visible("\n".join(lines)) + "\n", markup=False, emoji=False)


def _summary(prepared: Preparation) -> dict[str, object]:
    from quillgpt.data.announcements import remarks

    manifest = prepared.manifest
    rows: dict[str, object] = {
        "folder": prepared.dataset.folder,
        "tokenizer": f"{manifest.tokenizer.name}, {manifest.tokenizer.vocab_size:,} different tokens",
    }
    for split, record in (("train", manifest.train), ("val", manifest.val)):
        rows[split] = f"{record.tokens:,} tokens of {record.characters:,} characters, documents: {record.documents:,}"
    rows["split"] = _split(manifest)
    report = manifest.report
    if report is not None and (report.documents > 1 or report.shared_documents):
        several = f"of {report.documents:,} documents"
        rows["duplicates"] = f"{report.duplicate_documents:,} {several} equal an earlier one" + _removed(
            "deduplicate", done=manifest.deduplicate, useful=report.duplicate_documents > 0
        )
        rows["shared"] = f"documents in both splits: {report.shared_documents:,}" + _removed(
            "deduplicate", done=manifest.deduplicate, useful=report.shared_documents > 0
        )
        rows["repeated lines"] = _repeated_lines(manifest)
        rows |= remarks(manifest)
    if report is not None and report.copied_share is not None:
        rows["overlap"] = (
            f"{report.copied_share:.1%} of the validation text is also in the training text, word for word"
        )
    if prepared.reused:
        rows["made"] = "before, from the same text"
    else:
        megabytes = (manifest.train.bytes + manifest.val.bytes) / 1e6
        rows["made"] = f"in {prepared.seconds:.1f} s, {megabytes / prepared.seconds:.1f} MB/s"
    name = manifest.name
    rows["next"] = "quill train " + (
        name if name in preset_names() else f"{OWN_TEXT} --dataset={name} --out_dir=out-{name}"
    )
    return rows


def _split(manifest: DatasetManifest) -> str:
    if manifest.val_sources is not None:
        return "given"
    place = "whole documents, chosen by their content" if manifest.split_by == "documents" else "the end of the text"
    return f"{manifest.val_fraction:g} of the text is held out: {place}"


def _removed(flag: str, *, done: bool, useful: bool) -> str:
    if not useful:
        return ""
    return "; left out" if done else f"; --{flag} leaves them out"


def _repeated_lines(manifest: DatasetManifest) -> str:
    report = manifest.report
    assert report is not None
    if not report.repeated_lines:
        return "no line occurs in many documents"
    examples = ", ".join(f"{example.line[:40]!r} ({example.documents:,})" for example in report.examples)
    least = report.examples[-1].documents
    advice = _removed(f"drop_repeated_lines={least}", done=manifest.drop_repeated_lines is not None, useful=True)
    return f"{report.repeated_lines:,} occur in many documents, such as {examples}{advice}"
