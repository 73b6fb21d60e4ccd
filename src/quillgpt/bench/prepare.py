"""Speed of turning a text into tokens: whole processes, from the start of Python to the last file on the disk."""

from __future__ import annotations

import hashlib
import os
import platform
import runpy
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from quillgpt.bench.memory import PeakMemory, peak_memory
from quillgpt.bench.peers import QUILL, TRANSFORMERS, Candidate
from quillgpt.bench.profiling import profile_functions
from quillgpt.bench.results import PrepareResult, Profile, common_numbers
from quillgpt.bench.rounds import run_rounds
from quillgpt.config.paths import expand
from quillgpt.console import quietly
from quillgpt.data.dataset import open_dataset
from quillgpt.data.dataset_manifest import TRAIN_FILE, VAL_FILE
from quillgpt.data.prepare import prepare
from quillgpt.errors import ConfigError, DataError, UserError
from quillgpt.files import sha256_of
from quillgpt.text.encodings.detection import detect_encoding, read_pieces
from quillgpt.text.sources.downloads import GPT2_MERGES, GPT2_VOCABULARY, fetch
from quillgpt.text.sources.python_docs import python_docs_file
from quillgpt.text.tokenizers.tokenizer import check_spec

MEGABYTE = 1_000_000
BUILT_IN_MEGABYTES = 20
PIECE_CHARACTERS = 1 << 20
DATA_SET = "text"

NANOGPT_SCRIPTS = {"gpt2": "shakespeare", "char": "shakespeare_char"}
"""The folder in nanoGPT's data/ whose prepare.py encodes input.txt with this tokenizer."""


@dataclass(frozen=True)
class PrepareWork:
    """The work of every candidate.

    Attributes:
        text: A UTF-8 text file.
        tokenizer: Name of the tokenizer.
    """

    text: Path
    tokenizer: str


def bench_preparing(
    source: str | None,
    *,
    tokenizer: str,
    megabytes: int | None,
    rounds: int,
    peers: Sequence[Candidate],
    profiled: bool,
) -> tuple[dict[str, object], list[PrepareResult], Profile | None]:
    """Measure preparing: megabytes of text and tokens per second.

    Args:
        source: A text file; None takes the documentation of this Python.
        tokenizer: Name of the tokenizer.
        megabytes: The text is repeated until it is this long, in 10^6 bytes. None takes a file as it is, and 20 for
            the documentation.
        rounds: Counted rounds.
        peers: The programs that run in turn with Quill; nanoGPT's scripts know `gpt2` and `char`.
        profiled: Profile Quill's Python functions in one more run, in this process.

    Returns:
        The conditions of the measurement, the results with Quill's first, and the profile.

    Raises:
        UserError: The text, the tokenizer or a peer cannot be used.
    """
    check_can_prepare(tokenizer, peers)
    if tokenizer == "gpt2":  # a download must not count as time of a candidate
        fetch(GPT2_MERGES)
        fetch(GPT2_VOCABULARY)
    with TemporaryDirectory(prefix="quill-bench-") as place:
        work = PrepareWork(Path(place) / "input.txt", tokenizer)
        write_text(work.text, source, megabytes)
        size = work.text.stat().st_size
        preparers = {candidate.name: Preparer(work, candidate) for candidate in (QUILL, *peers)}
        throughputs = run_rounds({name: preparer.run_round for name, preparer in preparers.items()}, rounds)
        memories = {name: preparer.memory() for name, preparer in preparers.items()}
        profile = None
        if profiled:
            with TemporaryDirectory(prefix="quill-bench-") as folder, quietly():
                operations = profile_functions(lambda: prepare_with_quill(work, Path(folder)))
            title = "costliest functions of preparing with quill, time in themselves (this process; no trace is made)"
            profile = Profile(title, operations, None)
    results = [
        PrepareResult(
            **common_numbers(name, preparer.how, throughputs[name], preparer.tokens / size * MEGABYTE, memories[name]),
            megabytes_per_second=throughputs[name].median,
            megabytes_per_second_rounds=throughputs[name].rates,
            seconds=size / MEGABYTE / throughputs[name].median,
            tokens=preparer.tokens,
            same_tokens_as_quill=preparer.hashes == preparers[QUILL.name].hashes,
        )
        for name, preparer in preparers.items()
    ]
    about: dict[str, object] = {
        "source": source or "python_docs",
        "megabytes": size / MEGABYTE,
        "tokenizer": tokenizer,
        "processors": os.cpu_count(),
        "python": platform.python_version(),
        "measured": "whole processes, the start of Python and imports included",
    }
    return about, results, profile


def check_can_prepare(tokenizer: str, peers: Sequence[Candidate]) -> None:
    """Check that Quill and the peers know the tokenizer, before any work.

    Raises:
        TokenizerError: Quill does not know it.
        ConfigError: A peer does not know it, or cannot prepare texts.
        UserError: A peer is not at the given path.
    """
    check_spec(tokenizer)
    for peer in peers:
        if peer.name == TRANSFORMERS:
            raise ConfigError(
                "--peer transformers does not prepare data sets, so there is nothing to compare; "
                "leave it out, or give --peer nanogpt=PATH"
            )
        if tokenizer not in NANOGPT_SCRIPTS:
            raise ConfigError(
                f"nanoGPT has no script for --tokenizer={tokenizer}; compare with {' or '.join(NANOGPT_SCRIPTS)}"
            )
        if not nanogpt_script(peer, tokenizer).is_file():
            raise UserError(
                f"{nanogpt_script(peer, tokenizer)} does not exist; give the folder of a nanoGPT checkout: "
                "--peer nanogpt=PATH"
            )


