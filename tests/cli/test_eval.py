"""`quill eval`: several models and data sets, the three forms of the results, and what it refuses."""

import gc
import json
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from quillgpt import api
from quillgpt.checkpoint import save_model
from quillgpt.cli import main
from quillgpt.data.prepare import prepare
from quillgpt.text.tokenizers.byte import ByteTokenizer
from quillgpt.text.tokenizers.tokenizer import load_tokenizer
from tiny import GPT2, tiny_model

MACHINE = ("--device=cpu", "--dtype=float32", "--threads=1")
LETTERS = [f"Letter {number}. {'It rains again, ' * (1 + number % 4)}yours, N.\n" for number in range(40)]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with the data sets `letters` and `letters_char` of documents, and `book` of one text."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "letters").mkdir()
    for number, text in enumerate(LETTERS):
        (tmp_path / "letters" / f"{number:02}.txt").write_text(text)
    (tmp_path / "book.txt").write_text("".join(LETTERS) * 2)
    data_dir = tmp_path / "data"
    prepare(["letters"], data_dir=data_dir, tokenizer="byte")
    prepare(["letters"], data_dir=data_dir, tokenizer="char", dataset="letters_char")
    prepare(["book.txt"], data_dir=data_dir, tokenizer="byte")
    return tmp_path


def save(name, *, dataset="letters", seed=0, **changes):
    tokenizer = load_tokenizer(Path("data") / dataset) if dataset.endswith("char") else ByteTokenizer()
    model = tiny_model(GPT2, vocab_size=tokenizer.vocab_size, seed=seed, **changes)
    save_model(Path(name), model, tokenizer, about={"dataset": dataset})


@pytest.fixture
def quill(here, capsys):
    def run(*words):
        capsys.readouterr()
        status = main(["eval", *words, *MACHINE])
        told = capsys.readouterr()
        return status, told.out, " ".join(told.err.split())

    return run


def test_a_table_markdown_and_json_say_the_same(quill):
    save("one")
    save("two", seed=1)
    words = ("one,two", "--dataset=letters,book", "--split=val", "--stride=4")
    status, out, err = quill(*words)
    assert status == 0
    assert "two, book val: loss " in err
    rows = [json.loads(line) for line in quill(*words, "--json")[1].splitlines()]
    scores, differences = rows[:4], rows[4:]
    assert [(row["model"], row["dataset"]) for row in scores] == [
        ("one", "letters"),
        ("one", "book"),
        ("two", "letters"),
        ("two", "book"),
    ]
    table = out.splitlines()
    assert table[0] == "Loss in nats per token, with its standard error"
    assert [line.split()[:3] for line in table[2:6]] == [
        ["one", "letters", "val"],
        ["two", "letters", "val"],
        ["one", "book", "val"],
        ["two", "book", "val"],
    ]
    for row, line in zip(sorted(scores, key=lambda row: row["dataset"] == "book"), table[2:6], strict=True):
        assert f" {row['loss']:.4f}  {row['standard_error']:.2g}  {row['units']:,} {row['unit']}" in line
        assert row["unit"] == ("document" if row["dataset"] == "letters" else "block")
        assert f" {row['bits_per_byte']:.4f} " in line
        assert line.endswith("13 to 16")
        assert (row["shortest_context"], row["longest_context"], row["stride"]) == (13, 16, 4)
        assert row["bits_per_byte"] == pytest.approx(row["loss"] * row["tokens"] / np.log(2) / row["bytes"])
        assert row["interval"][0] < row["loss"] < row["interval"][1]
    for row, line in zip(differences, table[8:10], strict=True):
        one, two = (
            next(s for s in scores if (s["model"], s["dataset"]) == (m, row["dataset"])) for m in ("one", "two")
        )
        assert row["difference"] == pytest.approx(two["loss"] - one["loss"], abs=1e-6)
        assert (row["model"], row["baseline"], row["measure"]) == ("two", "one", "nats per token")
        assert line.split()[:5] == ["two", "one", row["dataset"], "val", f"{row['difference']:+.4f}"]
        assert line.endswith(row["verdict"])
    status, markdown, _ = quill(*words, "--markdown")
    cells = [line.strip("| ").split(" | ") for line in markdown.splitlines() if line.startswith("| ")]
    assert [" ".join(row).split() for row in cells] == [line.split() for line in table[1:6] + table[7:10]]


def test_without_a_stride_one_model_has_the_numbers_that_it_had(quill):
    save("one")
    status, out, _ = quill("one", "--json")
    train, val = (json.loads(line) for line in out.splitlines())
    assert status == 0
    assert list(train)[:9] == [
        "model",
        "dataset",
        "split",
        "batches",
        "loss",
        "perplexity",
        "bits_per_byte",
        "tokens",
        "block_size",
    ]
    assert (train["split"], train["batches"], val["split"], val["batches"]) == ("train", 20, "val", None)
    assert (val["stride"], val["block_size"], val["shortest_context"], val["longest_context"]) == (None, None, 1, 16)
    assert val["tokens"] % 16 == 0


def test_a_model_and_its_copy_are_not_told_apart(quill):
    save("one")
    save("copy")
    status, out, _ = quill("one,copy,one", "--split=val", "--json")
    assert status == 0
    for row in map(json.loads, out.splitlines()[3:]):
        assert (row["difference"], row["interval"]) == (0, [0, 0])
        assert row["verdict"] == "no difference can be told"


