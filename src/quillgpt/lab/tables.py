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
    """Rows of numbers under names.

    Attributes:
        title: What they are.
        formats: How each column is written for people, by the column's name: a format specification.
        rows: Values by column; None where there is none.
    """

    title: str
    formats: Mapping[str, str]
    rows: Sequence[Mapping[str, object]]

    def text(self) -> str:
        """Return aligned columns under the title."""
        cells = [list(self.formats), *self._shown()]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        numeric = [not spec.endswith("s") for spec in self.formats.values()]
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
        rows = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in self._shown()]
        lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names), *rows]
        return "\n".join([self.title, "", *lines, ""])

    def csv(self) -> str:
        """Return comma-separated values with all digits; nothing stands for None."""
        written = io.StringIO()
        writer = csv.DictWriter(written, list(self.formats), lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows({name: row.get(name) for name in self.formats} for row in self.rows)
        return written.getvalue()

    def write(self, folder: Path, name: str) -> list[Path]:
        """Write NAME.csv and NAME.md into a folder, and return their paths.

        Raises:
            ConfigError: Other files than tables of Quill's are there.
        """
        names = table_files(name)
        check_ours(folder, names, remedy="give another --out")
        paths = [folder / each for each in names]
        write_text(paths[0], self.csv())
        write_text(paths[1], self.markdown())
        claim_as_written(folder, names)
        return paths

    def show(self) -> None:
        """Print the aligned columns on standard output."""
        stdout.print(self.text(), markup=False, emoji=False)

    def _shown(self) -> list[list[str]]:
        return [[shown(row.get(name), spec) for name, spec in self.formats.items()] for row in self.rows]


def table_files(name: str) -> list[str]:
    """Return the names of the files of a table."""
    return [f"{name}.csv", f"{name}.md"]


def shown(value: object, spec: str) -> str:
    """Write a value for people."""
    if value is None:
        return NOTHING
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return format(value, spec)
