"""The weights of a model folder: tensors by name, in one or several safetensors files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ConfigDict
from torch import Tensor

from quillgpt.checkpoint.stored import StoredFile, open_stored
from quillgpt.errors import CheckpointError, shorten
from quillgpt.files import path_inside
from quillgpt.records import Record, read_record

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
OTHER_WEIGHTS = ("pytorch_model*.bin", "tf_model*.h5", "flax_model*.msgpack", "*.gguf", "*.onnx", "consolidated*.pth")
"""Files in which other programs keep weights."""


@dataclass(frozen=True)
class StoredWeights(Mapping[str, Tensor]):
    """Stored tensors by name; each is read when it is needed, from a file that stays open.

    Attributes:
        places: The file of each tensor, and its name there.
    """

    places: Mapping[str, tuple[StoredFile, str]]

    @property
    def files(self) -> list[StoredFile]:
        """The files, sorted by path."""
        return sorted({file.path: file for file, _ in self.places.values()}.values(), key=lambda file: file.path)

    @property
    def empty(self) -> dict[str, Tensor]:
        """The same tensors without content (on the device `meta`)."""
        return {name: file.empty(stored_name) for name, (file, stored_name) in self.places.items()}

    def __getitem__(self, name: str) -> Tensor:
        """Return a tensor, on the CPU."""
        file, stored_name = self.places[name]
        return file.read(stored_name)

    def rows(self, name: str) -> Callable[[int], Tensor]:
        """Return a function that reads single rows of a matrix."""
        file, stored_name = self.places[name]
        return lambda row: file.read_row(stored_name, row)

    def __iter__(self) -> Iterator[str]:
        """Return the names."""
        return iter(self.places)

    def __len__(self) -> int:
        """Return the number of tensors."""
        return len(self.places)


def open_tensors(*paths: Path) -> StoredWeights:
    """Return the tensors of safetensors files by their stored names.

    Raises:
        CheckpointError: A file is missing or damaged.
    """
    return StoredWeights({name: (file, name) for file in map(open_stored, paths) for name in file.tensors})


def weight_files(folder: Path) -> list[Path]:
    """Return the paths of a model's weights: model.safetensors, or the files in its index.

    Raises:
        CheckpointError: The index is damaged.
    """
    if not (folder / INDEX).is_file():
        check_has_weights(folder)
        return [folder / WEIGHTS]
    index = read_record(folder / INDEX, Index, CheckpointError, mend="copy or download the model again")
    return [_indexed_file(folder, name) for name in sorted(set(index.weight_map.values()))]


def check_has_weights(folder: Path) -> None:
    """Check that a folder without safetensors files has no weights in other formats.

    Raises:
        CheckpointError: It has; the message says how to convert them.
    """
    others = sorted(path.name for pattern in OTHER_WEIGHTS for path in folder.glob(pattern))
    if others and not (folder / WEIGHTS).is_file():
        raise CheckpointError(
            f"{folder} has weights only as {others[0]}, which Quill does not read; with transformers, write them as "
            f"{WEIGHTS}: AutoModelForCausalLM.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})"
        )


class Index(Record):
    """The index of weights in several files: the file of each tensor."""

    model_config = ConfigDict(extra="ignore")

    weight_map: dict[str, str]


def _indexed_file(folder: Path, name: str) -> Path:
    file = path_inside(folder, name)
    if file is None:
        raise CheckpointError(
            f"{folder / INDEX} lists {shorten(name)}, which is outside the model's folder; do not trust it"
        )
    return file
