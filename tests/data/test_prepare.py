import io
import json
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from quillgpt.data.dataset import open_dataset
from quillgpt.data.prepare import ensure_dataset, prepare
from quillgpt.errors import DataError, TokenizerError
from quillgpt.files import sha256_of
from quillgpt.stopping import words_on
from quillgpt.text.sources.downloads import TINY_SHAKESPEARE
from quillgpt.text.tokenizers.byte import ByteTokenizer
from quillgpt.text.tokenizers.char import CharTokenizer

TEXT = "The cat sat on the mat.\nThe dog  sat on the log.\n\n" * 20
FILES = ["dataset.json", "tokenizer.json", "tokenizer_config.json", "train.bin", "val.bin"]


@pytest.fixture
def data_dir(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "My-Book.txt"
    path.write_text(TEXT)
    return path


def words(dataset, split="train"):
    return dataset.tokenizer.decode(getattr(dataset, split))


def test_a_file_makes_a_data_set_of_its_name(book, data_dir):
    done = prepare([str(book)], data_dir=data_dir)
    assert done.dataset.folder == data_dir / "my_book"
    assert done.dataset.tokenizer.name == "byte"
    assert words(done.dataset) == TEXT[: int(len(TEXT) * 0.9)]
    assert words(done.dataset, "val") == TEXT[int(len(TEXT) * 0.9) :]
    recorded = json.loads((data_dir / "my_book" / "dataset.json").read_text())
    (source,) = recorded["sources"]
    file = {"location": str(book), "sha256": sha256_of(book), "bytes": len(TEXT), "encoding": "utf-8"}
    assert source == {**file, "format": None, "column": None, "read": {}, "dropped": {}}
    assert recorded["train"]["characters"] + recorded["val"]["characters"] == len(TEXT)
    assert recorded["train"]["sha256"] == sha256_of(data_dir / "my_book" / "train.bin")
    assert sorted(path.name for path in done.dataset.folder.iterdir()) == FILES


def test_an_unchanged_data_set_is_reused_and_this_is_said(book, data_dir, capsys):
    assert not prepare([str(book)], data_dir=data_dir).reused
    assert prepare([str(book)], data_dir=data_dir).reused
    assert "unchanged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"tokenizer": "char"}, "its tokenizer was byte, not char"),
        ({"tokenizer": CharTokenizer(sorted(set(TEXT + "z")))}, "its tokenizer byte is not the same"),
        ({"val_fraction": 0.2}, "not split with"),
        ({"val": "book"}, "its validation text has changed"),
        ({"text": TEXT + "More."}, "its text has changed"),
    ],
    ids=["tokenizer", "alphabet", "fraction", "val", "text"],
)
def test_a_change_is_noticed_and_prepared_again(book, data_dir, capsys, change, reason):
    prepare([str(book)], data_dir=data_dir)
    if "text" in change:
        book.write_text(change.pop("text"))
    if "val" in change:
        change["val"] = str(book)
    assert not prepare([str(book)], data_dir=data_dir, **change).reused
    assert reason in capsys.readouterr().err
    assert prepare([str(book)], data_dir=data_dir, **change).reused


def test_a_damaged_data_set_is_prepared_again(book, data_dir):
    before = prepare([str(book)], data_dir=data_dir)
    (before.dataset.folder / "val.bin").write_bytes(b"")
    assert not prepare([str(book)], data_dir=data_dir).reused
    (before.dataset.folder / "dataset.json").write_text("{")
    after = prepare([str(book)], data_dir=data_dir, overwrite=True)
    assert after.dataset.fingerprint == before.dataset.fingerprint


def test_training_on_a_data_set_keeps_its_settings_and_notices_its_text(book, data_dir):
    prepare([str(book)], data_dir=data_dir, tokenizer="bpe:265", val_fraction=0.25)
    first = ensure_dataset("my-book", data_dir=data_dir)
    assert first.tokenizer.name == "bpe:265"
    book.write_text(TEXT.replace("cat", "cow"))
    second = ensure_dataset("my_book", data_dir=data_dir)
    assert "cow" in words(second)
    assert second.tokenizer.name == "bpe:265"
    assert second.manifest.val_fraction == 0.25
    book.unlink()
    assert ensure_dataset("my_book", data_dir=data_dir).fingerprint == second.fingerprint
    with pytest.raises(DataError, match="my_book"):
        prepare(["my_book"], data_dir=data_dir)


