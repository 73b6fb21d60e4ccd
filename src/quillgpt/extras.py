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
        UserError: It is not installed, or cannot be loaded; the message says what to install.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise
        raise UserError(
            f"{purpose} needs the package {error.name}, which is not installed: pip install 'quillgpt[{extra}]'"
        ) from None
    except ImportError as error:  # such as a library of the system that is missing or of another version
        raise UserError(
            f"{purpose} needs the package {module}, which is installed but cannot be loaded ({error}); "
            "uninstall it, and install it again"
        ) from None
