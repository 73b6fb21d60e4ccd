"""A data set is made completely or not at all, by one process at a time, and replaces only Quill's own files."""

import errno
import json
import os
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path

import filelock
import numpy as np
import pytest

from quillgpt.data import prepare as preparing
from quillgpt.data.dataset import open_dataset
from quillgpt.data.prepare import ensure_dataset, prepare
from quillgpt.data.staging import STAGING
from quillgpt.errors import DataError, UserError

TEXT = "The cat sat on the mat.\nThe dog sat on the log.\n" * 20
OTHER = TEXT.replace("cat", "cow")
unix = pytest.mark.skipif(sys.platform == "win32", reason="has no fork")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("QUILL_HOME", str(tmp_path / "home"))


@pytest.fixture
def data_dir(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture
def namesake(tmp_path):
    """Write another text whose data set would have the same name."""
    path = tmp_path / "elsewhere" / "book.txt"
    path.parent.mkdir()
    path.write_text(OTHER)
    return path


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def words(dataset):
    return dataset.tokenizer.decode(dataset.train)


def killed_at(step, command):
    """Run a command in a process that is killed before its n-th rename or removal; return whether it was."""
    child = os.fork()
    if child == 0:
        left = [step]

        def ended(method):
            def call(*arguments, **options):
                left[0] -= 1
                if left[0] < 0:
                    os._exit(9)
                return method(*arguments, **options)

            return call

        Path.replace, Path.unlink, os.rmdir = ended(Path.replace), ended(Path.unlink), ended(os.rmdir)
        try:
            command()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


@unix
@pytest.mark.parametrize("is_there", [True, False])
def test_killed_at_any_rename_the_data_set_is_the_earlier_one_or_the_new_one(book, tmp_path, is_there):
    seen = set()
    for step in range(40):
        data_dir = tmp_path / f"data{step}"
        before = prepare([str(book)], data_dir=data_dir).dataset if is_there else None
        book.write_text(OTHER)
        was_killed = killed_at(step, lambda data_dir=data_dir: prepare([str(book)], data_dir=data_dir))
        staging = data_dir / "book" / STAGING
        if (staging / "dataset.json").exists() and not (staging / "train.bin").exists():
            assert not (data_dir / "book" / "dataset.json").exists()  # which would describe the earlier tokens
        try:
            text = words(open_dataset("book", data_dir))
        except DataError:
            text = None
        assert text in (None if before is None else words(before), OTHER[: len(OTHER) * 9 // 10])
        seen.add(text)
        assert words(prepare([str(book)], data_dir=data_dir).dataset).count("cow") == 18
        assert list((data_dir / "book" / STAGING).glob("*")) == []
        book.write_text(TEXT)
        if not was_killed:
            break
    else:
        pytest.fail("was killed at every step")
    assert len(seen) == 2
    assert step > 8


def test_two_preparations_at_once_follow_each_other_and_the_second_uses_what_the_first_made(
    book, data_dir, monkeypatch, capsys
):
    built, build = [], preparing.build
    begun, go = threading.Event(), threading.Event()

    def slow(*arguments, **options):
        built.append(arguments)
        begun.set()
        go.wait(20)
        return build(*arguments, **options)

    monkeypatch.setattr(preparing, "build", slow)
    done = []
    threads = [threading.Thread(target=lambda: done.append(prepare([str(book)], data_dir=data_dir))) for _ in range(2)]
    threads[0].start()
    assert begun.wait(20)
    threads[1].start()
    deadline = time.monotonic() + 20
    said = ""
    while "Waiting for another process that prepares" not in said and time.monotonic() < deadline:
        time.sleep(0.01)
        said += capsys.readouterr().err
    go.set()
    for thread in threads:
        thread.join(20)
    assert "Waiting for another process that prepares" in said
    assert [preparation.reused for preparation in done] == [False, True]
    assert len(built) == 1


def test_two_processes_that_prepare_two_texts_leave_one_of_them_whole(book, namesake, data_dir):
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "quillgpt", "prepare", str(text), "--dataset=book", f"--data_dir={data_dir}"],
            stderr=subprocess.PIPE,
        )
        for text in (book, namesake)
    ]
    assert [process.wait(60) for process in processes] == [0, 0]
    for process in processes:
        process.stderr.close()
    dataset = open_dataset("book", data_dir)
    assert words(dataset) in (TEXT[: len(words(dataset))], OTHER[: len(words(dataset))])


