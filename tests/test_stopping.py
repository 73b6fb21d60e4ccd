"""A signal ends a command wherever it is, with one line and the status of shells."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from quillgpt import stopping

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no signals for another process")

START = """
import contextlib, gc, hashlib, sys, threading, time
from quillgpt.stopping import activity, heed_signals, unwinding, words_on
heed_signals()
"""
SLOW_MODULE = """
import time
try:
    print('ready', flush=True)
    time.sleep(1000)
except KeyboardInterrupt:
    raise ImportError('torn')
"""
BUSY = {
    "before anything else": "print('ready', flush=True)\ntime.sleep(1000)",
    "unwinds": """
with unwinding():
    try:
        with activity('while it slept; sleep again'), activity(''):
            with contextlib.suppress(Exception), activity('in the innermost'):
                print('ready', flush=True)
                time.sleep(1000)
    except KeyboardInterrupt as error:
        print('quill:', words_on(error), file=sys.stderr)
        sys.exit(128 + error.args[0])
""",
    "computes without a look around": """
with unwinding():
    print('ready', flush=True)
    hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)
""",
    "swallows everything": """
with unwinding():
    print('ready', flush=True)
    while True:
        try:
            time.sleep(1000)
        except BaseException:
            pass
""",
    "in a destructor": """
class Slow:
    def __del__(self):
        print('ready', flush=True)
        time.sleep(1000)
with unwinding():
    Slow()
    time.sleep(1000)
""",
    "imports": """
sys.path.insert(0, sys.argv[1])
with unwinding():
    import slow
""",
    "waits for a thread at the end": """
threading.Thread(target=time.sleep, args=(1000,)).start()
print('ready', flush=True)
""",
}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
@pytest.mark.parametrize("busy", BUSY)
def test_a_signal_is_answered_with_one_line(busy: str, number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW_MODULE)
    process = subprocess.Popen(
        [sys.executable, "-c", START + BUSY[busy], str(tmp_path)], stdout=-1, stderr=-1, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.05)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    expected = "quill: interrupted in the innermost\n" if busy == "unwinds" else "quill: interrupted\n"
    assert (process.returncode, said) == (128 + number, expected)


def test_a_second_signal_leaves_on_the_spot_and_a_second_hangup_does_not() -> None:
    slow_to_unwind = """
import quillgpt.stopping
quillgpt.stopping.LONGEST_SECONDS = 60  # so that a signal which is not noticed is not ended by the deadline
with unwinding():
    try:
        print('ready', flush=True)
        time.sleep(1000)
    finally:
        print('unwinding', flush=True)
        {}
        print('unwound', flush=True)
"""
    for second, rest, status, seen in (
        (signal.SIGTERM, "time.sleep(1000)", 143, []),
        (signal.SIGHUP, "time.sleep(0.3)\n        raise SystemExit(7)", 7, []),
    ):
        process = subprocess.Popen([sys.executable, "-c", START + slow_to_unwind.format(rest)], stdout=-1, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGHUP)
        assert process.stdout.readline() == "unwinding\n"
        process.send_signal(second)
        assert process.stdout.read().splitlines() == seen
        assert process.wait() == status


def test_a_hangup_that_nohup_ignores_stays_ignored() -> None:
    program = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)" + START
    program += "import os; os.kill(os.getpid(), signal.SIGHUP); os.kill(os.getpid(), signal.SIGTERM); time.sleep(1000)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 143


def test_nothing_slow_is_imported_before_signals_are_heeded() -> None:
    program = (
        "import sys, quillgpt.cli; sys.exit(any(name in sys.modules for name in ('rich', 'cyclopts', 'pydantic')))"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def wait_for_handlers(process: subprocess.Popen[str]) -> None:
    """Wait until a command heeds signals: in its first moments Python itself starts, and dies of them."""
    status = Path(f"/proc/{process.pid}/status")
    if not status.exists():
        time.sleep(2)
        return
    while process.poll() is None:
        caught = next((line.split()[1] for line in status.read_text().splitlines() if line.startswith("SigCgt")), "0")
        if int(caught, 16) >> (signal.SIGUSR1 - 1) & 1:
            return
        time.sleep(0.001)


def kill_at_random(folder: Path, words: list[str], number: int, within: float, random: random.Random) -> None:
    """Run a command, send it SIGINT or SIGTERM at a random moment, some times, and check how it ends."""
    for _ in range(number):
        process = subprocess.Popen([sys.executable, "-m", "quillgpt", *words], cwd=folder, stderr=-1, text=True)
        wait_for_handlers(process)
        time.sleep(random.uniform(0, within))
        process.send_signal(random.choice([signal.SIGINT, signal.SIGTERM]))
        _, said = process.communicate(timeout=120)
        assert process.returncode in (0, 130, 143), said
        lines = [line for line in said.splitlines() if "interrupted" in line]
        assert len(lines) == (process.returncode != 0), said
        assert not [word for word in ("Traceback", "Exception", "Error") if word in said], said


TRAIN = [
    *("train", "--data=book.txt", "--tokenizer=byte", "--n_layer=1", "--n_head=1", "--n_embd=16", "--block_size=16"),
    *("--batch_size=2", "--gradient_accumulation_steps=1", "--micro_batch_size=2", "--device=cpu", "--dtype=float32"),
    *("--attn_path=explicit", "--threads=1", "--compile=False", "--eval_iters=1", "--eval_interval=5", "--overwrite"),
    *("--max_iters=1000000", "--always_save_checkpoint=True"),
]


@pytest.fixture
def book(tmp_path: Path) -> Path:
    (tmp_path / "book.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 300)
    return tmp_path


def test_random_moments_of_start_up_and_training(book: Path) -> None:
    kill_at_random(book, ["configs", "show", "demo"], 4, 1, random.Random())
    kill_at_random(book, TRAIN, 2, 4, random.Random())


@pytest.mark.deep
def test_two_hundred_random_moments(book: Path) -> None:
    kill_at_random(book, TRAIN, 120, 8, random.Random())
    kill_at_random(book, ["prepare", "book.txt", "--tokenizer=bpe:300", "--dataset=other"], 40, 3, random.Random())
    kill_at_random(book, ["train", "--help"], 40, 1, random.Random())


def test_a_run_whose_reader_has_gone_goes_on_and_saves_when_its_terminal_hangs_up(book: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "quillgpt", *TRAIN], cwd=book, stdout=-1, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    checkpoints = book / "out-book" / "checkpoints"
    for _ in range(6000):
        if (checkpoints / "last").exists():
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGHUP)
    assert process.wait(60) == 129
    assert (checkpoints / "last").exists()


def interrupted_while(description):
    with stopping.activity(description):
        raise KeyboardInterrupt


def test_a_description_may_be_made_when_it_is_printed_and_may_fail():
    for description, words in ((lambda: "after 2 steps", "interrupted after 2 steps"), (lambda: 1 // 0, "interrupted")):
        with pytest.raises(KeyboardInterrupt) as caught:
            interrupted_while(description)
        assert stopping.words_on(caught.value) == words
