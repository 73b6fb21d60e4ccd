"""Text becomes speech that can be measured, and heard again."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from quillgpt.cli import main
from quillgpt.config.schema import RecognizerSettings, VoiceFields
from quillgpt.errors import ConfigError, UserError
from quillgpt.speech.recognition.engines import recognizer
from quillgpt.speech.recognition.transcript import SAMPLE_RATE
from quillgpt.speech.synthesis import espeak_voice
from quillgpt.speech.synthesis.espeak_voice import open_espeak
from quillgpt.speech.synthesis.scripts import LANGUAGES
from quillgpt.speech.synthesis.speak import Speaker, speaking
from speech.spoken import TEXT, overlap

LEAST_OVERLAP = 0.6
RECORDING = b"RIFF" + struct.pack("<I", 36 + 2000) + b"WAVEfmt " + bytes(28) + bytes(2000)
TWO = "The first sentence is here. The second one follows it."


def spoken(path: Path, text: str, **settings: Any) -> NDArray[np.int16]:
    """Speak a text into a wav, check its format, and return its samples."""
    with speaking(VoiceFields(**settings), str(path), overwrite=True) as speaker:
        speaker.push(text)
    return samples_of(path)


def samples_of(path: Path) -> NDArray[np.int16]:
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 22050)
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        assert len(samples) == file.getnframes()
    assert path.stat().st_size == 44 + 2 * len(samples)
    return samples


def at_recognizers_rate(samples: NDArray[np.int16]) -> NDArray[np.float32]:
    places = np.arange(0, len(samples), 22050 / SAMPLE_RATE)
    return np.interp(places, np.arange(len(samples)), samples / 32768).astype(np.float32)


def test_speech_has_the_length_and_the_loudness_of_speech(tmp_path: Path) -> None:
    samples = spoken(tmp_path / "a.wav", TEXT)
    words_per_minute = len(TEXT.split()) / (len(samples) / 22050 / 60)
    assert 120 < words_per_minute < 300
    loudness = np.sqrt(np.mean(np.square(samples / 32768)))
    assert 0.02 < loudness < 0.5
    assert np.abs(samples.astype(int)).max() < 32767  # nothing is clipped


def test_more_text_takes_longer_and_a_higher_rate_is_faster(tmp_path: Path) -> None:
    once = len(spoken(tmp_path / "a.wav", TEXT))
    assert 1.8 < len(spoken(tmp_path / "a.wav", f"{TEXT} {TEXT}")) / once < 2.4
    seconds = [len(spoken(tmp_path / "a.wav", TEXT, rate=rate)) for rate in (80, 175, 300, 450)]
    assert seconds == sorted(seconds, reverse=True)
    assert 1.7 < seconds[0] / seconds[1] < 2.8
    assert seconds[1] == pytest.approx(once, rel=0.01)


def test_a_recognizer_hears_the_words_again(tmp_path: Path) -> None:
    samples = spoken(tmp_path / "a.wav", TEXT, voice="en-us+f5", rate=150)
    heard = recognizer(RecognizerSettings(engine="pocketsphinx")).segments(at_recognizers_rate(samples))
    assert overlap(TEXT, " ".join(segment.text for segment in heard)) > LEAST_OVERLAP


def pitch(samples: NDArray[np.int16]) -> float:
    """Return the median frequency at which loud parts of a voice repeat, in Hertz."""
    frames = samples[: len(samples) // 1024 * 1024].reshape(-1, 1024).astype(float)
    loud = frames[np.abs(frames).mean(axis=1) > 1500]
    spectra = np.abs(np.fft.rfft(loud, 2048)) ** 2
    repeats = np.fft.irfft(spectra)[:, : 22050 // 60]
    return float(np.median(22050 / (22050 // 400 + repeats[:, 22050 // 400 :].argmax(axis=1))))


def test_a_variant_has_another_pitch(tmp_path: Path) -> None:
    low, high = (pitch(spoken(tmp_path / "a.wav", TEXT, voice=voice)) for voice in ("en-us+m3", "en-us+f3"))
    assert high > 1.3 * low


def test_a_language_reads_numbers_in_its_own_words(tmp_path: Path) -> None:
    number = "777 777 777"
    chosen = [{"voice": "de"}, {"voice": "German"}, {"language": "DE"}, {"voice": "+f3", "language": "de"}, {}]
    german, *same, english = (len(spoken(tmp_path / "a.wav", number, **settings)) for settings in chosen)
    assert same == pytest.approx([german] * 3, rel=0.03)
    assert abs(german - english) > 0.05 * english


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"voice": "germn"}, "no voice germn; did you mean german"),
        ({"voice": "xx"}, "no voice xx; quill speak --voice list"),
        ({"voice": "en-us+f33"}, r"no variant \+f33; did you mean f3"),
        ({"voice": "../../etc/passwd"}, "no voice"),
    ],
)
def test_a_voice_that_is_not_there_is_named(settings: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_espeak(VoiceFields(**settings))  # type: ignore[arg-type]


class Piano:
    """A voice that plays a tone of a second for each sentence, and takes its time."""

    name = "piano"
    language = "en"
    sample_rate = 8000

    def __init__(self, seconds: float = 0.0, error: Exception | None = None) -> None:
        self.said: list[str] = []
        self._seconds = seconds
        self._error = error

    def say(self, text: str) -> Iterator[NDArray[np.int16]]:
        if self._error is not None and self.said:
            raise self._error
        self.said.append(text)
        time.sleep(self._seconds)
        yield np.full(self.sample_rate, 1000, np.int16)


class Tape:
    """Keeps what is written to it, and needs as long as a device would."""

    name = "tape"

    def __init__(self, seconds: float = 0.0) -> None:
        self.samples = 0
        self._seconds = seconds

    def write(self, samples: NDArray[np.int16]) -> None:
        time.sleep(self._seconds)
        self.samples += len(samples)


def test_sentences_are_spoken_while_the_text_still_comes() -> None:
    voice, tape = Piano(), Tape()
    with Speaker(voice, tape) as speaker:
        speaker.push("The first one is ready. The second has only begun, and goes on")
        deadline = time.monotonic() + 10
        while tape.samples < voice.sample_rate and time.monotonic() < deadline:
            time.sleep(0.01)
        assert voice.said == ["The first one is ready."]
        speaker.push(" to here.")
    assert voice.said[1:] == ["The second has only begun, and goes on to here."]


def test_between_two_samples_there_is_a_pause() -> None:
    voice, tape = Piano(), Tape()
    with Speaker(voice, tape) as speaker:
        for text in ("no end", "", "\n...\n", "another"):
            speaker.push(text)
            speaker.end_text()
    assert voice.said == ["no end", "another"]
    assert speaker.seconds == tape.samples / voice.sample_rate == 2.7


def test_sampling_waits_for_a_slow_voice_so_that_memory_is_bounded() -> None:
    voice = Piano(0.02)
    with Speaker(voice, Tape()) as speaker:
        for number in range(40):
            speaker.push(f"This is the sentence number {number}. ")
            assert number - len(voice.said) < 12
    assert len(voice.said) == 40


def test_an_error_of_the_voice_ends_the_sampling() -> None:
    voice = Piano(error=UserError("the voice is hoarse"))

    def speak_for_ever() -> None:
        with Speaker(voice, Tape()) as speaker:
            while True:
                speaker.push("And one more sentence. ")

    with pytest.raises(UserError, match="hoarse"):
        speak_for_ever()


def test_an_interruption_stops_sampling_and_speaking_at_once() -> None:
    voice, tape = Piano(), Tape(0.1)
    speaker = Speaker(voice, tape)

    def speak_until_interrupted() -> None:
        with speaker:
            for _ in range(9):
                speaker.push("A sentence that takes a second to play. ")
            raise KeyboardInterrupt

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        speak_until_interrupted()
    written = tape.samples
    assert time.monotonic() - start < 4
    time.sleep(0.3)
    assert tape.samples == written  # nothing follows
    assert not any(thread.name == "voice" for thread in threading.enumerate())


def test_an_interrupted_command_ends_within_a_second_and_leaves_what_was_spoken(tmp_path: Path) -> None:
    out = tmp_path / "speech.wav"
    command = [sys.executable, "-m", "quillgpt", "speak", "-", "--out", str(out)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path)
    assert process.stdin is not None
    process.stdin.write(TWO.encode() * 2 + b" This has no end, and more of it")
    process.stdin.flush()
    wait_for(lambda: any(path.stat().st_size > 100_000 for path in tmp_path.glob(".speech.wav.*")))
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, messages = process.communicate(timeout=30)
    assert time.monotonic() - start < 5  # on a busy machine
    assert process.returncode == 130
    assert b"quill: interrupted after" in messages
    assert messages.strip().endswith(b"speech.wav has")
    assert len(samples_of(out)) > 50_000
    assert [path.name for path in tmp_path.iterdir()] == ["speech.wav"]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_full_disk_is_one_line_and_keeps_what_was_spoken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    resource = pytest.importorskip("resource")
    monkeypatch.chdir(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_001, before[1]))
    try:
        assert main(["speak", TEXT, "--out", "a.wav"]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    error = capsys.readouterr().err
    assert "quill: a.wav cannot be written (File too large); choose another --out" in error
    assert "this ended after 1.3 s of speech, which a.wav has" in error
    assert 44 + 2 * len(samples_of(Path("a.wav"))) <= 60_000


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line with which `quill speak` refuses its words."""
    assert main(["speak", *words]) != 0
    [line] = capsys.readouterr().err.splitlines()
    assert "fault" not in line
    return line


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["Hello.", "--out", "a.mp3"], "give --out a.wav, and other programs make .mp3 of it: ffmpeg -i a.wav a.mp3"),
        (["Hello.", "--out", "speech"], "give --out speech.wav"),
        (["Hello.", "--out", "folder"], "is a folder; give the name of a file: --out folder/speech.wav"),
        (["Hello.", "--out", "there.wav"], "there.wav exists already; give another --out, or --overwrite"),
        (["Hello.", "--out", "text.txt/a.wav"], "text.txt/a.wav cannot be written (File exists)"),
        (["Hello.", "--out", "/dev/full"], "/dev/full cannot be written (No space left on device)"),
        (["Hello.", "--rate", "0"], "--rate=0 must be a whole number of at least 80 and at most 450"),
        (["Hello.", "--rate=-3"], "--rate=-3 must be a whole number"),
        (["Hello.", "--rate", "10000"], "--rate=10000 must be a whole number"),
        (["Hello.", "--rate", "fast"], "--rate=fast must be a whole number"),
        (["Hello.", "--voice", "xx"], "espeak has no voice xx"),
        (["Hello.", "--voice=de", "--language=fr"], "--voice=de has its own language; leave out --language=fr"),
        (["Hello.", "--engine", "festival"], "auto, espeak or piper"),
        (["Hello.", "--voice", "missing.onnx"], "there is no file missing.onnx; a voice of Piper is"),
        (["Hello.", "--engine", "piper"], "piper needs a voice file: --voice FILE.onnx"),
        (["Hello.", "--engine", "espeak", "--voice", "a.onnx"], "a voice file of piper; leave out --engine"),
        (["Hello.", "--seed", "3"], "--seed is for a model, and 'Hello.' is a text"),
        (["Hello", "there"], 'put a text in quotes: quill speak "Hello there"'),
        (["--ratee", "100", "Hello"], "--ratee is unknown; did you mean --rate?"),
        ([], "speak needs a model, a text file, - or a text"),
        ([""], "there is nothing to say"),
        (["... \x01\x1b --- "], "there is nothing to say"),
        (["txt.txt"], "there is no file or folder txt.txt; did you mean text.txt?"),
        (["books/one.txt"], "there is no file or folder books/one.txt; give a model's folder or a text file"),
        (["folder/nothing"], "there is no file or folder folder/nothing;"),
        (["out-run/nothing"], "there is no file or folder out-run/nothing;"),
        (["./my book"], "there is no file or folder ./my book;"),
        (["out-run"], "there is no file or folder out-run;"),
        (["folder"], "folder has no config.json"),
        (["there.wav"], "there.wav is a recording"),
        (["Hello.", "--out", "x" * 300 + ".wav"], "x.wav cannot be written (File name too long)"),
        (["empty.txt"], "empty.txt is empty"),
        (["binary.dat"], "binary.dat"),
        (["folder/model.safetensors"], "folder/model.safetensors"),
        (["/dev/null"], "/dev/null is neither a file nor a folder"),
    ],
)
def test_what_cannot_be_spoken_is_one_line_and_makes_no_file(
    words: list[str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    if "--out" not in words and words:
        words = [*words, "--out", "new.wav"]
    Path("folder").mkdir()
    Path("folder/model.safetensors").write_bytes(b"x")
    Path("text.txt").write_text("A text.")
    Path("there.wav").write_bytes(RECORDING)
    Path("empty.txt").touch()
    Path("binary.dat").write_bytes(bytes(range(256)) * 10)
    before = sorted(tmp_path.rglob("*"))
    assert line in refused(words, capsys)
    assert sorted(tmp_path.rglob("*")) == before
    assert Path("there.wav").read_bytes() == RECORDING


def test_settings_of_transcribe_in_the_environment_do_not_disturb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QUILL_ENGINE", "whisper")
    monkeypatch.setenv("QUILL_LANGUAGE", "de")
    assert main(["speak", "Hallo.", "--out=a.wav"]) == 0
    assert "by espeak de, in a.wav" in capsys.readouterr().err
    assert main(["speak", "Hallo.", "--out=b.wav", "--voice=en-gb"]) == 0
    assert "by espeak en-gb, in b.wav" in capsys.readouterr().err
    monkeypatch.setenv("QUILL_ENGINE", "festival")
    assert "QUILL_ENGINE=festival in the environment must be" in refused(["Hallo."], capsys)


def test_a_file_in_an_old_encoding_is_spoken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = "Die Bäume blühen früh im März, und die Vögel singen schöne Lieder.\r\n" * 3
    Path("utf8.txt").write_text(text, "utf-8", newline="")
    Path("old.txt").write_text(text, "cp1252", newline="")
    assert main(["speak", "utf8.txt", "--out", "a.wav", "--voice=de"]) == 0
    assert main(["speak", "old.txt", "--out", "b.wav", "--voice=de"]) == 0
    assert len(samples_of(Path("b.wav"))) == pytest.approx(len(samples_of(Path("a.wav"))), rel=0.01)


def test_standard_input_is_spoken_to_standard_output() -> None:
    command = [sys.executable, "-m", "quillgpt", "speak", "-", "--out", "-", "--quiet"]
    done = subprocess.run(command, input="Good morning.\nIt is late, ändert nichts.".encode(), capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout[:4] == b"RIFF"
    assert len(done.stdout) > 60_000
    again = subprocess.run(command, input="Good morning.\nIt is late, ändert nichts.".encode(), capture_output=True)
    assert again.stdout == done.stdout
    done = subprocess.run(command, input=b"Good morning.\xff\xfe Caf\xe9", capture_output=True)
    assert done.returncode == 1
    assert done.stderr.count(b"\n") <= 2
    assert b"standard input is not UTF-8 text" in done.stderr
    done = subprocess.run(command, input=RECORDING, capture_output=True)
    assert done.returncode == 1
    assert done.stderr.startswith(b"quill: standard input is not plain text; give a text, or a recording to quill")


@pytest.mark.skipif(sys.platform == "win32", reason="there the header is never written again")
@pytest.mark.parametrize(("mode", "before"), [("wb", b""), ("wb", b"kept"), ("ab", b""), ("ab", b"kept")])
def test_standard_output_loses_nothing_that_was_in_the_file(tmp_path: Path, mode: str, before: bytes) -> None:
    path = tmp_path / "a.wav"
    with path.open(mode, buffering=0) as file:
        file.write(before)
        command = [sys.executable, "-m", "quillgpt", "speak", "One.", "--out", "-", "--quiet"]
        subprocess.run(command, stdout=file, check=True)
    content = path.read_bytes()
    assert content.startswith(before + b"RIFF")
    if before or mode == "ab":
        assert content[len(before) + 4 : len(before) + 8] == b"\xff" * 4
    else:
        assert len(samples_of(path)) > 5000


def test_a_voice_for_another_script_is_named_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoken(tmp_path / "a.wav", "Привет, мир. Как дела?\n\nЭто дом.")
    assert capsys.readouterr().err.count("does not read the script of this text; --voice=ru does") == 1
    for text, voice in [
        ("Привет.", "bg"),
        ("你好。", "cmn"),
        ("はい、日本です。", "ja"),
        ("Hallo.", "en"),
        ("１２。", "en"),
    ]:
        spoken(tmp_path / "a.wav", text, voice=voice)
        assert "script" not in capsys.readouterr().err
    spoken(tmp_path / "a.wav", "日本語です。")
    assert "--voice=ja does" in capsys.readouterr().err


class Stream:
    """Stands in for a sound device where there is none."""

    def __init__(self, samplerate: int, channels: int, dtype: str) -> None:
        assert (samplerate, channels, dtype) == (22050, 1, "int16")
        self.calls: list[str] = []
        self.played = 0
        streams.append(self)

    def write(self, samples: NDArray[np.int16]) -> None:
        assert samples.dtype == np.int16
        assert samples.shape == (len(samples), 1)
        self.played += len(samples)

    def __getattr__(self, name: str) -> Callable[[], None]:
        return lambda: self.calls.append(name)


streams: list[Stream] = []


class PortAudioError(Exception):
    pass


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("sounddevice")
    module.OutputStream = Stream  # type: ignore[attr-defined]
    module.PortAudioError = PortAudioError  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    streams.clear()
    return module


def test_speech_is_played_to_its_end(device: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["speak", TWO]) == 0
    assert streams[0].calls == ["start", "stop", "abort", "close"]
    assert streams[0].played > 50_000
    assert list(tmp_path.iterdir()) == []


def test_a_device_that_fails_is_one_line(
    device: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unplugged(self: Stream, samples: object) -> None:
        raise PortAudioError("Unanticipated host error")

    monkeypatch.setattr(Stream, "write", unplugged)
    assert "the sound device failed (Unanticipated host error); --out FILE.wav writes" in refused([TWO], capsys)
    assert streams[0].calls == ["start", "abort", "close"]


ALSA = Path("/usr/share/alsa/alsa.conf")


def test_portaudio_plays_speech_to_its_end(tmp_path: Path) -> None:
    """With PortAudio, on a device of ALSA that keeps in a file what it is given."""
    try:
        import sounddevice  # noqa: F401
    except OSError:
        pytest.skip("PortAudio is not installed")
    if not ALSA.exists():
        pytest.skip("this system has no ALSA")
    device = f'{{ type file slave.pcm "null" file "{tmp_path}/played" format "raw" }}'
    (tmp_path / "asound.conf").write_text(f"<{ALSA}>\npcm.!default {device}\nctl.!default {{ type null }}\n")
    command = [sys.executable, "-m", "quillgpt", "speak", TWO]
    environment = os.environ | {"ALSA_CONFIG_PATH": str(tmp_path / "asound.conf")}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    [outcome] = done.stderr.splitlines()
    assert outcome.endswith("s of speech by espeak en-us, played")
    played = np.frombuffer((tmp_path / "played").read_bytes(), "<i2")
    assert len(played) / 22050 == pytest.approx(float(outcome.split()[0]), abs=0.2)
    assert np.abs(played.astype(int)).max() > 5000


@pytest.mark.parametrize("missing", ["PortAudio", "device"])
def test_without_a_sound_device_a_wav_is_written_and_named_first(
    missing: str,
    device: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("PortAudio library not found") if missing == "PortAudio" else PortAudioError("Error -1")

    monkeypatch.chdir(tmp_path)
    if missing == "PortAudio":
        monkeypatch.setattr("quillgpt.speech.synthesis.playback.import_extra", refuse)
        reason = "the library PortAudio, which is not installed (sudo apt install libportaudio2)"
    else:
        device.OutputStream = refuse  # type: ignore[attr-defined]
        reason = "there is no sound device to play on (Error -1)"
    for name in ("speech.wav", "speech-2.wav"):
        assert main(["speak", TWO]) == 0
        warning, outcome = capsys.readouterr().err.splitlines()
        assert warning.endswith(f"{reason}; the speech is written to {name}")
        assert outcome.endswith(f"s of speech by espeak en-us, in {name}")
        assert len(samples_of(Path(name))) > 50_000


FLAGS = ["--device=cpu", "--dtype=float32", "--threads=1", "--max_new_tokens=30", "--seed=3"]


def make_model(letters: str) -> None:
    """Write a random model of some letters to the folder `model`."""
    from quillgpt.checkpoint import save_model
    from quillgpt.text.tokenizers.char import CharTokenizer
    from tiny import GPT2, tiny_model

    tokenizer = CharTokenizer.from_text([letters])
    save_model(Path("model"), tiny_model(GPT2, vocab_size=tokenizer.vocab_size), tokenizer, about={})


def test_a_sample_is_printed_as_without_speech_and_spoken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_model("abcdefgh .,\nABC")
    assert main(["sample", "model", *FLAGS, "--num_samples=2", "--start=A bad"]) == 0
    printed = capsys.readouterr().out
    assert main(["sample", "model", *FLAGS, "--num_samples=2", "--start=A bad", "--speak", "--out=a.wav"]) == 0
    assert capsys.readouterr().out == printed
    assert main(["speak", "model", *FLAGS, "--start=A bad", "--out=b.wav"]) == 0
    first = capsys.readouterr().out
    assert printed.startswith(first)
    assert main(["speak", first.rstrip("-\n"), "--out=text.wav"]) == 0
    both, one, text = (len(samples_of(Path(name))) for name in ("a.wav", "b.wav", "text.wav"))
    assert one == pytest.approx(text, rel=0.05)
    assert both > one > 10_000
    assert main(["sample", "model", *FLAGS, "--speak", "--out=c.wav", "--json", "--num_samples=1"]) == 0
    assert json.loads(capsys.readouterr().out)["finish_reason"] == "length"
    assert len(samples_of(Path("c.wav"))) > 10_000


def test_a_sample_without_words_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_model(".,!?\n ;")
    assert main(["sample", "model", *FLAGS, "--speak", "--out=a.wav"]) == 0
    assert "warning: there is nothing to say" in capsys.readouterr().err
    assert main(["speak", "model", *FLAGS, "--out=a.wav"]) == 1
    assert not Path("a.wav").exists()


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--out=a.wav"], "--out=a.wav is the file of --speak; the folder of a run is MODEL or --out_dir"),
        (["--rate=100"], "--rate is for --speak; give that too"),
        (["--speak", "--out=-"], "standard output has the text of the samples; give --out FILE.wav"),
        (["--speak", "--voice=xx"], "espeak has no voice xx"),
    ],
)
def test_flags_of_the_voice_belong_to_speak(flags: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", "there-is-no-model", *flags]) == 2
    assert line in capsys.readouterr().err


def test_a_missing_package_is_named_with_its_extra_before_a_model_is_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    espeak_voice._start.cache_clear()
    espeak_voice._data.cache_clear()
    assert main(["sample", "there-is-no-model", "--speak", "--out=a.wav"]) == 1
    assert "needs the package espeakng_loader, which is not installed: pip install 'quillgpt[voice]'" in (
        capsys.readouterr().err
    )


def test_espeak_speaks_where_the_path_of_its_data_is_too_long_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(espeak_voice, "LONGEST_FOLDER", 20)
    espeak_voice._start.cache_clear()
    espeak_voice._data.cache_clear()
    try:
        assert len(spoken(tmp_path / "a.wav", TWO, voice="de+f3")) > 50_000
        assert espeak_voice._data().is_symlink()
    finally:
        espeak_voice._start.cache_clear()
        espeak_voice._data.cache_clear()


def test_every_listed_voice_can_be_chosen_and_says_something() -> None:
    silent = []
    for listed in espeak_voice.listed_voices():
        for word in (listed.code, listed.name.upper()):
            voice = open_espeak(VoiceFields(voice=word))
            assert voice.language == listed.code or word != listed.code
        if not any(np.abs(samples).max() > 1000 for samples in voice.say("a la mi 1 2")):
            silent.append(listed.code)
    assert silent == []
    with pytest.raises(ConfigError, match="voice xex has no dictionary"):
        open_espeak(VoiceFields(voice="xex"))
    assert open_espeak(VoiceFields(voice="en")).language == "en"
    assert open_espeak(VoiceFields(language="zh")).language == "cmn"
    assert open_espeak(VoiceFields(voice="en_US+Mr serious")).language == "en-us"


@pytest.mark.parametrize("languages", LANGUAGES.values(), ids=LANGUAGES)
def test_the_voice_that_is_named_for_a_script_is_there(languages: str) -> None:
    open_espeak(VoiceFields(voice=languages.split()[0]))


def test_the_voices_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["speak", "--voice", "list"]) == 0
    printed = capsys.readouterr().out
    assert "en-us " in printed
    assert "German" in printed
    assert " f3 " in printed
