"""Makes docs/settings.md from the schema: `python -m quillgpt.config.documentation > docs/settings.md`."""

from __future__ import annotations

import sys

from pydantic.fields import FieldInfo

from quillgpt.config.schema import COMMAND_SETTINGS, Settings, grouped_fields
from quillgpt.config.values import expectation, spell_value

INTRODUCTION = """\
# Settings

<!-- Made from src/quillgpt/config/schema/ by `python -m quillgpt.config.documentation > docs/settings.md`. -->

Every setting has one name, and four places may set it. A later place wins:

| place | spelling |
|---|---|
| a preset or a TOML file: `quill train shakespeare_char`, `quill train run.toml` | `batch_size = 12` |
| the file `.env` in the current folder; only its `QUILL_` lines are read | `QUILL_BATCH_SIZE=12` |
| the environment | `QUILL_BATCH_SIZE=12` |
| a flag | `--batch_size=12`, `--batch_size 12` or `--batch-size 12` |

- True or false: `--bias`, `--no-bias`, `--bias=True`, `--bias False`; in TOML `bias = true`.
- In a path, a leading `~` is the home folder.
- `none` unsets a setting that can be unset: `--eval_iters none`, `QUILL_EVAL_ITERS=none`, `eval_iters = "none"`.
- A TOML file may build on a preset or another file: `extends = "shakespeare_char"`, `extends = "../base.toml"`.
- A nanoGPT `config/*.py` file works where a TOML file does. It is read, not executed: values, earlier names,
  arithmetic, text and comparisons. Anything else is skipped if no setting depends on it.
- An unknown name is an error in every place but a `.py` file, where it is a warning.
- If a flag is given twice, the last one counts; but `--data a.txt --data b.txt` gives two texts.
- `QUILL_HOME` (where downloads are kept), `QUILL_MIRROR` (a folder to look in before downloading) and `QUILL_QUIET=1`
  (as `--quiet`) are environment variables, not settings. The first two cannot be set in `.env`: a file that comes with
  a folder must not decide where code and texts are taken from.

`quill configs` lists the presets; `quill configs show NAME` prints all values of one. `quill train` prints the
settings that differ from their defaults, with the place that set them; `--verbose` prints all.
"""


def settings_markdown() -> str:
    """Return the text of docs/settings.md."""
    return "\n".join([INTRODUCTION, *(_command(title, schema) for title, schema in COMMAND_SETTINGS.items())])


def _command(title: str, schema: type[Settings]) -> str:
    tables = [_table(heading, fields) for heading, fields in grouped_fields(schema).items()]
    return "\n".join([f"## {title}\n", *tables])


def _table(heading: str, fields: dict[str, FieldInfo]) -> str:
    rows = [
        f"| `{name}` | {_cell(expectation(field))} | `{spell_value(field.default)}` | {_cell(field.description)} |"
        for name, field in fields.items()
    ]
    return "\n".join(
        [f"### {heading}\n", "| setting | takes | default | what it does |", "|---|---|---|---|", *rows, ""]
    )


def _cell(text: str | None) -> str:
    """Escape text for a cell of a Markdown table."""
    return (text or "").replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    sys.stdout.write(settings_markdown())
