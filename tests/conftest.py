"""What several packages' tests share."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from offline.sitecustomize import MAY_FETCH, stay_here
from quillgpt.text.sources import downloads
from quillgpt.text.sources.transfer import Partial, TransferError

settings.register_profile("on a busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("on a busy machine")

OFFLINE = Path(__file__).parent / "offline"
MIRROR = os.environ.setdefault("TESTS_MIRROR", os.environ.get("QUILL_MIRROR", ""))
"""The person's mirror, by a name that pytest's workers inherit; the other is taken from tests that stay here."""


def shared_folder(variable: str) -> str:
    """Return a new folder, the same one in all of pytest's workers, which inherit its name."""
    if variable not in os.environ:
        os.environ[variable] = tempfile.mkdtemp(prefix="quill-home-")
    return os.environ[variable]


HOMES = {fetches: shared_folder(f"TESTS_HOME_{fetches}") for fetches in (False, True)}
"""Cache folders: tests keep out of the person's own, and those that fetch nothing out of what others have fetched.

What is made or measured in one is there for all workers, as it is for all of a person's runs.
"""

receive = downloads.receive
unreachable: dict[str, str] = {}

os.environ["HF_UPDATE_DOWNLOAD_COUNTS"] = "0"  # else `datasets` tells a server of local files, too
stay_here(pytest.fail)
PYTHONPATH = os.pathsep.join(filter(None, [str(OFFLINE), os.environ.get("PYTHONPATH")]))


def receive_or_skip(partial: Partial, *, title: str, timeout_seconds: float) -> None:
    """Receive a file, or skip a test that may fetch with the reason why it cannot; what failed is not tried again."""
    if MAY_FETCH not in os.environ:
        return receive(partial, title=title, timeout_seconds=timeout_seconds)
    try:
        if title not in unreachable:
            # A network that drops everything should not hold up the suite.
            return receive(partial, title=title, timeout_seconds=10.0)
    except TransferError as error:
        unreachable[title] = str(error)
    pytest.skip(f"{title} could not be fetched ({unreachable[title]}), and QUILL_MIRROR names no folder that has it")


def settle(fetches: bool) -> None:
    """Let this process and those that it starts fetch, or not."""
    os.environ["QUILL_HOME"] = HOMES[fetches]
    os.environ.pop("QUILL_MIRROR", None)
    os.environ.pop(MAY_FETCH, None)
    if fetches:
        os.environ[MAY_FETCH] = "1"
        if MIRROR:
            os.environ["QUILL_MIRROR"] = MIRROR


def pytest_configure() -> None:
    downloads.receive = receive_or_skip
    settle(fetches=False)


def pytest_unconfigure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):  # in one of pytest's workers
        return
    for home in HOMES.values():
        shutil.rmtree(home, ignore_errors=True)


@pytest.hookimpl(tryfirst=True)  # before fixtures of any scope
def pytest_runtest_setup(item: pytest.Item) -> None:
    os.environ["PYTHONPATH"] = PYTHONPATH  # now, and not for pytest's own workers, which fail a test instead of ending
    settle(fetches=item.get_closest_marker("download") is not None)


@pytest.fixture(scope="session")
def published() -> Callable[[downloads.Download], Path]:
    """Give the path of a published file, or skip the test, which is marked `download`, with the reason."""
    return downloads.fetch


@pytest.fixture(scope="session")
def gpt2_files() -> None:
    """Fetch GPT-2's published tokenizer files, or skip the test, which is marked `download`."""
    downloads.fetch(downloads.GPT2_MERGES)
    downloads.fetch(downloads.GPT2_VOCABULARY)


@pytest.fixture(scope="module")  # its event loop would be in the way of other tests' own
def browser():
    """A headless Chromium, driven by playwright."""
    from quillgpt.export.html.chromium import find_chromium

    playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
    if (found := find_chromium()) is None:
        pytest.skip("there is no Chromium")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield chromium
        chromium.close()
