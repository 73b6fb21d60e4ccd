import itertools
import json
import os
import threading

import pytest
import torch
from tokenizers import Tokenizer as Engine
from tokenizers import models, pre_tokenizers

from quillgpt.config.schema import SampleSettings
from quillgpt.device import Memory
from quillgpt.errors import TokenizerError, UserError
from quillgpt.generation import draw_samples, prompt_ids, read_start, with_known_start, without_unknown_end
from quillgpt.generation.generate import MOST_AT_ONCE, TokenGenerator, bytes_of_sample, generate_ids, samples_at_once
from quillgpt.text.tokenizers.byte import ByteTokenizer
from quillgpt.text.tokenizers.char import CharTokenizer
from quillgpt.text.tokenizers.tokenizer_json import HuggingFaceTokenizer
from tiny import GPT2, tiny_model

BYTES = ByteTokenizer()


@torch.no_grad()
def counting_model():
    """A model of bytes that says the alphabet: after each byte comes the next one."""
    model = tiny_model(GPT2, vocab_size=257, n_embd=512, head_dim=128, n_layer=1, tied=False)
    for name, parameter in model.named_parameters():
        if name.startswith(("blocks.", "position")):
            parameter.zero_()
    model.head.weight.copy_(model.token_embedding.weight.roll(1, 0))
    return model


def samples(prompt="a", *, model=None, on_text=None, **settings):
    settings = SampleSettings(**{"num_samples": 1, "max_new_tokens": 5, "temperature": 0.0, **settings})
    prompt = (prompt, BYTES.encode_prompt(prompt))
    return list(draw_samples(model or counting_model(), BYTES, prompt, settings, on_text=on_text))


def test_a_sample_is_what_follows_the_prompt():
    [sample] = samples()
    assert (sample.prompt, sample.text, sample.finish_reason) == ("a", "bcdef", "length")
    assert sample.ids == [*b"bcdef"]


def test_a_sample_ends_before_the_stop_text():
    [sample] = samples(stop="de", max_new_tokens=50)
    assert (sample.text, sample.finish_reason) == ("bc", "stop")


@torch.no_grad()
def test_a_sample_ends_at_end_of_text():
    model = counting_model()
    model.head.weight[256] = model.head.weight[ord("d")] * 2
    [sample] = samples(model=model, max_new_tokens=50)
    assert (sample.text, sample.ids, sample.finish_reason) == ("bc", [*b"bc"], "end_of_text")


@torch.no_grad()
def test_a_sample_that_has_ended_writes_nothing_more_while_others_go_on():
    model = tiny_model(GPT2, vocab_size=257)
    model.final_norm.weight.zero_()  # so that every token is as likely whatever came before
    model.final_norm.bias.fill_(1)
    model.head.weight[:128] = 0.15
    model.head.weight[128:] = 0.0
    model.head.weight[256] = 0.25
    settings = {"model": model, "num_samples": 4, "max_new_tokens": 40, "temperature": 1.0, "top_k": None}
    firsts = []
    for seed in range(6):
        sampling = SampleSettings(num_samples=4, max_new_tokens=40, temperature=1.0, top_k=None, seed=seed)
        steps = torch.stack(list(generate_ids(model, [97], sampling, vocab_size=257)), dim=1).tolist()
        expected = [ids[: ids.index(256)] if 256 in ids else ids for ids in steps]
        pieces = []
        drawn = samples(on_text=pieces.append, seed=seed, **settings)
        assert [sample.ids for sample in drawn] == expected
        assert "".join(pieces) == drawn[0].text == BYTES.decode(expected[0])
        assert [sample.finish_reason for sample in drawn] == [
            "end_of_text" if len(ids) < 40 else "length" for ids in expected
        ]
        firsts.append(len(expected[0]) < max(map(len, expected)))
    assert any(firsts)


def test_no_token_is_computed_once_all_samples_have_ended(computed_steps):
    samples(model=counting_model(), num_samples=2, stop="c", max_new_tokens=50)
    assert len(computed_steps) == 2


