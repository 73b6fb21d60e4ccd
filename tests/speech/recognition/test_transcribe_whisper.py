"""`quill transcribe` with Whisper, from recordings to transcripts."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from faster_whisper import WhisperModel

from quillgpt.cli import main
from quillgpt.speech.recognition.transcript import SAMPLE_RATE
from speech.spoken import write_wav
from tiny_whisper import COURTESY, SENTENCE, said, silence


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """Return a folder with a recording of speech, and of speech after a long silence."""
    folder = tmp_path / "recordings"
    (folder / "more").mkdir(parents=True)
    for name, sound in {"one.wav": said(), "more/two.wav": np.concatenate([silence(30), said()])}.items():
        write_wav(folder / name, (sound * 32767).astype(np.int16), SAMPLE_RATE)
    return folder


def transcribe(recordings: Path, out: Path, model: Path, *more: str) -> int:
    return main(
        ["transcribe", str(recordings), f"--out={out}", f"--model={model}", "--device=cpu", "--threads=1", *more]
    )


@pytest.mark.parametrize("more", [[], ["--batch_size=4"], ["--language=de", "--compute_type=float32"]], ids=str)
def test_recordings_become_texts(recordings: Path, model: Path, tmp_path: Path, more: list[str]) -> None:
    out = tmp_path / "texts"
    assert transcribe(recordings, out, model, *more) == 0
    for name in ("one", "more/two"):
        assert (out / f"{name}.txt").read_text().strip() == SENTENCE
        record = json.loads((out / f"{name}.json").read_text())
        assert (record["made_with"]["engine"], record["made_with"]["model"]) == ("whisper", "whisper-tiny")
        assert record["language"] == ("de" if "--language=de" in more else "en")
        [segment] = record["segments"]
        assert (segment["text"], segment["fate"]) == (SENTENCE, "keep")
        assert segment["confidence"] > 0.8
    assert segment["start"] == pytest.approx(30, abs=1)


def test_what_whisper_invents_in_silence_is_left_out_and_reported(
    recordings: Path, model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "texts"
    assert transcribe(recordings / "more", out, model, "--vad=False") == 0
    assert (out / "two.txt").read_text().strip() == SENTENCE
    first, second = json.loads((out / "two.json").read_text())["segments"]
    assert (first["text"], first["fate"], second["text"]) == (COURTESY, "doubt", SENTENCE)
    assert "words that recognizers invent where nobody speaks" in capfd.readouterr().err
    assert transcribe(recordings / "more", out, model, "--vad=False", "--keep_doubtful") == 0
    assert COURTESY in (out / "two.txt").read_text()


def test_several_languages_are_reported_since_one_may_be_a_mistake(
    recordings: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert transcribe(recordings, tmp_path / "same", model) == 0
    assert not re.search(r"^languages", capfd.readouterr().err, re.MULTILINE)
    detect = WhisperModel.detect_language
    answers = iter(["en", "de"])

    def detect_in_turn(*arguments: object, **settings: object) -> tuple[str, float, object]:
        _, probability, every = detect(*arguments, **settings)
        return next(answers), probability, every

    monkeypatch.setattr(WhisperModel, "detect_language", detect_in_turn)
    assert transcribe(recordings, tmp_path / "mixed", model) == 0
    assert re.search(r"^languages +en 1, de 1$", capfd.readouterr().err, re.MULTILINE)


def test_a_model_in_another_format_is_one_line_with_the_converter(
    recordings: Path, tiny_models: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert transcribe(recordings, tmp_path / "texts", tiny_models[0]) == 1
    [line] = capfd.readouterr().err.splitlines()
    assert f"ct2-transformers-converter --model {tiny_models[0]} --output_dir {tiny_models[0]}-ct2" in line
