"""A run whose disk is really full: a file system of a few megabytes, mounted where nobody else sees it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UNSHARE = ["unshare", "--user", "--map-root-user", "--mount"]


def can_mount(folder: Path) -> bool:
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    return (
        sys.platform == "linux"
        and all(shutil.which(word) for word in ("unshare", "mount"))
        and subprocess.run([*UNSHARE, *mount], capture_output=True).returncode == 0
    )


RUN = """
import os, subprocess, sys
from pathlib import Path

subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", "small"], check=True)

from quillgpt.checkpoint import load_model, save
from quillgpt.cli import main
from quillgpt.plots.record import read_metrics
from quillgpt.training import trainer

checked = sys.argv[1] == "checked"
if not checked:  # let the save run into the wall
    save.check_space = lambda *_: None
iterate = trainer.Trainer.do_iteration
ballast = Path("small/ballast")

def fill_and_free(self):
    iterate(self)
    if self.run.state.iteration == 6:
        try:
            with ballast.open("wb", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass
        except OSError:
            pass
        os.truncate(ballast, ballast.stat().st_size - 200_000)  # leaves less than a checkpoint needs
    if self.run.state.iteration == int(sys.argv[2]):
        ballast.unlink()

trainer.Trainer.do_iteration = fill_and_free
words = ["train", "--data=book.txt", "--out_dir=small/run", *sys.argv[3:]]
status = main(words)
folder = Path("small/run/checkpoints")
print("status", status)
print("kept", *sorted(path.name for path in folder.iterdir()))
print("loaded", load_model(Path("small/run"), prefer="last").about["iteration"])
print("rows", *(row["iter"] for row in read_metrics(Path("small/run/metrics.jsonl")) if row["kind"] == "train"))
trainer.Trainer.do_iteration = iterate
ballast.unlink(missing_ok=True)
if status:
    print("resumed", main([*words, "--resume"]), load_model(Path("small/run"), prefer="last").about["iteration"])
"""

TRAIN = [
    "--max_iters=12",
    "--lr_decay_iters=12",
    "--eval_interval=4",
    "--log_interval=1",
    "--eval_iters=2",
    "--n_layer=2",
    "--n_head=2",
    "--n_embd=64",
    "--block_size=32",
    "--batch_size=4",
    "--gradient_accumulation_steps=1",
    "--always_save_checkpoint=False",
    "--device=cpu",
    "--dtype=float32",
    "--attn_path=explicit",
    "--micro_batch_size=4",
    "--threads=1",
    "--compile=False",
]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "book.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 300, encoding="utf-8")
    (tmp_path / "small").mkdir()
    if not can_mount(tmp_path / "small"):
        pytest.skip("no file system of one's own can be mounted here (unshare and mount, without being root)")
    return tmp_path


def run(home: Path, *words: str) -> tuple[dict[str, str], str]:
    """Run the script in a mount namespace of its own; return what it printed, by first word, and its messages."""
    done = subprocess.run(
        [*UNSHARE, sys.executable, "-c", RUN, *words, *TRAIN], cwd=home, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return dict(line.split(" ", 1) for line in done.stdout.splitlines()), done.stderr


@pytest.mark.parametrize(
    ("check", "words"),
    [
        ("checked", r"it takes [\d.]+ [kM]B, the disk has (1[5-9]|2[0-4])\d\.\d kB left"),
        ("unchecked", "No space left on device"),
    ],
)
def test_a_full_disk_leaves_the_last_good_checkpoint_and_the_run_goes_on(home: Path, check: str, words: str) -> None:
    said, messages = run(home, check, "10")
    assert said["status"] == "0"
    assert said["kept"] == "best iter-000004 iter-000012 last"
    assert said["loaded"] == "12"
    assert said["rows"] == " ".join(map(str, range(1, 13)))
    assert "the checkpoint of iter 8 cannot be written: " in messages
    assert re.search(words, messages)


def test_a_run_that_ends_on_a_full_disk_fails_and_can_be_resumed(home: Path) -> None:
    said, messages = run(home, "unchecked", "0")
    assert said["status"] == "1"
    assert said["kept"] == "best iter-000004 last"
    assert said["loaded"] == "4"
    assert "iter 12 could not be saved: No space left on device; iter-000004 is kept; make room and go on" in messages
    assert said["resumed"] == "0 12"


def test_a_cache_on_a_full_disk_is_done_without(home: Path) -> None:
    program = (
        "import os, subprocess; from pathlib import Path; from quillgpt.files import quill_home\n"
        "subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', 'small'], check=True)\n"
        "Path('small/ballast').write_bytes(bytes(1_500_000)); os.environ['QUILL_HOME'] = 'small'; print(quill_home())"
    )
    done = subprocess.run([*UNSHARE, sys.executable, "-c", program], cwd=home, capture_output=True, text=True)
    assert "nothing can be kept in small (No space left on device)" in done.stderr
    assert Path(done.stdout.strip()) != Path("small")
    assert done.returncode == 0
