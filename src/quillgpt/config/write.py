"""Settings as TOML, in the order and under the headings of the schema."""

from __future__ import annotations

from quillgpt.config.schema import Settings, grouped_fields
from quillgpt.config.values import NONE_WORD


def to_toml(settings: Settings, *, comments: bool = False) -> str:
    """Return settings as TOML that reads back as the same settings.

    A setting that is None, and None by default, is left out.

    Args:
        settings: The settings.
        comments: Write the explanation of each setting above it.
    """
    import tomlkit

    document = tomlkit.document()
    for heading, fields in grouped_fields(type(settings)).items():
        if document.body:
            document.add(tomlkit.nl())
        document.add(tomlkit.comment(heading))
        for name, field in fields.items():
            value = getattr(settings, name)
            if value is None and field.default is None:
                continue
            if comments:
                document.add(tomlkit.nl())
                document.add(tomlkit.comment(field.description or ""))
            document.add(name, tomlkit.item(NONE_WORD if value is None else value))
    return tomlkit.dumps(document)


def toml_value(value: object) -> str:
    """Return the value of a setting as TOML spells it."""
    import tomlkit

    return tomlkit.item(NONE_WORD if value is None else value).as_string()
