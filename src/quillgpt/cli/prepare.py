"""`quill prepare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from quillgpt.cli.flags import settings_flags
from quillgpt.cli.messages import unknown_word
from quillgpt.config import PrepareSettings, preset_names, resolve_prepare
from quillgpt.config.load import OWN_TEXT
from quillgpt.console import table
from quillgpt.errors import ConfigError

if TYPE_CHECKING:
    from quillgpt.data.prepare import Preparation

SOURCE_HELP = (
    "A recipe (shakespeare_char, shakespeare, python_docs), one or several text files, or - for standard input."
)


@settings_flags(PrepareSettings)
def prepare(
    *sources: Annotated[str, Parameter(name="SOURCE", help=SOURCE_HELP, allow_leading_hyphen=True)], **flags: str
) -> None:
    """Turn a text into a data set: tokens for training and for validation."""
    for source in sources:
        if source.startswith("-") and source != "-":  # hyphens are let in for `-` alone
            known = {f"--{name}" for name in PrepareSettings.model_fields}
            raise ConfigError(unknown_word(source, known, "quill prepare --help lists the flags"))
    if not sources:
        raise ConfigError("prepare needs a recipe or a text: quill prepare shakespeare_char, quill prepare a.txt")
    settings = resolve_prepare(flags)

    from quillgpt.data.prepare import prepare as prepare_data_set

    prepared = prepare_data_set(
        list(sources),
        data_dir=Path(settings.data_dir),
        dataset=settings.dataset,
        tokenizer=settings.tokenizer,
        val=settings.val,
        val_fraction=settings.val_fraction,
    )
    table(f"data set {prepared.manifest.name}", _summary(prepared))


def _summary(prepared: Preparation) -> dict[str, object]:
    manifest = prepared.manifest
    rows: dict[str, object] = {
        "folder": prepared.dataset.folder,
        "tokenizer": f"{manifest.tokenizer.name}, {manifest.tokenizer.vocab_size:,} different tokens",
    }
    for split, record in (("train", manifest.train), ("val", manifest.val)):
        rows[split] = f"{record.tokens:,} tokens of {record.characters:,} characters, documents: {record.documents:,}"
    rows["made"] = "before, from the same text" if prepared.reused else f"in {prepared.seconds:.1f} s"
    name = manifest.name
    rows["next"] = "quill train " + (
        name if name in preset_names() else f"{OWN_TEXT} --dataset={name} --out_dir=out-{name}"
    )
    return rows
