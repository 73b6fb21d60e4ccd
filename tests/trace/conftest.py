"""Texts of made-up words, and data sets that are prepared from them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quillgpt.data.dataset import Dataset
from quillgpt.data.prepare import prepare

SYLLABLES = ("ba", "de", "fi", "go", "lu", "ma", "ne", "pi", "so", "tu", "är", "ей")


def made_up(lines: int, seed: int) -> str:
    """Return lines of words that are drawn at random, so that long passages do not occur twice by chance."""
    generator = np.random.default_rng(seed)
    words = ["".join(generator.choice(SYLLABLES, size=generator.integers(1, 4))) for _ in range(800)]
    return "".join(" ".join(generator.choice(words, size=generator.integers(3, 9))) + ".\n" for _ in range(lines))


Prepare = Callable[..., Dataset]


@pytest.fixture
def prepared(tmp_path: Path) -> Prepare:
    """Give a function that prepares texts as a data set `book`."""

    def make(*sources: Path, tokenizer: str = "byte", **options: Any) -> Dataset:
        words = [str(source) for source in sources]
        options.setdefault("data_dir", tmp_path / "data")
        return prepare(words, dataset="book", tokenizer=tokenizer, **options).dataset

    return make


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """Give a text of 3,000 lines."""
    path = tmp_path / "book.txt"
    path.write_text(made_up(3000, seed=1), encoding="utf-8")
    return path