@pytest.mark.parametrize("kind", [OSError, PermissionError, NotImplementedError])
def test_where_nothing_can_be_locked_it_is_prepared_with_a_warning(book, data_dir, monkeypatch, capsys, kind):
    def fail(*_, **__):
        raise kind("no locks available")

    monkeypatch.setattr(filelock.FileLock, "acquire", fail)
    assert words(prepare([str(book)], data_dir=data_dir).dataset)
    assert "cannot be locked here (no locks available)" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["{", "", "[]", "null", '{"format_version": 2}', "\0" * 900, None])
def test_a_damaged_record_does_not_let_another_text_in(book, namesake, data_dir, damage):
    folder = prepare([str(book)], data_dir=data_dir).dataset.folder
    if damage is None:
        (folder / "dataset.json").unlink()
    else:
        (folder / "dataset.json").write_text(damage)
    before = contents(folder)
    for text, name in ((namesake, None), (namesake, "book"), (book, None)):
        with pytest.raises(DataError, match=r"dataset\.json.*cannot tell what train\.bin, val\.bin,.*--overwrite"):
            prepare([str(text)], data_dir=data_dir, dataset=name, replace=name is not None)
    with pytest.raises(DataError, match="--overwrite"):
        ensure_dataset("book", data_dir=data_dir)
    assert contents(folder) == before
    assert "cow" in words(prepare([str(namesake)], data_dir=data_dir, overwrite=True).dataset)
    assert (folder / "train.bin.kept").read_bytes() == before["train.bin"]


def test_a_text_that_is_gone_is_not_replaced_by_its_namesake_but_one_that_moved_is_known(book, namesake, data_dir):
    first = prepare([str(book)], data_dir=data_dir).dataset
    book.unlink()
    with pytest.raises(DataError, match=r"was made from .*book\.txt.*another text.*quill prepare PATH --dataset=book"):
        prepare([str(namesake)], data_dir=data_dir)
    namesake.write_text(TEXT)
    assert prepare([str(namesake)], data_dir=data_dir).dataset.fingerprint == first.fingerprint


def test_a_recipe_does_not_take_the_place_of_a_text_that_was_given_its_name(book, data_dir):
    before = prepare([str(book)], data_dir=data_dir, dataset="shakespeare_char", replace=True).dataset
    with pytest.raises(DataError, match=r"was made from .*book\.txt"):
        prepare(["shakespeare_char"], data_dir=data_dir)
    assert ensure_dataset("shakespeare_char", data_dir=data_dir).fingerprint == before.fingerprint


@pytest.mark.parametrize(
    "files",
    [
        {"train.bin": b"\1\0" * 9},
        {"train.bin": b"\1\0" * 9, "val.bin": b"\1\0" * 9},
        {"val.bin": b""},
        {"tokenizer.json": b"{}"},
        {"tokenizer_config.json": b"{}"},
        {"train.bin": b"x", "meta.pkl": b"x", "input.txt": TEXT.encode()},
    ],
    ids=lambda files: "+".join(files),
)
@pytest.mark.parametrize("name", [None, "book"])
def test_what_is_not_quills_is_not_replaced_and_is_named(book, data_dir, files, name):
    folder = data_dir / "book"
    folder.mkdir(parents=True)
    for file, content in files.items():
        (folder / file).write_bytes(content)
    with pytest.raises(DataError, match="cannot tell what") as caught:
        prepare([str(book)], data_dir=data_dir, dataset=name, replace=name is not None)
    assert all(file in str(caught.value) for file in files if file.endswith((".bin", ".json")))
    assert contents(folder) == files


