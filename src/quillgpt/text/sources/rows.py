"""Rows of texts in one file on this machine: JSON, JSON lines, CSV, lines of text and Parquet.

Errors name the line. A value is text as it is written: `NA` or `null` in a CSV file is a word, and a number is its
digits. A JSON null and a missing value are not text.
"""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from itertools import chain, islice
from pathlib import Path
from typing import Any, TextIO

from quillgpt.console import say
from quillgpt.errors import DataError, shorten
from quillgpt.extras import import_extra
from quillgpt.text.encodings.detection import detect_encoding
from quillgpt.text.encodings.normal_forms import without_surrogates
from quillgpt.text.sources.compressed import COMPRESSED, open_compressed

ROW_FILES = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv", ".tsv": "csv", ".txt": "text"}

PEEKED_ROWS = 200
"""The rows that decide which columns there are, and which of them hold text."""

MOST_NAMED = 20
LONGEST_ROW = 32_000_000
"""Characters of a row, which is in memory as a whole. Rows of texts are shorter."""

LONGEST_JSON = 200_000_000
"""Characters of a JSON file that is no JSON lines."""

MOST_VALUES = 8_000_000
"""Values of a row, or of such a file, counted by the marks that divide them; each takes up to 100 bytes of memory."""

LARGEST_RATIO = 1000
"""The largest ratio of unpacked to packed bytes of a Parquet file."""

LEAST_SUSPECT_BYTES = 100_000_000
DELIMITERS = ",;\t|"

Place = int
Row = tuple[Place, dict[str, Any]]
"""The number of a line or a row, and its values by column; values of nested objects are columns `outer.inner`."""


class NoColumnError(DataError):
    """Several columns could be meant, and none is named."""


