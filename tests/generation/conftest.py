"""Shared by the tests of generation."""

import pytest

from quillgpt.generation.generate import TokenGenerator


@pytest.fixture
def computed_steps(monkeypatch):
    """Return a list that gets longer by one at each step, which computes the next token of every sample."""
    steps, next_tokens = [], TokenGenerator.next_tokens

    def counted(self, uniforms):
        steps.append(1)
        return next_tokens(self, uniforms)

    monkeypatch.setattr(TokenGenerator, "next_tokens", counted)
    return steps