def nanogpt_script(peer: Candidate, tokenizer: str) -> Path:
    """Return nanoGPT's script that prepares a text with this tokenizer."""
    assert peer.checkout is not None
    return peer.checkout / "data" / NANOGPT_SCRIPTS[tokenizer] / "prepare.py"


def write_text(path: Path, source: str | None, megabytes: int | None) -> None:
    """Write the text to prepare, as UTF-8, repeated until it has the given number of megabytes.

    Raises:
        DataError: The source is not a text file, or is empty.
    """
    if source is not None and not expand(source).is_file():
        raise DataError(f"there is no file {source}; give a text file, or none for the documentation of this Python")
    original = python_docs_file() if source is None else expand(source)
    encoding = detect_encoding(original, name=str(original))
    wanted = (megabytes or (BUILT_IN_MEGABYTES if source is None else 0)) * MEGABYTE
    with path.open("w", encoding="utf-8", newline="") as file:
        while True:
            for piece in read_pieces(original, encoding, PIECE_CHARACTERS, name=str(original)):
                file.write(piece)
            if file.tell() >= wanted:
                return


class Preparer:
    """Runs one candidate, each time with a new folder.

    Args:
        work: The text and the tokenizer.
        candidate: The program.

    Attributes:
        how: How it is run, in words.
        tokens: The number of tokens in the files that it wrote, after a round.
        hashes: The hashes of these files, after a round.
    """

    def __init__(self, work: PrepareWork, candidate: Candidate) -> None:
        self._work = work
        self._script = None if candidate == QUILL else nanogpt_script(candidate, work.tokenizer)
        self.tokens = 0
        self.hashes: list[str] = []
        if self._script is None:
            self.how = "quill prepare, one process"
        else:
            self.how = f"data/{self._script.parent.name}/prepare.py, one process"

    def run_round(self) -> float:
        """Prepare the text and return megabytes per second.

        Raises:
            UserError: The candidate failed.
        """
        with self._folder() as folder:
            start = time.perf_counter()
            done = subprocess.run(
                self._command(folder),
                cwd=folder,
                env=self._environment(folder),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                check=False,
            )
            seconds = time.perf_counter() - start
            if done.returncode != 0:
                lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["it said nothing"]
                raise UserError(f"{self.how} failed with exit status {done.returncode}: {lines[-1]}")
            self._read_result(folder)
        return self._work.text.stat().st_size / MEGABYTE / seconds

    def memory(self) -> PeakMemory:
        """Prepare the text once more and return the peak memory of the process."""
        with self._folder() as folder:
            if self._script is None:
                return peak_memory(prepare_with_quill, self._work, folder)
            return peak_memory(_run_script, folder, self._environment(folder))

    @contextmanager
    def _folder(self) -> Iterator[Path]:
        with TemporaryDirectory(prefix="quill-bench-") as name:
            folder = Path(name)
            if self._script is not None:
                shutil.copyfile(self._script, folder / "prepare.py")
                shutil.copyfile(self._work.text, folder / "input.txt")
                put_tiktoken_files(folder / "tiktoken")
            yield folder

    def _command(self, folder: Path) -> list[str]:
        if self._script is not None:
            return [sys.executable, "prepare.py"]
        words = ["prepare", str(self._work.text), f"--data_dir={folder}", f"--dataset={DATA_SET}"]
        return [sys.executable, "-m", "quillgpt", *words, f"--tokenizer={self._work.tokenizer}"]

    def _environment(self, folder: Path) -> dict[str, str]:
        if self._script is None:
            return dict(os.environ)
        return os.environ | {"TIKTOKEN_CACHE_DIR": str(folder / "tiktoken"), "PYTHONUTF8": "1"}

    def _read_result(self, folder: Path) -> None:
        if self._script is None:
            dataset = open_dataset(DATA_SET, folder)
            self.tokens = len(dataset.train) + len(dataset.val)
            folder = dataset.folder
        else:
            self.tokens = sum((folder / name).stat().st_size for name in (TRAIN_FILE, VAL_FILE)) // 2  # uint16
        self.hashes = [sha256_of(folder / name) for name in (TRAIN_FILE, VAL_FILE)]


def prepare_with_quill(work: PrepareWork, data_dir: Path) -> None:
    """Prepare a text as `quill prepare` does, with a tenth of it for validation."""
    prepare(
        [str(work.text)],
        data_dir=data_dir,
        dataset=DATA_SET,
        tokenizer=work.tokenizer,
        val_fraction=0.1,
    )


def put_tiktoken_files(folder: Path) -> None:
    """Copy GPT-2's files, if they are cached, to the folder where tiktoken looks before it downloads them."""
    folder.mkdir()
    for download in (GPT2_MERGES, GPT2_VOCABULARY):
        if download.cached.is_file():
            name = hashlib.sha1(download.address.encode("utf-8")).hexdigest()
            shutil.copyfile(download.cached, folder / name)


def _run_script(folder: Path, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    os.chdir(folder)
    runpy.run_path("prepare.py", run_name="__main__")
