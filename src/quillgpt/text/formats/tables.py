"""Tables: the texts of one column of CSV, TSV, JSON, JSON lines and Parquet; each row is a document."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from quillgpt.errors import UserError
from quillgpt.text.formats.opened import Opened
from quillgpt.text.sources.compressed import check_compressed
from quillgpt.text.sources.rows import FileRows, NoColumnError


def has_clear_column(path: Path, format: str) -> bool:
    """Return whether a table has one column that must be meant; a table that cannot be read is no matter of columns."""
    try:
        FileRows(path, None, address=str(path), suffix=f".{format}")
    except NoColumnError:
        return False
    except (UserError, OSError):
        pass
    return True


def read_table(file: Opened) -> Iterator[str]:
    """Yield the texts of a column.

    Raises:
        DataError: There is no such column, several could be meant, or a row is damaged; the message names it.
    """
    check_compressed(file.path)
    rows = FileRows(file.path, file.column, address=file.name, encoding=file.encoding, suffix=f".{file.format}")
    assert rows.column is not None
    others = [name for name in rows.columns if name != rows.column]
    if file.column is None and others:
        file.tally.remarks.append(f"its column {rows.column} is read; others: {', '.join(others[:8])}")
    if others:
        file.tally.dropped["columns beside it"] += len(others)
    for row in rows:
        file.tally.read["rows"] += 1
        yield row[rows.column]
    if rows.without:
        file.tally.dropped["rows without text"] += rows.without
