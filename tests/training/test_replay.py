"""Old text among the new: what is read, what is said of both, and that resuming changes nothing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from equality import assert_equal_runs
from quillgpt.config import TrainSettings, resolve
from quillgpt.data.batches import divide_items
from quillgpt.data.prepare import prepare
from quillgpt.errors import ConfigError, DataError, TokenizerError
from quillgpt.plots.record import read_metrics
from quillgpt.training import train
from quillgpt.training.planning import timing
from quillgpt.training.planning.dry_run import predict_run
from quillgpt.training.start.setup import set_up

from .conftest import MakeSettings
from .test_resume import train_until


@pytest.fixture
def replaying(tiny: MakeSettings, tmp_path: Path) -> MakeSettings:
    """Make settings of a run whose every fourth sequence is of another text, written with the same letters."""
    data = Path(tiny().data_dir)
    old = tmp_path / "old.txt"
    old.write_text("zebra quilt " * 400)
    prepare([str(old)], data_dir=data, dataset="old", tokenizer=str(data / "tiny"))

    def make(**changes: Any) -> TrainSettings:
        return tiny(**{"replay": 0.25, "replay_dataset": "old", **changes})

    return make


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 1 / 3, 0.99])
@pytest.mark.parametrize("count", [1, 7, 8])
def test_items_are_divided_evenly_and_none_is_lost(share: float, count: int) -> None:
    iterations = [divide_items(first, count, [1 - share, share]) for first in range(0, 100 * count, count)]
    for whole in zip(*iterations, strict=True):
        items = [item for part in whole for item in part]
        assert items == list(range(len(items)))
    old = [len(second) for _, second in iterations]
    assert all(len(new) + each == count for (new, _), each in zip(iterations, old, strict=True))
    assert sum(old) == pytest.approx(100 * count * share, abs=1)
    assert max(old) - min(old) <= 1


def test_a_batch_holds_its_share_of_the_old_text(replaying: MakeSettings) -> None:
    run = set_up(replaying())
    assert run.replayed is not None
    texts = [text.train for text in run.texts]
    for iteration in range(3):
        inputs, targets = run.batches.batch(iteration)
        windows = run.batches.windows(iteration)
        assert [window.source for window in windows] == [0] * 6 + [1] * 2
        for row, (offset, source) in enumerate(windows):
            window = texts[source][offset : offset + 17].astype(np.int64)
            assert inputs[row].tolist() == window[:-1].tolist()
            assert targets[row].tolist() == window[1:].tolist()


def test_each_evaluation_says_what_was_learnt_and_what_was_forgotten(
    replaying: MakeSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = replaying()
    train(settings)
    rows = [row for row in read_metrics(Path(settings.out_dir) / "metrics.jsonl") if row["kind"] == "eval"]
    said = " ".join(capsys.readouterr().err.split())
    assert f"old loss {rows[0]['replay_loss']:.4f} " in said
    learnt, forgotten = (rows[-1][key] - rows[0][key] for key in ("val_loss", "replay_loss"))
    assert f"since the start {learnt:+.4f} on the new text, {forgotten:+.4f} on old" in said
    assert forgotten < -0.5  # it is read


def test_what_is_replayed_is_forgotten_less(tiny: MakeSettings, replaying: MakeSettings, tmp_path: Path) -> None:
    train(tiny(dataset="old", out_dir=str(tmp_path / "base")))
    found = {}
    for share in (0.01, 0.5):
        settings = replaying(out_dir=str(tmp_path / f"{share}"), init_from=str(tmp_path / "base"), replay=share)
        train(settings)
        rows = [row for row in read_metrics(Path(settings.out_dir) / "metrics.jsonl") if row["kind"] == "eval"]
        found[share] = rows[-1]["replay_loss"]
    assert found[0.5] < found[0.01] - 0.1


def test_resumed_equals_uninterrupted(replaying: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(replaying(out_dir=str(tmp_path / "whole"), dropout=0.1))
    parts = replaying(out_dir=str(tmp_path / "parts"), dropout=0.1)
    train_until(parts, 7, monkeypatch)
    train(parts.model_copy(update={"init_from": "resume"}))
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")


def test_the_old_text_must_fit(replaying: MakeSettings, tmp_path: Path) -> None:
    settings = replaying()
    data = Path(settings.data_dir)
    text = tmp_path / "other.txt"
    text.write_text("other letters: ABCDEF " * 200)
    prepare([str(text)], data_dir=data, dataset="other", tokenizer="char")
    with pytest.raises(TokenizerError, match=r"other was prepared with the tokenizer char, .* --tokenizer .*tiny"):
        train(settings.model_copy(update={"replay_dataset": "other"}))
    with pytest.raises(DataError, match="nothing"):
        train(settings.model_copy(update={"replay_dataset": "nothing"}))
    train(settings)
    (tmp_path / "old.txt").write_text("zebra zebra " * 400)
    prepare([str(tmp_path / "old.txt")], data_dir=data, dataset="old", tokenizer=str(data / "tiny"))
    with pytest.raises(DataError, match=r"old is not what .* has replayed so far"):
        train(settings.model_copy(update={"init_from": "resume", "max_iters": 16}))


@pytest.mark.parametrize("flags", [{"replay": "0.2"}, {"replay_dataset": "old"}])
def test_share_and_text_belong_together(flags: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="the two belong together"):
        resolve(None, flags, environ={}, dotenv=None)


def test_a_dry_run_counts_what_is_replayed_and_misses_what_is_not_there(
    replaying: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "TRIED_SECONDS", 0.05)
    with_old = predict_run(replaying(eval_iters=1))
    alone = predict_run(replaying(eval_iters=1, replay=0.0, replay_dataset=None))
    assert with_old.data.replayed_val_tokens == 480
    blocks = {round(each.evaluation_seconds / each.timing.evaluated_token) for each in (with_old, alone)}
    assert len(blocks) == 2
    with pytest.raises(DataError, match="nothing"):
        predict_run(replaying(replay_dataset="nothing"))
