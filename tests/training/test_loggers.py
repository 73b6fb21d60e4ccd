"""What Weights & Biases and TensorBoard are told, read back with their own formats."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from quillgpt.errors import UserError
from quillgpt.plots.record import read_metrics
from quillgpt.training import train
from quillgpt.training.record.loggers import TensorBoardLogger, check_loggers, named, open_loggers
from quillgpt.training.record.metrics import MetricsLog

from .conftest import MakeSettings


@pytest.fixture
def wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Give wandb without the person's own account and settings, offline."""
    wandb = pytest.importorskip("wandb")
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb-home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    wandb.teardown()
    yield wandb
    wandb.teardown()


def records(path: Path) -> Iterator[Any]:
    """Read a .wandb file: a log in LevelDB's format of protocol buffers."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, position, whole = path.read_bytes(), 7, b""
    assert content.startswith(b":W&B")
    while position + 7 <= len(content):
        if 32768 - position % 32768 < 7:  # no header begins in the last bytes of a block
            position += 32768 - position % 32768
            continue
        _, length, kind = struct.unpack("<IHB", content[position : position + 7])
        whole += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a full record, or the last part of one
            yield Record.FromString(whole)
            whole = b""


def history(path: Path) -> list[dict[str, Any]]:
    rows = []
    for record in records(path):
        if record.HasField("history"):
            row = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            rows.append({name: value for name, value in row.items() if not name.startswith("_")})
    return rows


def expected_history(out_dir: Path) -> dict[int, dict[str, float]]:
    """Return what metrics.jsonl says of each iteration, under the loggers' names."""
    steps: dict[int, dict[str, float]] = {}
    for row in read_metrics(out_dir / "metrics.jsonl"):
        steps.setdefault(row["iter"], {}).update(named({name: row[name] for name in row if name != "kind"}))
    return steps


def test_names_are_nanogpts() -> None:
    assert named({"iter": 4, "train_loss": 2.0, "val_loss": 3.0}) == {"iter": 4, "train/loss": 2.0, "val/loss": 3.0}
    assert named({"loss": 2.0, "lr": 0.1, "mfu": 0.25}) == {"train/batch_loss": 2.0, "lr": 0.1, "mfu": 25.0}


def test_wandb_offline_has_every_number_and_resuming_goes_on(tiny: MakeSettings, wandb: Any) -> None:
    settings = tiny(wandb_log=True, wandb_project="words", wandb_run_name="tiny", max_iters=8)
    out = Path(settings.out_dir)
    train(settings)
    train(settings.model_copy(update={"init_from": "resume", "max_iters": 12}))
    wandb.teardown()  # waits until all is written
    kept = json.loads((out / "wandb.json").read_text())["id"]
    first, second = sorted(out.glob(f"wandb/offline-run-*/run-{kept}.wandb"))
    rows = [*history(first), *history(second)]
    assert {row["iter"]: row for row in rows} == expected_history(out)
    assert [row["iter"] for row in rows] == sorted({row["iter"] for row in rows})
    run = next(record.run for record in records(first) if record.HasField("run"))
    assert (run.project, run.display_name) == ("words", "tiny")
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert (config["n_embd"], config["micro_batch_size"]) == (32, 8)
    assert [record.exit.exit_code for record in records(second) if record.HasField("exit")] == [0]


def test_starting_over_is_another_wandb_run(tiny: MakeSettings, wandb: Any) -> None:
    state = Path(tiny().out_dir) / "wandb.json"
    train(tiny(wandb_log=True, max_iters=2))
    first = state.read_text()
    train(tiny(wandb_log=True, max_iters=2, overwrite=True))
    assert state.read_text() != first


