"""The address `hf:...`: a data set of the Hugging Face hub, or rows in files on this machine."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from quillgpt.config.paths import expand
from quillgpt.errors import DataError
from quillgpt.files import quill_home

PREFIX = "hf:"


@dataclass(frozen=True)
class HubCorpus:
    """A data set of the hub, or a local file or folder that `datasets` can read.

    Attributes:
        repository: `owner/name`, or a path on this machine.
        config: Its configuration; None takes the only one.
        column: The column that holds the text; None takes `text`, or the only one that holds text.
        rows: Whether a row is a document, or a line of a document.
        title: For lines: the pattern of a line that begins a document; None makes each shard one document.
        val_split: Whether to use the validation split of the data set, if it has one.
    """

    repository: str
    config: str | None = None
    column: str | None = None
    rows: Literal["documents", "lines"] = "documents"
    title: str | None = None
    val_split: bool = True

    @property
    def address(self) -> str:
        """The address as the user writes it: `hf:owner/name/config:column`."""
        config = f"/{self.config}" if self.config else ""
        column = f":{self.column}" if self.column else ""
        return f"{PREFIX}{self.repository}{config}{column}"

    @property
    def is_local(self) -> bool:
        """Whether it is a file or folder on this machine."""
        return Path(self.repository).exists()

    @property
    def folder(self) -> Path:
        """Where its texts are kept."""
        readable = re.sub(r"[^\w.-]+", "--", f"{self.repository}/{self.config or 'default'}").strip("-")
        key = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:8]
        return quill_home() / "hub" / f"{readable[-80:]}-{key}"


def parse_address(given: str) -> HubCorpus:
    """Parse `hf:owner/name[/config][:column]`, or `hf:PATH[:column]` for a file or folder on this machine.

    Raises:
        DataError: It is neither.
    """
    words = given.removeprefix(PREFIX)
    for name, column in ((words, ""), words.rpartition(":")[::2]):
        if name and expand(name).exists():
            return HubCorpus(str(expand(name).resolve()), column=column or None)
    name, _, column = words.partition(":")
    owner_and_name, config = name, None
    if name.count("/") == 2:
        owner_and_name, _, config = name.rpartition("/")
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", owner_and_name):
        raise DataError(
            f"{given} names no data set of the Hugging Face hub; expected hf:owner/name, with /CONFIG and :COLUMN "
            "after it where there are several, or hf:PATH for rows in a file or folder"
        )
    return HubCorpus(owner_and_name, config=config, column=column or None)
