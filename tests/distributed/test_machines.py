"""Machines on each of which `quill train --nnodes` runs, and what they say of one that is missing."""

from __future__ import annotations

import json
import os
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from quillgpt.checkpoint.names import has_checkpoint
from quillgpt.distributed import meeting
from quillgpt.distributed.machines import ONE_MACHINE, Machines, machines_of, wait_for_all
from quillgpt.errors import ConfigError, UserError
from ranks import LONGEST_SECONDS, out_dir_of

from .conftest import Words
from .test_launch import Launched

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no signals for another process")


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def test_the_flags_are_those_of_torchrun() -> None:
    assert machines_of(None, None, None, None) == ONE_MACHINE == machines_of(1, None, None, None)
    assert machines_of(1, 0, "a", 1) == ONE_MACHINE
    assert machines_of(2, 1, "10.0.0.1", 1234) == Machines(2, 1, "10.0.0.1", 1234)
    assert machines_of(2, 1, "[fe80::1]", None) == Machines(2, 1, "fe80::1", 29500)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((None, 1, None, None), "--node_rank is for several machines; give their number with --nnodes"),
        ((0, None, None, None), "--nnodes=0, expected a number of machines"),
        ((2, None, "a", None), "--node_rank is missing: of 2 machines each has a number from 0 to 1"),
        ((2, 2, "a", None), "--node_rank=2, but of 2 machines each has a number from 0 to 1"),
        ((2, 1, None, None), "--master_addr is missing"),
        ((2, 1, "a", 70000), "--master_port=70000, expected a port"),
    ],
)
def test_flags_that_say_too_little_are_one_line(given: tuple[int, int, str, int], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        machines_of(*given)


def test_all_that_have_arrived_agree_on_the_run(port: int) -> None:
    with ThreadPoolExecutor() as threads:
        ends = [threads.submit(wait_for_all, Machines(3, rank, "127.0.0.1", port), 30.0) for rank in (2, 0, 1)]
        assert len({end.result()[1] for end in ends}) == 1


def test_a_missing_machine_is_named(
    port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(meeting, "PROGRESS_SECONDS", 0.1)
    host = socket.gethostname()
    with pytest.raises(UserError, match=f"node_rank 1 on {host} cannot reach node_rank 0 at 127.0.0.1:{port}"):
        wait_for_all(Machines(3, 1, "127.0.0.1", port), 0.5)
    with pytest.raises(UserError) as raised:
        wait_for_all(Machines(3, 0, "127.0.0.1", port), 0.5)
    who = f"waiting for node_rank 1, 2 at 127.0.0.1:{port}; here: 0 ({host})"
    assert str(raised.value).startswith(f"{who} (after 0.5 s)")
    assert who in capsys.readouterr().err


def test_machines_that_contradict_each_other_are_named(port: int) -> None:
    with ThreadPoolExecutor() as threads:
        first = threads.submit(wait_for_all, Machines(3, 0, "127.0.0.1", port), 5.0)
        threads.submit(wait_for_all, Machines(3, 1, "127.0.0.1", port), 5.0)
        while True:  # until it is there
            with pytest.raises(UserError) as raised:
                wait_for_all(Machines(3, 1, "127.0.0.1", port), 1.0)
            if "another machine" in str(raised.value):
                break
        assert str(raised.value).endswith("has --node_rank=1 too; give each its own")
        with pytest.raises(UserError, match="--nnodes=4 here, but 3 on "):
            wait_for_all(Machines(4, 2, "127.0.0.1", port), 5.0)
        with pytest.raises(UserError, match=r"--nnodes=3 here, but 4 on .* give the same everywhere"):
            first.result()


def test_an_address_of_another_machine_is_refused(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "reaches_itself", lambda *_: False)
    with pytest.raises(UserError, match=rf"does not reach itself at 127\.0\.0\.1:{port}; --master_addr must be"):
        wait_for_all(Machines(2, 0, "127.0.0.1", port), 1.0)


def test_an_address_is_tried_where_it_is_not_that_of_an_interface(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert meeting.reaches_itself("127.0.0.1", port)
    of_nobody = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("192.0.2.1", port))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: of_nobody)

    def translated(place: tuple[str, int], timeout: float) -> socket.socket:
        client = socket.socket()
        client.connect(("127.0.0.1", place[1]))
        return client

    monkeypatch.setattr(socket, "create_connection", translated)
    assert meeting.reaches_itself("192.0.2.1", port)
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: socket.socket())  # which connects to nothing
    assert not meeting.reaches_itself("192.0.2.1", port, limit_seconds=0.1)


def test_two_machines_train_one_model(words: Words, port: int) -> None:
    place = ["--nnodes=2", "--master_addr=127.0.0.1", f"--master_port={port}"]
    changes = {"eval_interval": 10, "rank_timeout": "2m"}
    command = words("machines", max_iters=10, **changes)
    both = [Launched(*command, *place, f"--node_rank={rank}") for rank in (1, 0)]
    assert [one.wait() for one in both] == [0, 0], [one.said() for one in both]
    assert json.loads((out_dir_of(command) / "summary.json").read_text())["iterations"] == 10
    command = words("machine-lost", max_iters=1_000_000, checkpoint_interval=2, **changes)
    both = [Launched(*command, *place, f"--node_rank={rank}") for rank in (1, 0)]
    end = time.monotonic() + LONGEST_SECONDS
    while not has_checkpoint(out_dir_of(command)):
        assert time.monotonic() < end, both[1].said()
        time.sleep(0.02)
    for rank in psutil.Process(both[0].process.pid).children():
        rank.kill()
    assert [one.wait() for one in both] == [1, 1], [one.said() for one in both]
    said = both[1].said()
    assert re.search(r"quill: rank 1 on \S+ .*go on with: quill train ", said), said
    assert "quill: killed: rank 1 on" in both[0].said()
    assert "Traceback" not in said + both[0].said()
