import math

import numpy as np
import pytest
import torch

from quillgpt.data.batches import all_offsets
from quillgpt.errors import DataError
from quillgpt.evaluation import Windows, joined, mean_loss, score_split, score_windows, spell_perplexity
from quillgpt.text.tokenizers.bpe import BytePairTokenizer
from quillgpt.text.tokenizers.char import CharTokenizer
from quillgpt.text.tokenizers.gpt2 import gpt2_tokenizer
from tiny import CONFIGS, GPT2, random_ids, tiny_model

TEXT = "Zwölf Boxkämpfer jagen Eva quer über den großen Sylter Deich. 日本語も。\n" * 4


def tokens_of(count, seed=0):
    return random_ids(GPT2, 1, count, seed)[0].numpy().astype(np.uint16)


def target_losses(model, tokens):
    """The loss of every target in blocks from the start, one block at a time, straight from the logits."""
    block_size = model.config.block_size
    ids = torch.from_numpy(tokens.astype(np.int64))
    losses = []
    for start in range(0, len(ids) - block_size, block_size):
        with torch.no_grad():
            scores = model.logits(model(ids[None, start : start + block_size]))[0].double()
        targets = ids[start + 1 : start + block_size + 1]
        losses.append(-scores.log_softmax(-1).gather(1, targets[:, None])[:, 0])
    return torch.cat(losses)


@pytest.mark.parametrize("arch", CONFIGS)
@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_mean_loss_is_the_mean_over_all_targets_whatever_the_batch(arch, batch_size):
    model, tokens = tiny_model(CONFIGS[arch]), tokens_of(16 * 7 + 5)
    expected = target_losses(model, tokens).mean().item()
    assert mean_loss(model, tokens, all_offsets(len(tokens), 16), batch_size=batch_size) == pytest.approx(
        expected, rel=1e-5
    )


