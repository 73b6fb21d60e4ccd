"""Trained with one kernel, evaluated with others."""

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
def test_what_is_no_list_of_kernels(given, complaint):
    with pytest.raises(ConfigError) as error:
        read_kernels(given)
    assert complaint in str(error.value)


def test_each_kernel_scores_as_eval_has_it(opened, place):
    found = list(score_kernels(opened, ["GKn", "SM", "GKpoly-9"]))
    assert [each.kernel.attn_type for each in found] == ["SM", "GKn", "GKpoly-9"]
    assert [each.own for each in found] == [True, False, False]
    for each in found:
        model = load(place / "SM", dtype="float32", threads=1, attn_type=each.kernel.attn_type)
        score = model.evaluate(opened.dataset, batch_size=1, batches=len(opened.starts))
        assert each.score.loss == pytest.approx(score.loss, abs=1e-5)
        assert each.score.tokens == len(opened.starts) * opened.gpt.config.block_size
    assert found[0].score.loss < found[1].score.loss
    rows = swap_table("swaps", found).rows
    assert [row["degree"] for row in rows] == [None, None, 512]
    assert [row["depth"] for row in rows] == [None, None, 12]


def test_more_squarings_come_nearer_to_the_gaussian(opened):
    losses = {
        each.kernel.attn_type: each.score.loss
        for each in score_kernels(opened, ["GK", "GKpoly-4", "GKpoly-8", "GKpoly-12"])
    }
    errors = [abs(losses[f"GKpoly-{n}"] - losses["GK"]) for n in (4, 8, 12)]
    assert errors[0] > errors[1] > errors[2]