def test_an_input_in_the_folder_wins_over_the_recipes_text(data_dir, monkeypatch, tmp_path):
    monkeypatch.setenv("QUILL_HOME", str(tmp_path / "nothing"))
    monkeypatch.delenv("QUILL_MIRROR", raising=False)
    own = data_dir / "shakespeare_char" / "input.txt"
    own.parent.mkdir(parents=True)
    own.write_text(TEXT)
    dataset = ensure_dataset("shakespeare-char", data_dir=data_dir)
    assert dataset.folder == own.parent
    assert words(dataset) == TEXT[: int(len(TEXT) * 0.9)]
    own.write_text(TEXT.replace("cat", "cow"))
    assert "cow" in words(ensure_dataset("shakespeare_char", data_dir=data_dir))
    own.write_text(TEXT.replace("cat", "hen"))
    assert "hen" in words(prepare(["shakespeare_char"], data_dir=data_dir).dataset)


@pytest.mark.download
def test_a_recipe_is_prepared_when_missing_and_reused_without_its_download(data_dir, published, monkeypatch, tmp_path):
    published(TINY_SHAKESPEARE)
    first = ensure_dataset("shakespeare_char", data_dir=data_dir)
    monkeypatch.setenv("QUILL_HOME", str(tmp_path / "nothing"))
    monkeypatch.delenv("QUILL_MIRROR", raising=False)
    modified = (first.folder / "train.bin").stat().st_mtime_ns
    assert ensure_dataset("Shakespeare-Char", data_dir=data_dir).fingerprint == first.fingerprint
    assert (first.folder / "train.bin").stat().st_mtime_ns == modified


def test_python_docs_needs_nothing(data_dir, monkeypatch):
    monkeypatch.delenv("QUILL_MIRROR", raising=False)
    monkeypatch.setattr("requests.Session.request", lambda *_, **__: pytest.fail("went to the network"))
    dataset = ensure_dataset("python-docs", data_dir=data_dir)
    assert len(dataset.train) > 200_000
    assert dataset.tokenizer.vocab_size < 100
    assert prepare(["python_docs"], data_dir=data_dir).reused


@pytest.mark.parametrize("name", ["input.txt", "poems.txt"])
def test_a_folder_that_holds_its_text_is_prepared_by_name(data_dir, name):
    (data_dir / "poems").mkdir(parents=True)
    (data_dir / "poems" / name).write_text(TEXT)
    assert words(prepare(["poems"], data_dir=data_dir, tokenizer="byte").dataset).startswith("The cat")
    assert ensure_dataset("poems", data_dir=data_dir).tokenizer.name == "byte"


def test_several_files_end_with_the_end_of_text_where_there_is_one(tmp_path, data_dir):
    first, second = tmp_path / "a.txt", tmp_path / "b.txt"
    first.write_text("one two\n")
    second.write_text("three")
    given = [str(first), str(second)]
    dataset = prepare(given, data_dir=data_dir, tokenizer="byte", val_fraction=0.2).dataset
    assert dataset.ends_documents
    assert dataset.name == "a"
    assert words(dataset) + words(dataset, "val") == "one two\n<|endoftext|>three<|endoftext|>"
    assert words(dataset) == "one two\n<|endoftext|>th"
    assert (dataset.manifest.train.documents, dataset.manifest.val.documents) == (2, 1)
    assert ensure_dataset("a", data_dir=data_dir).ends_documents

    dataset = prepare(given, data_dir=data_dir, tokenizer="char", val_fraction=0.2).dataset
    assert not dataset.ends_documents
    assert words(dataset) + words(dataset, "val") == "one two\n\nthree"
    dataset = prepare(given[::-1], data_dir=data_dir, tokenizer="char").dataset
    assert words(dataset) + words(dataset, "val") == "three\n\none two\n"
    single = prepare(given[:1], data_dir=data_dir, tokenizer="byte").dataset
    assert not single.ends_documents
    assert 256 not in single.val


