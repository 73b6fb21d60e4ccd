"""What a run reads, and that a resumed run reads what it was trained on."""

from __future__ import annotations

from pathlib import Path

import pytest

from quillgpt.api import load
from quillgpt.data import verification
from quillgpt.data.dataset import open_dataset
from quillgpt.data.prepare import prepare
from quillgpt.errors import DataError
from quillgpt.training import train
from quillgpt.training.start.run_data import without_secrets

from .conftest import MakeSettings


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[0] ^= 1
    file.write_bytes(content)


def test_a_resumed_run_verifies_its_tokens_whatever_is_remembered(
    tiny: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "SETTLED_SECONDS", 0.0)
    train(tiny(max_iters=2))
    read, files = verification._read, []
    monkeypatch.setattr(verification, "_read", lambda path, dtype: (files.append(path.name), read(path, dtype))[1])
    train(tiny(max_iters=2, eval_only=True))
    assert files == []
    train(tiny(max_iters=3, init_from="resume"))
    assert files == ["train.bin", "val.bin"]


def test_a_large_token_file_is_read_once_and_not_at_each_resume(
    tiny: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "SETTLED_SECONDS", 0.0)
    monkeypatch.setattr(verification, "ANNOUNCED_BYTES", 2000)  # of which val.bin has fewer
    read, files = verification._read, []
    monkeypatch.setattr(verification, "_read", lambda path, dtype: (files.append(path.name), read(path, dtype))[1])
    train(tiny(max_iters=2))
    del files[:]
    train(tiny(max_iters=3, init_from="resume"))
    assert files == ["val.bin"]


def test_a_run_whose_tokens_were_damaged_is_resumed_when_they_can_be_made_again_and_else_refused(
    tiny: MakeSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tiny(max_iters=2))
    flip(tmp_path / "data" / "tiny" / "train.bin")
    capsys.readouterr()
    assert train(tiny(max_iters=3, init_from="resume")) is not None
    assert "train.bin is damaged" in capsys.readouterr().err
    flip(tmp_path / "data" / "tiny" / "train.bin")
    (tmp_path / "tiny.txt").unlink()
    with pytest.raises(DataError, match=r"train\.bin is damaged, or was changed"):
        train(tiny(max_iters=4, init_from="resume"))


def test_a_data_set_with_equal_ids_and_other_letters_is_not_taken_for_the_one_that_is_sought(
    tiny: MakeSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tiny(max_iters=2))
    text = (tmp_path / "tiny.txt").read_text()
    (tmp_path / "shifted.txt").write_text("".join(chr(ord(letter) + 1) for letter in text))
    other = prepare([str(tmp_path / "shifted.txt")], data_dir=tmp_path / "data", tokenizer="char").dataset
    own = open_dataset("tiny", tmp_path / "data")
    assert other.fingerprint == own.fingerprint
    flip(own.folder / "train.bin")
    train(tiny(max_iters=3, init_from="resume"))
    assert "train.bin is damaged" in capsys.readouterr().err
    assert open_dataset("tiny", tmp_path / "data").fingerprint == own.fingerprint
    assert load(tmp_path / "out", device="cpu", threads=1).tokenizer.fingerprint == own.tokenizer.fingerprint


def test_what_is_recorded_of_a_run_holds_no_secret_of_an_address(tiny: MakeSettings) -> None:
    kept = {"data": "a,b?c=1.txt,hf:owner/name", "val": None}
    assert without_secrets(tiny(**kept)) == tiny(**kept)
    given = tiny(data="https://example.org/a.txt?token=s3cret,b.txt", val="http://example.org/v?s3cret")
    recorded = without_secrets(given)
    assert (recorded.data, recorded.val) == (
        "https://example.org/a.txt?token=\u2026,b.txt",
        "http://example.org/v?\u2026",
    )
    assert recorded.model_fields_set == given.model_fields_set


@pytest.mark.parametrize("val", ["tiny.txt", "part.txt", "other.txt"])
def test_training_says_that_what_is_validated_on_is_trained_on(
    tiny: MakeSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str], val: str
) -> None:
    text = (tmp_path / "tiny.txt").read_text()
    (tmp_path / "part.txt").write_text(text[1000:3000])
    (tmp_path / "other.txt").write_text(" ".join(reversed(text[:3000].split())))
    prepare([str(tmp_path / "tiny.txt")], data_dir=tmp_path / "data", dataset="copy", val=str(tmp_path / val))
    capsys.readouterr()
    train(tiny(dataset="copy", max_iters=1))
    said = "100% of the validation text of copy is also in its training text, word for word" in capsys.readouterr().err
    assert said == (val != "other.txt")
