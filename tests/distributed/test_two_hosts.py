"""Two hosts, as two network namespaces with a cable between them: ranks meet, a cut cable heals, or is named."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from offline.sitecustomize import MAY_FETCH
from quillgpt.plots.record import METRICS, read_metrics
from ranks import LONGEST_SECONDS, out_dir_of

from .conftest import Words

HOSTS = """
ip link set lo up
hostname first
unshare --net --uts sh -c '
  echo > "$CONTROL/ready"
  read _ < "$CONTROL/go"
  hostname second
  ip link set lo up
  ip address add 10.77.0.2/24 dev cable2
  ip link set cable2 up
  "$@"
  echo "second $?"
' sh env RANK=1 "$@" &
second=$!
read _ < "$CONTROL/ready"
ip link add name cable1 type veth peer name cable2 netns $second
ip address add 10.77.0.1/24 dev cable1
ip link set cable1 up
echo > "$CONTROL/go"
(
  while read state; do ip link set cable1 $state; done < "$CONTROL/cable"
) &
cable=$!
env RANK=0 "$@"
echo "first $?"
wait $second
kill $cable
"""
"""Runs a command on two hosts. `$CONTROL/cable` is read for `up` and `down`."""

UNSHARE = ("unshare", "--user", "--map-root-user", "--net", "--uts")
TRY = "ip link add name one type veth peer name two && hostname other && unshare --net true"


def hosts_can_be_made() -> str:
    """Return why there are no namespaces here; an empty text if there are."""
    if sys.platform != "linux":
        return "only Linux has network namespaces"
    try:
        done = subprocess.run([*UNSHARE, "sh", "-c", TRY], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"no network namespaces: {error}"
    return "" if done.returncode == 0 else f"no network namespaces: {done.stderr.strip()}"


REFUSED = hosts_can_be_made()
pytestmark = pytest.mark.skipif(bool(REFUSED), reason=REFUSED)


class Hosts:
    """Two hosts on which the ranks of a command run, and the cable between them.

    Args:
        control: An empty folder.
        words: The command's, after `quill`.
    """

    def __init__(self, control: Path, *words: str) -> None:
        for name in ("ready", "go", "cable"):
            os.mkfifo(control / name)
        world = {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
        meeting = {"MASTER_ADDR": "10.77.0.1", "MASTER_PORT": "29500", "CONTROL": str(control)}
        reaching = {MAY_FETCH: "1"}  # each other; there is nothing else
        self._said = (control / "said").open("w+b")
        self.process = subprocess.Popen(
            [*UNSHARE, "sh", "-c", HOSTS, "sh", sys.executable, "-m", "quillgpt", *words],
            env=os.environ | world | meeting | reaching,
            stdout=self._said,
            stderr=self._said,
            start_new_session=True,
        )
        self._cable = (control / "cable").open("w", buffering=1)

    def said(self) -> str:
        """Return what both have printed."""
        self._said.seek(0)
        return self._said.read().decode()

    def cable(self, state: str) -> None:
        """Cut the cable (`down`), or mend it (`up`)."""
        self._cable.write(f"{state}\n")

    def close(self) -> None:
        """End whatever still runs."""
        self._cable.close()
        if self.process.poll() is None:
            os.killpg(self.process.pid, 9)
        self.process.wait()


def iteration(out_dir: Path) -> int:
    """Return the last recorded iteration."""
    record = out_dir / METRICS
    return max((int(row["iter"]) for row in read_metrics(record)), default=0) if record.is_file() else 0


def wait_for_iteration(hosts: Hosts, out_dir: Path, wanted: int) -> None:
    """Wait until the run has recorded an iteration."""
    end = time.monotonic() + LONGEST_SECONDS
    while iteration(out_dir) < wanted:
        assert time.monotonic() < end, hosts.said()
        assert hosts.process.poll() is None, hosts.said()
        time.sleep(0.05)


def wait_until_both_end(hosts: Hosts) -> None:
    """Wait until the ranks on both hosts have ended."""
    end = time.monotonic() + LONGEST_SECONDS
    while hosts.process.poll() is None:
        assert time.monotonic() < end, hosts.said()
        time.sleep(0.05)


@pytest.fixture
def hosts(words: Words, tmp_path: Path) -> Iterator[tuple[Hosts, Path]]:
    command = words("hosts", max_iters=1_000_000, eval_interval=1_000_000, checkpoint_interval=5, rank_timeout="8s")
    hosts = Hosts(tmp_path, *command)
    yield hosts, out_dir_of(command)
    hosts.close()


def test_a_cut_cable_between_two_hosts_heals_or_is_named(hosts: tuple[Hosts, Path]) -> None:
    both, out_dir = hosts
    wait_for_iteration(both, out_dir, 5)
    both.cable("down")
    time.sleep(2)
    stopped = iteration(out_dir)
    both.cable("up")
    wait_for_iteration(both, out_dir, stopped + 5)
    both.cable("down")
    wait_until_both_end(both)
    said = both.said()
    assert "quill: rank 1 on second gave no sign of life for 8 s: hanging, or cut off; all ranks end" in said
    assert f"go on with: quill train {out_dir}/config.toml --init_from=resume" in said
    assert "on first" in said.replace("rank 1 on second", "")
    assert "first 1\n" in said
    assert "second 1\n" in said
    assert "Traceback" not in said