def test_a_folder_is_its_texts_in_order(tmp_path, data_dir):
    folder = tmp_path / "Letters home"
    (folder / "1914").mkdir(parents=True)
    (folder / "b.md").write_text("bbb")
    (folder / "1914" / "a.txt").write_text("aaa")
    (folder / "photo.jpg").write_bytes(b"\0\1")
    dataset = prepare([str(folder)], data_dir=data_dir, tokenizer="byte").dataset
    assert dataset.name == "letters_home"
    assert words(dataset) + words(dataset, "val") == "aaa<|endoftext|>bbb<|endoftext|>"
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"has no texts or documents"):
        prepare([str(tmp_path / "empty")], data_dir=data_dir)


def test_standard_input_is_read_once(data_dir, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode())))
    dataset = prepare(["-"], data_dir=data_dir).dataset
    assert dataset.name == "stdin"
    assert words(dataset) == TEXT[: int(len(TEXT) * 0.9)]
    assert ensure_dataset("stdin", data_dir=data_dir).fingerprint == dataset.fingerprint
    with pytest.raises(DataError, match="given twice"):
        prepare(["-"], data_dir=data_dir, val="-")


def test_a_validation_text_of_its_own(book, tmp_path, data_dir):
    val = tmp_path / "val.txt"
    val.write_text("A zebra sat.\n")
    dataset = prepare([str(book)], data_dir=data_dir, val=str(val)).dataset
    assert words(dataset) == TEXT
    assert words(dataset, "val") == "A zebra sat.\n"
    val.write_text("A zebra ran.\n")
    assert words(ensure_dataset("my_book", data_dir=data_dir), "val") == "A zebra ran.\n"


