import pytest

from quillgpt.checkpoint import TrainingState, save_checkpoint
from quillgpt.text.tokenizers.char import CharTokenizer
from tiny import GPT2, tiny_model

CHARACTERS = CharTokenizer("".join(chr(code) for code in range(32, 97)))


@pytest.fixture
def save(tmp_path):
    """Save a checkpoint of a tiny run, and return its folder."""

    def save_run(iteration=1, *, model=None, optimizer=None, state=None):
        return save_checkpoint(
            tmp_path / "run",
            model or tiny_model(GPT2, seed=iteration),
            CHARACTERS,
            about={"dataset": "abc"},
            optimizer=optimizer or {},
            state=(state or TrainingState()).model_copy(update={"iteration": iteration}),
        )

    return save_run


@pytest.fixture
def run(tmp_path):
    return tmp_path / "run"
