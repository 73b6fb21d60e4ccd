"""Completions: what clients are answered, and that it is what `quill sample` and `quill eval` compute."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import torch

import quillgpt
from quillgpt.config.schema import Sampling
from quillgpt.generation import generate_ids

openai = pytest.importorskip("openai", reason="the package openai is not installed")
PROMPT = "It was the best of times"


def drawn(model, prompt=PROMPT, **settings):
    return [sample.text for sample in model.generate(prompt, **settings)]


def events(url, **body):
    with httpx.stream("POST", f"{url}/v1/completions", json=body | {"stream": True}, timeout=60) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def test_the_openai_package_gets_the_text_of_quill_sample(running):
    client = openai.OpenAI(base_url=f"{running.url}/v1", api_key="none")
    expected = drawn(running.model, num_samples=3, max_new_tokens=20, seed=5)
    answer = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=20, seed=5, n=3)
    assert [choice.text for choice in answer.choices] == expected
    assert answer.usage.completion_tokens == 60
    streamed = ["", "", ""]
    for event in client.completions.create(model="tiny", prompt=PROMPT, max_tokens=20, seed=5, n=3, stream=True):
        for choice in event.choices:
            streamed[choice.index] += choice.text
    assert streamed == expected


def test_seven_other_requests_change_no_bit(running):
    alone = running.text(prompt=PROMPT, max_tokens=10, seed=3, logprobs=2)
    bodies = [{"prompt": PROMPT[:length], "max_tokens": 10, "seed": length} for length in range(1, 8)]
    expected = [running.text(**body) for body in bodies]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            others = [pool.submit(running.text, **body) for body in bodies]
            assert running.text(prompt=PROMPT, max_tokens=10, seed=3) == alone
            assert [other.result() for other in others] == expected


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0},
        {"temperature": 1.5, "top_k": 0},
        {"top_p": 0.5},
        {"min_p": 0.3},
        {"repetition_penalty": 3.0},
        {"presence_penalty": 2.0, "frequency_penalty": 1.0},
        {"stop": " "},
    ],
)
def test_settings_are_those_of_quill_sample(running, settings):
    expected = drawn(running.model, max_new_tokens=20, seed=1, **settings)
    answer = running.ask(prompt=PROMPT, max_tokens=20, seed=1, **settings)
    assert [choice["text"] for choice in answer["choices"]] == expected


def test_prompts_are_texts_or_ids_one_or_several(running):
    ids = running.model.tokenizer.encode_prompt(PROMPT)
    text = running.text(prompt=PROMPT, max_tokens=8, seed=2)
    assert running.text(prompt=ids, max_tokens=8, seed=2) == text
    for several in ([PROMPT, "times"], [ids, running.model.tokenizer.encode_prompt("times")]):
        choices = running.ask(prompt=several, max_tokens=8, seed=2, n=2)["choices"]
        assert [choice["index"] for choice in choices] == [0, 1, 2, 3]
        assert choices[0]["text"] == text
        assert choices[2]["text"] == running.text(prompt="times", max_tokens=8, seed=2)
    assert running.text(max_tokens=8, seed=2) == drawn(running.model, None, max_new_tokens=8, seed=2)[0]


def test_a_sample_ends_before_the_first_of_several_stop_texts(running):
    free = running.text(prompt=PROMPT, max_tokens=30, seed=4, temperature=1)
    stops = [free[20:22], free[8:11], "never there"]
    end = min(free.find(stop) for stop in stops[:2])
    answer = running.ask(prompt=PROMPT, max_tokens=30, seed=4, temperature=1, stop=stops)
    assert answer["choices"][0]["text"] == free[:end]
    assert answer["choices"][0]["finish_reason"] == "stop"
    streamed = "".join(
        choice["text"]
        for event in events(running.url, prompt=PROMPT, max_tokens=30, seed=4, temperature=1, stop=stops)
        for choice in event["choices"]
    )
    assert streamed == free[:end]


def test_a_bias_forbids_and_forces_tokens(running):
    only = running.model.tokenizer.encode_prompt("t")[0]
    assert running.text(prompt=PROMPT, max_tokens=5, seed=1, logit_bias={str(only): 100}) == "t" * 5
    free = running.ask(prompt=PROMPT, max_tokens=1, temperature=0, logprobs=0)["choices"][0]["logprobs"]["tokens"]
    first = running.model.tokenizer.encode_prompt(running.text(prompt=PROMPT, max_tokens=1, temperature=0))
    if len(first) == 1:
        other = running.ask(prompt=PROMPT, max_tokens=1, temperature=0, logprobs=0, logit_bias={str(first[0]): -100})
        assert other["choices"][0]["logprobs"]["tokens"] != free


def test_logprobs_are_the_models_whatever_the_settings(running):
    model = running.model
    answer = running.ask(
        prompt=PROMPT, max_tokens=10, seed=6, logprobs=3, temperature=0.3, repetition_penalty=2.0, echo=True
    )
    found = answer["choices"][0]["logprobs"]
    ids = model.tokenizer.encode_prompt(PROMPT)
    sampling = Sampling(num_samples=1, max_new_tokens=10, seed=6, temperature=0.3, repetition_penalty=2.0)
    vocab = min(model.tokenizer.vocab_size, model.config.vocab_size)
    ids += [int(token) for token in generate_ids(model.writer, ids, sampling, vocab_size=vocab)]
    with torch.inference_mode():
        logits = model.gpt.logits(model.gpt(torch.tensor([ids[:-1]])))[0].log_softmax(-1)[:, :vocab]
    expected = logits.gather(1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()
    assert found["token_logprobs"][0] is None
    assert found["token_logprobs"][1:] == pytest.approx(expected, abs=1e-4)
    assert found["top_logprobs"][0] is None
    for row, top, own, token in zip(
        logits, found["top_logprobs"][1:], found["token_logprobs"][1:], found["tokens"][1:], strict=True
    ):
        assert sorted(top.values(), reverse=True)[:3] == pytest.approx(row.topk(3).values.tolist(), abs=1e-4)
        assert top[token] == own
        assert 3 <= len(top) <= 4
    assert found["text_offset"][0] == 0
    assert answer["choices"][0]["text"].startswith(PROMPT)


def test_scoring_alone_generates_nothing(running):
    answer = running.ask(prompt=PROMPT, max_tokens=0, echo=True, logprobs=0)
    assert answer["choices"][0]["text"] == PROMPT
    assert answer["choices"][0]["logprobs"]["top_logprobs"] is None
    assert answer["usage"]["completion_tokens"] == 0


def test_names_of_tokens_are_all_different(models):
    for served in models.values():
        assert len(set(served.vocabulary.names)) == served.vocabulary.size


def test_a_stream_ends_with_the_usage_that_was_asked_for(running):
    plain = events(running.url, prompt=PROMPT, max_tokens=6, seed=1)
    assert all(event["usage"] is None for event in plain)
    *_, last = events(running.url, prompt=PROMPT, max_tokens=6, seed=1, stream_options={"include_usage": True})
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 6
    whole = running.ask(prompt=PROMPT, max_tokens=6, seed=1, logprobs=2)["choices"][0]["logprobs"]
    streamed = [
        choice["logprobs"]
        for event in events(running.url, prompt=PROMPT, max_tokens=6, seed=1, logprobs=2)
        for choice in event["choices"]
    ]
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        assert [value for part in streamed for value in part[name]] == whole[name]


def test_without_a_seed_texts_differ_and_the_answer_has_it(running):
    first, second = (running.ask(prompt=PROMPT, max_tokens=20, temperature=1) for _ in range(2))
    assert first["choices"][0]["text"] != second["choices"][0]["text"]
    again = running.text(prompt=PROMPT, max_tokens=20, temperature=1, seed=first["x_seed"])
    assert again == first["choices"][0]["text"]


def test_models_are_served_by_name(running):
    listed = httpx.get(f"{running.url}/v1/models").json()["data"]
    assert [card["id"] for card in listed] == ["tiny", "other"]
    assert httpx.get(f"{running.url}/v1/models/other").json() == listed[1]
    assert listed[0]["x_context"] == 64
    assert running.ask(model="other", prompt="It was", max_tokens=3)["model"] == "other"


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"prompt": PROMPT, "max_tokens": 64}, 400, "context is 64 tokens; the prompt has"),
        ({"suffix": "the end"}, 400, "suffix is not supported"),
        ({"n": 1, "best_of": 3}, 400, "best_of above n"),
        ({"n": 129}, 400, "n: Input should be less than or equal to 128"),
        ({"stop": list("abcde")}, 400, "stop"),
        ({"logprobs": 21}, 400, "logprobs"),
        ({"promt": "x"}, 400, "promt: is unknown here"),
        ({"model": "none"}, 404, "there is no model 'none'; there is tiny, other"),
        ({"model": "other", "prompt": "ẞ"}, 400, "ẞ"),
        ({"prompt": [10**6]}, 400, "has the id 1000000"),
        ({"logit_bias": {"900000": 1}}, 400, "logit_bias has '900000'"),
        ({"logit_bias": {"a": 1}}, 400, "logit_bias has 'a'"),
        ({"temperature": -1}, 400, "temperature"),
        ({"stream_options": {"include_usage": True}}, 400, "stream_options is for stream"),
    ],
)
def test_what_is_impossible_is_refused_in_one_line(running, body, status, words):
    answer = httpx.post(f"{running.url}/v1/completions", json=body)
    assert answer.status_code == status
    message = answer.json()["error"]["message"]
    assert words in message
    assert "\n" not in message


def test_a_model_in_eight_bits_is_served_as_it_is_sampled(models, tmp_path, running):
    from exported import saved
    from quillgpt.serve.completion import ServedModel
    from quillgpt.serve.protocol import CompletionRequest

    saved(tmp_path / "eight")
    served = ServedModel("eight", quillgpt.load(tmp_path / "eight", quantize="int8"))
    request = CompletionRequest(prompt=PROMPT, max_tokens=12, n=2, seed=3)
    texts = ["", ""]
    for pieces in served.complete(request, served.prompts(request), 3):
        for piece in pieces:
            texts[piece.index] += piece.text
    assert texts == drawn(served.model, num_samples=2, max_new_tokens=12, seed=3)
