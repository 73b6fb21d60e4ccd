"""What several packages' tests share."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from quillgpt.errors import DataError
from quillgpt.text import downloads


@pytest.fixture(scope="session", autouse=True)
def quill_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep the tests out of the person's own cache folder."""
    home = tmp_path_factory.mktemp("quill-home")
    before = os.environ.get("QUILL_HOME")
    os.environ["QUILL_HOME"] = str(home)
    yield home
    if before is None:
        del os.environ["QUILL_HOME"]
    else:
        os.environ["QUILL_HOME"] = before


@functools.cache
def _fetched(download: downloads.Download) -> Path | str:
    downloads.TIMEOUT_SECONDS = 10.0  # a network that drops everything should not hold up the suite
    try:
        return downloads.fetch(download)
    except DataError as error:
        return str(error)


@pytest.fixture(scope="session")
def published() -> Callable[[downloads.Download], Path]:
    """Give the path of a published file, or skip the test with the reason why it cannot be had."""

    def path_of(download: downloads.Download) -> Path:
        found = _fetched(download)
        if isinstance(found, str):
            pytest.skip(found)
        return found

    return path_of


@pytest.fixture(scope="session")
def gpt2_files(published: Callable[[downloads.Download], Path]) -> None:
    """Skip the test where GPT-2's published tokenizer files cannot be had."""
    published(downloads.GPT2_MERGES)
    published(downloads.GPT2_VOCABULARY)