def test_models_of_other_tokenizers_read_their_own_data_sets_and_are_compared_by_document(quill):
    save("bytes")
    save("chars", dataset="letters_char")
    status, out, err = quill("bytes,chars", "--split=val", "--stride=8", "--json")
    assert status == 0
    assert "bytes is not measured on letters_char, which was prepared with another tokenizer" in err
    one, two, difference = map(json.loads, out.splitlines())
    assert (one["dataset"], two["dataset"]) == ("letters", "letters_char")
    assert one["unit"] == two["unit"] == "document"
    assert (difference["dataset"], difference["baseline_dataset"]) == ("letters_char", "letters")
    assert difference["measure"] == "bits per byte"
    assert difference["units"] >= one["units"] - 2  # the first document is not whole, and perhaps not the last one
    assert difference["difference"] == pytest.approx(two["bits_per_byte"] - one["bits_per_byte"], abs=0.3)
    status, _, err = quill("bytes,chars", "--dataset=book,letters_char", "--split=val")
    assert status == 0
    assert (
        "warning: chars and bytes cannot be compared on letters_char val: their tokenizers differ, and the text is not "
        "divided into documents; prepare one text of several documents with both tokenizers"
    ) in err


def test_models_that_see_less_or_more_are_compared_with_a_word_about_it(quill):
    save("short", block_size=8)
    save("long", block_size=32)
    status, out, err = quill("short,long", "--split=val", "--stride=4")
    assert status == 0
    assert "warning: long and short saw contexts of different lengths: 29 to 32 tokens, and 5 to 8" in err
    assert " 5 to 8\n" in out
    assert quill("short,long", "--split=val")[0] == 0
    status, _, err = quill("short,long", "--dataset=book", "--split=both", "--eval_iters=1", "--batch_size=1")
    assert status == 0
    assert "long and short cannot be compared on book train: their blocks have different lengths" in err
    status, _, err = quill("short,long", "--stride=9")
    assert status == 2
    assert "short: stride = 9 is larger than a window of 8 tokens" in err


def test_one_block_has_no_standard_error(quill):
    save("one", dataset="book", block_size=4096)
    status, out, err = quill("one,one", "--split=val", "--json")
    assert status == 0
    assert "is read in one block" in err
    score, _, difference = map(json.loads, out.splitlines())
    assert (score["standard_error"], score["interval"], score["unit"], score["units"]) == (None, None, "block", 1)
    assert (difference["interval"], difference["verdict"]) == (None, "no difference can be told")
    assert " 1 block " in quill("one", "--split=val")[1]


def test_a_loss_that_is_not_a_number_is_null_in_json(quill, here):
    model = tiny_model(GPT2, vocab_size=257)
    with torch.no_grad():
        model.final_norm.weight.fill_(torch.inf)
    save_model(here / "broken", model, ByteTokenizer(), about={"dataset": "letters"})
    save("one")
    status, out, err = quill("broken,one", "--split=val", "--json")
    assert status == 0
    assert "the loss on letters val is nan: the model overflows on this text" in err
    broken, _, difference = (json.loads(line, parse_constant=pytest.fail) for line in out.splitlines())
    assert broken["loss"] is broken["perplexity"] is broken["standard_error"] is None
    assert difference["difference"] is None
    assert difference["verdict"] == "no difference can be told"
    status, out, _ = quill("broken,one", "--split=val")
    assert status == 0
    assert out.splitlines()[2].split()[3:5] == ["nan", "-"]


def test_a_folder_whose_name_has_a_comma_is_one_model(quill):
    save("one, two")
    status, out, _ = quill("one, two", "--split=val", "--json")
    assert status == 0
    assert json.loads(out)["model"] == "one, two"


def test_weights_are_in_memory_for_one_model_at_a_time(quill, monkeypatch):
    for seed in range(3):
        save(f"model{seed}", seed=seed)
    alive, read = [], api.Model.gpt.func

    def reading(model):
        gc.collect()
        assert not [gpt for gpt in alive if gpt() is not None]
        gpt = read(model)
        alive.append(weakref.ref(gpt))
        return gpt

    watched = api.cached_property(reading)
    watched.__set_name__(api.Model, "gpt")
    monkeypatch.setattr(api.Model, "gpt", watched)
    assert quill("model0,model1,model2", "--split=val")[0] == 0
    assert len(alive) == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["one,nowhere"], "nowhere does not exist"),
        (["one", "--json", "--markdown"], "--json and --markdown are two forms of the same results; give one of them"),
        (["one", "--stride=17"], "stride = 17 is larger than a window of 16 tokens"),
        (["one", "--block_size=8", "--stride=9"], "stride = 9 is larger than a window of 8 tokens"),
        (["one", "--stride=0"], "--stride=0 must be a whole number above 0 or none"),
        (["one,one", "--dataset=letters,nothing"], "there is no data set nothing in data"),
        (["one", "--dataset=letters,letters_char"], "was prepared with the tokenizer char"),
        (["one,chars", "--dataset=letters"], "but the model in chars has another, char"),
        (["one", "--dataset=,"], "eval needs a data set"),
        ([","], "does not exist"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_computed(words, message, quill):
    save("one")
    save("chars", dataset="letters_char")
    status, out, err = quill(*words)
    assert status in (1, 2)
    assert out == ""
    assert message in err
    assert err.startswith("quill: ")


def test_a_damaged_token_file_is_named(quill, here):
    save("one")
    (here / "data" / "letters" / "val.bin").write_bytes(b"")
    status, out, err = quill("one,one")
    assert (status, out) == (1, "")
    assert "val.bin" in err
