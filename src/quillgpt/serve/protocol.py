"""What a client may ask, and what it is answered: OpenAI's protocol for completions, with Quill's settings beside it.

The schema of openapi.json is made from these classes.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from quillgpt.config.schema import Sampling
from quillgpt.trace import Kind, Span

USUAL = Sampling()
MOST_SAMPLES, MOST_STOPS, MOST_LOGPROBS, MOST_PROMPTS = 128, 4, 20, 128
MOST_BIAS = 100.0
LONGEST_STOP, LONGEST_TRACED = 200, 100_000

Ids = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1)]
Stop = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_STOP)]
FinishReason = Literal["stop", "length"]


class Strict(BaseModel):
    """A part of the protocol, in which every name is known."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class StreamOptions(Strict):
    """What a stream has besides text."""

    include_usage: bool = Field(False, description="End with the numbers of tokens.")
    include_obfuscation: bool = Field(False, description="Accepted, and without effect.")


class SamplingRequest(Strict):
    """What requests for completions and for chats have in common.

    Settings that a client leaves out are those of `quill sample`, except the number of tokens, n and seed.
    """

    model: str | None = Field(None, description="Name of a model in /v1/models; unset: the first.")
    temperature: float | None = Field(USUAL.temperature, ge=0, le=1e6)
    top_k: int | None = Field(USUAL.top_k, ge=0, le=2**31, description="0: from all tokens.")
    top_p: float | None = Field(USUAL.top_p, gt=0, le=1)
    min_p: float | None = Field(USUAL.min_p, ge=0, le=1)
    repetition_penalty: float | None = Field(USUAL.repetition_penalty, ge=1e-6, le=1e6)
    presence_penalty: float | None = Field(USUAL.presence_penalty, ge=-100, le=100)
    frequency_penalty: float | None = Field(USUAL.frequency_penalty, ge=-100, le=100)
    n: int | None = Field(1, ge=1, le=MOST_SAMPLES, description="Samples of each prompt.")
    stop: Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS)] | None = Field(
        None, description="A sample ends before the first of these texts."
    )
    seed: int | None = Field(None, ge=0, le=2**63 - 1, description="As in quill sample; unset: drawn, and answered.")
    logit_bias: dict[str, Annotated[float, Field(ge=-MOST_BIAS, le=MOST_BIAS)]] | None = Field(
        None, description="Added to the logits of ids, which are written as texts."
    )
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    user: str | None = Field(None, description="Accepted, and without effect.")

    @model_validator(mode="after")
    def _streams(self) -> SamplingRequest:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is for stream = true; leave it out")
        return self


class CompletionRequest(SamplingRequest):
    """The body of POST /v1/completions."""

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=MOST_PROMPTS)]
        | Ids
        | Annotated[list[Ids], Field(min_length=1, max_length=MOST_PROMPTS)]
        | None
    ) = Field(None, description="A text, texts, ids, or lists of ids; unset: the start of a text.")
    max_tokens: int | None = Field(16, ge=0, le=2**31, description="Most tokens of a sample.")
    best_of: int | None = Field(None, ge=1, le=MOST_SAMPLES, description="Only as many as n.")
    echo: bool | None = Field(False, description="Begin each text with its prompt.")
    logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS, description="Likeliest tokens to list at each place.")
    suffix: str | None = Field(None, description="Refused: no model here fills a gap.")
    x_trace: bool | None = Field(False, description="Say of each text what is copied from the training text.")

    @model_validator(mode="after")
    def _possible(self) -> CompletionRequest:
        if self.suffix:
            raise ValueError("suffix is not supported: the model continues a text, and fills no gap; leave it out")
        if (self.best_of or 1) > (self.n or 1):
            raise ValueError("best_of above n is not supported; ask for n samples and choose among them")
        return self

    @property
    def stops(self) -> list[str]:
        """The stop texts."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or ())

    def sampling(self, *, seed: int) -> Sampling:
        """Return how samples are drawn; what is null is as in `quill sample`."""
        given: dict[str, Any] = {
            name: value for name in Sampling.model_fields if (value := getattr(self, name, None)) is not None
        }
        given.pop("stop", None)
        return Sampling(**given | {"num_samples": self.n or 1, "max_new_tokens": max(1, self.tokens), "seed": seed})

    @property
    def tokens(self) -> int:
        """The most tokens of a sample."""
        return 16 if self.max_tokens is None else self.max_tokens


class TraceRequest(Strict):
    """The body of POST /x/trace."""

    model: str | None = Field(None, description="Name of a model in /v1/models; unset: the first.")
    text: str = Field(max_length=LONGEST_TRACED)


class TraceAnswer(BaseModel):
    """What a text has from the training text of a model."""

    sentence: str = Field(description="What was found, in one sentence.")
    shares: dict[Kind, float] = Field(description="The share of its characters of each kind.")
    expected: dict[Kind, float] = Field(description="The same of held-out text.")
    least_characters: int = Field(description="Characters from which on a passage counts as copied.")
    spans: list[Span] = Field(description="In order, without gaps; places count characters, not bytes or UTF-16.")


class Logprobs(BaseModel):
    """Natural logarithms of probabilities as the model has them, before temperature, penalties and bias.

    All lists have one entry for each token. A token that is no text of its own is written `<|token ID|>`.
    """

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class Choice(BaseModel):
    """One sample, or what a stream adds to it."""

    index: int
    text: str
    logprobs: Logprobs | None = None
    finish_reason: FinishReason | None = None
    x_trace: TraceAnswer | None = Field(None, description="In a stream, with the last event before the usage.")


class Usage(BaseModel):
    """Numbers of tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Completion(BaseModel):
    """The answer to POST /v1/completions, and each event of a stream."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int = Field(description="Seconds since 1970.")
    model: str
    choices: list[Choice]
    usage: Usage | None = None
    x_seed: int = Field(description="The seed, with which the same request gives the same text.")


class ModelCard(BaseModel):
    """A model that is served."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["quill"] = "quill"
    x_parameters: int
    x_context: int = Field(description="Tokens of prompt and sample together.")
    x_tokenizer: str


class ModelList(BaseModel):
    """The answer to GET /v1/models."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class ErrorBody(BaseModel):
    """What is wrong with a request."""

    message: str
    type: Literal["invalid_request_error", "server_error", "rate_limit_error"]
    param: str | None = None
    code: str | None = None


class ErrorAnswer(BaseModel):
    """The answer to a request that is refused."""

    error: ErrorBody
