from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the folders of a tiny Whisper: for transformers, and converted."""
    from tiny_whisper import tiny_whisper  # imports transformers, which takes seconds

    return tiny_whisper(tmp_path_factory.mktemp("whisper"))


@pytest.fixture
def model(tiny_models: tuple[Path, Path]) -> Path:
    """Return the folder of a tiny Whisper in CTranslate2's format."""
    return tiny_models[1]
