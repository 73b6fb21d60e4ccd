"""The texts of the benchmark: made from Debian packages and from the library of this Python, and kept."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from quillgpt.bench.quality.man_pages import plain_text
from quillgpt.console import say
from quillgpt.errors import DataError
from quillgpt.files import atomic_path, quill_home

VERSION = 1  # counts changes of what is below, so that texts of an older Quill are made again
ROOT = "unpacked"
LARGEST_BYTES = 50_000_000
SMALL_BYTES = 50_000
LONGEST_WAIT_SECONDS = 600
SMALLEST_OF_TEXT = 40_000
"""Bytes of a Debian package below which it is one of dependencies only."""

OWN_TEXTS = "give texts of your own: quill bench own_text FILE ..."

Use = Literal["tuning", "held"]
Documents = Callable[[Path], Iterable[str]]
"""Returns the documents of a text, given the folder into which its packages are unpacked."""


@dataclass(frozen=True)
class KnownText:
    """A text of the benchmark.

    Attributes:
        kind: What it is, in words.
        use: tuning, or held if no rule may be tuned on it.
        packages: The Debian packages that it is made from, and those that they depend on where they have no files of
            their own; none for the library of Python.
        documents: Returns its documents.
        most_bytes: Where it is cut.
    """

    kind: str
    use: Use
    packages: tuple[str, ...]
    documents: Documents
    most_bytes: int = LARGEST_BYTES


def in_fixed_order(paths: Iterable[Path], folder: Path) -> list[Path]:
    """Return files in an order that depends on the hashes of their names only, so that the end is like the rest."""
    return sorted(paths, key=lambda path: hashlib.sha256(path.relative_to(folder).as_posix().encode()).digest())


def files_of(root: Path, *, place: str, pattern: str, leave_out: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the texts of files.

    Args:
        root: Where the packages are unpacked.
        place: The folder below it.
        pattern: Names of the files.
        leave_out: Names of folders below it whose files are left out.
    """
    folder = root / place
    paths = [path for path in folder.rglob(pattern) if path.is_file() and not path.is_symlink()]
    kept = [path for path in paths if not {*leave_out}.intersection(path.relative_to(folder).parts[:-1])]
    for path in in_fixed_order(kept, folder):
        with suppress(UnicodeDecodeError):  # a test of other encodings
            yield path.read_text(encoding="utf-8")


def manual_pages(root: Path, *, language: str) -> Iterator[str]:
    """Yield the manual pages of a language as plain text; those in the macros of BSD are left out."""
    folder = root / "usr/share/man" / language
    pages = [path for path in folder.rglob("*.gz") if path.is_file() and not path.is_symlink()]
    for path in in_fixed_order(pages, folder):
        with suppress(UnicodeDecodeError):
            source = gzip.decompress(path.read_bytes()).decode("utf-8")
            if "\n.Sh " not in source and not source.lstrip().startswith(".so "):
                yield plain_text(source)


def fortunes(root: Path, *, place: str, pattern: str = "*") -> Iterator[str]:
    """Yield the files of fortunes, without their indexes."""
    folder = root / "usr/share/games/fortunes" / place
    paths = [path for path in folder.glob(pattern) if path.is_file() and path.suffix not in (".dat", ".u8")]
    for path in in_fixed_order([path for path in paths if not path.is_symlink()], folder):
        yield path.read_text(encoding="utf-8", errors="ignore")


def dictionary(root: Path, *, name: str) -> Iterator[str]:
    """Yield a dictionary of dictd; bytes that are no UTF-8 are left out."""
    yield gzip.decompress((root / f"usr/share/dictd/{name}.dict.dz").read_bytes()).decode("utf-8", "ignore")


def bible(root: Path) -> Iterator[str]:
    """Yield the King James Bible as its own program prints it, which alone reads its file.

    Raises:
        DataError: The program cannot be run here.
    """
    command = [str(root / "usr/bin/bible"), "-p", str(root / "usr/lib"), "gen1:1-rev22:21"]
    yield _run(command, "the text of the Bible cannot be printed", environment={"COLUMNS": "79"})


def python_library(_: Path) -> Iterator[str]:
    """Yield the modules of the library of this Python, without what was installed beside them."""
    beside = ("site-packages", "dist-packages", "__pycache__")
    return files_of(Path("/"), place=sysconfig.get_path("stdlib").lstrip("/"), pattern="*.py", leave_out=beside)


