"""Chats: OpenAI's protocol for messages, turned into completions of a text and back.

The model's chat template writes the messages as a prompt; what the model continues it with is the answer.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

from quillgpt.serve.completion import NAMELESS
from quillgpt.serve.protocol import (
    MOST_LOGPROBS,
    Choice,
    Completion,
    CompletionRequest,
    FinishReason,
    Logprobs,
    SamplingRequest,
    Strict,
    Usage,
)

MOST_MESSAGES = 1000
ROLES = {"developer": "system"}
"""Roles that OpenAI has renamed, by the names that templates know."""


class TextPart(Strict):
    """A part of a message."""

    type: Literal["text"]
    text: str


class Message(Strict):
    """A message of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = Field(None, description="Accepted, and without effect.")

    def as_templates_have_it(self) -> dict[str, str]:
        """Return role and content as texts."""
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": ROLES.get(self.role, self.role), "content": content}


class ChatRequest(SamplingRequest):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MOST_MESSAGES)]
    max_tokens: int | None = Field(None, ge=1, le=2**31, description="Most tokens of an answer; unset: what fits.")
    max_completion_tokens: int | None = Field(None, ge=1, le=2**31, description="Another name for max_tokens.")
    logprobs: bool | None = Field(False, description="Say how likely each token was.")
    top_logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS, description="Likeliest tokens to list beside it.")

    @model_validator(mode="after")
    def _listed(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs is for logprobs = true; give both, or leave it out")
        return self

    def completion(self, prompt: list[int], *, context: int) -> CompletionRequest:
        """Return the completion that answers, given the prompt as ids and the tokens that the model sees at once."""
        common = {name: getattr(self, name) for name in SamplingRequest.model_fields}
        most = self.max_completion_tokens or self.max_tokens or max(1, context - len(prompt))
        logprobs = (self.top_logprobs or 0) if self.logprobs else None
        return CompletionRequest(**common, prompt=prompt, max_tokens=most, logprobs=logprobs)


class TopLogprob(BaseModel):
    """A token that was likely, with the natural logarithm of its probability."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    """A token of an answer."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """How likely the tokens of an answer were."""

    content: list[TokenLogprob]
    refusal: None = None


class Answer(BaseModel):
    """What the model says."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Delta(BaseModel):
    """What an event adds to an answer."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChatChoice(BaseModel):
    """One answer."""

    index: int
    message: Answer
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason | None = None


class ChunkChoice(BaseModel):
    """What an event adds to one answer."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason | None = None


class ChatCompletion(BaseModel):
    """The answer to POST /v1/chat/completions."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int = Field(description="Seconds since 1970.")
    model: str
    choices: list[ChatChoice]
    usage: Usage | None = None
    x_seed: int = Field(description="The seed, with which the same request gives the same text.")


class ChatChunk(BaseModel):
    """An event of a stream."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None
    x_seed: int


class ChatForm:
    """Completions of one request in the form of a chat.

    Args:
        top: Likeliest tokens to list beside each.
    """

    def __init__(self, top: int) -> None:
        self._top = top
        self._begun: set[int] = set()

    def whole(self, completion: Completion) -> ChatCompletion:
        """Return the answer."""
        choices = [
            ChatChoice(
                index=choice.index,
                message=Answer(content=choice.text),
                logprobs=self._logprobs(choice.logprobs),
                finish_reason=choice.finish_reason,
            )
            for choice in completion.choices
        ]
        return ChatCompletion(**_head(completion), choices=choices)

    def event(self, completion: Completion) -> ChatChunk:
        """Return the next event."""
        return ChatChunk(**_head(completion), choices=[self._chunk(choice) for choice in completion.choices])

    def _chunk(self, choice: Choice) -> ChunkChoice:
        role: Literal["assistant"] | None = None if choice.index in self._begun else "assistant"
        self._begun.add(choice.index)
        return ChunkChoice(
            index=choice.index,
            delta=Delta(role=role, content=choice.text),
            logprobs=self._logprobs(choice.logprobs),
            finish_reason=choice.finish_reason,
        )

    def _logprobs(self, given: Logprobs | None) -> ChatLogprobs | None:
        if given is None:
            return None
        content = []
        tops = given.top_logprobs or [None] * len(given.tokens)
        for token, logprob, top in zip(given.tokens, given.token_logprobs, tops, strict=True):
            assert logprob is not None  # only a prompt has such tokens
            likeliest = sorted((top or {}).items(), key=lambda item: -item[1])[: self._top]
            listed = [TopLogprob(token=name, logprob=value, bytes=_bytes(name)) for name, value in likeliest]
            content.append(TokenLogprob(token=token, logprob=logprob, bytes=_bytes(token), top_logprobs=listed))
        return ChatLogprobs(content=content)


def _head(completion: Completion) -> dict[str, Any]:
    id = completion.id.replace("cmpl-", "chatcmpl-", 1)
    return completion.model_dump(include={"created", "model", "usage", "x_seed"}) | {"id": id}


def _bytes(token: str) -> list[int] | None:
    return None if token.startswith(NAMELESS) else list(token.encode())