def test_samples_cost_nothing_before_they_are_drawn():
    [sample] = samples(stop="h", max_new_tokens=10**11)
    assert sample.text == "bcdefg"
    settings = SampleSettings(num_samples=10**11, max_new_tokens=3, temperature=1.0)
    drawn = draw_samples(tiny_model(GPT2, vocab_size=257), BYTES, ("a", [97]), settings)
    assert len({sample.text for sample in itertools.islice(drawn, 5)}) == 5


def test_memory_follows_the_context_and_not_the_length():
    model = tiny_model(GPT2)
    prompt = torch.zeros(2, 160, dtype=torch.int64)
    generator = TokenGenerator(model, prompt, 10**15, "half", lambda logits, _: logits.argmax(-1))
    assert generator._tokens.shape == (2, 2 * GPT2.block_size)
    assert generator._cache.capacity == GPT2.block_size


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_samples_are_the_same_however_many_are_drawn_together(at_once, monkeypatch):
    settings = {"model": tiny_model(GPT2, vocab_size=257), "num_samples": 7, "max_new_tokens": 30, "temperature": 1.0}
    together = samples(**settings)
    monkeypatch.setattr("quillgpt.generation.generate.MOST_AT_ONCE", at_once)
    pieces = []
    assert samples(on_text=pieces.append, **settings) == together
    assert "".join(pieces) == together[0].text


def test_free_memory_limits_how_many_samples_are_drawn_together(monkeypatch):
    model, asked = tiny_model(GPT2), SampleSettings(num_samples=50, max_new_tokens=12)
    sample_bytes = bytes_of_sample(model, 4, asked)
    assert sample_bytes > 2 * GPT2.n_layer * GPT2.n_embd * GPT2.block_size * 4  # keys and values of the whole context
    for free, expected in [(0, 1), (7 * sample_bytes, 3), (10**12, 50), (None, 50)]:
        available = None if free is None else Memory(10**12, free)
        monkeypatch.setattr("quillgpt.generation.generate.memory", lambda _, available=available: available)
        assert samples_at_once(model, [1, 2, 3, 4], asked) == expected
    assert samples_at_once(model, [1], SampleSettings(num_samples=10**9, max_new_tokens=1)) == MOST_AT_ONCE


def test_a_sample_is_handed_out_when_it_and_those_before_it_have_ended(computed_steps):
    model = tiny_model(GPT2, vocab_size=257)
    settings = SampleSettings(num_samples=8, max_new_tokens=60, temperature=1.0, top_k=None, stop="a", seed=5)
    lengths, handed_out = [], []
    for sample in draw_samples(model, BYTES, ("a", [97]), settings):
        lengths.append(len(sample.ids) + (sample.finish_reason == "end_of_text"))
        handed_out.append(len(computed_steps))
    assert handed_out == list(itertools.accumulate(lengths, max))
    assert handed_out[0] < handed_out[-1]


def test_what_is_streamed_is_the_first_samples_text():
    model = tiny_model(GPT2, vocab_size=257)
    pieces = []
    drawn = samples(
        model=model, on_text=pieces.append, num_samples=3, max_new_tokens=60, temperature=1.0, stop="\x07", seed=3
    )
    assert "".join(pieces) == drawn[0].text
    assert len(pieces) > 5
    assert len({sample.text for sample in drawn}) == 3


def test_rows_without_a_token_are_never_drawn():
    model = tiny_model(GPT2, vocab_size=320)
    [sample] = samples(model=model, temperature=5.0, top_k=None, max_new_tokens=200)
    assert max(sample.ids) < 257


def test_the_default_prompt_is_end_of_text_where_the_model_knows_it():
    assert prompt_ids(BYTES, None, starts_with_end_of_text=True) == ("", [256])
    assert prompt_ids(BYTES, None, starts_with_end_of_text=False) == ("\n", [10])
    assert prompt_ids(BYTES, "", starts_with_end_of_text=False) == ("\n", [10])


def test_the_default_prompt_is_the_first_token_where_there_is_no_newline():
    assert prompt_ids(CharTokenizer("xyz"), None, starts_with_end_of_text=False) == ("x", [0])


