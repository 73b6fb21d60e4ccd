"""Pieces of samples put together: what is new for a stream, and all of it for an answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from quillgpt.serve.completion import Piece, TokenLogprob
from quillgpt.serve.protocol import Choice, CompletionRequest, FinishReason, Logprobs


@dataclass
class _Sample:
    text: str = ""
    tokens: list[TokenLogprob] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    said: int = 0  # characters that a stream has had
    said_tokens: int = 0
    offset: int = 0  # where the next token begins
    is_over: bool = False


class Gathered:
    """The samples of a request so far.

    Args:
        request: The request.
        prompts: Its prompts.
    """

    def __init__(self, request: CompletionRequest, prompts: Sequence[str]) -> None:
        self._with_logprobs = request.logprobs is not None
        self._with_top = bool(request.logprobs)
        n = request.n or 1
        # Places of tokens count from the beginning of the prompt, whether it is echoed or not.
        offsets = [0 if request.echo else len(prompt) for prompt in prompts for _ in range(n)]
        self._samples = [_Sample(offset=offset) for offset in offsets]
        self.completion_tokens = 0

    def add(self, pieces: Iterable[Piece]) -> int:
        """Add pieces, and return how many tokens were generated for them."""
        before = self.completion_tokens
        for piece in pieces:
            sample = self._samples[piece.index]
            sample.text += piece.text
            sample.tokens += piece.tokens
            sample.finish_reason = piece.finish_reason or sample.finish_reason
            self.completion_tokens += piece.completion_tokens
        return self.completion_tokens - before

    def choices(self) -> list[Choice]:
        """Return all samples."""
        return [
            Choice(
                index=index,
                text=sample.text,
                logprobs=self._logprobs(sample, sample.tokens) if self._with_logprobs else None,
                finish_reason=sample.finish_reason,
            )
            for index, sample in enumerate(self._samples)
        ]

    def fresh(self) -> list[Choice]:
        """Return what each sample has got since the last call; those that have got nothing are left out."""
        choices = []
        for index, sample in enumerate(self._samples):
            text, tokens = sample.text[sample.said :], sample.tokens[sample.said_tokens :]
            ends = sample.finish_reason is not None and not sample.is_over
            if not (text or tokens or ends):
                continue
            sample.said, sample.said_tokens, sample.is_over = len(sample.text), len(sample.tokens), ends
            logprobs = self._logprobs(sample, tokens) if self._with_logprobs else None
            choices.append(Choice(index=index, text=text, logprobs=logprobs, finish_reason=sample.finish_reason))
        return choices

    def _logprobs(self, sample: _Sample, tokens: Sequence[TokenLogprob]) -> Logprobs:
        offsets = []
        for token in tokens:
            offsets.append(sample.offset)
            sample.offset += len(token.token)
        return Logprobs(
            tokens=[token.token for token in tokens],
            token_logprobs=[token.logprob for token in tokens],
            top_logprobs=[token.top for token in tokens] if self._with_top else None,
            text_offset=offsets,
        )
