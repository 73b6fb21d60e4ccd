"""The programs that are measured: Quill, and the peers that the user names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from quillgpt.config.paths import expand
from quillgpt.errors import ConfigError, did_you_mean

NANOGPT, TRANSFORMERS = "nanogpt", "transformers"


@dataclass(frozen=True)
class Candidate:
    """One program that is measured.

    Attributes:
        name: quill, nanogpt or transformers.
        checkout: The folder of its source code; None for an installed package.
    """

    name: str
    checkout: Path | None = None


QUILL = Candidate("quill")


@dataclass(frozen=True)
class Implementation:
    """How a candidate computes its model.

    Attributes:
        how: How it is run, in words.
        dtype: The number format of its matrix products.
        parameters: The number of parameters of its model.
    """

    how: str
    dtype: str
    parameters: int


def read_peers(words: Sequence[str]) -> list[Candidate]:
    """Return the peers that `--peer nanogpt=PATH` and `--peer transformers` name.

    Raises:
        ConfigError: A peer is unknown or named twice, a path is missing, or a path is given to a peer that takes none.
    """
    peers: list[Candidate] = []
    for word in words:
        name, _, path = word.partition("=")
        if name not in (NANOGPT, TRANSFORMERS):
            meant = did_you_mean(name, (NANOGPT, TRANSFORMERS))
            raise ConfigError(f"--peer {word} is unknown; expected nanogpt=PATH or transformers{meant}")
        if name == NANOGPT and not path:
            raise ConfigError(f"--peer {word}: expected nanogpt=PATH, the folder of a nanoGPT checkout")
        if name == TRANSFORMERS and path:
            raise ConfigError(f"--peer {word}: transformers takes no path, it is the installed package")
        if name in {peer.name for peer in peers}:
            raise ConfigError(f"--peer {name} is given twice; give each peer once")
        peers.append(Candidate(name, expand(path) if path else None))
    return peers
