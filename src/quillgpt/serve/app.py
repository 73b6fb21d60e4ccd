"""The API: OpenAI's completions, what is served, and how the server is.

request -> Guard -> CompletionRequest -> Turns -> pieces of text -> an answer, or events as they come
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from quillgpt.console import warn
from quillgpt.errors import UserError, shorten
from quillgpt.serve.answers import RefusedError, answer, refusal
from quillgpt.serve.chat import ChatForm, ChatRequest
from quillgpt.serve.completion import ServedModel
from quillgpt.serve.gathering import Gathered
from quillgpt.serve.guard import Guard
from quillgpt.serve.measures import Measures
from quillgpt.serve.openapi import document
from quillgpt.serve.protocol import (
    Choice,
    Completion,
    CompletionRequest,
    ModelCard,
    ModelList,
    TraceRequest,
    Usage,
)
from quillgpt.serve.runs import Runs
from quillgpt.serve.static import FILES, page_routes
from quillgpt.serve.tracing import Tracing
from quillgpt.serve.turns import EndedError, FullError, Job, Turns

LARGEST_BODY: Final = 1 << 20
"""Bytes of a request."""

BODY_SECONDS: Final = 10.0
"""A request must have come after this time."""

READ_SECONDS: Final = 30.0
"""A client must take each event in this time."""

EVENT_SECONDS: Final = 0.04
"""From one event of a stream to the next, at least."""

RETRY_SECONDS: Final = 2
OPEN_PATHS: Final = ("/health", *FILES)

Body = TypeVar("Body", bound=BaseModel)


class Server:
    """Answers requests for some models.

    Args:
        models: The models by the names under which clients ask for them; the first answers who names none.
        host: The name or address that the server listens at.
        api_key: What clients must send; None: nothing.
    """

    def __init__(self, models: Mapping[str, ServedModel], *, host: str, api_key: str | None = None) -> None:
        self._models = dict(models)
        self._started = int(time.time())
        self.turns = Turns()
        self._tracing = Tracing()
        self._measures = Measures()
        self.routes = [
            Route("/v1/models", self._list_models, methods=["GET"]),
            Route("/v1/models/{name:path}", self._show_model, methods=["GET"]),
            Route("/v1/completions", self._complete, methods=["POST"]),
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
            Route("/health", self._health, methods=["GET"]),
            Route("/metrics", self._metrics, methods=["GET"]),
            Route("/openapi.json", self._openapi, methods=["GET"]),
            Route("/x/trace", self._trace, methods=["POST"]),
            *Runs(Path()).routes(),
            *page_routes(),
        ]
        handlers: dict[int | type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
            RefusedError: _refuse,
            FullError: _too_many,
            404: _not_found,
            405: _not_allowed,
            500: _failed,
            ClientDisconnect: _gone,
        }
        app = Starlette(routes=self.routes, exception_handlers=handlers)
        self.app = self._measures.counting(Guard(app, host=host, api_key=api_key, open_paths=OPEN_PATHS))

    async def _list_models(self, _: Request) -> Response:
        return answer(ModelList(data=[self._card(model) for model in self._models.values()]))

    async def _show_model(self, request: Request) -> Response:
        return answer(self._card(self._model(request.path_params["name"])))

    async def _health(self, _: Request) -> Response:
        return Response('{"status":"ok"}', media_type="application/json")

    async def _metrics(self, _: Request) -> Response:
        return Response(self._measures.text(*self.turns.counts), media_type="text/plain; version=0.0.4")

    async def _openapi(self, _: Request) -> Response:
        return Response(json.dumps(document()), media_type="application/json")

    async def _complete(self, request: Request) -> Response:
        asked = parse(await read_body(request), CompletionRequest)
        return await self._answer(request, self._model(asked.model), asked, CompletionForm())

    async def _chat(self, request: Request) -> Response:
        asked = parse(await read_body(request), ChatRequest)
        served = self._model(asked.model)
        try:
            template = served.chat_template
            if template is None:
                raise RefusedError(
                    400,
                    f"{served.name} continues a text and has no chat template; send the text as prompt to "
                    "/v1/completions",
                    code="no_chat_template",
                )
            prompt = served.chat_prompt([message.as_templates_have_it() for message in asked.messages], template)
        except UserError as error:
            return refusal(400, str(error))
        completion = asked.completion(prompt, context=served.model.config.block_size)
        return await self._answer(request, served, completion, ChatForm(asked.top_logprobs or 0))

    async def _trace(self, request: Request) -> Response:
        asked = parse(await read_body(request), TraceRequest)
        served = self._model(asked.model)
        try:
            (found,) = await self._tracing.trace(served, [asked.text])
        except UserError as error:
            return refusal(400, str(error))
        return answer(found)

    async def _answer(
        self, request: Request, served: ServedModel, asked: CompletionRequest, form: CompletionForm | ChatForm
    ) -> Response:
        seed = secrets.randbits(31) if asked.seed is None else asked.seed
        try:
            served.vocabulary.bias(asked.logit_bias)
            asked.sampling(seed=seed)
            prompts = served.prompts(asked)
            if asked.x_trace:
                await self._tracing.trace(served, [])
        except UserError as error:
            return refusal(400, str(error))
        work = Work(
            asked,
            served,
            job=self.turns.submit(served.complete(asked, prompts, seed)),
            gathered=Gathered(asked, [text for text, _ in prompts]),
            head=Completion(
                id=f"cmpl-{secrets.token_hex(12)}", created=int(time.time()), model=served.name, choices=[], x_seed=seed
            ),
            prompt_tokens=sum(len(ids) for _, ids in prompts),
            form=form,
        )
        return Events(self._events(work), work.job) if asked.stream else await self._whole(request, work)

    async def _whole(self, request: Request, work: Work) -> Response:
        """Answer when all samples have ended; stop computing if the client leaves."""
        leaving = asyncio.create_task(_disconnected(request))
        reading = asyncio.create_task(self._choices(work))
        try:
            await asyncio.wait((leaving, reading), return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                raise ClientDisconnect
            choices = reading.result()
        except (UserError, EndedError, FullError) as error:
            return failure(error)
        finally:
            work.job.cancel()
            leaving.cancel()
            reading.cancel()
        return answer(work.form.whole(work.head.model_copy(update={"choices": choices, "usage": work.usage})))

    async def _choices(self, work: Work) -> Sequence[Choice]:
        async for pieces in work.job.pieces():
            self._measures.generated(work.gathered.add(pieces))
        return await self._traced(work)

    async def _traced(self, work: Work) -> Sequence[Choice]:
        """Return all samples, with what is copied in them where that is asked."""
        choices = work.gathered.choices()
        return await self._tracing.mark(work.served, choices) if work.asked.x_trace else choices

    async def _events(self, work: Work) -> AsyncIterator[str]:
        """Yield the events of a stream: what came since the last, then traces and usage if they are wanted, the end."""

        def event(**values: object) -> str:
            return work.form.event(work.head.model_copy(update=values)).model_dump_json()

        try:
            async for pieces in work.job.pieces(EVENT_SECONDS):
                self._measures.generated(work.gathered.add(pieces))
                if choices := work.gathered.fresh():
                    yield event(choices=choices)
            if work.asked.x_trace:
                marked = await self._traced(work)
                yield event(choices=[Choice(index=one.index, text="", x_trace=one.x_trace) for one in marked])
            if work.asked.stream_options is not None and work.asked.stream_options.include_usage:
                yield event(usage=work.usage)
        except (UserError, EndedError, FullError) as error:
            yield bytes(failure(error).body).decode()
        yield "[DONE]"

    def _model(self, name: str | None) -> ServedModel:
        if name is None:
            return next(iter(self._models.values()))
        if name not in self._models:
            known = ", ".join(self._models)
            raise RefusedError(
                404, f"there is no model {name[:100]!r}; there is {known}", param="model", code="model_not_found"
            )
        return self._models[name]

    def _card(self, served: ServedModel) -> ModelCard:
        return ModelCard(
            id=served.name,
            created=self._started,
            x_parameters=served.model.parameters,
            x_context=served.model.config.block_size,
            x_tokenizer=served.model.tokenizer.name,
        )


class CompletionForm:
    """Completions as they are."""

    def whole(self, completion: Completion) -> Completion:
        """Return the answer."""
        return completion

    def event(self, completion: Completion) -> Completion:
        """Return the next event."""
        return completion


@dataclass(frozen=True)
class Work:
    """A request that is being answered.

    Attributes:
        asked: What it asks for.
        served: Of which model.
        job: Computes it.
        gathered: What has come so far.
        head: The answer, without samples.
        prompt_tokens: Tokens of its prompts.
        form: In which it is answered.
    """

    asked: CompletionRequest
    served: ServedModel
    job: Job
    gathered: Gathered
    head: Completion
    prompt_tokens: int
    form: CompletionForm | ChatForm

    @property
    def usage(self) -> Usage:
        """Numbers of tokens so far."""
        generated = self.gathered.completion_tokens
        return Usage(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=generated,
            total_tokens=self.prompt_tokens + generated,
        )


class Events(Response):
    """Events that are sent as they come (server-sent events); nothing more is computed when the client has left.

    Args:
        events: The data of each.
        job: What computes them.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[str], job: Job) -> None:
        super().__init__()
        self._events = events
        self._job = job

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send the events until they end or the client leaves, or takes too long to read them."""
        sending = asyncio.create_task(self._send(send))
        leaving = asyncio.create_task(_leaves(receive))
        try:
            await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._job.cancel()
            leaving.cancel()
            sending.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)

    async def _send(self, send: Send) -> None:
        headers = [(name, value) for name, value in self.raw_headers if name != b"content-length"]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async for data in self._events:
            async with asyncio.timeout(READ_SECONDS):
                await send({"type": "http.response.body", "body": f"data: {data}\n\n".encode(), "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def failure(error: UserError | EndedError | FullError) -> Response:
    """Return the answer to a request that could not be computed to its end."""
    if isinstance(error, FullError):
        return too_many()
    return refusal(500, str(error)) if isinstance(error, UserError) else refusal(503, "the server has been ended")


def too_many() -> Response:
    """Return the answer to a request that finds too many waiting."""
    wait = {"Retry-After": str(RETRY_SECONDS)}
    return refusal(429, "too many requests wait already; ask again later", headers=wait)


async def read_body(request: Request) -> bytes:
    """Return the body of a request.

    Raises:
        RefusedError: It is too large, or takes too long to come.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > LARGEST_BODY:
                    raise RefusedError(413, f"the request has more than {LARGEST_BODY:,} bytes; send a shorter one")
    except TimeoutError:
        raise RefusedError(408, f"the request did not come within {BODY_SECONDS:g} s; send it again") from None
    return bytes(body)


