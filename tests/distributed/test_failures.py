"""Ranks that are killed, stopped, missing, or told something else: all end with one line, and nothing is lost."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from quillgpt.checkpoint.names import has_checkpoint
from quillgpt.distributed import ALONE, World, watch
from quillgpt.distributed.meeting import Meeting, check_resolves, open_store
from quillgpt.distributed.members import Member, check_versions, ranks_in_words
from quillgpt.errors import RankError, UserError
from ranks import Ranks, in_ranks, metrics, out_dir_of
from tolerances import SAME_RUN_IN_RANKS

from .conftest import Words

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no signals for another process")

LONG: dict[str, object] = {"max_iters": 1_000_000, "eval_interval": 1_000_000, "checkpoint_interval": 5}
HOST = socket.gethostname()


@pytest.fixture
def torchrun() -> dict[str, object]:
    """Keep a store as torchrun does, and return the variables that it gives to ranks."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60))
    return {
        "MASTER_PORT": store.port,
        "TORCHELASTIC_USE_AGENT_STORE": True,
        "TORCHELASTIC_MAX_RESTARTS": 2,
        "store": store,  # which lives as long as this
    }


def wait_for_unfinished_checkpoint(ranks: Ranks, out_dir: Path) -> None:
    """Hold rank 0 while it writes a checkpoint."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if list((out_dir / "checkpoints").glob(".writing-*")):
            ranks.processes[0].send_signal(signal.SIGSTOP)
            if list((out_dir / "checkpoints").glob(".writing-*")):
                return
            ranks.processes[0].send_signal(signal.SIGCONT)
    raise AssertionError("no checkpoint was being written")


@pytest.mark.parametrize("killed", ["one", "the first", "all", "while saving"])
def test_a_run_whose_ranks_are_killed_goes_on_from_its_last_checkpoint(words: Words, killed: str) -> None:
    name = f"killed-{killed.replace(' ', '-')}"
    command = words(name, max_iters=40, checkpoint_interval=5, always_save_checkpoint=False)
    out_dir = out_dir_of(command)
    ranks = Ranks(2, *command)
    ranks.wait_for_iteration(out_dir, 6)
    if killed == "while saving":
        wait_for_unfinished_checkpoint(ranks, out_dir)
    victims = {"one": [1], "the first": [0]}.get(killed, [0, 1])
    for rank in victims:
        ranks.processes[rank].kill()
    before = time.monotonic()
    statuses = ranks.wait()
    assert time.monotonic() - before < 30
    said = ranks.said()
    go_on = f"quill train {shlex.quote(str(out_dir / 'config.toml'))} --init_from=resume"
    for rank, (status, line) in enumerate(zip(statuses, said, strict=True)):
        if rank in victims:
            assert (status, line) == (-signal.SIGKILL, "")
        else:
            lost = victims[0]
            assert status == 1
            assert line.startswith(f"quill: rank {lost} on {HOST} (process {ranks.processes[lost].pid}) was killed")
            assert line.count("\n") == 1
            assert f"go on with: {go_on}\n" in line
    in_ranks(2, "train", *shlex.split(go_on)[2:], "--quiet")
    reference = words("undisturbed", max_iters=40)
    if not out_dir_of(reference).exists():
        in_ranks(2, *reference)
    expected, losses = (metrics(place, "train", "loss") for place in (out_dir_of(reference), out_dir))
    assert losses == pytest.approx(expected, abs=SAME_RUN_IN_RANKS)


@pytest.mark.parametrize(("is_loss", "line"), [(True, "rank 1 was killed; go on"), (False, "rank 1 was killed")])
def test_a_rank_whose_main_thread_does_not_end_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, is_loss: bool, line: str
) -> None:
    """On a busy machine it may take longer than the watch waits for it."""
    said: list[str] = []
    monkeypatch.setattr(watch, "BEAT_SECONDS", 0.01)
    monkeypatch.setattr(watch, "GRACE_SECONDS", 0.01)
    monkeypatch.setattr(watch, "end_process", lambda failure: said.append(str(failure)))
    monkeypatch.setattr(watch.Watch, "_look", lambda *_: RankError("rank 1 was killed", is_loss=is_loss))
    meeting = SimpleNamespace(another_connection=lambda _: None, members=[], world=ALONE)
    watch.Watch(cast(Meeting, meeting), 60.0, lambda: "; go on").run()
    assert said == [line]


def test_a_rank_that_hangs_is_named_after_the_time_limit(words: Words) -> None:
    command = words("hanging", **LONG, rank_timeout="3s")
    ranks = Ranks(3, *[word for word in command if "batch_size" not in word], "--batch_size=6")
    ranks.wait_for_iteration(out_dir_of(command), 2)
    ranks.processes[1].send_signal(signal.SIGSTOP)
    while ranks.processes[0].poll() is None or ranks.processes[2].poll() is None:
        time.sleep(0.1)
    ranks.processes[1].kill()
    assert ranks.wait() == [1, -signal.SIGKILL, 1]
    first, *others = ranks.said()
    assert first.startswith(f"quill: rank 1 on {HOST} gave no sign of life for 3 s")
    assert first.count("\n") == 1
    assert not any(others)


@pytest.mark.parametrize(("number", "rank"), [("SIGTERM", 1), ("SIGUSR1", 0), ("SIGINT", 1)])
def test_a_signal_on_any_rank_saves_once_and_ends_all_alike(words: Words, number: str, rank: int) -> None:
    command = [*words(f"{number}-{rank}", **LONG, quiet=False)]
    ranks = Ranks(2, *command)
    ranks.wait_for_iteration(out_dir_of(command), 3)
    ranks.processes[rank].send_signal(signal.Signals[number])
    assert ranks.wait() == [128 + signal.Signals[number]] * 2
    first, second = ranks.said()
    assert first.count("interrupted and saved at iter") == 1
    assert second == ""
    assert has_checkpoint(out_dir_of(command))


def test_ranks_that_are_started_again_go_on_from_the_last_checkpoint(words: Words, torchrun: dict[str, object]) -> None:
    command = words("restarted", max_iters=30, checkpoint_interval=5, quiet=False)
    ranks = Ranks(2, *command, environment=torchrun)
    ranks.wait_for_iteration(out_dir_of(command), 11)
    ranks.processes[1].kill()
    assert ranks.wait() == [1, -signal.SIGKILL]
    assert ranks.said()[0].endswith("torchrun starts them again\n")
    again = Ranks(2, *command, environment=torchrun | {"TORCHELASTIC_RESTART_COUNT": 1})
    assert again.wait() == [0, 0], again.said()
    said = again.said()[0]
    assert "the ranks were started again; going on with the run" in said
    assert "fresh weights" not in said
    assert len(metrics(out_dir_of(command), "train", "loss")) == 30


def test_a_run_that_is_started_over_is_started_over_again_until_it_has_saved(
    words: Words, torchrun: dict[str, object]
) -> None:
    in_ranks(1, *words("over", max_iters=2))
    command = words("over", max_iters=8, checkpoint_interval=1_000, overwrite=True, quiet=False)
    ranks = Ranks(2, *command, environment=torchrun)
    while "fresh weights" not in ranks.said()[0]:
        time.sleep(0.01)
    ranks.processes[1].kill()
    ranks.wait()
    again = Ranks(2, *command, environment=torchrun | {"TORCHELASTIC_RESTART_COUNT": 1})
    assert again.wait() == [0, 0], again.said()
    assert "fresh weights" in again.said()[0]


def test_ranks_that_were_asked_to_stop_do_not_train_again(words: Words, torchrun: dict[str, object]) -> None:
    command = words("asked", **LONG)
    ranks = Ranks(2, *command, environment=torchrun)
    ranks.wait_for_iteration(out_dir_of(command), 3)
    ranks.processes[1].send_signal(signal.SIGUSR1)
    assert ranks.wait() == [138, 138]
    again = Ranks(2, *command, environment=torchrun | {"TORCHELASTIC_RESTART_COUNT": 1})
    assert again.wait() == [138, 138]
    assert not any(again.said())


def test_a_mistake_on_one_rank_is_said_once_and_ends_all(words: Words, torchrun: dict[str, object]) -> None:
    ranks = Ranks(3, *words("mistaken"), environment=torchrun, own={2: {"QUILL_BATCH_SIZE": "many"}})
    assert ranks.wait() == [2, 2, 2]
    said = "".join(ranks.said())
    assert said.startswith(f"quill: rank 2 on {HOST}: QUILL_BATCH_SIZE")
    assert said.count("\n") == 1


def test_a_mistake_on_all_ranks_is_said_once(words: Words, torchrun: dict[str, object]) -> None:
    ranks = Ranks(3, *words("all-mistaken"), "--learning_rat=1", environment=torchrun)
    assert ranks.wait() == [2, 2, 2]
    assert ranks.said() == ["quill: --learning_rat is unknown; did you mean --learning_rate?\n", "", ""]


def test_ranks_with_other_settings_are_refused_by_name(words: Words) -> None:
    command = [word for word in words("other-settings") if not word.startswith("--learning_rate")]
    ranks = Ranks(2, *command, own={1: {"QUILL_LEARNING_RATE": 0.5}})
    assert ranks.wait() == [2, 2]
    first, second = ranks.said()
    assert first.startswith(
        f"quill: rank 1 on {HOST} has learning_rate = 0.5 instead of 0.0006, as rank 0 on {HOST} has"
    )
    assert second == ""
    assert not out_dir_of(command).exists()


def test_ranks_with_other_data_are_refused_by_name(words: Words, tmp_path: Path) -> None:
    folders = [tmp_path / "0", tmp_path / "1"]
    data = Path(next(word.removeprefix("--data_dir=") for word in words("_") if word.startswith("--data_dir=")))
    for folder, dataset in zip(folders, ("tiny", "other"), strict=True):
        shutil.copytree(data / dataset, folder / "data" / "tiny")
    with (folders[1] / "data" / "tiny" / "train.bin").open("r+b") as file:
        file.write(b"\x01\x00")
    ranks = Ranks(2, *words("_"), "--data_dir=data", "--out_dir=run", folders=folders)
    assert 0 not in ranks.wait()
    assert f"rank 1 on {HOST}" in ranks.said()[0]
    assert ranks.said()[0].count("\n") == 1
    assert not (folders[0] / "run").exists()


def test_ranks_of_other_versions_are_refused_by_name() -> None:
    members = [
        replace(Member.of_this_process(World(rank, 2, rank, 2), ("127.0.0.1", 1)), host=host)
        for rank, host in enumerate("ab")
    ]
    check_versions(members)
    for attribute, name in {"quill": "Quill", "torch": "PyTorch", "python": "Python"}.items():
        with pytest.raises(UserError, match=rf"rank 1 on b runs {name} 0\.1, rank 0 on a runs {name} "):
            check_versions([members[0], replace(members[1], **{attribute: "0.1"})])


def test_ranks_that_do_not_arrive_are_named(words: Words) -> None:
    ranks = Ranks(4, *words("missing", rank_timeout="2s"), started=[0, 2])
    assert ranks.wait() == [1, 1]
    said = ranks.said()[0]
    assert "waiting for ranks 1, 3; 2 of 4 have arrived at 127.0.0.1:" in said
    assert f"ranks 0, 2 on {HOST}" in said
    assert not out_dir_of(words("missing")).exists()


def test_a_port_in_use_an_unknown_machine_and_one_that_does_not_answer_are_named() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} of {HOST} is in use by another program"):
            open_store(World(0, 2, 0, 2), "127.0.0.1", port, 1)
    with pytest.raises(UserError, match=f"cannot reach rank 0 at 127.0.0.1:{port}"):
        open_store(World(1, 2, 1, 2), "127.0.0.1", port, 0.2)
    with pytest.raises(UserError, match=r"--master_addr=nowhere\.invalid is no machine"):
        check_resolves("nowhere.invalid", port, limit_seconds=0.1)


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"MASTER_PORT": "none"}, "MASTER_PORT = none, expected a port"),
        ({"MASTER_PORT": "99999"}, "MASTER_PORT = 99999, expected a port"),
        ({"MASTER_ADDR": ""}, "MASTER_ADDR is not set"),
        ({"RANK": "5"}, "RANK = 5"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE = 'two'"),
    ],
)
def test_impossible_variables_are_one_line(words: Words, variables: dict[str, object], said: str) -> None:
    ranks = Ranks(2, *words("impossible"), environment=variables, started=[0])
    assert ranks.wait() == [2]
    assert said in ranks.said()[0]
    assert ranks.said()[0].count("\n") == 1


def test_ranks_in_words() -> None:
    assert ranks_in_words([3]) == "rank 3"
    assert ranks_in_words([1, 0]) == "ranks 0, 1"
    assert ranks_in_words([0, 1, 2, 5, 7, 8]) == "ranks 0-2, 5, 7, 8"
