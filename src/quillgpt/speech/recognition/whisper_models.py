"""Whisper's models in CTranslate2's format: found on this machine by name or folder, or fetched from the hub."""

from __future__ import annotations

import fnmatch
import os
import shlex
from pathlib import Path

from quillgpt.config.paths import HUB_REPOSITORY, exists, expand, is_path
from quillgpt.console import say
from quillgpt.errors import CheckpointError, DataError, check_is_no_pointer, closest, cut, did_you_mean
from quillgpt.extras import import_extra
from quillgpt.files import let_hub_libraries_keep_files, quill_home
from quillgpt.text.sources.connection import one_line, reason_of_network
from quillgpt.text.sources.downloads import DOWNLOADS, Download, check_downloads_are_allowed, fetch

DEFAULT_MODEL = "small"
CONFIGURATION, WEIGHTS = "config.json", "model.bin"
TOKENIZER, FEATURES = "tokenizer.json", "preprocessor_config.json"
VOCABULARIES = ("vocabulary.json", "vocabulary.txt")
FILES = (CONFIGURATION, FEATURES, WEIGHTS, TOKENIZER, "vocabulary.*")
OTHER_WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "*.safetensors.index.json")
"""The weights of transformers, which can be converted."""

ANSWER_SECONDS = 10
"""The hub has to answer within this time."""


class ModelUnavailableError(CheckpointError):
    """A model of Whisper is not on this machine, and cannot be fetched now."""


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
    for folder in _mirrors(given, repository):
        if folder.is_dir():
            check_is_whisper(folder)
            return folder
    own = own_place(repository)
    return own if is_whisper(own) else _in_hub_cache(repository) or _fetch(given, repository)


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


def _mirrors(given: str, repository: str) -> list[Path]:
    mirror = os.environ.get("QUILL_MIRROR")
    return [expand(mirror) / "hub" / name for name in dict.fromkeys((given, repository))] if mirror else []


def own_place(repository: str) -> Path:
    """Return the folder below Quill's cache folder into which a model is fetched, by Quill or by hand."""
    return quill_home() / DOWNLOADS / _place(repository)


def _place(repository: str) -> str:
    return f"whisper/{repository.replace('/', '--')}"


def is_whisper(path: Path) -> bool:
    """Whether a folder holds a model of Whisper in CTranslate2's format, with all that is needed."""
    try:
        check_is_whisper(path)
    except CheckpointError:
        return False
    return True


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
    except Exception:  # the library raises whatever it likes; then the model is fetched
        return None
    return folder if is_whisper(folder) else None


def _fetch(given: str, repository: str) -> Path:
    check_downloads_are_allowed(f"the model {given} of Whisper")
    hub = import_extra("huggingface_hub", extra="whisper", purpose="transcribing with whisper")
    if hub.constants.HF_HUB_OFFLINE:
        raise _unfetched(given, repository, "HF_HUB_OFFLINE forbids it")
    try:
        info = hub.HfApi().model_info(repository, files_metadata=True, timeout=ANSWER_SECONDS)
    except Exception as error:  # the library and what it uses raise whatever they like
        if getattr(getattr(error, "response", None), "status_code", None) in (401, 404) and given == repository:
            raise CheckpointError(f"{given} is neither a folder nor a public model of the Hugging Face hub") from error
        reason = reason_of_network(error, ANSWER_SECONDS) or one_line(error).partition(" (Request ID")[0]
        raise _unfetched(given, repository, cut(reason, 200) or type(error).__name__) from error
    files = {
        file.rfilename: file for file in info.siblings if any(fnmatch.fnmatch(file.rfilename, part) for part in FILES)
    }
    if WEIGHTS not in files:
        raise _not_converted(repository)
    size = sum(file.size or 0 for file in files.values())
    say(f"Fetching the model {given} of Whisper from {repository} of the Hugging Face hub: {size / 1e6:,.0f} MB")
    for name in sorted(files, key=lambda name: (name == WEIGHTS, name)):  # the large one last
        download = Download(
            title=f"{name} of {repository}",
            address=f"{hub.constants.ENDPOINT}/{repository}/resolve/{info.sha}/{name}",
            sha256=files[name].lfs.sha256 if files[name].lfs else None,
            place=f"{_place(repository)}/{name}",
        )
        if download.sha256 is not None or not download.cached.is_file():
            try:
                fetch(download)
            except DataError as error:
                raise ModelUnavailableError(str(error)) from error
    folder = own_place(repository)
    check_is_whisper(folder)
    return folder


def _not_converted(repository: str) -> CheckpointError:
    output = f"{repository.rpartition('/')[2]}-ct2"
    return CheckpointError(
        f"{repository} of the Hugging Face hub is not in CTranslate2's format; convert it: "
        f"{converter_command(repository, output)}, then give --model={output}"
    )


def _unfetched(given: str, repository: str, reason: str) -> ModelUnavailableError:
    return ModelUnavailableError(
        f"the model {given} of Whisper is not here and could not be fetched ({reason}); get the files of "
        f"https://huggingface.co/{repository}/tree/main with a browser and put them into {own_place(repository)}, or "
        "give a folder that has them with --model"
    )
