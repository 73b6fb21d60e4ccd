"""The command line: one thin module per command, which parses, calls and prints."""

from quillgpt.cli.app import main

__all__ = ["main"]
