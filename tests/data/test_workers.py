"""Several processes or threads work as one does; if a process ends, so does the preparation, in one line."""

import os
import random
import signal
import sys
import time

import psutil
import pytest

from quillgpt import worker
from quillgpt.data import shards
from quillgpt.data import workers as working
from quillgpt.data.prepare import prepare
from quillgpt.data.token_file import encode_batch, encoder
from quillgpt.data.workers import number_of_processes, number_of_threads, threads, workers
from quillgpt.errors import DataError, TokenizerError
from quillgpt.text.sources.documents import Mark
from quillgpt.text.tokenizers.byte import ByteTokenizer
from quillgpt.text.tokenizers.char import CharTokenizer

END = Mark.DOCUMENT_END
unix = pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL")


@pytest.fixture
def tales(tmp_path):
    """Write 30 documents with characters of every length in UTF-8, and a lone carriage return."""
    draw = random.Random(7)
    (tmp_path / "tales").mkdir()
    for number in range(30):
        words = ["".join(draw.choices("etaoin'sé漢🙂 \r", k=draw.randint(1, 9))) for _ in range(200)]
        (tmp_path / "tales" / f"{number:02}.txt").write_bytes(" ".join(words).encode())
    return tmp_path / "tales"


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def children():
    """Give a function that returns the workers that a test has started."""

    def of_this_process():
        found = psutil.Process().children()
        return [child for child in found if any(word.endswith("worker_process.py") for word in child.cmdline())]

    before = of_this_process()
    return lambda: [child for child in of_this_process() if child not in before]


@pytest.mark.parametrize(("tokenizer", "where"), [("bpe:300", "threads"), ("byte", "processes")])
def test_the_number_of_cores_changes_no_byte(tales, tmp_path, capsys, tokenizer, where, children):
    made = {
        num_proc: contents(
            prepare(
                [str(tales)],
                data_dir=tmp_path / str(num_proc),
                tokenizer=tokenizer,
                chunk_characters=300,
                num_proc=num_proc,
            ).dataset.folder
        )
        for num_proc in (1, 2, 3)
    }
    said = capsys.readouterr().err
    assert f"Encoding in 2 {where}" in said
    assert f"Encoding in 3 {where}" in said
    assert made[1] == made[2] == made[3]
    assert children() == []


def test_an_error_of_a_tokenizer_is_the_same_in_another_process(tales, tmp_path):
    said = set()
    for num_proc in (1, 2):
        with pytest.raises(TokenizerError, match="is unknown to the tokenizer char") as caught:
            prepare(
                [str(tales)],
                data_dir=tmp_path,
                tokenizer=CharTokenizer("etaoin"),
                chunk_characters=300,
                num_proc=num_proc,
            )
        said.add(str(caught.value))
    assert len(said) == 1
    assert not (tmp_path / "tales" / "dataset.json").exists()


def test_batches_come_in_their_order_however_long_each_takes(tmp_path, children):
    tokenizer = ByteTokenizer()
    tokenizer.save(tmp_path)
    batches = [["x" * (200_000 if number % 3 == 0 else 1), END, str(number)] for number in range(20)]
    with workers(encoder, str(tmp_path), "uint16", processes=2) as encode:
        assert list(encode(batches)) == [encode_batch(batch, tokenizer, "uint16") for batch in batches]
        assert list(encode([])) == []
        assert len(children()) == 2
    assert children() == []


@unix
def test_a_killed_process_is_one_line_and_the_shards_that_are_done_are_kept(
    tales, tmp_path, monkeypatch, capsys, children
):
    monkeypatch.setattr(shards, "SHARD_CHARACTERS", 2000)
    options = {"tokenizer": "byte", "chunk_characters": 300}
    with monkeypatch.context() as patch:

        def close_and_kill(self, *arguments):
            close(self, *arguments)
            if len(self._record.shards) == 3:
                os.kill(children()[0].pid, signal.SIGKILL)

        close = shards.ShardWriter._close
        patch.setattr(shards.ShardWriter, "_close", close_and_kill)
        with pytest.raises(DataError) as caught:
            prepare([str(tales)], data_dir=tmp_path / "data", num_proc=2, **options)
    assert "\n" not in str(caught.value)
    assert "a worker process ended: the system killed it" in str(caught.value)
    assert "shards are done; the same command goes on" in str(caught.value)
    assert children() == []
    resumed = prepare([str(tales)], data_dir=tmp_path / "data", num_proc=2, **options).dataset.folder
    assert "Going on with " in capsys.readouterr().err
    assert contents(resumed) == contents(prepare([str(tales)], data_dir=tmp_path / "w", **options).dataset.folder)


def test_a_process_that_cannot_start_is_one_line(tales, tmp_path, monkeypatch):
    broken = tmp_path / "broken.py"
    broken.write_text("raise MemoryError('no room')")
    monkeypatch.setattr(worker, "_PROCESS", broken)
    with pytest.raises(DataError, match="a worker process ended: MemoryError: no room; nothing of it is kept"):
        prepare([str(tales)], data_dir=tmp_path, tokenizer="byte", chunk_characters=300, num_proc=2)


@unix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_others_end_with_the_process_that_started_them(tmp_path, number):
    ByteTokenizer().save(tmp_path)
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell ignores for what it starts with &
        try:
            with workers(encoder, str(tmp_path), "uint16", processes=2) as encode:
                for _ in encode(["x" * 1000, END] for _ in iter(int, 1)):
                    (tmp_path / "begun").touch()
        finally:
            os._exit(0)
    process, others = psutil.Process(child), list[psutil.Process]()
    end = time.monotonic() + 60
    try:
        while not ((tmp_path / "begun").exists() and len(others) == 2) and time.monotonic() < end:
            time.sleep(0.02)
            others = process.children()
        assert len(others) == 2
    finally:
        os.kill(child, number)  # which would compute without end
        os.waitpid(child, 0)
    assert psutil.wait_procs(others, timeout=30)[1] == []


def test_short_texts_are_encoded_in_one_process(monkeypatch):
    monkeypatch.setattr(working, "usable_cores", lambda: 8)
    per_process = working.CHARACTERS_PER_PROCESS
    wanted = [number_of_processes(None, characters, 1000) for characters in (0, per_process, 3 * per_process, 10**12)]
    assert wanted == [1, 1, 3, 8]
    assert [number_of_processes(given, 5000, 1000) for given in (1, 4, 4096)] == [1, 4, 5]
    assert number_of_processes(4, 0, 1000) == 1


def test_threads_are_used_for_long_texts_and_only_as_many_as_help(monkeypatch):
    long = working.CHARACTERS_PER_PROCESS
    cores = 8
    monkeypatch.setattr(working, "usable_cores", lambda: cores)
    assert [number_of_threads(None, characters, 1000) for characters in (0, long - 1, long, 10**12)] == [0, 0, 2, 2]
    assert [number_of_threads(given, 5000, 1000) for given in (1, 2, 4096)] == [0, 2, 5]
    cores = 1
    assert number_of_threads(None, 10**12, 1000) == 0


@pytest.mark.parametrize("count", [0, 2, 3])
def test_threads_return_results_in_order_and_read_only_a_few_jobs_ahead(count):
    begun = []

    def jobs():
        for number in range(30):
            begun.append(number)
            yield number

    def do(job):
        time.sleep(0.002 * (job % 3))
        return job

    with threads(do, count) as work:
        for done, result in enumerate(work(jobs())):
            assert result == done
            assert len(begun) <= done + 2 + 2 * count
    with pytest.raises(ZeroDivisionError), threads(lambda job: 1 // job, count) as work:
        list(work(iter([1, 0, 2])))
