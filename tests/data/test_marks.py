import pytest

from quillgpt.data.dataset import open_dataset
from quillgpt.data.dataset_manifest import read_dataset_manifest
from quillgpt.data.marks import WrittenMarks, divided_at_marks
from quillgpt.data.prepare import prepare
from quillgpt.text.sources.documents import Mark

END, START = "<|endoftext|>", "<|startoftext|>"
DOCUMENT_END = Mark.DOCUMENT_END


def documents(stream):
    texts, text = [], ""
    for piece in stream:
        if isinstance(piece, Mark):
            texts.append(text)
            text = ""
        else:
            text += piece
    assert text == ""
    return texts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"one\n{END}\ntwo\n", ["one\n", "two\n"]),
        (f"{START}one{END}\n{START}two{END}\n", ["one", "two"]),
        (f"{END}{END}\n\n{END}a{END}", ["a"]),
        (f"a{START}b", ["a", "b"]),
        ("a < b <| endoftext|> <|end", ["a < b <| endoftext|> <|end"]),
        (END, []),
    ],
)
@pytest.mark.parametrize("size", [1, 5, 14, 1000])
def test_each_mark_ends_a_document_however_the_text_is_cut(text, expected, size):
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    assert documents(divided_at_marks([*pieces, DOCUMENT_END])) == expected
    assert documents(divided_at_marks([*pieces, DOCUMENT_END, "last", DOCUMENT_END])) == [*expected, "last"]


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_marks_are_counted_however_the_text_is_cut(size, capsys):
    text = f"{START}a{END}{END} <|endof"
    marks = WrittenMarks()
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    assert list(marks.watch([*pieces, DOCUMENT_END, "text|>"])) == [*pieces, DOCUMENT_END, "text|>"]
    marks.say(heeded=False)
    said = " ".join(capsys.readouterr().err.split())
    assert f"the text has {END} 2 times and {START} 1 times" in said
    assert "--end_of_text_marks" in said


def test_without_marks_nothing_is_said(capsys):
    marks = WrittenMarks()
    assert list(marks.watch(["no mark"])) == ["no mark"]
    marks.say(heeded=False)
    assert capsys.readouterr().err == ""


def test_a_text_with_marks_becomes_documents_where_that_is_asked_for(tmp_path, capsys):
    text = tmp_path / "stories.txt"
    text.write_text("".join(f"{START}\nStory {at}: all is well.\n{END}\n" for at in range(30)))
    data_dir = tmp_path / "data"
    plain = prepare([str(text)], data_dir=data_dir, tokenizer="byte")
    assert not plain.dataset.ends_documents
    assert f"{END} 30 times" in " ".join(capsys.readouterr().err.split())

    divided = prepare([str(text)], data_dir=data_dir, tokenizer="byte", end_of_text_marks=True)
    assert "cleaned differently" in capsys.readouterr().err
    assert divided.dataset.ends_documents
    assert divided.manifest.train.documents + divided.manifest.val.documents == 30
    manifest = read_dataset_manifest(data_dir / "stories")
    assert manifest is not None
    assert manifest.end_of_text_marks
    dataset = open_dataset("stories", data_dir)
    words = dataset.tokenizer.decode(dataset.train)
    assert words.startswith("Story 0: all is well.\n" + END + "Story")
    assert "startoftext" not in words
    assert prepare([str(text)], data_dir=data_dir, tokenizer="byte", end_of_text_marks=True).reused