def test_a_prompt_may_hold_end_of_text_and_only_known_characters():
    assert prompt_ids(BYTES, "a<|endoftext|>b", starts_with_end_of_text=True)[1] == [97, 256, 98]
    with pytest.raises(TokenizerError, match="'ü'"):
        prompt_ids(CharTokenizer("xyz"), "xü", starts_with_end_of_text=False)


def test_a_tokenizer_that_drops_white_space_has_no_empty_prompt():
    engine = Engine(models.WordLevel({"the": 0, "dog": 1, "?": 2}, unk_token="?"))
    engine.pre_tokenizer = pre_tokenizers.Whitespace()
    words = HuggingFaceTokenizer(json.loads(engine.to_str()))
    assert prompt_ids(words, None, starts_with_end_of_text=False) == ("the", [0])
    with pytest.raises(TokenizerError, match=r"encodes no token of the prompt ' \\n'; give another"):
        prompt_ids(words, " \n", starts_with_end_of_text=False)


def test_a_start_can_be_a_file(tmp_path):
    (tmp_path / "prompt.txt").write_text("Once upon ", encoding="utf-8-sig")
    assert read_start(f"FILE:{tmp_path}/prompt.txt") == "Once upon "
    assert read_start("plain") == "plain"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read"),
        (b"\x00" * 100, "NUL"),
        (b"\x89PNG\r\n\x1a\n", "PNG image"),
        (b"PK\x03\x04", "zip"),
        (b"", "is empty"),
        (b"a\n" * (2**23 + 1), "has more than 16,777,216 characters"),
    ],
)
def test_a_start_file_that_is_no_prompt_is_named(content, words, tmp_path):
    if content is not None:
        (tmp_path / "prompt.txt").write_bytes(content)
    with pytest.raises(UserError, match=rf"(?i)prompt\.txt .*{words}"):
        read_start(f"FILE:{tmp_path}/prompt.txt")
    with pytest.raises(UserError, match="cannot be read"):
        read_start(f"FILE:{tmp_path}")
    with pytest.raises(UserError, match="cannot be read"):
        read_start(f"FILE:{tmp_path}/\0")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_start_file_is_read_as_texts_are(encoding, tmp_path):
    (tmp_path / "prompt.txt").write_bytes("Über Größe,\r\nund mehr\r".encode(encoding))
    assert read_start(f"FILE:{tmp_path}/prompt.txt") == "Über Größe,\nund mehr\n"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_start_may_come_through_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_text("Once\r\nupon"))
    writer.start()
    assert read_start(f"FILE:{tmp_path}/pipe") == "Once\nupon"
    writer.join()


@torch.no_grad()
def test_the_line_ends_of_a_stop_text_are_those_of_texts():
    model = counting_model()
    model.head.weight[10] = model.head.weight[ord("d")] * 2
    [sample] = samples(model=model, max_new_tokens=9, stop="\r\n")
    assert (sample.text, sample.finish_reason) == ("bc", "stop")


def test_the_line_ends_of_a_prompt_are_those_of_texts():
    tokenizer = CharTokenizer("\nab")
    assert prompt_ids(tokenizer, "\ufeffa\r\nb\rb", starts_with_end_of_text=False) == ("a\nb\nb", [1, 0, 2, 0, 2])


def test_an_end_of_text_that_a_model_never_learned_is_left_out_of_its_prompt(capsys):
    assert without_unknown_end(BYTES, "<|endoftext|>") == ""
    assert without_unknown_end(BYTES, "a<|endoftext|>b") == "ab"
    assert "this model never learned an end of text" in capsys.readouterr().err
    assert without_unknown_end(BYTES, "a") == "a"
    assert without_unknown_end(CharTokenizer("xyz"), "<|endoftext|>x") == "x"
    letters = CharTokenizer("<|endoftx>")  # which has learned the mark letter by letter
    assert without_unknown_end(letters, "<|endoftext|>") == "<|endoftext|>"


def test_a_start_of_text_is_what_the_model_knows_as_one(capsys):
    assert with_known_start(BYTES, "<|startoftext|>Once") == "<|endoftext|>Once"
    assert "is read as <|endoftext|>" in capsys.readouterr().err
    assert with_known_start(BYTES, "Once") == "Once"