@pytest.mark.parametrize("val_fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_an_impossible_val_fraction_is_named(book, data_dir, val_fraction):
    with pytest.raises(DataError, match=f"val_fraction is {val_fraction}"):
        prepare([str(book)], data_dir=data_dir, val_fraction=val_fraction)


def test_a_text_too_short_to_split_is_an_error(tmp_path, data_dir):
    path = tmp_path / "x.txt"
    path.write_text("x")
    with pytest.raises(DataError, match=r"too short .*it has 1\)"):
        prepare([str(path)], data_dir=data_dir)
    path.write_text("xyz")
    with pytest.raises(DataError, match=r"too short to hold out val_fraction 1e-20"):
        prepare([str(path)], data_dir=data_dir, val_fraction=1e-20)
    assert not (data_dir / "x" / "dataset.json").exists()


def test_a_given_tokenizer_is_used_and_recorded(book, tmp_path, data_dir):
    model = CharTokenizer(sorted(set(TEXT + "xyz"), reverse=True))
    model.save(tmp_path / "model")
    for given in (model, str(tmp_path / "model")):
        dataset = prepare([str(book)], data_dir=data_dir, tokenizer=given).dataset
        assert dataset.tokenizer.fingerprint == dataset.manifest.tokenizer.fingerprint == model.fingerprint
    book.write_text(TEXT + "xyz" * 50)
    assert ensure_dataset("my_book", data_dir=data_dir).tokenizer.fingerprint == model.fingerprint
    assert ensure_dataset("my_book", data_dir=data_dir, tokenizer=ByteTokenizer()).tokenizer.name == "byte"
    assert ensure_dataset("my_book", data_dir=data_dir, tokenizer="char").tokenizer.fingerprint != model.fingerprint


def test_a_failure_leaves_the_data_set_as_it_was(book, data_dir):
    before = prepare([str(book)], data_dir=data_dir).dataset
    files = {path.name: path.read_bytes() for path in before.folder.iterdir()}
    with pytest.raises(TokenizerError, match="'T'"):
        prepare([str(book)], data_dir=data_dir, tokenizer=CharTokenizer("abc"))
    assert {path.name: path.read_bytes() for path in before.folder.iterdir()} == files
    assert open_dataset("my_book", data_dir).fingerprint == before.fingerprint


def test_an_interrupted_preparation_leaves_the_data_set_as_it_was_and_says_so(book, data_dir, monkeypatch):
    before = prepare([str(book)], data_dir=data_dir).dataset
    book.write_text(TEXT.replace("cat", "cow"))
    with monkeypatch.context() as patch:
        patch.setattr(
            "quillgpt.data.dataset_manifest.DatasetManifest.save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt) as caught:
            prepare([str(book)], data_dir=data_dir)
    assert words_on(caught.value).endswith(
        "my_book was prepared: the earlier data set is unchanged; the same command starts again"
    )
    assert open_dataset("my_book", data_dir).fingerprint == before.fingerprint
    assert sorted(path.name for path in before.folder.iterdir()) == FILES
    assert "cow" in words(prepare([str(book)], data_dir=data_dir).dataset)


def test_many_ids_are_written_as_uint32(tmp_path, data_dir):
    alphabet = "".join(chr(code) for code in range(0x20, 0x12000) if not 0xD800 <= code < 0xE000 and code != 0x85)
    path = tmp_path / "all.txt"
    path.write_text(alphabet, encoding="utf-8")
    dataset = prepare([str(path)], data_dir=data_dir, tokenizer="char").dataset
    assert dataset.train.dtype == dataset.val.dtype == np.uint32
    assert words(dataset) + words(dataset, "val") == alphabet


@pytest.mark.parametrize("tokenizer", ["char", "byte", "bpe:300"])
def test_the_size_of_chunks_changes_no_file(book, data_dir, tokenizer):
    fingerprints = {
        prepare(
            [str(book)], data_dir=data_dir, dataset=f"x{size}", tokenizer=tokenizer, chunk_characters=size
        ).dataset.fingerprint
        for size in (1, 13, 400, 1 << 20)
    }
    assert len(fingerprints) == 1


def test_memory_does_not_grow_with_the_text(tmp_path, data_dir):
    path = tmp_path / "long.txt"
    path.write_text(TEXT * 4000)  # 4 MB
    tracemalloc.start()
    prepare([str(path)], data_dir=data_dir, tokenizer="byte", chunk_characters=1 << 14)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3_500_000


def test_preparing_does_without_torch(book, data_dir):
    program = (
        "import sys; from quillgpt.cli import main; "
        "status = main(sys.argv[1:]); "
        "print([name for name in ('torch', 'transformers', 'matplotlib') if name in sys.modules]); sys.exit(status)"
    )
    command = [sys.executable, "-c", program, "prepare", str(book), "--tokenizer=bpe:300", f"--data_dir={data_dir}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "[]"), done.stderr
    assert (data_dir / "my_book" / "train.bin").is_file()


def test_legacy_encodings_are_announced(tmp_path, data_dir, capsys):
    path = tmp_path / "lied.txt"
    path.write_bytes(
        ("Über allen Gipfeln ist Ruh, in allen Wipfeln spürest du kaum einen Hauch.\n" * 9).encode("cp1252")
    )
    assert words(prepare([str(path)], data_dir=data_dir).dataset).startswith("Über")
    assert "lied.txt is not UTF-8; it is read as windows-1252" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], "nothing to prepare"),
        (["shakspeare-char"], "did you mean shakespeare_char"),
        (["nowhere.txt"], "neither a file"),
        (["nowhere.txt", "shakespeare"], "nowhere.txt is neither a file"),
    ],
)
def test_missing_sources_are_named(data_dir, given, expected):
    with pytest.raises(DataError) as caught:
        prepare(given, data_dir=data_dir)
    assert expected in str(caught.value)


def test_the_usual_tokenizer_depends_on_the_size_of_the_text(tmp_path, data_dir, capsys):
    path = tmp_path / "long.txt"
    for characters, expected in ((1000, "byte"), (250_000, "bpe:512")):
        path.write_text((TEXT * (characters // len(TEXT) + 1))[:characters])
        assert not prepare([str(path)], data_dir=data_dir).reused
        assert f"tokenizer {expected}, the usual one for {characters / 1000:,.1f} kB" in capsys.readouterr().err


def test_a_data_set_keeps_its_tokenizer_while_its_text_is_the_same(book, data_dir):
    prepare([str(book)], data_dir=data_dir, tokenizer="char")
    again = prepare([str(book)], data_dir=data_dir)
    assert again.reused
    assert again.dataset.tokenizer.name == "char"
    book.write_text(TEXT + "More.")
    assert prepare([str(book)], data_dir=data_dir).dataset.tokenizer.name == "byte"


@pytest.mark.parametrize(
    ("given", "words"),
    [("", "an empty word"), (" ", "an empty word"), ("hf:", "hf: names no data set"), ("http://[::1/x", "no address")],
)
def test_a_word_that_names_nothing_is_reported(data_dir, given, words):
    with pytest.raises(DataError, match=words):
        prepare([given], data_dir=data_dir)
