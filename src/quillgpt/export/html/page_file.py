"""The place of a page: a file that is written whole, and that replaces only an earlier page."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from quillgpt.errors import ConfigError
from quillgpt.export.certificate import Certificate
from quillgpt.export.gguf import model_name
from quillgpt.export.html.assemble import is_unchanged_page, with_certificate
from quillgpt.export.html.target import PAGE_FILE
from quillgpt.files import flush_to_disk, let_others_read


def check_place(path: Path, *, overwrite: bool) -> None:
    """Check that a page may be written to a file.

    Raises:
        ConfigError: Its name is not that of a page, or something else is there.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--to html writes one file, and {path} is no name for it; give one such as {path}.html")
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise ConfigError(f"{path} is a {'link' if path.is_symlink() else 'folder'}; give a file that is not there yet")
    if not path.exists():
        return
    if not overwrite:
        raise ConfigError(f"{path} is there already; choose another name, or add --overwrite")
    if not is_unchanged_page(path):
        raise ConfigError(
            f"{path} was not written by an export or was changed since, which is not overwritten; choose another name"
        )


def take_place(fresh: Path, path: Path, certificate: Certificate) -> None:
    """Put the certificate into a page, and give the page its name; an earlier one is there until then."""
    page = fresh / PAGE_FILE
    certified = asdict(certificate) | {"model": model_name(Path(certificate.model).absolute())}
    del certified["files"]  # the page itself, whose hash is in its first line
    page.write_bytes(with_certificate(page.read_text(encoding="utf-8"), certified))
    let_others_read(page)
    flush_to_disk(page)
    page.replace(path)
    flush_to_disk(path.parent)
