"""certificate.json: the files of an export, and the checks that it passed."""

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
    """The result of comparing the exported model with ours in one respect.

    Attributes:
        name: What was compared.
        result: `passed`, `failed`, or `not run`.
        detail: The finding, or the reason why the check could not be run.
        largest_difference: The largest difference of two numbers; None if no numbers were compared.
        tolerance: The largest difference that passes.
    """

    name: str
    result: Literal["passed", "failed", "not run"]
    detail: str
    largest_difference: float | None = None
    tolerance: float | None = None


@dataclass(frozen=True)
class Certificate:
    """A description of an export, with its checks.

    Attributes:
        model: The path or name of the exported model.
        target: The format.
        number_type: The number type of matrices.
        runtime: The program that ran the exported files, with its version; None if it is not installed.
        quill_version: The version of Quill that wrote the export.
        date: The day of the export, such as 2026-11-21.
        checks: The results of the checks, in their order.
        files: The SHA-256 of every other file of the export, by relative path.
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
    """Return the SHA-256 of every file of an export except the certificate, by relative path."""
    return {name: sha256_of(folder / name) for name in files_below(folder) if name != CERTIFICATE}


def write_certificate(folder: Path, certificate: Certificate) -> None:
    """Flush the files of an export to the disk, and then write its certificate."""
    for name in certificate.files:
        flush_to_disk(folder / name)
    write_json(folder / CERTIFICATE, asdict(certificate))


def files_of(folder: Path) -> dict[str, str | None]:
    """Return the hashes in a folder's certificate; empty if it has no certificate of Quill's."""
    try:
        certificate = read_record(folder / CERTIFICATE, Certificate, CheckpointError, mend="")
    except CheckpointError:
        return {}
    return {name: digest for name, digest in certificate.files.items() if is_plain_path(name)}


def not_of_export(folder: Path) -> list[str]:
    """Return the files of a folder that do not belong to an export, or were changed since."""
    known = files_of(folder)
    if known:
        known |= {CERTIFICATE: None}
    return foreign(folder, files_below(folder), known=known)
