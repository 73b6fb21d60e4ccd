"""A dry run says what the run would do, and changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from quillgpt.config import TrainSettings
from quillgpt.data.prepare import prepare
from quillgpt.device import Memory
from quillgpt.errors import CheckpointError, ConfigError, DataError, UserError
from quillgpt.plots.record import read_metrics
from quillgpt.training import train
from quillgpt.training.planning import dry_run, dry_run_data, timing
from quillgpt.training.planning.dry_run import in_words
from quillgpt.training.start.setup import set_up

from ..conftest import MakeSettings


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "TRIED_SECONDS", 0.05)


def listing(folder: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}


def book(tmp_path: Path, lines: int = 400) -> str:
    path = tmp_path / "book.txt"
    path.write_text("".join(f"line {number} of a book about a lazy dog\n" for number in range(lines)))
    return str(path)


def test_nothing_is_touched_and_the_numbers_are_those_of_the_run(tiny: MakeSettings, tmp_path: Path) -> None:
    settings = tiny(data=book(tmp_path), dataset="book", dropout=0.1)
    before = listing(tmp_path)
    planned = dry_run.predict_run(settings)
    assert listing(tmp_path) == before
    assert "would be prepared from" in planned.data.described
    run = set_up(settings)
    assert (planned.data.train_tokens, planned.data.val_tokens) == (
        len(run.mixture.datasets[0].train),
        len(run.mixture.datasets[0].val),
    )
    assert planned.data.counted
    assert planned.parameters == run.model.parameter_count()
    assert planned.settings.model_copy(update={"compile": False}).model_dump() == run.settings.model_dump()
    assert planned.timing.iteration > 0
    assert planned.timing.evaluated_token > 0
    assert "is prepared" in dry_run.predict_run(settings).data.described


def test_a_changed_text_is_counted_anew_and_the_old_tokens_stay(tiny: MakeSettings, tmp_path: Path) -> None:
    text = book(tmp_path, 400)
    prepare([text], data_dir=tmp_path / "data")
    book(tmp_path, 800)
    before = listing(tmp_path)
    planned = dry_run.predict_run(tiny(data=text, dataset="book"))
    assert listing(tmp_path) == before
    assert planned.data.train_tokens is not None
    assert planned.data.train_tokens > 20_000


@pytest.mark.parametrize(
    ("max_iters", "eval_interval", "stop"), [(12, 4, None), (10, 4, None), (12, 4, 8), (12, 4, 6), (0, 4, None)]
)
def test_iterations_and_evaluations_are_those_of_the_run(
    tiny: MakeSettings, max_iters: int, eval_interval: int, stop: int | None
) -> None:
    def evaluations() -> int:
        return sum(row["kind"] == "eval" for row in read_metrics(Path(tiny().out_dir) / "metrics.jsonl"))

    settings = tiny(max_iters=max_iters, eval_interval=eval_interval)
    done = 0
    if stop is not None:
        train(settings.model_copy(update={"max_iters": stop}))
        done = evaluations()
        settings = settings.model_copy(update={"init_from": "resume"})
    planned = dry_run.predict_run(settings)
    assert planned.iterations == max_iters - (stop or 0)
    assert planned.first == (stop or 0)
    train(settings)
    assert planned.evaluations == evaluations() - done


def test_an_evaluation_alone(tiny: MakeSettings) -> None:
    planned = dry_run.predict_run(tiny(eval_only=True))
    assert (planned.iterations, planned.evaluations) == (0, 1)


def refusals(tiny: MakeSettings, tmp_path: Path) -> list[tuple[TrainSettings, type[UserError]]]:
    train(tiny(max_iters=2))
    return [
        (tiny(), CheckpointError),
        (tiny(init_from="resume", n_layer=3), ConfigError),
        (tiny(init_from="resume", optimizer="muon"), CheckpointError),
        (tiny(out_dir=str(tmp_path / "other"), block_size=100_000), DataError),
        (tiny(out_dir=str(tmp_path / "other"), vocab_size=3), ConfigError),
        (tiny(out_dir=str(tmp_path / "other"), dataset="nowhere"), DataError),
        (tiny(out_dir=str(tmp_path / "other"), data="missing.txt", dataset="missing"), DataError),
        (tiny(out_dir=str(tmp_path / "tiny.txt" / "run")), ConfigError),
    ]


def test_it_refuses_what_the_run_refuses_in_the_same_words(tiny: MakeSettings, tmp_path: Path) -> None:
    for settings, kind in refusals(tiny, tmp_path):
        with pytest.raises(kind) as planned:
            dry_run.predict_run(settings)
        with pytest.raises(kind) as run:
            train(settings)
        assert str(planned.value) == str(run.value)


def test_a_text_that_is_not_here_is_not_fetched(
    tiny: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUILL_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("QUILL_MIRROR", raising=False)
    planned = dry_run.predict_run(tiny(dataset="shakespeare", tokenizer=None))
    assert planned.data.train_tokens is None
    assert (planned.data.tokenizer, planned.data.vocab_size, planned.config.vocab_size) == ("gpt2", 50257, 50304)
    assert "quill prepare shakespeare" in planned.data.described
    assert not list((tmp_path / "home").rglob("*.txt"))
    own = dry_run.predict_run(tiny(data="https://example.org/a.txt", dataset="a"))
    assert own.data.assumed
    assert not (tmp_path / "home" / "downloads").exists()
    dry_run.check_dry_run(own)


def test_a_large_corpus_is_planned_for_and_then_asked_for(
    tiny: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUILL_HOME", str(tmp_path / "home"))
    planned = dry_run.predict_run(tiny(dataset="openwebtext"))
    assert planned.data.vocab_size == 50257
    with pytest.raises(DataError) as said:
        dry_run.check_dry_run(planned)
    with pytest.raises(DataError) as run:
        set_up(tiny(dataset="openwebtext"))
    assert str(said.value) == str(run.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_long_text_is_estimated_from_a_part(
    tiny: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    text = tmp_path / "long.txt"
    text.write_text("".join(f"{number:05d}: ein Satz über Füße\n" for number in range(5000)), encoding=encoding)
    monkeypatch.setattr(dry_run_data, "MOST_BYTES_PREPARED", 50_000)
    monkeypatch.setattr(dry_run_data, "EXCERPT_BYTES", 20_000)
    planned = dry_run.predict_run(tiny(data=str(text), dataset="long"))
    assert not planned.data.counted
    assert "estimated from" in planned.data.described
    exact = prepare([str(text)], data_dir=tmp_path / "data").dataset
    assert planned.data.train_tokens == pytest.approx(len(exact.train), rel=0.05)
    assert planned.data.val_tokens == pytest.approx(len(exact.val), rel=0.05)


def test_what_does_not_fit_is_not_tried(
    tiny: MakeSettings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(dry_run, "memory", lambda device: Memory(total=10**6, free=1000))
    monkeypatch.setattr(dry_run, "build_model", lambda *arguments: pytest.fail("it was built"))
    planned = dry_run.predict_run(tiny())
    assert not planned.fits
    assert "no step was tried" in planned.timing.basis
    dry_run.show_dry_run(planned)
    out, err = capsys.readouterr()
    assert "--micro_batch_size=1" in err
    assert "rough guess" in out
    assert f"{planned.parameters:,}" in out


def test_long_iterations_are_extrapolated(tiny: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "TRIED_SECONDS", 1e-9)
    planned = dry_run.predict_run(tiny())
    assert "1 of the 8 sequences" in planned.timing.basis
    assert planned.timing.iteration > 0


def test_finetuning_starts_from_the_best_and_goes_to_a_folder_beside_it(tiny: MakeSettings, tmp_path: Path) -> None:
    train(tiny(max_iters=4))
    settings = tiny(init_from="finetune", max_iters=2, learning_rate=1e-4)
    planned = dry_run.predict_run(settings)
    assert planned.parent == (Path(tiny().out_dir) / "checkpoints" / "best").resolve()
    before = listing(Path(tiny().out_dir))
    assert train(settings) is not None
    assert listing(Path(tiny().out_dir)) == before
    assert (tmp_path / "out-finetuned" / "summary.json").is_file()
    with pytest.raises(CheckpointError, match="out-finetuned already holds a checkpoint"):
        train(settings)
    with pytest.raises(CheckpointError, match="nowhere holds no model to finetune"):
        train(tiny(init_from="finetune", out_dir="nowhere"))


def test_words_for_seconds() -> None:
    assert [in_words(seconds) for seconds in (0.0123, 1.26, 45, 200, 3.2 * 3600, 4 * 86400, 3.2e9)] == [
        "12 ms",
        "1.3 s",
        "45 s",
        "3.3 minutes",
        "3.2 hours",
        "4.0 days",
        "101 years",
    ]


def test_a_micro_batch_that_cannot_fit_is_planned_without_trying_it(
    tiny: MakeSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("QUILL_HOME", str(tmp_path / "home"))  # nothing is remembered
    planned = dry_run.predict_run(tiny(attn_path="auto", batch_size=10**6, micro_batch_size=10**6, n_embd=512))
    assert not planned.fits
    assert planned.settings.attn_path != "auto"


def test_minutes_are_planned_for(tiny: MakeSettings) -> None:
    planned = dry_run.predict_run(tiny(minutes=0.5))
    assert planned.settings.max_iters == planned.settings.lr_decay_iters
    assert planned.iterations * planned.timing.iteration == pytest.approx(30 * 0.85, rel=0.05)