def test_a_foreign_file_beside_a_text_is_not_replaced_by_training_on_it(data_dir):
    folder = data_dir / "book"
    folder.mkdir(parents=True)
    (folder / "input.txt").write_text(TEXT)
    (folder / "train.bin").write_bytes(b"mine")
    with pytest.raises(DataError, match=r"cannot tell what train\.bin"):
        ensure_dataset("book", data_dir=data_dir)
    assert (folder / "train.bin").read_bytes() == b"mine"


@pytest.mark.parametrize(
    "step", ["quillgpt.data.shards.ShardWriter.write", "quillgpt.text.tokenizers.byte.ByteTokenizer.save"]
)
def test_a_full_disk_leaves_the_data_set_as_it_was(book, data_dir, monkeypatch, step):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(step, full)
        with pytest.raises(DataError, match=r"No space left on device\): nothing of it is kept; make room"):
            prepare([str(book)], data_dir=data_dir)
    assert not (data_dir / "book").exists()
    before = contents(prepare([str(book)], data_dir=data_dir).dataset.folder)
    book.write_text(OTHER)
    with monkeypatch.context() as patch:
        patch.setattr(step, full)
        with pytest.raises(DataError, match=r"No space left on device\): the earlier data set is unchanged"):
            prepare([str(book)], data_dir=data_dir)
    assert contents(data_dir / "book") == before
    assert not (data_dir / "book" / STAGING).exists()


def test_other_files_in_the_folder_stay(book, data_dir):
    folder = data_dir / "book"
    folder.mkdir(parents=True)
    (folder / "notes.md").write_text("mine")
    prepare([str(book)], data_dir=data_dir)
    book.write_text(OTHER)
    prepare([str(book)], data_dir=data_dir)
    assert (folder / "notes.md").read_text() == "mine"


def test_nanogpts_table_is_not_removed_unless_asked(book, data_dir):
    folder = prepare([str(book)], data_dir=data_dir).dataset.folder
    (folder / "meta.pkl").write_bytes(pickle.dumps({"itos": dict(enumerate("zyx"))}))
    book.write_text(OTHER)
    before = contents(folder)
    for use in (lambda: prepare([str(book)], data_dir=data_dir), lambda: ensure_dataset("book", data_dir=data_dir)):
        with pytest.raises(DataError, match=r"meta\.pkl, which is nanoGPT's.*--overwrite"):
            use()
    assert contents(folder) == before
    prepare([str(book)], data_dir=data_dir, overwrite=True)
    assert not (folder / "meta.pkl").exists()
    assert (folder / "meta.pkl.kept").read_bytes() == before["meta.pkl"]


def from_elsewhere(folder, location):
    """Let a data set name another file as its text, as a data set from elsewhere may."""
    recorded = json.loads((folder / "dataset.json").read_text())
    recorded["sources"] = [recorded["sources"][0] | {"location": str(location)}]
    (folder / "dataset.json").write_text(json.dumps(recorded))


def test_a_data_set_from_elsewhere_reads_no_file_that_it_names(book, data_dir, tmp_path, capsys, monkeypatch):
    dataset = prepare([str(book)], data_dir=data_dir).dataset
    private = tmp_path / "private.txt"
    private.write_text("my secret words\n" * 50)
    from_elsewhere(dataset.folder, private)
    monkeypatch.setattr("quillgpt.text.sources.documents.sha256_of", lambda path: pytest.fail(f"{path} was read"))
    assert ensure_dataset("book", data_dir=data_dir).fingerprint == dataset.fingerprint
    assert "was not prepared with this cache folder, so it is used as it is" in capsys.readouterr().err
    with pytest.raises(DataError, match="give the text: quill prepare PATH --dataset=book"):
        prepare(["book"], data_dir=data_dir)
    flipped = np.fromfile(dataset.folder / "train.bin", np.uint16)[::-1]
    flipped.tofile(dataset.folder / "train.bin")
    with pytest.raises(DataError, match=r"train\.bin is damaged"):
        ensure_dataset("book", data_dir=data_dir)


