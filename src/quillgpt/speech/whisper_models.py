"""Whisper's models in CTranslate2's format: found on this machine by name or folder, or fetched from the hub."""

from __future__ import annotations

import fnmatch
import os
import shlex
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from quillgpt.config.paths import HUB_REPOSITORY, exists, expand, is_path
from quillgpt.console import progress, say
from quillgpt.errors import CheckpointError, check_is_no_pointer, closest, cut, did_you_mean
from quillgpt.extras import import_extra
from quillgpt.files import let_hub_libraries_keep_files, quill_home
from quillgpt.text.sources.downloads import check_downloads_are_allowed

DEFAULT_MODEL = "small"
CONFIGURATION, WEIGHTS = "config.json", "model.bin"
TOKENIZER, FEATURES = "tokenizer.json", "preprocessor_config.json"
VOCABULARIES = ("vocabulary.json", "vocabulary.txt")
FILES = (CONFIGURATION, FEATURES, WEIGHTS, TOKENIZER, "vocabulary.*")
OTHER_WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "*.safetensors.index.json")
"""The weights of transformers, which can be converted."""

ANSWER_SECONDS = 10
"""The hub has to answer within this time."""

STALL_SECONDS = 60
"""A download is given up after this time without a byte."""

POLL_SECONDS = 0.2

Result = TypeVar("Result")


class ModelUnavailableError(CheckpointError):
    """A model of Whisper is not on this machine, and cannot be fetched now.

    Attributes:
        reason: Why, in a few words.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


def whisper_folder(given: str) -> Path:
    """Return the folder of a model, after fetching it if necessary.

    Looks for a folder of that name, into `QUILL_MIRROR`, and into the caches of Quill and of the Hugging Face hub.

    Args:
        given: A name such as `small`, `owner/name` on the Hugging Face hub, or a folder.

    Raises:
        ModelUnavailableError: It is not here and cannot be fetched.
        CheckpointError: There is no such model, or it is of another kind.
        UserError: The package `faster_whisper` is not installed.
    """
    repositories = _repositories()
    path = expand(given)
    if given not in repositories or exists(path / WEIGHTS):
        if exists(path):
            check_is_whisper(path)
            return path
        if not HUB_REPOSITORY.fullmatch(given) or exists(path.parent):
            raise _unknown(given, list(repositories))
    repository = repositories.get(given, given)
    for folder in _places(given, repository):
        if folder.is_dir():
            check_is_whisper(folder)
            return folder
    return _in_hub_cache(repository) or _fetch(given, repository)


def _repositories() -> dict[str, str]:
    """Return the names of the published models, and where each is on the hub."""
    utils = import_extra("faster_whisper.utils", extra="whisper", purpose="transcribing with whisper")
    return dict(utils._MODELS)


def _unknown(given: str, names: list[str]) -> CheckpointError:
    shown = cut(given)
    if is_path(given) or given.startswith((".", "~")):
        return CheckpointError(f"--model={shown}: there is no such folder; give that of a converted model of Whisper")
    if closest(given, names):
        return CheckpointError(f"--model={shown}: whisper has no such model{did_you_mean(given, names)}")
    return CheckpointError(f"--model={shown} is neither a folder nor a model of Whisper; names are {', '.join(names)}")


def _places(given: str, repository: str) -> list[Path]:
    """Return the folders of Quill in which a model may be."""
    mirror = os.environ.get("QUILL_MIRROR")
    mirrored = [expand(mirror) / "hub" / name for name in dict.fromkeys((given, repository))] if mirror else []
    return [*mirrored, own_place(given)]


def own_place(given: str) -> Path:
    """Return the folder below Quill's cache folder in which a model is looked for that was fetched by hand."""
    return quill_home() / "downloads" / "whisper" / given.replace("/", "--")


def check_is_whisper(path: Path) -> None:
    """Check that a folder holds a model of Whisper in CTranslate2's format, with all that is needed.

    Raises:
        CheckpointError: It does not; the message says how to get such a folder.
    """
    if not path.is_dir():
        raise CheckpointError(f"--model={path} is a file, {_kind_of_file(path)}; give the folder of a converted model")
    if not (path / WEIGHTS).is_file():
        raise CheckpointError(_why_unusable(path))
    with (path / WEIGHTS).open("rb") as file:
        check_is_no_pointer(file.read(64), path / WEIGHTS, CheckpointError)
    missing = [name for name in (CONFIGURATION, TOKENIZER) if not (path / name).is_file()]
    if not any((path / name).is_file() for name in VOCABULARIES):
        missing.append(VOCABULARIES[0])
    if missing:
        copied = f"; {TOKENIZER} is that of the model before its conversion" if missing == [TOKENIZER] else ""
        raise CheckpointError(f"{path} lacks {' and '.join(missing)}, which belong to a converted model{copied}")


def _kind_of_file(path: Path) -> str:
    name = path.name.lower()
    if name.startswith("ggml") or path.suffix in (".gguf", ".ggml"):
        return "such as whisper.cpp's models are, which whisper here cannot read"
    if path.suffix in (".pt", ".pth"):
        return "such as OpenAI publishes them, which whisper here cannot read"
    return "not a folder"


