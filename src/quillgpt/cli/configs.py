"""`quill configs`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

from quillgpt.cli.completion import complete_preset
from quillgpt.cli.flags import PATH
from quillgpt.config import preset_description, preset_names, resolve, to_toml

configs = App(help="List the presets, or show all settings of one.", help_format="plaintext")


@configs.default
def list_presets() -> None:
    """List the presets, one line each."""
    width = max(map(len, preset_names()))
    for name in preset_names():
        print(f"{name:{width}}  {preset_description(name)}")


@configs.command
def show(
    name: Annotated[
        str,
        PATH,
        Parameter(name="NAME", help="A preset, a .toml file, or a .py file of nanoGPT.", completer=complete_preset),
    ],
    /,
    *,
    comments: Annotated[
        bool, Parameter(negative=(), show_default=False, help="Write the explanation of each setting above it.")
    ] = False,
) -> None:
    """Print all settings of a preset or a file as TOML."""
    print(to_toml(resolve(name, {}, environ={}, dotenv=None), comments=comments), end="")