def parse(body: bytes, kind: type[Body]) -> Body:
    """Return what a body asks for.

    Raises:
        RefusedError: It is no JSON, or has what the protocol has not.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"][:3])
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            message = "is unknown here; leave it out"
        raise RefusedError(400, f"{place[:100]}: {message}" if place else message, param=place[:100] or None) from None


async def _disconnected(request: Request) -> None:
    while not await request.is_disconnected():
        await asyncio.sleep(EVENT_SECONDS)


async def _leaves(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _refuse(_: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    return error.response


async def _too_many(_: Request, error: Exception) -> Response:  # noqa: ARG001
    return too_many()


async def _not_found(request: Request, _: Exception) -> Response:
    return refusal(404, f"there is no {request.url.path[:200]}; /openapi.json lists what there is", code="not_found")


async def _not_allowed(request: Request, error: Exception) -> Response:
    allowed = getattr(error, "headers", None) or {}
    return refusal(405, f"{request.url.path[:200]} does not take {request.method[:20]}", headers=dict(allowed))


async def _failed(_: Request, error: Exception) -> Response:
    message = f"a fault of Quill's own: {type(error).__name__}: {shorten(str(error))}"
    warn(message)
    return refusal(500, message)


async def _gone(_: Request, error: Exception) -> Response:  # noqa: ARG001
    return Response(status_code=499)