def _why_unusable(path: Path) -> str:
    if any(next(path.glob(pattern), None) for pattern in OTHER_WEIGHTS):
        converted = path.with_name(f"{path.name or 'whisper'}-ct2")
        return (
            f"{path} holds the weights of another library, not of CTranslate2; convert them: "
            f"{converter_command(str(path), str(converted))}, then give --model={converted}"
        )
    inner = sorted(path.glob(f"*/{WEIGHTS}")) or sorted(path.glob(f"snapshots/*/{WEIGHTS}"))
    if inner:
        return f"{path} has no {WEIGHTS}, but {inner[0].parent} has; give --model={inner[0].parent}"
    return f"{path} has no {WEIGHTS}, so it is no model in CTranslate2's format; give a name such as {DEFAULT_MODEL}"


def converter_command(model: str, output: str) -> str:
    """Return the command that converts a Whisper of transformers into CTranslate2's format."""
    command = ["ct2-transformers-converter", "--model", model, "--output_dir", output]
    return shlex.join([*command, "--copy_files", TOKENIZER, FEATURES, "--quantization", "float16"])


def _in_hub_cache(repository: str) -> Path | None:
    """Return the folder of a complete model in the cache of the Hugging Face libraries."""
    let_hub_libraries_keep_files()
    hub = import_extra("huggingface_hub", extra="whisper", purpose="transcribing with whisper")
    try:
        folder = Path(hub.snapshot_download(repository, allow_patterns=list(FILES), local_files_only=True))
        check_is_whisper(folder)
    except Exception:  # not there, in part, or damaged: then it is fetched
        return None
    return folder


def _fetch(given: str, repository: str) -> Path:
    check_downloads_are_allowed(f"the model {given} of Whisper")
    hub = import_extra("huggingface_hub", extra="whisper", purpose="transcribing with whisper")
    hub.utils.disable_progress_bars()
    hub.utils.logging.set_verbosity_error()
    try:
        sizes = _wait_for(lambda: _file_sizes(hub, repository), seconds=2 * ANSWER_SECONDS)
        if WEIGHTS not in sizes:
            raise _not_converted(repository)
        wanted = sum(size for name, size in sizes.items() if any(fnmatch.fnmatch(name, part) for part in FILES))
        say(f"Fetching the model {given} of Whisper from {repository} of the Hugging Face hub: {wanted / 1e6:,.0f} MB")
        with progress("Fetching", wanted, as_bytes=True) as advance:
            _wait_for(
                lambda: hub.snapshot_download(repository, allow_patterns=list(FILES), etag_timeout=ANSWER_SECONDS),
                seconds=STALL_SECONDS,
                bytes_in=Path(hub.constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}" / "blobs",
                advance=advance,
            )
    except CheckpointError:
        raise
    except Exception as error:  # the library and what it uses raise whatever they like
        raise _unfetched(given, repository, error) from error
    folder = _in_hub_cache(repository)
    if folder is None:
        raise _unfetched(given, repository, OSError("files are missing after the download"))
    return folder


def _file_sizes(hub: Any, repository: str) -> dict[str, int]:
    info = hub.HfApi().model_info(repository, files_metadata=True, timeout=ANSWER_SECONDS)
    return {file.rfilename: file.size or 0 for file in info.siblings}


def _wait_for(
    work: Callable[[], Result],
    *,
    seconds: float,
    bytes_in: Path | None = None,
    advance: Callable[[float], object] | None = None,
) -> Result:
    """Return the result of work on the network, as long as something comes.

    Args:
        work: What is done, in a thread: neither a connection that hangs nor Control-C has to wait for it.
        seconds: How long to wait for the result, or for the next byte.
        bytes_in: A folder whose growth shows that something comes.
        advance: Is called with the number of bytes that came.

    Raises:
        TimeoutError: Nothing came in that time.
        Exception: Whatever the work raises.
    """
    results, failures = list[Result](), list[Exception]()

    def run() -> None:
        try:
            results.append(work())
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    before, grown = 0, time.monotonic()
    while thread.is_alive():
        thread.join(POLL_SECONDS)
        now = 0 if bytes_in is None else _bytes_in(bytes_in)
        if now > before:
            if advance is not None:
                advance(now - before)
            before, grown = now, time.monotonic()
        elif thread.is_alive() and time.monotonic() - grown > seconds:
            raise TimeoutError(f"nothing came for {seconds} seconds")
    if failures:
        raise failures[0]
    return results[0]


def _bytes_in(folder: Path) -> int:
    size = 0
    with suppress(OSError):  # a file that has just got its final name
        for file in folder.iterdir():
            size += file.stat().st_size
    return size


def _not_converted(repository: str) -> CheckpointError:
    output = f"{repository.rpartition('/')[2]}-ct2"
    return CheckpointError(
        f"{repository} of the Hugging Face hub is not in CTranslate2's format; convert it: "
        f"{converter_command(repository, output)}, then give --model={output}"
    )


def _unfetched(given: str, repository: str, error: Exception) -> CheckpointError:
    """Return the error for a model that could not be fetched."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 404) and given == repository:
        return CheckpointError(f"{given} is neither a folder nor a public model of the Hugging Face hub")
    reason = cut(" ".join(str(error).split()).partition(" (Request ID")[0] or type(error).__name__, 200)
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        reason = "HF_HUB_OFFLINE forbids it"
    return ModelUnavailableError(
        f"the model {given} of Whisper is not here and could not be fetched ({reason}); get the files of "
        f"https://huggingface.co/{repository}/tree/main with a browser and put them into {own_place(given)}, or give a "
        "folder that has them with --model",
        reason,
    )