@unix
def test_a_data_set_from_elsewhere_reads_no_text_through_a_link(book, data_dir, tmp_path):
    dataset = prepare([str(book)], data_dir=data_dir).dataset
    private = tmp_path / "private.txt"
    private.write_text("my secret words\n" * 50)
    (dataset.folder / "input.txt").symlink_to(private)
    from_elsewhere(dataset.folder, private)
    assert ensure_dataset("book", data_dir=data_dir).fingerprint == dataset.fingerprint


@pytest.mark.parametrize("location", ["", "x" * 5000, "/" + "x" * 5000, "a\0b", "/dev/zero", "../..", "~", "\ud800"])
def test_a_data_set_from_elsewhere_may_name_any_path(book, data_dir, location):
    dataset = prepare([str(book)], data_dir=data_dir).dataset
    from_elsewhere(dataset.folder, location)
    assert ensure_dataset("book", data_dir=data_dir).fingerprint == dataset.fingerprint
    book.write_text(OTHER)
    with pytest.raises(UserError) as caught:
        prepare([str(book)], data_dir=data_dir)
    assert len(str(caught.value)) < 1000


def test_a_data_set_that_was_moved_or_renamed_still_notices_its_text(book, data_dir, tmp_path):
    prepare([str(book)], data_dir=data_dir)
    data_dir.rename(tmp_path / "corpora")
    (tmp_path / "corpora" / "book").rename(tmp_path / "corpora" / "novel")
    book.write_text(OTHER)
    assert "cow" in words(ensure_dataset("novel", data_dir=tmp_path / "corpora"))


def test_a_data_set_of_a_lost_cache_is_known_again_once_its_text_was_given(book, data_dir, tmp_path, monkeypatch):
    prepare([str(book)], data_dir=data_dir)
    monkeypatch.setenv("QUILL_HOME", str(tmp_path / "new-home"))
    assert prepare([str(book)], data_dir=data_dir).reused
    book.write_text(OTHER)
    assert "cow" in words(ensure_dataset("book", data_dir=data_dir))


def test_a_folder_without_tokens_is_not_suggested_in_its_own_place(data_dir):
    (data_dir / "book").mkdir(parents=True)
    for use in (lambda: open_dataset("book", data_dir), lambda: ensure_dataset("book", data_dir=data_dir)):
        with pytest.raises(
            DataError, match=r"book is there, but no tokens are in it: put its text there as input\.txt"
        ):
            use()


@pytest.mark.parametrize("name", ["train.bin", "tokenizer.json", "dataset.json"])
def test_a_folder_in_the_place_of_a_file_is_named_and_nothing_is_lost(book, data_dir, name):
    (data_dir / "book" / name).mkdir(parents=True)
    for overwrite in (False, True):
        with pytest.raises(DataError, match=rf"{name}.* is (a folder|not a file)"):
            prepare([str(book)], data_dir=data_dir, overwrite=overwrite)
    assert [path.name for path in (data_dir / "book").iterdir()] == [name]


@unix
def test_a_file_in_the_place_of_the_folder_is_named(book, data_dir):
    data_dir.mkdir()
    (data_dir / "book").write_text("a file")
    with pytest.raises(DataError, match=r"book is a file"):
        prepare([str(book)], data_dir=data_dir)
    (data_dir / "book").unlink()
    (data_dir / "book").symlink_to(data_dir / "nowhere")
    with pytest.raises(DataError, match=r"book is a broken link"):
        prepare([str(book)], data_dir=data_dir)
    (data_dir.parent / "file").write_text("")
    with pytest.raises(DataError, match=r"file is a file, and data sets are kept in a folder.*--data_dir"):
        prepare([str(book)], data_dir=data_dir.parent / "file")
