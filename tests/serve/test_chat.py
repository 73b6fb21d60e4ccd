"""Chats: messages become a prompt by the model's chat template, and the answer is the completion of that prompt."""

from __future__ import annotations

import json

import httpx
import pytest

import quillgpt
from exported import saved
from quillgpt.errors import CheckpointError, UserError
from quillgpt.serve.chat_template import read_chat_template
from quillgpt.serve.completion import ServedModel
from tiny import QWEN3

openai = pytest.importorskip("openai", reason="the package openai is not installed")

TEMPLATE = """\
{%- for message in messages %}
    {%- if loop.index0 and message.role == messages[loop.index0 - 1].role %}
        {{- raise_exception("roles must alternate") }}
    {%- endif %}
    {{- '[' + message.role + '] ' + message.content | trim + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '[assistant] ' }}
{%- endif %}
"""
MESSAGES = [
    {"role": "developer", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Hi "}]},
]
PROMPT = "[system] Be brief.\n[user] Hi\n[assistant] "


@pytest.fixture(scope="module")
def chat(tmp_path_factory, start):
    """The address of a server of a model with a chat template, and of one without."""
    folder = tmp_path_factory.mktemp("chat")
    names = ("talker", "writer", "damaged", "silent")
    for name in names:
        saved(folder / name, QWEN3, "bpe")
    (folder / "talker/chat_template.jinja").write_text(TEMPLATE)
    (folder / "damaged/chat_template.jinja").write_text("{% for %}")
    (folder / "silent/chat_template.jinja").write_text("{# nothing #}")
    models = {name: ServedModel(name, quillgpt.load(folder / name, dtype="float32")) for name in names}
    for port, _ in start(models):
        yield f"http://127.0.0.1:{port}"


def ask(url, **body):
    return httpx.post(f"{url}/v1/chat/completions", json={"messages": MESSAGES} | body, timeout=60)


def test_the_openai_package_gets_the_completion_of_the_prompt(chat):
    completion = httpx.post(
        f"{chat}/v1/completions", json={"prompt": PROMPT, "max_tokens": 12, "seed": 4, "n": 2}, timeout=60
    ).json()
    texts = [choice["text"] for choice in completion["choices"]]
    client = openai.OpenAI(base_url=f"{chat}/v1", api_key="none")
    asked = {"model": "talker", "messages": MESSAGES, "max_tokens": 12, "seed": 4, "n": 2}
    answer = client.chat.completions.create(**asked)
    assert answer.object == "chat.completion"
    assert [(choice.message.role, choice.message.content) for choice in answer.choices] == [
        ("assistant", text) for text in texts
    ]
    assert answer.usage.model_dump(include=set(completion["usage"])) == completion["usage"]
    streamed, roles, ends = ["", ""], [], []
    options = {"stream_options": {"include_usage": True}}
    for event in client.chat.completions.create(**asked, stream=True, **options):
        usage = event.usage
        for choice in event.choices:
            streamed[choice.index] += choice.delta.content or ""
            roles += [choice.index] * (choice.delta.role == "assistant")
            ends += [choice.finish_reason] * (choice.finish_reason is not None)
    assert streamed == texts
    assert sorted(roles) == [0, 1]
    assert sorted(ends) == sorted(choice["finish_reason"] for choice in completion["choices"])
    assert usage.completion_tokens == completion["usage"]["completion_tokens"]


def test_logprobs_are_those_of_completions(chat):
    body = {"prompt": PROMPT, "max_tokens": 6, "seed": 1, "logprobs": 3}
    expected = httpx.post(f"{chat}/v1/completions", json=body, timeout=60).json()["choices"][0]["logprobs"]
    choice = ask(chat, max_tokens=6, seed=1, logprobs=True, top_logprobs=3).json()["choices"][0]
    content = choice["logprobs"]["content"]
    assert [each["token"] for each in content] == expected["tokens"]
    assert [each["logprob"] for each in content] == expected["token_logprobs"]
    for each, top in zip(content, expected["top_logprobs"], strict=True):
        listed = [other["logprob"] for other in each["top_logprobs"]]
        assert listed == sorted(top.values(), reverse=True)[:3]
        assert each["bytes"] in (None, list(each["token"].encode()))
    assert ask(chat, max_tokens=2, logprobs=True).json()["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []
    assert ask(chat, max_tokens=2).json()["choices"][0]["logprobs"] is None


def test_an_answer_may_fill_the_context(chat):
    usage = ask(chat, seed=1, temperature=0).json()["usage"]
    assert usage["total_tokens"] == 64
    assert ask(chat, max_completion_tokens=3).json()["usage"]["completion_tokens"] == 3
    answer = ask(chat, messages=[{"role": "user", "content": "times " * 100}])
    assert answer.status_code == 400
    assert "this model's context is 64 tokens" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"model": "writer"}, "writer continues a text and has no chat template"),
        ({"model": "damaged"}, "the chat template cannot be read"),
        ({"model": "silent"}, "writes nothing for these messages"),
        ({"messages": []}, "messages: List should have at least 1 item"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"messages": [MESSAGES[1], MESSAGES[1]]}, "refuses these messages: 'roles must alternate'"),
        ({"top_logprobs": 2}, "top_logprobs is for logprobs = true"),
        ({"tools": []}, "tools: is unknown here; leave it out"),
    ],
)
def test_what_is_impossible_is_refused_in_one_line(chat, body, words):
    answer = ask(chat, **body)
    assert answer.status_code == 400
    message = answer.json()["error"]["message"]
    assert words in message
    assert "\n" not in message


def test_templates_are_read_as_by_transformers(tmp_path):
    transformers = pytest.importorskip("transformers", reason="the extra export is not installed")
    messages = [{"role": "user", "content": 'Say "é".\n'}, {"role": "assistant", "content": "é"}]
    template = (
        "{{ bos_token }}{% for m in messages %}\n  {% if loop.first %}\n{{ m | tojson }}\n  {% endif %}\n"
        "{{ m.content }}{% break %}{% endfor %}"
    )
    saved(tmp_path, tokenizer="bpe")
    file = tmp_path / "tokenizer_config.json"
    for stored in (template, [{"name": "default", "template": template}, {"name": "tools", "template": "no"}]):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": stored}))
        expected = transformers.AutoTokenizer.from_pretrained(tmp_path).apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        assert read_chat_template(tmp_path).render(messages) == expected


def test_a_template_cannot_reach_out(tmp_path):
    file = tmp_path / "chat_template.jinja"
    for source in ("{{ messages.__class__.__mro__ }}", "{% include '/etc/passwd' %}", "{{ range(10000000) | list }}"):
        file.write_text(source)
        with pytest.raises(UserError, match="refuses these messages"):
            print(read_chat_template(tmp_path).render(MESSAGES))
    file.write_bytes(b"\xff")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_chat_template(tmp_path)
    file.unlink()
    assert read_chat_template(tmp_path) is None
