"""The chat template of a model: how its tokenizer's makers write messages as one text.

It is a Jinja template in the model's folder, as transformers stores it: chat_template.jinja, or `chat_template` in
tokenizer_config.json. It comes from another program, so it runs in Jinja's sandbox.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from quillgpt.errors import CheckpointError, UserError, shorten
from quillgpt.records import read_json

FILE: Final = "chat_template.jinja"
CONFIG: Final = "tokenizer_config.json"
TOKENS: Final = ("bos_token", "eos_token", "unk_token", "pad_token")
"""Names of tokens that templates may write."""


class ChatTemplate:
    """Writes messages as one text.

    Args:
        source: The template.
        tokens: The texts of the special tokens that it may name.

    Raises:
        CheckpointError: It is no template.
    """

    def __init__(self, source: str, tokens: Mapping[str, str]) -> None:
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _as_json
        environment.globals["raise_exception"] = _refuse
        self._tokens = dict(tokens)
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            message = f"the chat template cannot be read: {shorten(str(error))}; mend or remove it"
            raise CheckpointError(message) from None

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Return messages as the text after which the model answers.

        Raises:
            UserError: The template refuses them, such as two of one role in a row.
        """
        try:
            return self._template.render(messages=messages, add_generation_prompt=True, **self._tokens)
        except Exception as error:  # whatever a template may do wrong
            raise UserError(f"the model's chat template refuses these messages: {shorten(str(error))}") from None


def read_chat_template(folder: Path) -> ChatTemplate | None:
    """Return the chat template of a model's folder; None if it has none.

    Raises:
        CheckpointError: It is no template.
    """
    file, config_file = folder / FILE, folder / CONFIG
    config = read_json(config_file, CheckpointError, mend="mend or remove it") if config_file.is_file() else {}
    if not isinstance(config, dict):
        return None
    try:
        source = file.read_text(encoding="utf-8") if file.is_file() else _default(config.get("chat_template"))
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{file} cannot be read ({error}); mend or remove it") from None
    if not source:
        return None
    return ChatTemplate(source, {name: text for name in TOKENS if (text := _content(config.get(name)))})


def _default(stored: object) -> str | None:
    """Return the template among those of tokenizer_config.json, which may have several by name."""
    if isinstance(stored, list):
        named = {each.get("name"): each.get("template") for each in stored if isinstance(each, dict)}
        stored = named.get("default")
    return stored if isinstance(stored, str) else None


def _content(token: object) -> str | None:
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _as_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)  # unlike Jinja's, which escapes for HTML


def _refuse(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)