def test_mean_loss_reads_the_windows_it_is_given():
    model, tokens = tiny_model(), tokens_of(200)
    starts = np.array([3, 50])
    parts = [mean_loss(model, tokens[start : start + 17], np.array([0]), batch_size=1) for start in starts]
    assert mean_loss(model, tokens, starts, batch_size=2) == pytest.approx(sum(parts) / 2, rel=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_measuring_is_without_dropout_and_leaves_the_model_as_it_was(training):
    model, tokens = tiny_model(), tokens_of(33)
    expected = mean_loss(model, tokens, all_offsets(33, 16), batch_size=2)
    model.dropout = 0.5
    model.train(training)
    assert mean_loss(model, tokens, all_offsets(33, 16), batch_size=2) == expected
    assert model.training is training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_bfloat16_measures_nearly_the_same():
    model, tokens = tiny_model(), tokens_of(200)
    exact, rounded = (
        mean_loss(model, tokens, all_offsets(200, 16), batch_size=4, dtype=dtype)
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert rounded != exact
    assert rounded == pytest.approx(exact, rel=1e-2)


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_a_score_is_what_its_definitions_say(kind):
    tokenizer = CharTokenizer.from_text([TEXT]) if kind == "char" else BytePairTokenizer.train([TEXT], 300)
    ids = tokenizer.encode(TEXT)
    model = tiny_model(GPT2, vocab_size=tokenizer.vocab_size + 3)
    losses = target_losses(model, ids)
    score = score_split(model, tokenizer, ids, batch_size=3)
    assert score.tokens == len(losses) == (len(ids) - 1) // 16 * 16
    assert score.loss == pytest.approx(losses.mean().item(), rel=1e-5)
    assert score.perplexity == pytest.approx(math.exp(losses.mean().item()), rel=1e-4)
    if kind == "char":  # a token is a character, so the text itself says how many bytes the targets have
        byte_count = len(TEXT[1 : 1 + score.tokens].encode("utf-8"))
    else:
        byte_count = len(TEXT.encode("utf-8")) - sum(
            int(tokenizer.byte_lengths()[token]) for token in [ids[0], *ids[1 + score.tokens :]]
        )
    assert score.bits_per_byte == pytest.approx(losses.sum().item() / math.log(2) / byte_count, rel=1e-5)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_parts_of_a_split_give_the_score_and_the_standard_error_of_all_of_it(count):
    tokenizer = CharTokenizer.from_text([TEXT * 8])
    ids, model = tokenizer.encode(TEXT * 8), tiny_model(GPT2, vocab_size=tokenizer.vocab_size)
    windows = Windows(len(ids), 16)
    measured = [score_windows(model, tokenizer, ids, part, batch_size=8) for part in windows.in_parts(count)]
    whole, score = score_windows(model, tokenizer, ids, windows, batch_size=8), joined(measured)
    assert score.loss == pytest.approx(whole.loss, rel=1e-6)
    assert score.bits_per_byte == pytest.approx(whole.bits_per_byte, rel=1e-6)
    assert score.estimate.standard_error == pytest.approx(whole.estimate.standard_error, rel=1e-4)


@pytest.mark.download
def test_gpt2s_tokens_count_as_the_bytes_they_stand_for(gpt2_files):
    tokenizer = gpt2_tokenizer()
    ids = tokenizer.encode(TEXT * 2)[: 16 * 5 + 1]
    model = tiny_model(GPT2, vocab_size=tokenizer.vocab_size)
    score = score_split(model, tokenizer, ids, batch_size=2)
    byte_count = len((TEXT * 2).encode()) - int(
        tokenizer.byte_lengths()[np.r_[ids[:1], tokenizer.encode(TEXT * 2)[81:]]].sum()
    )
    assert score.tokens == 80
    assert score.bits_per_byte * byte_count == pytest.approx(score.loss * 80 / math.log(2), rel=1e-9)


def test_end_of_text_stands_for_no_byte():
    tokenizer = BytePairTokenizer.train([TEXT], 300)
    model = tiny_model(GPT2, vocab_size=300)
    score = score_split(model, tokenizer, np.full(33, tokenizer.end_of_text, dtype=np.uint16), batch_size=1)
    assert score.bits_per_byte is None
    assert score.tokens == 32


def test_a_split_shorter_than_a_block_is_refused_with_both_lengths():
    with pytest.raises(DataError, match="the split has 16 tokens; one block of the model needs 17"):
        score_split(tiny_model(), CharTokenizer("abc"), tokens_of(16), batch_size=1)


def test_progress_is_told_of_every_batch():
    calls = []
    mean_loss(tiny_model(), tokens_of(16 * 7 + 1), all_offsets(113, 16), batch_size=3, advance=lambda: calls.append(1))
    assert len(calls) == 3


@pytest.mark.parametrize("arch", CONFIGS)
def test_a_shorter_block_is_what_is_seen_at_once(arch):
    model, tokens = tiny_model(CONFIGS[arch]), tokens_of(5 * 9 + 3)
    windows = torch.from_numpy(np.lib.stride_tricks.sliding_window_view(tokens, 6)[: 9 * 5 : 5].astype(np.int64))
    with torch.no_grad():
        scores = model.logits(model(windows[:, :-1])).double().log_softmax(-1)
    expected = -scores.gather(-1, windows[:, 1:, None]).mean().item()
    score = score_split(model, CharTokenizer(map(chr, range(65))), tokens, batch_size=4, block_size=5)
    assert (score.loss, score.tokens) == (pytest.approx(expected, rel=1e-5), 45)


@pytest.mark.parametrize(
    ("loss", "spelled"),
    [
        (1.5, "4.48"),
        (math.log(999_999), "999999.00"),
        (20.0, "4.85e+08"),
        (700.0, "1.01e+304"),
        (701.0, "above 1e+304"),
        (1e300, "above 1e+304"),
        (math.inf, "above 1e+304"),
        (math.nan, "nan"),
    ],
)
def test_the_perplexity_of_a_run_that_diverged_is_readable(loss, spelled):
    assert spell_perplexity(loss) == spelled
