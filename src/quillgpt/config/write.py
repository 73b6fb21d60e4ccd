"""Settings as TOML, in the order and under the headings of the schema."""

from __future__ import annotations

import json

from quillgpt.config.schema import Settings, grouped_fields
from quillgpt.config.values import NONE_WORD


def to_toml(settings: Settings, *, comments: bool = False) -> str:
    """Return settings as TOML that reads back as the same settings.

    A setting that is unset by default and in fact is left out.

    Args:
        settings: What to write.
        comments: Write each setting's explanation above it.
    """
    sections = []
    for heading, fields in grouped_fields(type(settings)).items():
        lines = [f"# {heading}"]
        for name, field in fields.items():
            value = getattr(settings, name)
            if value is None and field.default is None:
                continue
            if comments:
                lines.append(f"\n# {field.description}")
            lines.append(f"{name} = {toml_value(value)}")
        sections.append("\n".join(lines))
    return "\n\n".join(sections) + "\n"


def toml_value(value: object) -> str:
    """Return a value as TOML spells it."""
    if isinstance(value, bool | str) or value is None:
        # A JSON string is a TOML string, but for one control character that JSON lets stand.
        text = json.dumps(NONE_WORD if value is None else value, ensure_ascii=False)
        return text.replace("\x7f", "\\u007f")
    return repr(value)
