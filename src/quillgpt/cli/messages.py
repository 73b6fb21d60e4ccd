"""Cyclopts' errors in Quill's words: one line with what was typed and what to do."""

from __future__ import annotations

from typing import Literal, get_args, get_origin

from cyclopts import CycloptsError
from cyclopts.exceptions import (
    CoercionError,
    MissingArgumentError,
    RepeatArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)

from quillgpt.config.foreign import meant_setting


def explain(error: CycloptsError) -> str:
    """Return a message of one line for a command line that could not be parsed."""
    command = " ".join(["quill", *(error.command_chain or ())])
    match error:
        case UnknownOptionError():
            flag = error.token.keyword or error.token.value
            known = {name for argument in error.argument_collection for name in argument.names if name.startswith("--")}
            return unknown_word(flag, known, f"{command} --help lists the flags")
        case UnknownCommandError() if error.unused_tokens and error.app is not None:
            known = {name for name in error.app if not name.startswith("-")}
            return unknown_word(error.unused_tokens[0], known, f"{command} --help lists the commands")
        case UnusedCliTokensError() if error.unused_tokens:
            several = "; several texts are given as --data a.txt,b.txt or --data a.txt --data b.txt"
            hint = several if any(token.startswith("--data") for token in error.root_input_tokens or ()) else ""
            return f"{error.unused_tokens[0]} is one word too many{hint}; {command} --help shows what it takes"
        case MissingArgumentError() if error.argument is not None:
            name = error.keyword or error.argument.name
            if name.startswith("-"):
                hint = error.argument.hint
                choices = get_args(hint) if get_origin(hint) is Literal else ()
                return f"{name} needs a value: {name}=" + ("|".join(map(str, choices)) if choices else "...")
            return f"{command.removeprefix('quill ')} needs {name}; {command} --help shows what it takes"
        case CoercionError() if error.token is not None and error.token.keyword and error.target_type is int:
            return f"{error.token.keyword}={error.token.value} must be a whole number"
        case RepeatArgumentError():
            return f"{error.token.keyword} is given twice; give it once"
    return str(error)


def unknown_word(word: str, known: set[str], otherwise: str) -> str:
    """Return a message for an unknown word, with the word that was probably meant, or `otherwise`."""
    word = word.partition("=")[0]
    meant = meant_setting(word.lstrip("-"), [name.lstrip("-") for name in known])
    dashes = "--" if word.startswith("-") else ""
    return f"{word} is unknown; " + (f"did you mean {dashes}{meant}?" if meant else otherwise)