class FileRows:
    """The texts of one file, which can be read repeatedly.

    Args:
        path: The file.
        column: The column that holds the text; None takes `text`, or the only one that does.
        address: How the user names the file, before a colon and the column.
        encoding: Its encoding; None detects it.
        suffix: The suffix of its format; None takes that of its name.

    Attributes:
        num_shards: 1: the file is read as a whole.
        columns: The names of the columns.
        column: The one that holds the text.
        without: Number of rows without text, after all were read.

    Raises:
        NoColumnError: Several columns could be meant.
        DataError: The file has no rows, lacks the column, or is damaged.
    """

    num_shards = 1

    def __init__(
        self,
        path: Path,
        column: str | None,
        *,
        address: str | None = None,
        encoding: str | None = None,
        suffix: str | None = None,
    ) -> None:
        self._path, self._encoding = path, encoding
        self._address = f"hf:{path}" if address is None else address
        name = path.with_suffix("") if path.suffix.lower() in COMPRESSED else path
        self._suffix = suffix or name.suffix.lower()
        kind = ROW_FILES.get(self._suffix)
        if kind is None:
            raise DataError(f"{path} has no rows that can be read; expected {', '.join(ROW_FILES)}")
        self._kind = kind
        if path.stat().st_size == 0:
            raise DataError(f"{path} is empty; give a file with rows in it")
        self._said = encoding is not None
        self.columns: list[str] = []
        self.without = 0
        self._word = "row" if kind == "parquet" else "line"
        self.column: str | None = None
        self.column = self._choose(column)

    def shard(self, num_shards: int, index: int) -> FileRows:  # noqa: ARG002 - as `datasets` has it
        """Return all rows."""
        return self

    def __iter__(self) -> Iterator[dict[str, str]]:
        """Yield the text of every row, as the only value of a row."""
        column, without = self.column, 0
        assert column is not None
        for place, row in self._rows():
            value = row.get(column)
            if value is None:
                without += 1
                continue
            yield {column: self._text(value, place)}
        self.without = without
        if without:
            say(f"{self._path}: {without:,} rows have no text in {column}, and are left out")

    def _text(self, value: Any, place: Place) -> str:
        if isinstance(value, str):
            return without_surrogates(value)
        if isinstance(value, bool | int | float):
            return json.dumps(value)
        kind = "a list" if isinstance(value, list) else "an object" if isinstance(value, dict) else type(value).__name__
        raise DataError(
            f"{self._path}, {self._word} {place}: {self.column} holds {kind} ({shorten(value)}), where text is "
            "expected; name another column, or a value within an object: COLUMN.NAME"
        )

    def _choose(self, column: str | None) -> str:
        rows = self._peek()
        if not rows:
            raise DataError(f"{self._path} has no rows; give a file with rows in it")
        self.columns = names = list(dict.fromkeys(name for row in rows for name in row))
        texts = [name for name in names if any(self._is_text(row.get(name)) for row in rows)]
        empty = [name for name in names if all(row.get(name) in (None, "") for row in rows)]
        if column is not None:
            if column not in names:
                raise DataError(f"{self._address} has no column {column}; it has {_listed(names)}")
            if column not in (*texts, *empty) and not any(isinstance(row.get(column), list | dict) for row in rows):
                raise DataError(
                    f"the column {column} of {self._address} holds no text; columns with text are "
                    f"{_listed(texts) or 'none'}"
                )
            return column
        candidates = texts or empty
        if "text" in candidates or len(candidates) == 1:
            return "text" if "text" in candidates else candidates[0]
        raise NoColumnError(
            f"{self._address} has no column named text; name the one that holds it: {self._address}:COLUMN, with "
            f"COLUMN one of {_listed(candidates or names)}"
        )

    def _peek(self) -> list[dict[str, Any]]:
        """Return the first rows, as many as are no longer together than one may be."""
        rows, size = [], 0
        for _, row in islice(self._rows(), PEEKED_ROWS):
            rows.append(row)
            size += sum(len(value) for value in row.values() if isinstance(value, str | list | dict))
            if size > LONGEST_ROW:
                break
        return rows

    def _is_text(self, value: Any) -> bool:
        return isinstance(value, str) and value != "" and not (self._kind == "csv" and _is_number(value))

    def _rows(self) -> Iterator[Row]:
        match self._kind:
            case "parquet":
                yield from self._parquet()
            case "csv":
                yield from self._csv()
            case "text":
                with self._open() as file:
                    yield from ((place, {"text": line}) for place, line in enumerate(self._lines(file), 1))
            case _:
                yield from self._json()

    @contextmanager
    def _open(self, newline: str | None = None) -> Iterator[TextIO]:
        path = self._path
        if path.suffix.lower() in COMPRESSED:
            encoding, file = "utf-8-sig", open_compressed(path)
        else:
            encoding, file = self._encoding or detect_encoding(path), path.open("rb")
        if not encoding.startswith("utf-8") and not self._said:
            self._said = True
            say(f"{path} is not UTF-8; it is read as {encoding}. If letters come out wrong, save it as UTF-8.")
        try:
            with file, io.TextIOWrapper(file, encoding=encoding, newline=newline) as text:
                yield text
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is no {encoding} text ({error.reason}); save it as UTF-8") from error
        except (OSError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"{path} is damaged or cannot be read ({error}); get it again") from error

    def _lines(self, file: TextIO) -> Iterator[str]:
        """Yield the lines of a file; none is longer than a row may be."""
        place = 0
        while line := file.readline(LONGEST_ROW + 1):
            place += 1
            if len(line) > LONGEST_ROW:
                raise self._too_large(f", line {place}: it has more than {LONGEST_ROW:,} characters")
            yield line

    def _check_values(self, text: str, marks: str, place: Place | None) -> None:
        if len(text) > MOST_VALUES and sum(map(text.count, marks)) > MOST_VALUES:
            where = f", line {place}" if place else ""
            raise self._too_large(f"{where}: it has more than {MOST_VALUES:,} values")

    def _too_large(self, what: str) -> DataError:
        return DataError(f"{self._path}{what}, as no row of texts has; leave it out, or divide it")

    def _csv(self) -> Iterator[Row]:
        csv.field_size_limit(LONGEST_ROW)
        with self._open(newline="") as file:
            lines = self._lines(file)
            first = next((line for line in lines if line.strip()), "")
            delimiter = "\t" if self._suffix == ".tsv" else _delimiter(first)
            read = 0  # characters of the present row, which may have several lines

            def counted() -> Iterator[str]:
                nonlocal read
                for text in chain([first], lines):
                    read += len(text)
                    if read > LONGEST_ROW:
                        raise self._too_large(
                            f", from line {line + 1} on: a row has more than {LONGEST_ROW:,} characters"
                        )
                    self._check_values(text, delimiter, line + 1)
                    yield text

            reader = csv.reader(counted(), delimiter=delimiter, strict=True)
            line = 0
            try:
                header = next(reader, [])
                line, read = reader.line_num, 0
                for fields in reader:
                    line, read = reader.line_num, 0
                    if len(fields) > len(header):
                        raise DataError(
                            f"{self._path}, line {line}: {len(fields)} values, and the header names {len(header)} "
                            f"columns ({_listed(header)}); a value with {delimiter!r} in it needs quotes around it"
                        )
                    if fields:
                        row: dict[str, Any] = {}
                        for name, field in zip(header, fields, strict=False):
                            row.setdefault(name, field)  # of two columns with one name the first counts
                        yield line, row
            except csv.Error as error:
                raise DataError(
                    f"{self._path}, from line {line + 1} on: {error}; check the quotes: within a value they are doubled"
                ) from error

    def _json(self) -> Iterator[Row]:
        with self._open() as file:
            beginning = file.read(LONGEST_ROW)
            first, *others = beginning.lstrip().split("\n", 1)
            file.seek(0)
            if first.startswith("[") or (
                self._suffix == ".json" and (not "".join(others).strip() or not _is_json(first))
            ):
                yield from self._whole_json(file.read(LONGEST_JSON + 1))
                return
            for place, line in enumerate(self._lines(file), 1):
                if line.strip():
                    yield place, self._flat(self._parsed(line.strip(), place), place)

    def _whole_json(self, text: str) -> Iterator[Row]:
        if len(text) > LONGEST_JSON:
            raise self._too_large(f": it has more than {LONGEST_JSON:,} characters and is no JSON lines")
        content = self._parsed(text, None)
        if isinstance(content, dict):
            lists = {name: value for name, value in content.items() if isinstance(value, list)}
            if lists and all(isinstance(row, dict) for rows in lists.values() for row in rows[:1]):
                content = max(lists.values(), key=len)  # such as {"data": [...]}
            elif lists and len({len(value) for value in lists.values()}) == 1 == len(content) // len(lists):
                content = [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]
        for place, row in enumerate(content if isinstance(content, list) else [content], 1):
            yield place, self._flat(row, place)

    def _parsed(self, text: str, place: Place | None) -> Any:
        self._check_values(text, "[{,", place)
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            where = f", line {place}" if place else ""
            reason = f"{error.msg}, character {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
            if place is None and isinstance(error, json.JSONDecodeError):
                where = f", line {error.lineno}"
            raise DataError(f"{self._path}{where}: no JSON ({reason}); correct or remove it") from error

    def _flat(self, row: Any, place: Place) -> dict[str, Any]:
        if isinstance(row, str):
            return {"text": row}
        if not isinstance(row, dict):
            raise DataError(
                f"{self._path}, {self._word} {place}: {shorten(row)}, and an object is expected, such as "
                '{"text": "..."}'
            )
        return _flattened(row)

    def _parquet(self) -> Iterator[Row]:
        import_extra("datasets", extra="hub", purpose=f"reading {self._path}")
        pyarrow = import_module("pyarrow")
        parquet = import_module("pyarrow.parquet")

        try:
            with parquet.ParquetFile(self._path) as file:
                groups = [file.metadata.row_group(at) for at in range(file.metadata.num_row_groups)]
                size = sum(group.total_byte_size for group in groups)
                if size > max(LEAST_SUSPECT_BYTES, LARGEST_RATIO * self._path.stat().st_size):
                    raise DataError(f"{self._path} unpacks to {size:,} bytes, as no text does; leave it out")
                chosen = self.column
                columns = None if chosen is None else [chosen.partition(".")[0] if "." in chosen else chosen]
                place = 0
                for batch in file.iter_batches(PEEKED_ROWS, columns=columns):
                    for row in batch.to_pylist():
                        place += 1
                        yield place, _flattened(row)
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise DataError(f"{self._path} is damaged or no Parquet file ({reason}); get it again") from error


def _flattened(row: dict[str, Any], prefix: str = "", depth: int = 0) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in row.items():
        flat[prefix + name] = value
        if isinstance(value, dict) and depth < 5:
            flat |= _flattened(value, f"{prefix}{name}.", depth + 1)
    return flat


def _delimiter(header: str) -> str:
    return "," if "," in header else max(DELIMITERS, key=header.count)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:MOST_NAMED]) + (", ..." if len(names) > MOST_NAMED else "")
