"""Who is measured: Quill, and the peers that a person names."""

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
        checkout: The folder of its source code, for a peer that is no installed package.
    """

    name: str
    checkout: Path | None = None


QUILL = Candidate("quill")


def read_peers(words: Sequence[str]) -> list[Candidate]:
    """Return the peers that `--peer nanogpt=PATH` and `--peer transformers` name.

    Raises:
        ConfigError: A peer is unknown, named twice, lacks its path, or takes none.
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
