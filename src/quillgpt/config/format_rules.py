"""The setting `read_as`: the formats that Quill reads, and the files that each is for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from typing import Final

from quillgpt.errors import did_you_mean

TEXT: Final = "text"
"""A file that is read as it is."""

FORMATS: Final = (
    TEXT,
    *("epub", "html", "docx", "pdf", "mbox", "eml", "csv", "tsv", "json", "jsonl", "parquet", "srt", "vtt"),
    *("whatsapp", "telegram", "discord"),
)
"""The names of all formats; `text.formats.all_formats` says how each is read."""


def check_format_name(given: str) -> str:
    """Return the name of a format that needs a conversion.

    Raises:
        ValueError: There is no such format.
    """
    if given == TEXT or given not in FORMATS:
        raise ValueError(f"{given!r} is no format that is read; the formats are {', '.join(FORMATS[1:])}")
    return given


@dataclass(frozen=True)
class FormatRules:
    """The formats of files.

    Attributes:
        rules: Patterns and formats; the first pattern that matches a file decides.
    """

    rules: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, given: str | None) -> FormatRules:
        """Parse a value such as `whatsapp` or `chats/*.txt=whatsapp,*.php=html`.

        Raises:
            ValueError: A format is unknown, or a pattern is missing.
        """
        rules = []
        for part in (given or "").split(",") if given else ():
            pattern, equals, name = part.rpartition("=")
            name = name.strip().lower()
            if equals and not pattern.strip():
                raise ValueError(f"{part!r} has no pattern before =; give FORMAT or PATTERN=FORMAT")
            if name not in FORMATS:
                raise ValueError(
                    f"{name!r} is no format that is read{did_you_mean(name, FORMATS) or ';'} the formats are "
                    f"{', '.join(FORMATS)}"
                )
            rules.append((pattern.strip() or "*", name))
        return cls(tuple(rules))

    def format_of(self, location: str) -> str | None:
        """Return the format of a file, or None if no rule is for it; a pattern is compared with the end of the path."""
        for pattern, name in self.rules:
            if pattern == "*" or PurePath(location).match(pattern):
                return name
        return None

    def __str__(self) -> str:
        """Return the rules as one would type them, in one canonical spelling."""
        return ",".join(name if pattern == "*" else f"{pattern}={name}" for pattern, name in self.rules)


BY_NAME: Final = FormatRules()
"""No rules: the names and the contents of files tell."""
