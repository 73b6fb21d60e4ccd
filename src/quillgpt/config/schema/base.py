"""What all settings share: strict types, types of numbers, and groups of fields.

A class that declares fields is a group, and its docstring is the heading of the group in --help, docs/settings.md and
config.toml. The settings of a command inherit from its groups, in their order.
"""

from __future__ import annotations

import inspect
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, field_validator
from pydantic.fields import FieldInfo

from quillgpt.config.encoding_rules import EncodingRules
from quillgpt.config.format_rules import FormatRules
from quillgpt.config.paths import at_home

# Upper bounds refuse at once what no machine can do. Messages and documentation mention a bound only if it is exceeded.
Positive = Annotated[int, Field(gt=0, le=10**12)]
Count = Annotated[int, Field(ge=0, le=10**12)]
Size = Annotated[int, Field(gt=0, le=10**7)]
BatchSize = Annotated[int, Field(gt=0, le=10**6)]
LayerCount = Annotated[int, Field(gt=0, le=2000)]
Threads = Annotated[int, Field(gt=0, le=4096)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
Amount = Annotated[float, Field(ge=0)]
Minutes = Annotated[float, Field(gt=0, le=10**7)]
Duration = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{0,8}[smh]$")]
PathText = Annotated[str, AfterValidator(at_home)]
"""A path; a leading `~` is the home folder."""
Fraction = Annotated[float, Field(ge=0, lt=1)]

Arch = Literal["gpt2", "qwen3"]
GeluName = Literal["gelu", "gelu_new"]
LoraTargets = Literal["all", "attention", "mlp"]

DTYPES = ("float32", "bfloat16", "float16")
DtypeName = Literal["auto", "float32", "bfloat16", "float16"]


class Settings(BaseModel):
    """The base of all groups of settings: strict types, no unknown keys, immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, defer_build=True)


class ProcessorFields(Settings):
    """The machine."""

    device: str = Field("auto", description="auto, cpu, cuda, cuda:N or mps.")
    threads: Threads | None = Field(None, description="CPU threads. Unset: one per core that the process may use.")


class MachineFields(ProcessorFields):
    """The machine."""

    dtype: DtypeName = Field(
        "auto",
        description="Number format of the computation; auto takes bfloat16 if a short measurement finds it faster than float32.",
    )


class PreparationFields(Settings):
    """Preparing a data set."""

    data_dir: PathText = Field("data", description="Folder of the prepared data sets.")
    tokenizer: PathText | None = Field(
        None,
        description="char, byte, gpt2, bpe:N, or a tokenizer.json. Unset: the recipe's own; for other texts, bpe:N with N a little above the square root of the text's bytes, or byte below 130 kB.",
    )
    val: PathText | None = Field(None, description="A text to validate on instead of a part of the training text.")
    val_fraction: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="Share of the text that is held out for validation: whole documents if there are enough, else its end. Unset: 0.1, or the corpus' usual share.",
    )
    encoding: str | None = Field(
        None,
        description="Encoding of the text files, such as windows-1251 or utf-16. Patterns select files, and the first match decides: 'old/*.txt=koi8-r,*=utf-8'. Unset or auto: detected for each file.",
    )
    skip_unreadable: bool = Field(
        False, description="Leave out files of a folder or a pattern that cannot be read, and name them."
    )
    follow_links: bool = Field(
        False, description="Also read linked folders, and files outside of a folder of texts to which links in it lead."
    )
    read_as: str | None = Field(
        None,
        description="Also --as. Format of files whose names and contents do not tell, such as whatsapp, html or text. Patterns select files: 'chats/*.txt=whatsapp,*.php=html'. Unset: each file tells.",
    )
    me: str | None = Field(
        None, description="The user's name in chats: these messages begin with `Me: `. Unset: with the name."
    )
    anonymise: bool = Field(
        False,
        description="In chats and mails, replace the names of who writes, numbers of six digits or more, and addresses of mails and of the web.",
    )
    drop_quotes: bool = Field(False, description="Leave out what mails quote.")
    drop_signatures: bool = Field(False, description="Leave out the signatures of mails: all after a line `-- `.")
    end_of_text_marks: bool = Field(
        False,
        description="Let each <|endoftext|> or <|startoftext|> in the text end a document, and remove it.",
    )
    deduplicate: bool = Field(False, description="Leave out documents that are equal to an earlier one.")
    drop_repeated_lines: Annotated[int, Field(ge=2, le=10**12)] | None = Field(
        None, description="Leave out lines that occur in at least this many documents, such as headings."
    )
    drop_openings: Annotated[int, Field(ge=2, le=10**12)] | None = Field(
        None,
        description="Leave out what at least this many documents begin with, such as announcements. Numbers, case and punctuation do not count, and a few words may differ.",
    )
    drop_endings: Annotated[int, Field(ge=2, le=10**12)] | None = Field(
        None, description="Leave out what at least this many documents end with, such as credits."
    )

    @field_validator("read_as")
    @classmethod
    def _check_formats(cls, given: str | None) -> str | None:
        try:
            return str(FormatRules.parse(given)) or None
        except ValueError as error:
            raise ValueError(f"read_as = {given}: {error}") from None

    @field_validator("encoding")
    @classmethod
    def _check_encoding(cls, given: str | None) -> str | None:
        try:
            return str(EncodingRules.parse(given)) or None
        except ValueError as error:
            raise ValueError(f"encoding = {given}: {error}") from None


def grouped_fields(schema: type[Settings]) -> dict[str, dict[str, FieldInfo]]:
    """Return the fields of a command's settings by the heading of their group, in the order of inheritance."""
    groups: dict[str, dict[str, FieldInfo]] = {}
    for group in schema.__mro__:
        if not issubclass(group, Settings) or group is Settings:
            continue
        own = {name: field for name, field in schema.model_fields.items() if name in inspect.get_annotations(group)}
        if own:
            heading = (group.__doc__ or group.__name__).removesuffix(".")
            # Groups with the same heading are joined, the base class first.
            groups[heading] = own | groups.get(heading, {})
    return groups


def fields_in_order(schema: type[Settings]) -> dict[str, FieldInfo]:
    """Return the fields of a command's settings by name, group by group."""
    return {name: field for group in grouped_fields(schema).values() for name, field in group.items()}
