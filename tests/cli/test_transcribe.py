"""quill transcribe, for real."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quillgpt.speech.recognition import engines
from quillgpt.speech.recognition.transcript import SAMPLE_RATE
from speech.loudness import Loudness
from speech.recorded import record, tone
from speech.spoken import TEXT, overlap, speak_to


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def content(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_what_is_said_is_written(tmp_path: Path, quill: Any) -> None:
    speak_to(tmp_path / "talk.wav", TEXT)
    status = quill("transcribe", str(tmp_path / "talk.wav"), "--engine=pocketsphinx", f"--out={tmp_path / 'out'}")
    assert status == 0
    assert overlap(TEXT, (tmp_path / "out/talk.txt").read_text()) > 0.6
    written = content(tmp_path / "out/talk.json")
    assert written["source"]["name"] == "talk.wav"
    assert written["source"]["duration"] == pytest.approx(7.6, abs=0.1)
    assert (written["made_with"]["engine"], written["made_with"]["model"]) == ("pocketsphinx", "en-us")
    assert written["language"] == "en"
    segment = written["segments"][0]
    assert segment["fate"] in ("keep", "mark")
    assert 0 <= segment["start"] < segment["end"] <= 7.7
    assert 0 < segment["confidence"] <= 1
    assert quill.err.count("pocketsphinx is rough") == 1
    assert f"quill prepare {tmp_path / 'out'}" in quill.err


def test_what_fails_gets_one_line_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quill: Any
) -> None:
    monkeypatch.setitem(engines.ENGINES, "pocketsphinx", Loudness)
    record(tmp_path / "good.wav", tone(1))
    record(tmp_path / "silence.wav", np.zeros(SAMPLE_RATE, dtype=np.float32))
    record(tmp_path / "hum.wav", tone(1, loudness=0.005))
    (tmp_path / "empty.mp3").touch()
    (tmp_path / "text.mp3").write_text("A text.\n" * 100)
    record(tmp_path / "film.mp4", None, with_picture=True)
    out = tmp_path / "out"
    words = ["transcribe", str(tmp_path), str(tmp_path / "nothing*.wav"), str(tmp_path / "goood.wav")]
    for already in ("", " (as was found before)"):
        status = quill(*words, "--engine=pocketsphinx", f"--out={out}")
        assert status == 1
        failures = [line.removeprefix("failed: ") for line in quill.err.splitlines() if line.startswith("failed: ")]
        expected = [
            f"no file matches {tmp_path}/nothing*.wav",
            f"{tmp_path}/goood.wav does not exist; did you mean good.wav?",
            f"{tmp_path}/empty.mp3 is empty",
            f"{tmp_path}/film.mp4 is a video without sound",
            f"{tmp_path}/hum.wav has no speech in its 0:01: no text is written{already}",
            f"{tmp_path}/silence.wav is digital silence, 0:01 of it: no text is written{already}",
            f"{tmp_path}/text.mp3 is no recording that can be decoded: it is a text",
        ]
        assert len(failures) == len(expected)
        for line in expected:
            assert any(failure.startswith(line) for failure in failures), line
        assert "Traceback" not in quill.err
        assert files(out) == {"good.txt", "good.json", "silence.json", "hum.json"}


def test_nothing_can_be_transcribed_without_recordings(tmp_path: Path, quill: Any) -> None:
    (tmp_path / "notes.txt").write_text("a text")
    for words, status, expected in [
        (["transcribe", "--out=out"], 2, "transcribe needs recordings"),
        (["transcribe", str(tmp_path)], 2, "--out needs a value"),
        (["transcribe", str(tmp_path), "--out="], 2, "--out is empty"),
        (["transcribe", str(tmp_path), "--out=out"], 1, "has no recordings; it has 1 .txt"),
        (["transcribe", str(tmp_path / "x"), "--out=out"], 1, "does not exist"),
        (["transcribe", str(tmp_path / "x/y.wav"), "--out=out"], 1, f"neither does the folder {tmp_path}/x"),
        (["transcribe", "https://example.org/a.mp3", "--out=out"], 1, "is an address; download the recording"),
        (["transcribe", str(tmp_path), "--out=out", "--engine=whisperr"], 2, "engine"),
    ]:
        status = quill(*words)
        assert (status, quill.err.count("\n")) == (status, 1), quill.err
        assert expected in quill.err
    assert not (tmp_path / "out").exists()
