"""What is known of this process's bounds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from quillgpt import process
from quillgpt.process import MemoryGroup, memory_groups, seconds_since_start


def group(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"memory.{name}").write_text(text + "\n")


def member(root: Path, lines: str) -> None:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(lines)


def test_all_groups_around_a_process_of_version_2(tmp_path: Path) -> None:
    base = tmp_path / "sys/fs/cgroup"
    member(tmp_path, "0::/user.slice/job\n")
    group(base / "user.slice", max="4000", current="1000", stat="anon 700\ninactive_file 200")
    group(base / "user.slice/job", max="max", current="10", stat="")
    assert memory_groups(tmp_path) == [MemoryGroup(4000, 800)]


def test_a_container_of_version_1(tmp_path: Path) -> None:
    member(tmp_path, "5:devices:/\n4:memory:/docker/abc\n0::/\n")
    group(
        tmp_path / "sys/fs/cgroup/memory",
        limit_in_bytes="2000",
        usage_in_bytes="900",
        stat="inactive_file 1\ntotal_inactive_file 100",
    )
    assert memory_groups(tmp_path) == [MemoryGroup(2000, 800)]


@pytest.mark.parametrize("limit", ["9223372036854771712", "max", "", "many"])
def test_no_limit(tmp_path: Path, limit: str) -> None:
    member(tmp_path, "4:memory:/\n0::/\n")
    group(tmp_path / "sys/fs/cgroup/memory", limit_in_bytes=limit, usage_in_bytes="1", stat="")
    group(tmp_path / "sys/fs/cgroup", max=limit, current="1", stat="")
    assert memory_groups(tmp_path) == []
    assert memory_groups(tmp_path / "no-linux") == []


def test_the_start_of_python_counts_for_a_command_and_not_for_a_program_that_calls_it() -> None:
    assert seconds_since_start() == 0
    code = "import sys, time; time.sleep(0.3); sys.argv[0] = 'quill'; "
    code += "from quillgpt.process import seconds_since_start; print(seconds_since_start())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert 0.25 < float(told) < 120


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, str(process.SPINS)),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "active"}, None),
    ],
)
def test_threads_wait_as_the_user_decided_or_else_briefly(
    given: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    process.wait_politely()
    assert os.environ.get("GOMP_SPINCOUNT") == expected
