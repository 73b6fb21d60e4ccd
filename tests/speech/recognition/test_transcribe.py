"""Recordings become transcripts: all of them, once, in places of their own, whatever happens to some of them."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quillgpt.config.schema import TranscribeSettings
from quillgpt.errors import DataError, UserError
from quillgpt.speech.recognition import engines, transcribe
from quillgpt.speech.recognition.transcribe import Report
from quillgpt.speech.recognition.transcript import SAMPLE_RATE
from speech.loudness import Loudness
from speech.recorded import record, tone
from speech.spoken import TEXT, speak_to

SETTINGS = TranscribeSettings(engine="pocketsphinx")


@pytest.fixture
def loudness(monkeypatch: pytest.MonkeyPatch) -> type[Loudness]:
    class Fresh(Loudness):
        heard = 0  # of its own, since another test may count in this process with the class itself

    monkeypatch.setitem(engines.ENGINES, "pocketsphinx", Fresh)
    return Fresh


def transcribed(folder: Path, *sources: Path | str, settings: TranscribeSettings = SETTINGS, **more: Any) -> Report:
    return transcribe.transcribe([str(source) for source in sources], folder, settings, **more)


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def content(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_folders_keep_their_structure(tmp_path: Path, loudness: type[Loudness]) -> None:
    source = tmp_path / "source"
    (source / "one").mkdir(parents=True)
    (source / "two/deep").mkdir(parents=True)
    for name in ("one/talk.wav", "two/talk.wav", "two/deep/talk.wav", "two/Größe 日本.wav"):
        record(source / name, tone(1))
    (source / "notes.pdf").write_bytes(b"%PDF")
    report = transcribed(tmp_path / "out", source)
    assert report.failed == []
    stems = {"one/talk", "two/talk", "two/deep/talk", "two/Größe 日本"}
    assert files(tmp_path / "out") == {f"{stem}.{kind}" for stem in stems for kind in ("txt", "json")}


def test_recordings_of_the_same_name_do_not_collide(tmp_path: Path, loudness: type[Loudness]) -> None:
    loud, quiet = tone(1), tone(1, loudness=0.3)
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    record(tmp_path / "one/a.wav", loud)
    record(tmp_path / "one/a.flac", quiet, "flac")
    record(tmp_path / "two/a.wav", tone(2))
    out = tmp_path / "out"
    for _ in range(2):
        report = transcribed(out, tmp_path / "one", tmp_path / "two/a.wav")
        assert report.failed == []
        texts = {name for name in files(out) if name.endswith(".txt")}
        assert texts == {"a.txt", "a.wav.txt", "two/a.wav.txt"}
        locations = {content(out / name)["source"]["location"] for name in files(out) if name.endswith(".json")}
        assert locations == {str(tmp_path / name) for name in ("one/a.wav", "one/a.flac", "two/a.wav")}
    assert report.before == 3
    assert loudness.heard == 3


def test_a_later_recording_of_the_same_name_does_not_replace_the_first(
    tmp_path: Path, loudness: type[Loudness]
) -> None:
    for number, folder in enumerate(("one", "two")):
        (tmp_path / folder).mkdir()
        record(tmp_path / folder / "a.wav", tone(1 + number))
        transcribed(tmp_path / "out", tmp_path / folder / "a.wav")
    assert content(tmp_path / "out/a.json")["source"]["location"] == str(tmp_path / "one/a.wav")
    assert content(tmp_path / "out/a.wav.json")["source"]["location"] == str(tmp_path / "two/a.wav")


def test_the_same_file_given_twice_is_transcribed_once(tmp_path: Path, loudness: type[Loudness]) -> None:
    path = record(tmp_path / "a.wav", tone(1))
    (tmp_path / "link.wav").symlink_to(path)
    report = transcribed(tmp_path / "out", path, tmp_path / "*.wav", path)
    assert len(report.transcripts) == 1
    assert loudness.heard == 1


def test_only_what_changed_is_transcribed_again(tmp_path: Path, loudness: type[Loudness]) -> None:
    out = tmp_path / "out"
    first, second = record(tmp_path / "a.wav", tone(1)), record(tmp_path / "b.wav", tone(1))
    transcribed(out, first, second)
    record(second, tone(2, loudness=0.3))
    report = transcribed(out, first, second)
    assert (len(report.transcripts), report.before, loudness.heard) == (1, 1, 3)
    assert (out / "b.txt").read_text() == "about 0.3 about 0.3\n"
    assert files(out) == {"a.txt", "a.json", "b.txt", "b.json"}
    other = SETTINGS.model_copy(update={"vad": False})
    assert len(transcribed(out, first, second, settings=other).transcripts) == 2
    assert len(transcribed(out, first, second, settings=other, overwrite=True).transcripts) == 2
    (out / "a.txt").unlink()
    assert len(transcribed(out, first, second, settings=other).transcripts) == 1


def test_what_whisper_has_heard_is_not_replaced_where_it_is_missing(
    tmp_path: Path, loudness: type[Loudness], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = record(tmp_path / "a.wav", tone(1)), tmp_path / "out"
    monkeypatch.setattr(engines, "_is_installed", lambda package: package != "faster_whisper")
    monkeypatch.setattr(engines, "PocketsphinxRecognizer", lambda settings, because: loudness(settings))
    monkeypatch.setattr(loudness, "name", "whisper small")
    transcribed(out, path)
    monkeypatch.setattr(loudness, "name", "pocketsphinx en-us")
    assert transcribed(out, path, settings=TranscribeSettings()).before == 1
    assert len(transcribed(out, path).transcripts) == 1
    monkeypatch.setattr(loudness, "name", "whisper small")
    assert len(transcribed(out, path, settings=TranscribeSettings()).transcripts) == 1


def test_two_commands_at_once_keep_no_texts_aside(
    tmp_path: Path, loudness: type[Loudness], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = record(tmp_path / "a.wav", tone(1)), tmp_path / "out"

    def meanwhile() -> None:
        monkeypatch.setattr(loudness, "meanwhile", None)
        transcribed(out, path)

    monkeypatch.setattr(loudness, "meanwhile", staticmethod(meanwhile))
    transcribed(out, path)
    assert files(out) == {"a.txt", "a.json"}


def test_recordings_that_were_moved_are_recognized(tmp_path: Path, loudness: type[Loudness]) -> None:
    path = record(tmp_path / "a.wav", tone(1))
    transcribed(tmp_path / "out", path)
    (tmp_path / "elsewhere").mkdir()
    shutil.move(path, tmp_path / "elsewhere/a.wav")
    assert transcribed(tmp_path / "out", tmp_path / "elsewhere").before == 1


def test_doubtful_segments_are_left_out_or_kept_without_listening_again(
    tmp_path: Path, loudness: type[Loudness]
) -> None:
    samples = np.concatenate([tone(1), tone(1, loudness=0.2), tone(1, loudness=0.8)])
    path, out = record(tmp_path / "a.wav", samples), tmp_path / "out"
    report = transcribed(out, path)
    assert (out / "a.txt").read_text() == "about 0.5 about 0.8\n"
    assert {reason: len(segments) for reason, segments in report.left_out.items()} == {"low confidence": 1}
    assert [segment["reason"] for segment in content(out / "a.json")["segments"]] == [None, "low confidence", None]
    transcribed(out, path, settings=SETTINGS.model_copy(update={"keep_doubtful": True}))
    assert (out / "a.txt").read_text() == "about 0.5 about 0.2 about 0.8\n"
    assert loudness.heard == 1


def test_a_text_that_was_corrected_by_hand_is_never_lost(tmp_path: Path, loudness: type[Loudness]) -> None:
    path, out = record(tmp_path / "a.wav", tone(1)), tmp_path / "out"
    transcribed(out, path)
    (out / "a.txt").write_text("corrected")
    assert transcribed(out, path).before == 1
    assert (out / "a.txt").read_text() == "corrected"
    transcribed(out, path, overwrite=True)
    assert (out / "a.txt").read_text() == "about 0.5\n"
    assert (out / "a.txt.kept").read_text() == "corrected"


def test_files_of_others_are_never_replaced(tmp_path: Path, loudness: type[Loudness]) -> None:
    path = record(tmp_path / "a.wav", tone(1))
    (tmp_path / "a.txt").write_text("my notes")
    (tmp_path / "a.wav.json").write_text("{}")
    report = transcribed(tmp_path, path)
    assert (tmp_path / "a.txt").read_text() == "my notes"
    assert (tmp_path / "a.wav.json").read_text() == "{}"
    assert report.transcripts == [tmp_path / tmp_path.name / "a.wav.txt"]


def test_the_folder_of_the_recordings_may_take_the_transcripts(tmp_path: Path, loudness: type[Loudness]) -> None:
    record(tmp_path / "a.wav", tone(1))
    assert len(transcribed(tmp_path, tmp_path).transcripts) == 1
    assert transcribed(tmp_path, tmp_path).before == 1
    assert files(tmp_path) == {"a.wav", "a.txt", "a.json"}


def test_a_long_pause_begins_a_paragraph(tmp_path: Path, loudness: type[Loudness]) -> None:
    samples = np.concatenate([tone(2), np.zeros(3 * SAMPLE_RATE, dtype=np.float32), tone(1, loudness=0.8)])
    transcribed(tmp_path / "out", record(tmp_path / "a.wav", samples))
    assert (tmp_path / "out/a.txt").read_text() == "about 0.5 about 0.5\n\nabout 0.8\n"


def test_times_count_from_the_beginning_of_a_long_recording(tmp_path: Path, loudness: type[Loudness]) -> None:
    samples = np.zeros(700 * 8000, dtype=np.float32)
    path = record(tmp_path / "a.wav", samples)
    raw = bytearray(path.read_bytes())
    place = len(raw) - 2 * SAMPLE_RATE
    raw[place : place + 2 * SAMPLE_RATE] = (tone(1) * 32767).astype("<i2").tobytes()
    path.write_bytes(raw)
    transcribed(tmp_path / "out", path)
    segments = content(tmp_path / "out/a.json")["segments"]
    assert loudness.heard == 2
    assert 348 <= segments[0]["start"] <= 349
    assert segments[-1]["end"] <= 350


def test_a_recording_that_vanishes_or_changes_meanwhile_fails_alone(
    tmp_path: Path, loudness: type[Loudness], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [record(tmp_path / f"{name}.wav", tone(1)) for name in "abcd"]

    def meanwhile() -> None:
        if loudness.heard == 1:
            paths[0].unlink()
            paths[2].unlink()
        elif loudness.heard == 2:
            record(paths[1], tone(3))

    monkeypatch.setattr(loudness, "meanwhile", staticmethod(meanwhile))
    report = transcribed(tmp_path / "out", *paths)
    assert [line.removeprefix(f"{tmp_path}/")[:36] for line in report.failed] == [
        "a.wav has vanished while it was read",
        "b.wav has changed while it was read;",
        "c.wav cannot be read: it does not ex",
    ]
    assert files(tmp_path / "out") == {"d.txt", "d.json"}


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(tmp_path: Path, loudness: type[Loudness]) -> None:
    path = record(tmp_path / "a.wav", tone(1))
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(UserError, match=r"cannot be made .*choose another --out"):
            transcribed(folder, path)
    assert loudness.heard == 0


def test_a_full_disk_is_one_line_and_nothing_is_half_written(
    tmp_path: Path, loudness: type[Loudness], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [record(tmp_path / f"{name}.wav", tone(1)) for name in "abc"]
    write, limited = transcribe.Place.write, list[Any]()

    resource = pytest.importorskip("resource")

    def full(place: Any, transcript: Any) -> Any:
        if not limited:
            limited.append(place)
            resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))
        return write(place, transcript)

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    monkeypatch.setattr(transcribe.Place, "write", full)
    try:
        report = transcribed(tmp_path / "out", *paths)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.strerror(errno.EFBIG) in report.failed[0]
    assert f"{tmp_path}/a.wav" in report.failed[0]
    assert report.failed[1:] == [str(path) for path in paths[1:]]
    assert files(tmp_path / "out") == set()
    assert len(transcribed(tmp_path / "out", *paths).transcripts) == 3


def test_a_missing_extra_is_named_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"needs the package av.*pip install 'quillgpt\[voice\]'"):
        transcribed(tmp_path / "out", tmp_path / "none.wav")
    assert not (tmp_path / "out").exists()


def test_a_name_that_is_not_utf8_or_no_file_fails_with_a_clear_line(tmp_path: Path) -> None:
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.wav")
    try:
        Path(odd).touch()
    except OSError:
        pytest.skip("this file system takes no such names")
    with pytest.raises(DataError, match="no name in UTF-8"):
        transcribed(tmp_path / "out", odd)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="is not a file"):
        transcribed(tmp_path / "out", tmp_path / "pipe")


def test_a_name_that_is_too_long_fails_before_it_is_transcribed(tmp_path: Path, loudness: type[Loudness]) -> None:
    path = record(tmp_path / f"{'x' * 240}.wav", tone(1))
    report = transcribed(tmp_path / "out", path)
    assert "its name is too long" in report.failed[0]
    assert loudness.heard == 0


def test_a_folder_that_may_not_be_opened_is_not_called_missing(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0)
    if os.access(tmp_path / "locked", os.X_OK):
        pytest.skip("this user may open everything")
    for word in ("locked/a.wav", "locked/*.wav"):
        with pytest.raises(DataError, match=r"the folder .*locked may not be opened"):
            transcribed(tmp_path / "out", tmp_path / word)


def test_a_damaged_record_is_named_and_stays(
    tmp_path: Path, loudness: type[Loudness], capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = record(tmp_path / "a.wav", tone(1)), tmp_path / "out"
    transcribed(out, path)
    (out / "a.json").write_text('{"version": 1}')
    transcribed(out, path)
    assert f"{out / 'a.json'} is damaged" in capsys.readouterr().err
    assert (out / "a.json").read_text() == '{"version": 1}'
    assert files(out) == {"a.json", "a.txt", "a.wav.json", "a.wav.txt"}


def test_an_interruption_says_how_to_go_on_and_loses_nothing(tmp_path: Path) -> None:
    speak_to(tmp_path / "a.wav", "we will go to the house.")
    speak_to(tmp_path / "b.wav", TEXT * 8)
    out = tmp_path / "out"
    words = [sys.executable, "-m", "quillgpt", "transcribe", str(tmp_path), "--engine=pocketsphinx", f"--out={out}"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "a.wav: done" in line:
                process.send_signal(signal.SIGINT)
                break
        rest = process.stderr.read()
    assert process.returncode == 128 + signal.SIGINT
    assert rest.splitlines()[-1] == (
        "quill: interrupted with 1 of 2 transcripts complete; the same command goes on with the others"
    )
    assert files(out) == {"a.txt", "a.json"}
