"""The rules fill in what nobody has set, and no more."""

from __future__ import annotations

from typing import Any

import pytest

from quillgpt.config import TrainSettings, resolve
from quillgpt.errors import ConfigError
from quillgpt.training.planning import scaling
from quillgpt.training.planning.scaling import BYTES_PER_PARAMETER, SIZES, Text, cost_of
from quillgpt.training.start.model_config import config_for

LIBRARY = Text(1_000_000_000, 100_000, "char", 65)


def own_text(**flags: Any) -> TrainSettings:
    return resolve("own_text", flags, environ={}, dotenv=None)


def sized(flops: float, **flags: Any) -> TrainSettings:
    return scaling.with_size(scaling.with_block(own_text(**flags), LIBRARY, None), LIBRARY, flops)


def test_more_time_makes_larger_models_and_each_sees_enough_tokens() -> None:
    sizes = []
    for flops in (1e8, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e19):
        settings = sized(flops)
        cost = cost_of(config_for(settings, "char", 65))
        if flops > 1e11:
            assert flops / cost.flops_per_token >= BYTES_PER_PARAMETER * cost.parameters
        sizes.append((settings.n_layer, settings.n_embd))
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (SIZES[0], SIZES[-1])
    assert len(set(sizes)) >= 5


def test_a_short_text_makes_a_small_model() -> None:
    settings = own_text()
    counts = []
    for tokens in (10_000, 100_000, 1_000_000):
        text = Text(tokens, tokens, "char", 65)
        config = config_for(scaling.with_size(scaling.with_block(settings, text, None), text, 1e17), "char", 65)
        counts.append(cost_of(config).parameters)
        assert counts[-1] <= scaling.MOST_PARAMETERS_PER_TOKEN * tokens or tokens == 10_000  # there is a smallest model
    assert counts == sorted(set(counts))


def test_a_model_whose_tokens_are_longer_may_be_larger() -> None:
    """It sees as much text in fewer tokens, and bytes count."""
    settings, sizes = scaling.with_block(own_text(), LIBRARY, None), []
    for bytes_per_token in (1.0, 4.0):
        text = Text(1_000_000, 100_000, "bpe:512", 512, bytes_per_token)
        sized = scaling.with_size(settings, text, 4e12)
        sizes.append(SIZES.index((sized.n_layer, sized.n_embd)))
    assert sizes[0] < sizes[1]


def test_what_is_set_stays() -> None:
    settings = sized(1e14, n_layer="3", n_head="2", block_size="64", batch_size="5", dropout="0.3")
    settings = scaling.with_regularization(scaling.with_batch(settings, 1e7), 30, 9.0)
    assert (settings.n_layer, settings.n_head, settings.block_size) == (3, 2, 64)
    assert (settings.batch_size, settings.dropout) == (5, 0.3)
    assert settings.n_embd % 2 == 0
    assert sized(1e14, n_embd="100").n_head == 2  # three would not divide it
    assert sized(1e14, n_embd="320").n_head == 5
    assert sized(1e14, n_head="5").n_embd % 10 == 0
    with pytest.raises(ConfigError, match="n_embd = 33 is odd"):
        own_text(n_embd="33")


@pytest.mark.parametrize(
    ("train", "val", "longest", "block"),
    [
        (1_000_000, 100_000, None, 256),
        (1_000_000, 600, None, 128),
        (90, 20, None, 32),
        (None, None, None, 256),
        (1_000_000, 100_000, 64, 64),
    ],
)
def test_the_context_fits_the_text_and_the_parent(
    train: int | None, val: int | None, longest: int | None, block: int
) -> None:
    assert scaling.with_block(own_text(), Text(train, val, "char", 65), longest).block_size == block


def test_longer_runs_have_larger_batches_within_bounds() -> None:
    settings = own_text(block_size="256")
    tokens = [scaling.with_batch(settings, total).tokens_per_iteration for total in (1e4, 4e6, 12e6, 24e6, 1e12)]
    assert tokens == [scaling.FEWEST_TOKENS, 2048, 2048, 4096, scaling.MOST_TOKENS]


def test_a_short_text_is_read_in_small_batches_where_there_is_time() -> None:
    settings = resolve("own_text", {"block_size": "256"}, environ={}, dotenv=None)
    cost = scaling.Cost(200_000, 1e6)
    for train_tokens, in_little_time, in_much_time in (
        (40_000, 1024, 512),
        (90_000, 2048, 1024),
        (400_000, 2048, 2048),
    ):
        text = scaling.Text(train_tokens, 5000, "byte", 256)
        worth_reading = scaling.MOST_PASSES * train_tokens * cost.flops_per_token
        for flops, tokens in ((1.9 * worth_reading, in_little_time), (2.1 * worth_reading, in_much_time)):
            assert scaling.with_schedule(settings, text, cost, flops).tokens_per_iteration == tokens


def test_repetition_is_answered_with_weight_decay_and_then_dropout() -> None:
    answers = []
    for passes, parameters_per_token in (
        (3, 4.0),
        (6, 4.0),
        (100, 4.0),
        (9, 0.65),
    ):  # a small model has nothing to spare
        settings = scaling.with_regularization(own_text(), passes, parameters_per_token)
        answers.append((settings.dropout, settings.weight_decay))
    assert answers == [(0.0, 0.1), (0.0, 0.5), (0.1, 0.5), (0.0, 0.1)]  # a small model has nothing to spare


def test_a_run_of_any_length_warms_up_evaluates_and_logs() -> None:
    for iterations in (1, 7, 100, 100_000):
        settings = scaling.with_rhythm(own_text(max_iters=str(iterations), batch_size="4", block_size="64"))
        assert settings.warmup_iters < iterations
        assert 1 <= settings.eval_interval <= iterations
        assert 1 <= settings.log_interval <= iterations
        assert settings.lr_decay_iters == iterations
        assert settings.eval_iters is not None


def test_fixed_defaults_are_left_alone() -> None:
    settings = resolve("demo", {}, environ={}, dotenv=None)
    assert scaling.with_usual_size(settings) is settings
    assert scaling.with_usual_size(own_text()).n_embd < 768
