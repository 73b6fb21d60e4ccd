"""Tracing for clients: the spans of `quill trace`, beside completions and alone."""

from __future__ import annotations

import json

import httpx
import pytest

pytest.importorskip("pydivsufsort", reason="the extra trace is not installed")

from quillgpt.serve.tracing import MOST_TRACES

PASSAGE = "".join(f"Line {n}: {n * 7919 % 1000} grey geese and {n * 104729 % 1000} swäns.\n" for n in (100, 101))
"""Lines 101 and 102 of what the model was trained on."""


def post(url, place, **body):
    return httpx.post(f"{url}{place}", json=body, timeout=60)


def test_a_text_is_traced_as_by_the_command(traced):
    url, tracer, _ = traced
    text = f"Sömething else 🪿. {PASSAGE}Something else."
    expected = tracer.trace(text)
    answer = post(url, "/x/trace", text=text).json()
    copied = next(span for span in answer["spans"] if span["kind"] == "copied")
    assert PASSAGE.strip() in text[copied["start"] : copied["end"]]
    assert (copied["source"], copied["line"]) == ("geese.txt", 101)  # no folder of the server's user
    assert [span | {"source": None} for span in answer["spans"]] == [
        span.row() | {"source": None} for span in expected.spans
    ]
    assert answer["shares"] == expected.shares
    assert answer["expected"] == expected.expected
    assert answer["least_characters"] == tracer.calibration.least
    assert "geese.txt:101." in answer["sentence"]


def test_completions_are_traced_where_that_is_asked(traced):
    url, tracer, models = traced
    room = models[0].model.config.block_size - 6
    asked = {"prompt": PASSAGE[:room], "max_tokens": 4, "seed": 1, "n": 2, "echo": True}
    plain = post(url, "/v1/completions", **asked).json()["choices"]
    assert all(choice["x_trace"] is None for choice in plain)
    choices = post(url, "/v1/completions", x_trace=True, **asked).json()["choices"]
    for before, choice in zip(plain, choices, strict=True):
        assert choice["text"] == before["text"]
        spans = [span.row() for span in tracer.trace(choice["text"]).spans]
        assert [span["kind"] for span in choice["x_trace"]["spans"]] == [span["kind"] for span in spans]
        assert [span["end"] for span in choice["x_trace"]["spans"]] == [span["end"] for span in spans]
    streamed = httpx.post(
        f"{url}/v1/completions",
        json=asked | {"x_trace": True, "stream": True, "stream_options": {"include_usage": True}},
        timeout=60,
    )
    lines = [line.removeprefix("data: ") for line in streamed.text.splitlines() if line]
    *_, traces, usage, end = lines
    assert [choice["x_trace"] for choice in json.loads(traces)["choices"]] == [one["x_trace"] for one in choices]
    assert json.loads(usage)["usage"]["completion_tokens"] == 8
    assert end == "[DONE]"


def test_what_cannot_be_traced_is_refused_before_anything_is_computed(traced):
    url, _, _ = traced
    for place, body in (("/x/trace", {"text": "a"}), ("/v1/completions", {"prompt": "a", "x_trace": True})):
        answer = post(url, place, model="unknown", **body)
        assert answer.status_code == 400
        assert "does not say on what it was trained" in answer.json()["error"]["message"]
    assert post(url, "/x/trace", text="a", model="none").status_code == 404
    assert post(url, "/x/trace", text="a" * 100_001).status_code == 400
    assert post(url, "/x/trace").status_code == 400
    assert post(url, "/x/trace", text="").json()["spans"] == []


def test_too_many_are_refused_and_who_has_left_is_not_traced():
    import asyncio

    from quillgpt.serve.tracing import Tracing
    from quillgpt.serve.turns import FullError

    class Counting:
        opened = 0

        @property
        def tracer(self):
            self.opened += 1

    async def ask() -> None:
        tracing, served = Tracing(), Counting()
        tracing._turn.acquire()
        waiting = [asyncio.create_task(tracing.trace(served, [])) for _ in range(MOST_TRACES)]
        await asyncio.sleep(0)
        with pytest.raises(FullError):
            await tracing.trace(served, [])
        for task in waiting[1:]:
            task.cancel()
        await asyncio.gather(*waiting[1:], return_exceptions=True)
        tracing._turn.release()
        assert await waiting[0] == []
        while not await asyncio.to_thread(tracing._room.acquire, timeout=30):
            pass
        assert served.opened == 1

    asyncio.run(ask())
