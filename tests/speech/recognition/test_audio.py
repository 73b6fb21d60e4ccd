"""Recordings of every kind are read as recognizers need them, and what is none gets one clear line."""

from __future__ import annotations

import os
import tracemalloc
import wave
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from quillgpt.errors import DataError
from quillgpt.speech.recognition.audio import duration_of, open_recording
from quillgpt.speech.recognition.transcript import SAMPLE_RATE
from speech.recorded import record, tone
from speech.spoken import write_wav


def heard(path: Path) -> Any:
    with open_recording(path) as recording:
        samples = np.concatenate([samples for _, samples in recording.stretches()])
        return samples, recording


def pitch(samples: Any) -> float:
    return float(np.abs(np.fft.rfft(samples)).argmax()) * SAMPLE_RATE / len(samples)


@pytest.mark.parametrize(
    ("name", "codec", "form"),
    [
        ("a.wav", "pcm_s16le", {}),
        ("a.wav", "pcm_u8", {"rate": 8000}),
        ("a.wav", "pcm_s24le", {"rate": 11025, "layout": "stereo"}),
        ("a.wav", "pcm_s32le", {"rate": 96000}),
        ("a.wav", "pcm_f32le", {"rate": 22050}),
        ("a.wav", "pcm_f64le", {"rate": 44100}),
        ("a.wav", "pcm_alaw", {"rate": 8000}),
        ("a.wav", "pcm_s16le", {"rate": 48000, "layout": "5.1"}),
        ("a.flac", "flac", {"rate": 48000, "layout": "5.1"}),
        ("a.mp3", "libmp3lame", {"rate": 44100, "layout": "stereo"}),
        ("a.ogg", "libopus", {"rate": 48000}),
        ("a.opus", "libopus", {"rate": 48000}),
        ("a.m4a", "aac", {"rate": 44100}),
        ("a.aiff", "pcm_s16be", {}),
    ],
)
def test_reads_every_kind_at_the_rate_of_recognizers(tmp_path: Path, name: str, codec: str, form: Any) -> None:
    samples, recording = heard(record(tmp_path / name, tone(2.0), codec, **form))
    assert samples.dtype == np.float32
    assert abs(len(samples) / SAMPLE_RATE - 2.0) < 0.1
    assert abs(recording.duration - 2.0) < 0.1
    assert abs(pitch(samples) - 440) < 2
    assert 0.3 < recording.loudest <= 1
    assert recording.remarks == []


def test_uses_the_sound_of_a_video_and_says_so(tmp_path: Path) -> None:
    samples, recording = heard(record(tmp_path / "a.mp4", tone(2.0), "aac", with_picture=True))
    assert abs(pitch(samples) - 440) < 2
    assert recording.remarks == ["is a video: its sound is transcribed"]


def test_says_which_sound_track_is_used(tmp_path: Path) -> None:
    _, recording = heard(record(tmp_path / "a.mka", tone(1.0), "aac", tracks=2))
    assert recording.remarks == ["has 2 sound tracks: track 1 is transcribed"]


