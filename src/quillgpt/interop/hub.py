"""Models of the Hugging Face hub: named, fetched once, checked, and from then on a folder like any other."""

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
from quillgpt.config.paths import expand
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

REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*")
LOCAL = re.compile(r"(outputs?|runs?|models?|checkpoints?|experiments?|out)/|out-", re.IGNORECASE)
"""How folders of one's own begin that have the form of a name of the hub."""

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
"""What is fetched besides the configuration; no program, no pickle, no other format's copy of the weights."""

HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
"""How the hub's cache calls a file: by the hash of its content."""

SHA256_LETTERS = 64


def hub_repository(given: str | Path) -> str | None:
    """Return the hub's full name of a model that a person named as the hub does; None: a path on this machine is meant.

    A model of that name on this machine goes before. What looks like a path (`./x`, `x/`, `out-x/y`, `runs/x`) is one.

    Args:
        given: `gpt2`, `owner/name`, or a path.

    Raises:
        CheckpointError: It is nearly the name of a known model.
    """
    name, path = given if isinstance(given, str) else given.as_posix(), Path(given)
    if name in PRETRAINED:
        return None if holds_model(path) else PRETRAINED[name]
    if name.startswith("gpt2") and "/" not in name and not path.exists() and (meant := closest(name, PRETRAINED)):
        raise CheckpointError(
            f"{name} is neither a folder here nor a model that is known by name; did you mean {meant}?"
        )
    is_path = not REPOSITORY.fullmatch(name) or LOCAL.match(name) or path.parent.exists() or path.suffix in SUFFIXES
    return None if is_path else name


def find_hub_model(given: str | Path) -> Path | None:
    """Return the folder of a model that a person named as the hub does, after fetching it where it is not here.

    `QUILL_MIRROR` may hold such folders, under `hub/NAME`.

    Args:
        given: `gpt2`, `owner/name`, or a path, of which nothing is known here.

    Raises:
        CheckpointError: There is no such model, it cannot be fetched, is not what the hub says, or of another kind.
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
    """Return whether there is a model at a path, of whatever kind."""
    here = (path / CONFIGURATION).is_file() or checkpoints_folder(path).is_dir()
    return here or (path.exists() and find_nanogpt_file(path) is not None)


def fetch_model(name: str, repository: str) -> Path:
    """Fetch a model into the cache that all programs of Hugging Face share, and check it.

    What is there already is not fetched again, and what was cut off goes on from there.

    Raises:
        CheckpointError: It cannot be had, is not what the hub says, or of another kind.
        UserError: The package `huggingface_hub` is not installed.
    """
    let_hub_libraries_keep_files()
    hub = import_extra("huggingface_hub", extra="hub", purpose=f"{name} is not a folder here; fetching it")
    # Named one by one: as attributes they are there only once something else has imported them.
    utils, errors = (importlib.import_module(f"huggingface_hub.{module}") for module in ("utils", "errors"))
    utils.logging.set_verbosity_error()
    if not stderr.is_terminal:
        utils.disable_progress_bars()
    try:
        folder = Path(hub.snapshot_download(repository, allow_patterns=[CONFIGURATION]))
        check_content(folder, names=CONFIGURATION)
        read_config(folder)  # before gigabytes come that cannot be used
        folder = Path(hub.snapshot_download(repository, revision=folder.name, allow_patterns=[CONFIGURATION, *FILES]))
    except UserError:
        raise
    except Exception as error:  # the library and what it uses raise whatever they like
        raise _unfetched(name, repository, error, errors) from error
    say(f"{repository} of the Hugging Face hub, revision {folder.name[:8]}")
    check_content(folder)
    if not any(folder.glob("*.safetensors")):
        raise CheckpointError(
            f"{repository} has no weights as safetensors, only in a form that Quill does not read, such as "
            f"pytorch_model.bin; with transformers, write them as such: AutoModelForCausalLM.from_pretrained("
            f"{repository!r}).save_pretrained('FOLDER'), the tokenizer likewise, and give FOLDER"
        )
    return folder


def _unfetched(name: str, repository: str, error: Exception, errors: Any) -> CheckpointError:
    """Return what to say of a model that could not be fetched."""
    known = f"known by name are {', '.join(PRETRAINED)}"
    if isinstance(error, errors.GatedRepoError):
        return CheckpointError(
            f"{repository} is given only to those who log in and have agreed to its terms on the hub"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return CheckpointError(f"{name} is neither a folder here nor a public model of the Hugging Face hub; {known}")
    reason = " ".join(str(error.__cause__ or error).split()) or type(error).__name__
    return CheckpointError(
        f"{name} is not here, and {repository} could not be fetched from the Hugging Face hub ({reason[:300]}); try "
        "again, what came is kept; or copy the folder from elsewhere and give its path, or set QUILL_MIRROR to a "
        f"folder that has hub/{name}"
    )


def check_content(folder: Path, *, names: str = "*") -> None:
    """Check once that files of a fetched model are what the hub says they are: the cache calls them by their hashes.

    Raises:
        CheckpointError: A file is another; it is removed, so that it is fetched anew. Or it is gone.
    """
    known = quill_home() / "hub" / "checked.json"
    try:
        checked = read_record(known, dict[str, list[int]], UserError, mend="")
    except UserError:  # nothing checked so far, or a damaged record: checking again mends both
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
                f"{link} leads to a file of the cache that was removed; with a connection, try again"
            ) from None
        if checked.get(str(file)) == state:
            continue
        found = hash_of(file, length=len(file.name))
        if found != file.name:
            remove_own(file)
            raise CheckpointError(
                f"{link} is not what the Hugging Face hub says it is: its hash is {found}, expected {file.name}; it "
                "is removed, try again"
            )
        checked[str(file)] = state
        with suppress(OSError):  # then it is checked again the next time
            write_json(known, checked)


def hash_of(file: Path, *, length: int) -> str:
    """Return a file's hash by which the hub calls it: SHA-256 of a large one, and of a small one that of Git."""
    if length == SHA256_LETTERS:
        return sha256_of(file)
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
