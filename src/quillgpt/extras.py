"""Imports optional packages, and names the extra to install if one is missing."""

from __future__ import annotations

import importlib
from types import ModuleType

from quillgpt.errors import UserError


def import_extra(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import a package that comes with one of Quill's extras.

    Args:
        module: The package's name.
        extra: The extra that installs it.
        purpose: What needs it, as the beginning of a sentence.

    Raises:
        UserError: It is not installed; the message says what to install.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise
        raise UserError(
            f"{purpose} needs the package {error.name}, which is not installed: pip install 'quillgpt[{extra}]'"
        ) from None
