"""What an export consists of, and what was checked of it: the content of certificate.json."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from quillgpt.errors import CheckpointError
from quillgpt.files import flush_to_disk, is_plain_path, sha256_of, write_json
from quillgpt.ownership import files_below, foreign
from quillgpt.records import read_record

CERTIFICATE = "certificate.json"


@dataclass(frozen=True)
class CheckResult:
    """One comparison of the exported model with ours.

    Attributes:
        name: What was compared.
        result: `passed`, `failed`, or `not run`.
        detail: What was found, or why it could not be run.
        largest_difference: Between two numbers that should be equal, where numbers were compared.
        tolerance: The largest that passes.
    """

    name: str
    result: Literal["passed", "failed", "not run"]
    detail: str
    largest_difference: float | None = None
    tolerance: float | None = None


@dataclass(frozen=True)
class Certificate:
    """What an export is, and which checks it passed.

    Attributes:
        model: What was exported, as a person named it.
        target: The format.
        number_type: What matrices are written in.
        runtime: The program that ran the exported files, with its version; None where none could.
        quill_version: Of the program that wrote them.
        date: Day of the export, as 2026-11-21.
        checks: In the order in which they were made.
        files: The SHA-256 of every other file of the export, by its path from the folder.
    """

    model: str
    target: str
    number_type: str
    runtime: str | None
    quill_version: str
    date: str
    checks: list[CheckResult]
    files: dict[str, str]

    @property
    def failed(self) -> list[CheckResult]:
        """The checks that did not pass."""
        return [check for check in self.checks if check.result == "failed"]


def hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of an export but the certificate, by its path from the folder."""
    return {name: sha256_of(folder / name) for name in files_below(folder) if name != CERTIFICATE}


def write_certificate(folder: Path, certificate: Certificate) -> None:
    """Write the certificate of an export, whose files are on the disk before it."""
    for name in certificate.files:
        flush_to_disk(folder / name)
    write_json(folder / CERTIFICATE, asdict(certificate))


def files_of(folder: Path) -> dict[str, str | None]:
    """Return the hashes that a folder's certificate lists; nothing where it has none of Quill's."""
    try:
        certificate = read_record(folder / CERTIFICATE, Certificate, CheckpointError, mend="")
    except CheckpointError:
        return {}
    return {name: digest for name, digest in certificate.files.items() if is_plain_path(name)}


def not_of_export(folder: Path) -> list[str]:
    """Return the files of a folder that are not those of an export, or were changed since it."""
    known = files_of(folder)
    if known:
        known |= {CERTIFICATE: None}
    return foreign(folder, files_below(folder), known=known)