def test_a_run_that_fails_is_marked_as_failed(tiny: MakeSettings, wandb: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from quillgpt.training import trainer

    def fail(self: object) -> None:
        raise UserError("stop here")

    monkeypatch.setattr(trainer.Trainer, "do_iteration", fail)
    with pytest.raises(UserError, match="stop here"):
        train(tiny(wandb_log=True))
    wandb.teardown()  # waits until all is written
    (path,) = Path(tiny().out_dir).glob("wandb/offline-run-*/*.wandb")
    assert [record.exit.exit_code for record in records(path) if record.HasField("exit")] == [1]


def test_wandb_without_an_account_is_refused_before_anything_happens(
    tiny: MakeSettings, wandb: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_MODE")
    settings = tiny(wandb_log=True)
    with pytest.raises(UserError, match=r"wandb login; .*WANDB_MODE=offline.*--wandb_log=False"):
        train(settings)
    assert not Path(settings.out_dir).exists()


@pytest.mark.parametrize(("name", "value"), [("WANDB_API_KEY", "abc"), ("WANDB_MODE", "nonsense")])
def test_what_wandb_does_not_take_is_one_line(
    tiny: MakeSettings, wandb: Any, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"cannot be used \(.*WANDB_MODE=offline"):
        check_loggers(tiny(wandb_log=True))


def test_wandb_that_cannot_be_reached_is_one_line(
    tiny: MakeSettings, wandb: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "1")
    check_loggers(tiny(wandb_log=True))
    with pytest.raises(UserError, match=r"cannot be used \(.*WANDB_MODE=offline"):
        open_loggers(tiny(wandb_log=True), iteration=None)


@pytest.mark.parametrize(("package", "flag"), [("wandb", "--wandb_log"), ("tensorboard", "--tensorboard")])
def test_a_missing_package_is_named_before_anything_happens(
    tiny: MakeSettings, monkeypatch: pytest.MonkeyPatch, package: str, flag: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    settings = tiny(**{flag.removeprefix("--"): True})
    with pytest.raises(UserError) as caught:
        train(settings)
    assert str(caught.value) == (
        f"{flag} needs the package {package}, which is not installed: pip install 'quillgpt[{package}]', "
        f"or train without it: {flag}=False"
    )
    assert not Path(settings.out_dir).exists()
    assert train(settings.model_copy(update={"eval_only": True})) is None


def test_tensorboard_has_every_number_once_after_a_kill(tiny: MakeSettings) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    settings = tiny(tensorboard=True, max_iters=8)
    out = Path(settings.out_dir)
    train(settings)
    lost = TensorBoardLogger(out / "tensorboard", iteration=8)  # numbers that no checkpoint followed
    lost.write({"iter": 9, "train/batch_loss": 99.0})
    lost.close(failed=True)
    train(settings.model_copy(update={"init_from": "resume", "max_iters": 12}))
    events = accumulator.EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    expected = expected_history(out)
    assert set(events.Tags()["scalars"]) == {name for row in expected.values() for name in row if name != "iter"}
    for name in ("train/batch_loss", "lr", "grad_norm", "mfu", "tokens_per_second", "train/loss", "val/loss", "tokens"):
        read = [(event.step, event.value) for event in events.Scalars(name)]
        written = [(step, pytest.approx(row[name], rel=1e-6)) for step, row in expected.items() if name in row]
        if name == "tokens":  # the two rows of an evaluated iteration both have it
            read = sorted(dict(read).items())
        assert read == written, name
    train(settings.model_copy(update={"overwrite": True, "max_iters": 2}))
    events = accumulator.EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("lr")] == [1, 2]


class Recorder:
    """A logger that keeps what it is told, or fails."""

    def __init__(self, *, broken: bool = False) -> None:
        self.rows: list[Mapping[str, float]] = []
        self.closed: list[bool] = []
        self._broken = broken

    def write(self, numbers: Mapping[str, float]) -> None:
        self.rows.append(numbers)
        if self._broken:
            raise RuntimeError("the line is cut")

    def close(self, *, failed: bool) -> None:
        self.closed.append(failed)


def test_a_broken_sink_stops_neither_the_run_nor_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken, whole = Recorder(broken=True), Recorder()
    log = MetricsLog(tmp_path / "metrics.jsonl")
    with log.shared_with([broken, whole]):
        log.write("train", iter=1, loss=2.0)
        log.write("train", iter=2, loss=1.0)
    log.write("train", iter=3, loss=0.5)
    assert [row["iter"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    assert len(broken.rows) == 1
    assert whole.rows == [{"iter": 1, "train/batch_loss": 2.0}, {"iter": 2, "train/batch_loss": 1.0}]
    assert (broken.closed, whole.closed) == ([], [False])
    assert capsys.readouterr().err.count("the line is cut") == 1


def test_sinks_are_closed_however_a_run_ends() -> None:
    for end in (KeyboardInterrupt, UserError):
        logger = Recorder()
        with pytest.raises(end), MetricsLog(None).shared_with([logger]):
            raise end
        assert logger.closed == [True]
