"""Results as tables: on the screen, as CSV with every digit, and as Markdown."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from quillgpt.console import stdout
from quillgpt.files import write_text
from quillgpt.ownership import check_ours, claim_as_written

NOTHING = "-"


@dataclass(frozen=True)
class ResultTable:
    """Rows of values under column names.

    Attributes:
        title: The title.
        formats: The format specification of each column, by its name.
        rows: Values by column; None for an empty cell.
    """

    title: str
    formats: Mapping[str, str]
    rows: Sequence[Mapping[str, object]]

    def text(self) -> str:
        """Return aligned columns under the title."""
        cells = [list(self.formats), *self._cells()]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        numeric = [spec.startswith(">") or not spec.endswith("s") for spec in self.formats.values()]
        lines = (
            "  ".join(
                cell.rjust(width) if right else cell.ljust(width)
                for cell, width, right in zip(row, widths, numeric, strict=True)
            ).rstrip()
            for row in cells
        )
        return "\n".join([self.title, *lines])

    def markdown(self) -> str:
        """Return a Markdown table under the title."""
        names = [name.replace("|", "\\|") for name in self.formats]
        rows = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in self._cells()]
        lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names), *rows]
        return "\n".join([self.title, "", *lines, ""])

    def csv(self) -> str:
        """Return comma-separated values with all digits; None is an empty cell."""
        written = io.StringIO()
        writer = csv.DictWriter(written, list(self.formats), lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows({name: row.get(name) for name in self.formats} for row in self.rows)
        return written.getvalue()

    def write(self, folder: Path, name: str) -> list[Path]:
        """Write NAME.csv and NAME.md into a folder, and return their paths.

        Raises:
            ConfigError: Files of these names are there that Quill did not write.
        """
        names = table_files(name)
        check_ours(folder, names, remedy="give another --out")
        paths = [folder / file for file in names]
        write_text(paths[0], self.csv())
        write_text(paths[1], self.markdown())
        claim_as_written(folder, names)
        return paths

    def show(self) -> None:
        """Print the aligned columns on standard output."""
        stdout.print(self.text(), markup=False, emoji=False)

    def _cells(self) -> list[list[str]]:
        return [[format_cell(row.get(name), spec) for name, spec in self.formats.items()] for row in self.rows]


def table_files(name: str) -> list[str]:
    """Return the file names of a table."""
    return [f"{name}.csv", f"{name}.md"]


def format_cell(value: object, spec: str) -> str:
    """Return a value as text, by a format specification."""
    if value is None:
        return NOTHING
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return format(value, spec)
