"""Several data sets, mixed by weight: what is read and measured, and that resuming changes nothing."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from equality import assert_equal_runs
from quillgpt.api import load
from quillgpt.cli import main
from quillgpt.config import TrainSettings
from quillgpt.data.mixture import equivalent_tokens
from quillgpt.data.prepare import prepare
from quillgpt.errors import ConfigError, DataError, TokenizerError
from quillgpt.evaluation import score_split
from quillgpt.plots.record import read_metrics
from quillgpt.training import train
from quillgpt.training.planning import timing
from quillgpt.training.planning.dry_run import predict_run, show_dry_run
from quillgpt.training.start.setup import set_up

from .conftest import MakeSettings
from .test_resume import train_until

MIXTURE = "tiny=0.6,quilt=0.4"


@pytest.fixture
def mixing(tiny: MakeSettings, tmp_path: Path) -> MakeSettings:
    """Make settings of a run that mixes the usual text with another one of the same letters."""
    data = Path(tiny().data_dir)
    for name, words in (("quilt", "zebra quilt "), ("vex", "vex "), ("other", "OTHER LETTERS ")):
        text = tmp_path / f"{name}.txt"
        text.write_text(words * (4800 // len(words)))
        prepare([str(text)], data_dir=data, tokenizer=None if name == "other" else str(data / "tiny"))

    def make(**changes: Any) -> TrainSettings:
        return tiny(**{"dataset": MIXTURE, **changes})

    return make


def evaluations(settings: TrainSettings) -> list[dict[str, Any]]:
    return [row for row in read_metrics(Path(settings.out_dir) / "metrics.jsonl") if row["kind"] == "eval"]


def test_a_run_reads_each_data_set_by_its_weight(mixing: MakeSettings) -> None:
    run = set_up(mixing(dataset="tiny=3, quilt=2", max_iters=10))
    assert run.mixture.shares == (0.6, 0.4)
    windows = [window for iteration in range(10) for window in run.batches.windows(iteration)]
    assert sum(window.source for window in windows) == 32
    inputs, _ = run.batches.batch(0)
    for row, window in zip(inputs, run.batches.windows(0), strict=True):
        text = run.texts[window.source].train
        assert row.tolist() == text[window.offset : window.offset + 16].astype(np.int64).tolist()


def test_without_weights_data_sets_are_mixed_by_their_sizes(mixing: MakeSettings) -> None:
    mixture = set_up(mixing(dataset="tiny,quilt")).mixture
    sizes = [len(dataset.train) for dataset in mixture.datasets]
    assert mixture.shares == pytest.approx([size / sum(sizes) for size in sizes])
    assert mixture.train_tokens == sum(sizes)


def test_a_mixture_is_passed_over_as_often_as_its_equivalent_text() -> None:
    assert equivalent_tokens([1234], [1.0]) == 1234
    assert equivalent_tokens([100, 300], [0.25, 0.75]) == 400
    assert equivalent_tokens([100, 10**9], [0.5, 0.5]) == 400  # half of the sequences repeat 100 tokens


def test_losses_are_weighted_means_and_each_data_set_has_its_own(
    mixing: MakeSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = mixing(eval_iters=None)
    summary = train(settings)
    assert summary is not None
    for row in evaluations(settings):
        assert row["val_loss"] == pytest.approx(0.6 * row["val_loss_tiny"] + 0.4 * row["val_loss_quilt"])
    last = evaluations(settings)[-1]
    said = " ".join(capsys.readouterr().err.split())
    assert f"(tiny {last['val_loss_tiny']:.4f}, quilt {last['val_loss_quilt']:.4f})" in said
    model, mixture = (
        load(settings.out_dir, device="cpu", threads=1),
        set_up(settings.model_copy(update={"out_dir": settings.out_dir + "2"})).mixture,
    )
    scores = [score_split(model.gpt, model.tokenizer, dataset.val, batch_size=4) for dataset in mixture.datasets]
    best = min(evaluations(settings), key=lambda row: row["val_loss"])
    assert [best["val_loss_tiny"], best["val_loss_quilt"]] == pytest.approx([score.loss for score in scores], rel=1e-5)
    stored = json.loads((Path(settings.out_dir) / "summary.json").read_text())
    assert stored["val_losses_full"] == pytest.approx({"tiny": scores[0].loss, "quilt": scores[1].loss}, rel=1e-6)
    assert stored["val_loss_full"] == pytest.approx(0.6 * scores[0].loss + 0.4 * scores[1].loss)
    errors = [score.estimate.standard_error for score in scores]
    assert stored["val_standard_error"] == pytest.approx(math.hypot(0.6 * errors[0], 0.4 * errors[1]), rel=1e-4)
    # Each letter is a byte here, so bits per byte are the loss in bits.
    assert best["val_bits_per_byte"] == pytest.approx(best["val_loss"] / math.log(2))


def test_one_data_set_has_no_numbers_of_its_own(tiny: MakeSettings) -> None:
    settings = tiny(dataset="tiny=7")
    train(settings)
    assert not [key for row in evaluations(settings) for key in row if key.startswith("val_loss_")]
    assert "val_losses_full" not in json.loads((Path(settings.out_dir) / "summary.json").read_text())
    assert load(settings.out_dir, device="cpu", threads=1).about["dataset"] == "tiny"


@pytest.mark.parametrize("stop", [4, 7])
def test_a_resumed_mixture_equals_an_uninterrupted_one(
    mixing: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    changes = {"dropout": 0.1, "replay": 0.2, "replay_dataset": "vex"}
    train(mixing(out_dir=str(tmp_path / "whole"), **changes))
    parts = mixing(out_dir=str(tmp_path / "parts"), **changes)
    train_until(parts, stop, monkeypatch)
    train(parts.model_copy(update={"init_from": "resume"}))
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")


def test_micro_batches_do_not_change_what_a_mixture_learns(mixing: MakeSettings, tmp_path: Path) -> None:
    losses = []
    for size in (1, 3, 8):
        settings = mixing(micro_batch_size=size, out_dir=str(tmp_path / f"{size}"))
        train(settings)
        losses.append([row["val_loss"] for row in evaluations(settings)])
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    assert losses[2] == pytest.approx(losses[0], abs=1e-5)


def test_replay_takes_its_share_of_a_mixture(mixing: MakeSettings) -> None:
    run = set_up(mixing(replay=0.25, replay_dataset="vex"))
    windows = [window.source for iteration in range(20) for window in run.batches.windows(iteration)]
    assert [windows.count(source) for source in range(3)] == pytest.approx([72, 48, 40], abs=1)
    assert [text.name for text in run.texts] == ["tiny", "quilt", "vex"]


def test_a_resumed_run_says_that_it_is_mixed_otherwise_and_looks_for_the_best_again(
    mixing: MakeSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = mixing(max_iters=4)
    train(settings)
    again = settings.model_copy(update={"init_from": "resume", "max_iters": 8})
    capsys.readouterr()
    assert set_up(again.model_copy(update={"dataset": "quilt=0.4,tiny=0.6"})).state.best_val_loss is not None
    assert "mixed as" not in capsys.readouterr().err
    train(again.model_copy(update={"dataset": "quilt=0.9,tiny=0.1"}))
    said = " ".join(capsys.readouterr().err.split())
    assert "dataset tiny=0.6,quilt=0.4 -> tiny=0.1,quilt=0.9" in said
    assert "mixed as tiny=0.1,quilt=0.9 from now on" in said
    assert {row["iter"] for row in evaluations(settings)} == {0, 4, 8}
    train(again.model_copy(update={"max_iters": 9, "dataset": "tiny=0.1,quilt=0.9"}))
    assert "mixed as" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("named", "complaint"),
    [
        ("tiny", "was trained on tiny=0.6,quilt=0.4"),
        ("tiny,quilt,vex", "names other"),
    ],
)
def test_a_mixture_is_not_resumed_with_other_data_sets(mixing: MakeSettings, named: str, complaint: str) -> None:
    settings = mixing(max_iters=2)
    train(settings)
    with pytest.raises(DataError, match=complaint):
        train(settings.model_copy(update={"init_from": "resume", "max_iters": 3, "dataset": named}))


def test_a_data_set_that_replaces_one_of_a_mixture_is_not_read_unsaid(
    mixing: MakeSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = mixing(max_iters=2)
    train(settings)
    run = set_up(settings.model_copy(update={"init_from": "resume", "max_iters": 3, "dataset": "tiny=3,vex=2"}))
    assert [text.name for text in run.texts] == ["tiny", "quilt"]
    assert "the data set vex is found by its fingerprint: it is" in " ".join(capsys.readouterr().err.split())


def test_a_mixture_is_found_where_its_data_sets_are_now(mixing: MakeSettings, tmp_path: Path) -> None:
    settings = mixing(max_iters=2)
    train(settings)
    (tmp_path / "data" / "tiny").rename(tmp_path / "data" / "moved")
    run = set_up(settings.model_copy(update={"init_from": "resume", "max_iters": 3}))
    assert run.settings.dataset == "moved=0.6,quilt=0.4"
    model = load(settings.out_dir, device="cpu", threads=1)
    assert list(model.recorded_datasets) == ["tiny", "quilt"]
    assert model.open_dataset("tiny", data_dir=settings.data_dir).name == "moved"
    shutil.rmtree(tmp_path / "data" / "quilt")
    (tmp_path / "quilt.txt").unlink()
    with pytest.raises(DataError, match="quilt with the fingerprint"):
        set_up(settings.model_copy(update={"init_from": "resume", "max_iters": 3}))


@pytest.mark.parametrize(
    ("named", "complaint"),
    [
        ("tiny=0.7,quild=0.3", "no data set quild .* did you mean quilt"),
        ("tiny=0,quilt=1", "weight of the data set 'tiny' is 0; give one above 0"),
        ("tiny=-1,quilt=1", "is -1; give one above 0"),
        ("tiny=nan,quilt=1", "is nan; give"),
        ("tiny=inf,quilt=1", "is inf; give"),
        ("tiny=70%,quilt=30%", "is '70%', which is no number"),
        ("tiny=,quilt=1", "is no number after the equals sign"),
        ("tiny=", "is no number after the equals sign"),
        ("=0.5,tiny=0.5", "lacks a name before =0.5"),
        ("tiny,", "lacks a name"),
        ("tiny,quilt=1", "no weight for tiny; give all of them a weight, or none"),
        ("tiny=1,tiny=2", "names tiny twice"),
        ("tiny=1,Tiny=2", "names Tiny twice"),
        ("data/tiny=1,quilt=1", "is a path, not the name"),
    ],
)
def test_what_is_no_mixture_is_refused_in_one_line(mixing: MakeSettings, named: str, complaint: str) -> None:
    with pytest.raises((ConfigError, DataError), match=complaint) as refused:
        train(mixing(dataset=named))
    assert "\n" not in str(refused.value)


def test_a_mixture_is_neither_replayed_nor_measured_as_one(
    mixing: MakeSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match="names a mixture, and one data set is replayed"):
        set_up(mixing(replay=0.2, replay_dataset="vex=1,quilt=1"))
    settings = mixing(max_iters=1)
    train(settings)
    measure = ["eval", settings.out_dir, f"--data_dir={settings.data_dir}", "--device=cpu", "--threads=1", "--json"]
    capsys.readouterr()
    assert main([*measure, "--split=val"]) == 0
    assert [json.loads(line)["dataset"] for line in capsys.readouterr().out.splitlines()] == ["tiny", "quilt"]
    assert main([*measure, f"--dataset={MIXTURE}"]) == 2
    assert "tiny=0.6 has a weight" in capsys.readouterr().err
    assert main(["lab", "ranges", settings.out_dir, f"--data_dir={settings.data_dir}"]) == 2
    assert "was trained on tiny, quilt; name one of them" in " ".join(capsys.readouterr().err.split())


def test_data_sets_of_different_tokenizers_are_not_mixed(mixing: MakeSettings) -> None:
    with pytest.raises(TokenizerError, match=r"other was prepared with .*tiny with another, .* --tokenizer .*tiny"):
        train(mixing(dataset="tiny=1,other=1"))


def test_a_text_is_not_prepared_into_a_mixture(mixing: MakeSettings, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a text for one data set; prepare it first"):
        train(mixing(data=str(tmp_path / "tiny.txt")))


def test_a_folder_whose_name_has_a_comma_is_a_single_data_set(mixing: MakeSettings, tmp_path: Path) -> None:
    (tmp_path / "data" / "tiny").rename(tmp_path / "data" / "quilt,vex")
    settings = mixing(dataset="quilt,vex", max_iters=2)
    train(settings)
    assert list(load(settings.out_dir, device="cpu", threads=1).recorded_datasets) == ["quilt,vex"]
    train(settings.model_copy(update={"init_from": "resume", "max_iters": 3}))


def test_a_dry_run_counts_each_data_set_of_a_mixture(
    mixing: MakeSettings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(timing, "TRIED_SECONDS", 0.05)
    settings = mixing(eval_iters=1)
    mixture = set_up(settings).mixture
    planned = predict_run(settings)
    assert [part.train_tokens for part in planned.data.parts] == [len(dataset.train) for dataset in mixture.datasets]
    assert planned.data.train_tokens == mixture.train_tokens
    alone = predict_run(mixing(eval_iters=1, dataset="tiny"))
    blocks = [round(each.evaluation_seconds / each.timing.evaluated_token) for each in (planned, alone)]
    assert blocks[0] == 2 * blocks[1]
    show_dry_run(planned)
    said = " ".join(capsys.readouterr().out.split())
    assert "0.6 of tiny, with" in said
    with pytest.raises(DataError, match="nothing"):
        predict_run(mixing(dataset="tiny=1,nothing=1"))
