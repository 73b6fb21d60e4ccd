"""Evaluating a model with other kernels than the one it was trained with."""

import pytest

from quillgpt.api import load
from quillgpt.errors import ConfigError
from quillgpt.lab.swap import read_kernels, score_kernels, swap_table


def test_names_and_spans_of_kernels():
    assert read_kernels("SM, GKpoly-3..5,PA_gelu") == ["SM", "GKpoly-3", "GKpoly-4", "GKpoly-5", "PA_gelu"]


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ("SM,GKs", "GKs is no attention kernel; expected SM"),
        ("GKpoly-5..3", "GKpoly-5..3 counts down; write GKpoly-3..5"),
        ("GKpoly-12..300000000", "GKpoly-15 is no attention kernel"),
        ("GKpoly-12..15", "GKpoly-15 is no attention kernel"),
        ("GKpoly-0..2", "GKpoly-0 is no attention kernel"),
        (" , ", "no attention kernel is named"),
        ("GK,SM,GK", "GK is named twice"),
    ],
)
def test_a_list_of_kernels_that_cannot_be_read_is_refused(given, complaint):
    with pytest.raises(ConfigError) as error:
        read_kernels(given)
    assert complaint in str(error.value)


def test_each_kernel_scores_as_eval_has_it(opened, place):
    results = list(score_kernels(opened, ["GKn", "SM", "GKpoly-9"]))
    assert [result.kernel.attn_type for result in results] == ["SM", "GKn", "GKpoly-9"]
    assert [result.own for result in results] == [True, False, False]
    for result in results:
        model = load(place / "SM", dtype="float32", threads=1, attn_type=result.kernel.attn_type)
        score = model.evaluate(opened.dataset, batch_size=1, batches=len(opened.offsets))
        assert result.score.loss == pytest.approx(score.loss, abs=1e-5)
        assert result.score.tokens == len(opened.offsets) * opened.gpt.config.block_size
    assert results[0].score.loss < results[1].score.loss
    rows = swap_table("swaps", results).rows
    assert [row["degree"] for row in rows] == [None, None, 512]
    assert [row["depth"] for row in rows] == [None, None, 12]


def test_more_squarings_come_nearer_to_the_gaussian(opened):
    losses = {
        result.kernel.attn_type: result.score.loss
        for result in score_kernels(opened, ["GK", "GKpoly-4", "GKpoly-8", "GKpoly-12"])
    }
    errors = [abs(losses[f"GKpoly-{n}"] - losses["GK"]) for n in (4, 8, 12)]
    assert errors[0] > errors[1] > errors[2]
