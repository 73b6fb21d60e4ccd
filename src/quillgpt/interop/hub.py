"""Models of the Hugging Face hub: fetched by name and checked once, then used like any other folder."""

from __future__ import annotations

import hashlib
import importlib
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from quillgpt.checkpoint.load import read_config
from quillgpt.checkpoint.names import checkpoints_folder
from quillgpt.config.paths import HUB_REPOSITORY, expand
from quillgpt.console import say, stderr
from quillgpt.errors import CheckpointError, UserError, closest
from quillgpt.extras import import_extra
from quillgpt.files import let_hub_libraries_keep_files, quill_home, sha256_of, write_json
from quillgpt.interop.nanogpt_checkpoint import SUFFIXES, find_nanogpt_file
from quillgpt.ownership import remove_own
from quillgpt.records import read_record
from quillgpt.text.sources.downloads import check_downloads_are_allowed

PRETRAINED: Final = {name: f"openai-community/{name}" for name in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")}
"""Short names of the published GPT-2s: 124M, 355M, 774M and 1558M parameters."""

LOCAL = re.compile(r"(outputs?|runs?|models?|checkpoints?|experiments?|out)/|out-", re.IGNORECASE)
"""Names that could be on the hub, but begin like a folder of the user."""

CONFIGURATION = "config.json"
FILES = (
    "model.safetensors",
    "model-*.safetensors",
    "model.safetensors.index.json",
    "tokenizer*.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
)
"""The files to fetch besides the configuration: no code, no pickles, no weights in other formats."""

HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
"""The names of files in the hub's cache: the hashes of their contents."""

SHA256_LETTERS = 64


def hub_repository(given: str | Path) -> str | None:
    """Return the full name of a model on the hub; None if a path on this machine is meant.

    A model on this machine takes precedence. A name like `./x`, `x/`, `out-x/y` or `runs/x` is a path.

    Args:
        given: `gpt2`, `owner/name`, or a path.

    Raises:
        CheckpointError: The name is unknown, but similar to that of a known model.
    """
    name, path = given if isinstance(given, str) else given.as_posix(), Path(given)
    if name in PRETRAINED:
        return None if holds_model(path) else PRETRAINED[name]
    if name.startswith("gpt2") and "/" not in name and not path.exists() and (meant := closest(name, PRETRAINED)):
        raise CheckpointError(f"{name} is neither a folder nor the name of a known model; did you mean {meant}?")
    is_path = not HUB_REPOSITORY.fullmatch(name) or LOCAL.match(name) or path.parent.exists() or path.suffix in SUFFIXES
    return None if is_path else name


def find_hub_model(given: str | Path) -> Path | None:
    """Return the folder of a model on the hub, after fetching it if necessary; None if a path is meant.

    `QUILL_MIRROR` may have such folders, under `hub/NAME`.

    Args:
        given: `gpt2`, `owner/name`, or a path.

    Raises:
        CheckpointError: There is no such model, it cannot be fetched, its hash is wrong, or it is of another kind.
        UserError: The package `huggingface_hub` is not installed.
    """
    repository = hub_repository(given)
    if repository is None:
        return None
    name = Path(given).as_posix()
    for mirrored in (name, repository) if "QUILL_MIRROR" in os.environ else ():
        folder = expand(os.environ["QUILL_MIRROR"]) / "hub" / mirrored
        if folder.is_dir():
            return folder
    check_downloads_are_allowed(f"{name} of the Hugging Face hub")
    return fetch_model(name, repository)


def holds_model(path: Path) -> bool:
    """Whether there is a model of any kind at a path."""
    is_ours = (path / CONFIGURATION).is_file() or checkpoints_folder(path).is_dir()
    return is_ours or (path.exists() and find_nanogpt_file(path) is not None)


def fetch_model(name: str, repository: str) -> Path:
    """Fetch a model into the cache of the Hugging Face libraries, and check it.

    Files in the cache are not fetched again, and interrupted downloads continue.

    Raises:
        CheckpointError: It cannot be fetched, its hash is wrong, or it is of another kind.
        UserError: The package `huggingface_hub` is not installed.
    """
    let_hub_libraries_keep_files()
    hub = import_extra("huggingface_hub", extra="hub", purpose=f"{name} is not a folder; fetching it")
    # Imported one by one: they are attributes only after something else has imported them.
    utils, errors = (importlib.import_module(f"huggingface_hub.{module}") for module in ("utils", "errors"))
    utils.logging.set_verbosity_error()
    if not stderr.is_terminal:
        utils.disable_progress_bars()
    try:
        folder = Path(hub.snapshot_download(repository, allow_patterns=[CONFIGURATION]))
        check_content(folder, names=CONFIGURATION)
        read_config(folder)  # before downloading gigabytes that cannot be used
        folder = Path(hub.snapshot_download(repository, revision=folder.name, allow_patterns=[CONFIGURATION, *FILES]))
    except UserError:
        raise
    except Exception as error:  # the library and its dependencies may raise anything
        raise _unfetched(name, repository, error, errors) from error
    say(f"{repository} of the Hugging Face hub, revision {folder.name[:8]}")
    check_content(folder)
    if not any(folder.glob("*.safetensors")):
        raise CheckpointError(
            f"{repository} has no weights as safetensors, which Quill needs; convert them with transformers: "
            f"AutoModelForCausalLM.from_pretrained({repository!r}).save_pretrained('FOLDER'), the tokenizer likewise, "
            "and give FOLDER"
        )
    return folder


def _unfetched(name: str, repository: str, error: Exception, errors: Any) -> CheckpointError:
    """Return the error for a model that could not be fetched."""
    known = f"short names are {', '.join(PRETRAINED)}"
    if isinstance(error, errors.GatedRepoError):
        return CheckpointError(f"{repository} can only be fetched after logging in and accepting its terms on the hub")
    if isinstance(error, errors.RepositoryNotFoundError):
        return CheckpointError(f"{name} is neither a folder nor a public model of the Hugging Face hub; {known}")
    reason = " ".join(str(error.__cause__ or error).split()) or type(error).__name__
    return CheckpointError(
        f"{name} is not on this machine, and {repository} could not be fetched from the Hugging Face hub "
        f"({reason[:300]}); try again (the download continues), or copy the folder from elsewhere and give its path, "
        f"or set QUILL_MIRROR to a folder that has hub/{name}"
    )


def check_content(folder: Path, *, names: str = "*") -> None:
    """Check the hashes of a fetched model's files once; the cache names files by their hashes.

    Raises:
        CheckpointError: A hash is wrong (the file is removed, so that it is fetched again), or a file is gone.
    """
    record = quill_home() / "hub" / "checked.json"
    try:
        checked = read_record(record, dict[str, list[int]], UserError, mend="")
    except UserError:  # nothing was checked so far, or the record is damaged
        checked = {}
    blobs = (folder.parents[1] / "blobs").resolve()
    for link in sorted(folder.glob(names)):
        file = link.resolve()
        if file.parent != blobs or not HASH.fullmatch(file.name):
            continue
        try:
            state = [file.stat().st_size, file.stat().st_mtime_ns]
        except OSError:
            raise CheckpointError(
                f"{link} points to a file of the cache that was removed; try again with a connection"
            ) from None
        if checked.get(str(file)) == state:
            continue
        actual = hash_of(file, length=len(file.name))
        if actual != file.name:
            remove_own(file)
            raise CheckpointError(
                f"{link} is damaged: its hash is {actual}, but the Hugging Face hub says {file.name}; it was removed, "
                "try again"
            )
        checked[str(file)] = state
        with suppress(OSError):  # without a record it is checked again the next time
            write_json(record, checked)


def hash_of(file: Path, *, length: int) -> str:
    """Return a file's hash as the hub computes it: SHA-256 for large files, Git's hash for small ones."""
    if length == SHA256_LETTERS:
        return sha256_of(file)
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