TEXTS: dict[str, KnownText] = {
    "fortunes": KnownText(
        "English quotations and jokes", "tuning", ("fortunes",), partial(fortunes, place="")
    ),
    "fortunes_small": KnownText(
        "50 KB of them", "tuning", ("fortunes",), partial(fortunes, place="", pattern="wisdom"), SMALL_BYTES
    ),
    "man_de": KnownText(
        "manual pages in German", "tuning", ("manpages-de",), partial(manual_pages, language="de")
    ),
    "man_fr": KnownText(
        "manual pages in French", "tuning", ("manpages-fr",), partial(manual_pages, language="fr")
    ),
    "man_ja": KnownText(
        "manual pages in Japanese", "tuning", ("manpages-ja",), partial(manual_pages, language="ja")
    ),
    "python_docs": KnownText(
        "Python's documentation, reStructuredText",
        "tuning",
        ("python3-doc",),
        partial(files_of, place="usr/share/doc", pattern="*.rst.txt"),
    ),
    "python_source": KnownText("source code of Python's library", "tuning", (), python_library),
    "gcide": KnownText("an English dictionary", "tuning", ("dict-gcide",), partial(dictionary, name="gcide")),
    "bible": KnownText("the Bible in English", "held", ("bible-kjv", "bible-kjv-text"), bible),
    "man_ru": KnownText("manual pages in Russian", "held", ("manpages-ru",), partial(manual_pages, language="ru")),
    "man_zh": KnownText("manual pages in Chinese", "held", ("manpages-zh",), partial(manual_pages, language="zh_CN")),
    "linux_docs": KnownText(
        "documentation of Linux, reStructuredText",
        "held",
        ("linux-doc",),
        partial(files_of, place="usr/share/doc", pattern="*.rst.txt", leave_out=("translations",)),
    ),
    "spanish_small": KnownText(
        "50 KB of Spanish quotations",
        "held",
        ("fortunes-es",),
        partial(fortunes, place="es", pattern="arte.fortunes"),
        SMALL_BYTES,
    ),
}  # fmt: skip
"""The texts of the benchmark, by name."""


def text_file(name: str) -> Path:
    """Return a text of the benchmark as a file, which is made on the first call.

    Raises:
        DataError: Its packages cannot be had here.
    """
    path = quill_home() / "bench" / f"{name}-{VERSION}.txt"
    if not path.is_file():
        text = TEXTS[name]
        say(f"making the text {name} ({text.kind})" + (f" from {' and '.join(text.packages)}" if text.packages else ""))
        with TemporaryDirectory(prefix="quill-bench-") as folder, atomic_path(path) as file:
            unpack(text.packages, Path(folder), name)
            file.write_bytes(joined(text.documents(Path(folder) / ROOT), text.most_bytes, name))
    return path


def joined(documents: Iterable[str], most_bytes: int, name: str) -> bytes:
    """Return documents as one text in whole lines, with an empty line between them.

    Args:
        documents: The documents.
        most_bytes: Where the text is cut.
        name: The text's name, for a message.

    Raises:
        DataError: There are none.
    """
    parts, size = [], 0
    for document in documents:
        part = document.replace("\r\n", "\n").strip("\n").encode("utf-8", "ignore") + b"\n\n"
        parts.append(part)
        size += len(part)
        if size > most_bytes:
            break
    whole = b"".join(parts)[: most_bytes + 1]
    if len(whole) > most_bytes:
        whole = whole[: whole.rindex(b"\n", 0, most_bytes) + 1]
    if not whole.strip():
        raise DataError(f"the packages of the text {name} have no such text in this release; {OWN_TEXTS}")
    return whole.rstrip(b"\n") + b"\n"


def unpack(packages: Iterable[str], folder: Path, name: str) -> None:
    """Fetch Debian packages with apt and unpack them, without installing them.

    A package that has nothing but a dependency, such as python3-doc, stands for the one that it depends on.

    Args:
        packages: Their names.
        folder: An empty folder, in which the folder `ROOT` will have their files.
        name: The text that they are for, for messages.

    Raises:
        DataError: There is no apt, or it does not have them.
    """
    root, waiting = folder / ROOT, list(packages)
    root.mkdir()
    if waiting and not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise DataError(
            f"the text {name} is made from the Debian package {waiting[0]}, and there is no apt-get here; {OWN_TEXTS}"
        )
    while waiting:
        package = waiting.pop(0)
        what = f"the Debian package {package} of the text {name} cannot be had"
        place = folder / package
        place.mkdir()
        _run(["apt-get", "download", package], what, folder=place)
        for archive in place.glob("*.deb"):
            _run(["dpkg-deb", "-x", str(archive), str(root)], what)
            if archive.stat().st_size < SMALLEST_OF_TEXT:
                needed = _run(["dpkg-deb", "-f", str(archive), "Depends"], what)
                waiting += [word.split()[0] for word in needed.split(",") if word.strip()]


def _run(
    command: list[str], what: str, *, folder: Path | None = None, environment: dict[str, str] | None = None
) -> str:
    """Run another program and return what it prints.

    Raises:
        DataError: It failed; the message begins with `what`, and ends with its last line.
    """
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=os.environ | {"LC_ALL": "C.UTF-8"} | (environment or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=LONGEST_WAIT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DataError(f"{what} ({error}); {OWN_TEXTS}") from None
    if done.returncode != 0:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["it said nothing"]
        raise DataError(f"{what} ({command[0]}: {lines[-1]}); {OWN_TEXTS}")
    return done.stdout.decode("utf-8", "replace")
