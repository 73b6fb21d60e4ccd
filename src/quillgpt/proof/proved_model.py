"""The models whose training is proved, from a preset or two tiny ones, and the texts that they learn."""

from __future__ import annotations

import random
import string
from dataclasses import dataclass
from pathlib import Path

from quillgpt.config import TrainSettings, resolve, to_toml
from quillgpt.training.planning.scaling import with_usual_size
from quillgpt.training.start.choices import choose_machine, choose_paths
from quillgpt.training.start.model_config import model_config

ITERATIONS = 48
SAVED_EVERY = 6

TINY: dict[str, object] = {
    "n_layer": 2,
    "n_head": 2,
    "n_embd": 64,
    "block_size": 64,
    "dropout": 0.1,
    "learning_rate": 1e-2,
}
KINDS: tuple[dict[str, object], ...] = (
    {"arch": "gpt2", "optimizer": "adamw", "n_kv_head": None},
    {"arch": "qwen3", "optimizer": "muon", "n_kv_head": 1},
)
"""Together they cover both architectures, both optimizers, and grouped heads."""

TEXT, DOCUMENTS = "text.txt", "documents"
DOCUMENT_COUNT = 300

SHORT_RUN = {
    "defaults": "fixed",
    "minutes": None,
    "init_from": "scratch",
    "overwrite": False,
    "eval_only": False,
    "dataset": "text",
    "data": TEXT,
    "data_dir": "data",
    "tokenizer": "char",
    "val": None,
    "val_fraction": None,
    "end_of_text_marks": False,
    "deduplicate": False,
    "drop_repeated_lines": None,
    "drop_openings": None,
    "drop_endings": None,
    "encoding": None,
    "skip_unreadable": False,
    "follow_links": False,
    "read_as": None,
    "me": None,
    "anonymise": False,
    "drop_quotes": False,
    "drop_signatures": False,
    "vocab_size": None,
    "max_iters": ITERATIONS,
    "lr_decay_iters": ITERATIONS,
    "warmup_iters": 4,
    "batch_size": 1,
    "gradient_accumulation_steps": 2,
    "micro_batch_size": 1,
    "eval_interval": ITERATIONS // 2,
    "eval_iters": 2,
    "log_interval": 1,
    "checkpoint_interval": SAVED_EVERY,
    "always_save_checkpoint": False,
    "patience": 0,
    "wandb_log": False,
    "tensorboard": False,
}
"""Settings that make a run of any preset short, save it often, and need nothing from outside."""


@dataclass(frozen=True)
class ProvedModel:
    """A model whose training is proved.

    Attributes:
        settings: The settings of a short run, with all automatic choices made.
    """

    settings: TrainSettings

    @property
    def name(self) -> str:
        """Its architecture and optimizer."""
        return f"{self.settings.arch}+{self.settings.optimizer}"

    @property
    def stem(self) -> str:
        """The beginning of the names of its files."""
        return f"{self.settings.arch}-{self.settings.optimizer}"

    def write(self, folder: Path) -> Path:
        """Write its settings as a .toml file into a folder, and return the path."""
        path = folder / f"{self.stem}.toml"
        path.write_text(to_toml(self.settings), encoding="utf-8")
        return path


def proved_models(source: str | None, flags: dict[str, str]) -> list[ProvedModel]:
    """Return the model of a preset, or two tiny models if no preset is given.

    Args:
        source: A preset, a .toml file, or a .py file of nanoGPT.
        flags: Further settings, as text.

    Raises:
        UserError: The preset, a flag or the device is not known.
    """
    if source is not None:
        return [_proved_model(resolve(source, flags))]
    tiny = [resolve("own_text", {"threads": 1, **TINY, **kind, **flags}) for kind in KINDS]
    return [_proved_model(settings) for settings in tiny]


def _proved_model(settings: TrainSettings) -> ProvedModel:
    settings, machine = choose_machine(with_usual_size(settings).model_copy(update=SHORT_RUN))
    repeatable = settings.deterministic or machine.device.type == "cuda"
    compiled = settings.compile is True
    settings = settings.model_copy(update={"deterministic": repeatable, "compile": compiled})
    # Chosen once for all runs: otherwise each would measure for itself, and two paths differ in their last bits.
    return ProvedModel(choose_paths(settings, model_config(settings, len(string.printable)), machine))


def write_texts(folder: Path, block_size: int) -> None:
    """Write the texts of the proof: a long one, and a folder of documents of one short sentence each.

    Args:
        folder: The folder for the texts.
        block_size: The longest context; both splits of the long text are several times longer.
    """
    draw = random.Random(0)
    sentences: list[str] = []
    characters = 0
    while characters < max(60_000, 60 * block_size):
        sentences.append(_sentence(draw))
        characters += len(sentences[-1]) + 1
    (folder / TEXT).write_text("\n".join(sentences) + "\n", encoding="utf-8")
    (folder / DOCUMENTS).mkdir()
    for number in range(DOCUMENT_COUNT):
        (folder / DOCUMENTS / f"{number:03}.txt").write_text(_sentence(draw), encoding="utf-8")


def _sentence(draw: random.Random) -> str:
    colours, animals = ("red", "green", "blue", "grey", "black"), ("fox", "hare", "crow", "mole", "toad")
    verbs, places = ("slept", "sang", "waited", "dug", "ran"), ("wood", "field", "brook", "barn", "hill")
    return (
        f"The {draw.choice(colours)} {draw.choice(animals)} {draw.choice(verbs)} "
        f"by the {draw.choice(colours)} {draw.choice(places)}."
    )