def test_refuses_a_video_without_sound(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.mp4 is a video without sound"):
        heard(record(tmp_path / "a.mp4", None, with_picture=True))


@pytest.mark.parametrize(("name", "codec", "form"), [("a.jpg", "mjpeg", "yuvj420p"), ("a.png", "png", "rgb24")])
def test_calls_a_picture_a_picture(tmp_path: Path, name: str, codec: str, form: str) -> None:
    with av.open(str(tmp_path / name), "w", format="image2") as container:
        stream = container.add_stream(codec)
        stream.width = stream.height = 32
        stream.pix_fmt = form
        container.mux(stream.encode(av.VideoFrame(32, 32, "rgb24")))
        container.mux(stream.encode(None))
    path = (tmp_path / name).rename(tmp_path / "a.mp3")
    with pytest.raises(DataError, match=r"a\.mp3 is a picture"):
        heard(path)


@pytest.mark.parametrize("samples", [0, 1])
def test_says_that_a_recording_is_too_short(tmp_path: Path, samples: int) -> None:
    path = write_wav(tmp_path / "a.wav", np.zeros(samples, dtype=np.int16), 44100)
    with pytest.raises(DataError, match="has no sound: it is damaged, or too short"):
        heard(path)


def random_bytes(count: int) -> bytes:
    return np.random.default_rng(0).bytes(count)


PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n%s\n#EXT-X-ENDLIST\n"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.wav", b"", "is empty"),
        ("a.mp3", b"This is a text.\n" * 500, "it is a text"),
        ("a.mp3", "Größe, 日本語, русский\n".encode() * 500, "it is a text"),
        ("a.mp3", bytes(100_000), "has no sound"),
        ("a.wav", bytes(100_000), "has no sound|begins with zeros"),
        ("a.mp3", random_bytes(100_000), "has no sound"),
        ("a.m4a", random_bytes(100_000), "is no recording that can be decoded|has no sound"),
        ("a.wav", b"RIFF", "is no recording that can be decoded"),
        ("a.wav", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a pointer of Git LFS"),
        ("a.mp3", b"\xff\xfe" + "ein Text\n".encode("utf-16-le") * 500, "has no sound|no recording"),
    ],
)
def test_says_what_is_wrong_with_a_file(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=words) as error:
        heard(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_does_not_open_what_a_playlist_names(tmp_path: Path) -> None:
    other = record(tmp_path / "secret.wav", tone(1.0))
    path = tmp_path / "a.m3u8"
    path.write_bytes(PLAYLIST % str(other).encode())
    with pytest.raises(DataError, match="it is a text"):
        heard(path)


def test_says_that_a_file_is_missing_or_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        heard(tmp_path / "none.wav")
    with pytest.raises(DataError, match="is not a file"):
        heard(tmp_path)


def test_says_that_a_file_may_not_be_read(tmp_path: Path) -> None:
    path = record(tmp_path / "a.wav", tone(1.0))
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(DataError, match="cannot be read: Permission denied"):
        heard(path)


@pytest.mark.parametrize(("name", "codec"), [("a.mp3", "libmp3lame"), ("a.flac", "flac"), ("a.m4a", "aac")])
def test_reads_on_after_a_damaged_part_and_says_so(tmp_path: Path, name: str, codec: str) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 10 * SAMPLE_RATE).astype(np.float32)
    path = record(tmp_path / name, noise, codec)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 2000] = random_bytes(2000)
    path.write_bytes(content)
    samples, recording = heard(path)
    assert len(samples) > 8 * SAMPLE_RATE
    assert name == "a.flac" or any("is damaged" in remark for remark in recording.remarks)  # FLAC's decoder conceals it


def test_says_that_a_recording_ends_early(tmp_path: Path) -> None:
    path = record(tmp_path / "a.flac", tone(10.0), "flac")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    _, recording = heard(path)
    assert any("ends early: its header says 0:10, it has 0:0" in remark for remark in recording.remarks)


def test_samples_that_are_no_numbers_become_silence(tmp_path: Path) -> None:
    path = record(tmp_path / "a.wav", np.full(SAMPLE_RATE, np.nan, dtype=np.float32), "pcm_f32le")
    samples, recording = heard(path)
    assert not samples.any()
    assert recording.loudest == 0


def test_cuts_a_long_recording_where_it_is_quietest(tmp_path: Path) -> None:
    seconds, pauses = 25, (7.0, 13.5, 19.0)
    samples = tone(seconds)
    for pause in pauses:
        start = round(pause * SAMPLE_RATE)
        samples[start : start + SAMPLE_RATE // 2] = 0
    with open_recording(record(tmp_path / "a.wav", samples)) as recording:
        stretches = list(recording.stretches(longest=8, tail=3))
    assert len(stretches) == 4
    for pause, (start, _) in zip(pauses, stretches[1:], strict=True):
        assert pause <= start <= pause + 0.5
    whole = np.concatenate([part for _, part in stretches])
    np.testing.assert_allclose(whole, samples, atol=1e-4)
    assert [start for start, _ in stretches] == pytest.approx(
        [0, *(np.cumsum([len(part) for _, part in stretches])[:-1] / SAMPLE_RATE)]
    )


def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(2 * 8000))
    minutes = 10
    content = bytearray(path.read_bytes())
    sound = minutes * 60 * 2 * 8000
    content[40:44] = sound.to_bytes(4, "little")
    path.write_bytes(content)
    os.truncate(path, 44 + sound)
    tracemalloc.start()
    try:
        with open_recording(path) as recording:
            longest = max(len(samples) for _, samples in recording.stretches(longest=30, tail=3))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert recording.seconds == pytest.approx(minutes * 60, abs=0.1)
    stretch_bytes = 30 * SAMPLE_RATE * 4
    assert longest * 4 <= stretch_bytes
    assert peak < 5 * stretch_bytes


def test_knows_no_duration_of_what_it_cannot_open(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"no sound")
    assert duration_of(path) is None
    assert duration_of(record(path, tone(3.0))) == pytest.approx(3.0)


def test_reads_a_file_whose_header_is_longer_than_its_sound(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(16000))
    content = bytearray(path.read_bytes())
    content[40:44] = (2**31).to_bytes(4, "little")
    path.write_bytes(content)
    samples, _ = heard(path)
    assert len(samples) == pytest.approx(SAMPLE_RATE, abs=100)
