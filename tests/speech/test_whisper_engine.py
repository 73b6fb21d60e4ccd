"""Whisper's path, run for real with a tiny model of random weights: only the words that it hears make no sense."""

from pathlib import Path

import numpy as np
import pytest

from quillgpt.config.schema import RecognizerSettings
from quillgpt.errors import CheckpointError, ConfigError, DeviceError, UserError
from quillgpt.speech.transcript import SAMPLE_RATE, Segment
from quillgpt.speech.whisper_engine import WhisperRecognizer
from speech.spoken import TEXT, speech_for_recognizers
from tiny_whisper import tiny_whisper

SILENCE_SECONDS = 6


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_whisper(tmp_path_factory.mktemp("whisper"))[1]


@pytest.fixture(scope="module")
def samples() -> np.ndarray:
    """Return speech after a long silence."""
    return np.concatenate([np.zeros(SILENCE_SECONDS * SAMPLE_RATE, np.float32), speech_for_recognizers(TEXT)])


def whisper(model: Path, **settings: object) -> WhisperRecognizer:
    return WhisperRecognizer(
        RecognizerSettings(engine="whisper", model=str(model), device="cpu", threads=1, **settings)
    )


def hear(recognizer: WhisperRecognizer, samples: np.ndarray) -> list[Segment]:
    recognizer.begin()
    return list(recognizer.segments(samples))


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("vad", [True, False])
def test_segments_have_words_times_and_confidence(model: Path, samples: np.ndarray, batch_size: int, vad: bool) -> None:
    heard = hear(whisper(model, batch_size=batch_size, vad=vad), samples)
    assert heard
    assert any(segment.text for segment in heard)
    assert all(0 < segment.confidence < 1 and 0 <= segment.no_speech <= 1 for segment in heard)
    # A random model puts its time codes anywhere, but only into what it was given.
    assert all(segment.start > SILENCE_SECONDS - 1 for segment in heard) or not vad
    assert all(segment.end <= len(samples) / SAMPLE_RATE or segment.end <= segment.start for segment in heard)


def test_the_same_is_heard_twice_though_failures_are_tried_again_at_random(model: Path, samples: np.ndarray) -> None:
    assert hear(whisper(model), samples) == hear(whisper(model), samples)


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("count", [0, 100, 8 * SAMPLE_RATE])
def test_nothing_is_heard_in_silence(model: Path, batch_size: int, count: int) -> None:
    silence = np.zeros(count, np.float32)
    assert hear(whisper(model, batch_size=batch_size), silence) == []
    if count > SAMPLE_RATE:
        assert hear(whisper(model, batch_size=batch_size, vad=False), silence)


@pytest.mark.parametrize(("given", "code"), [("de", "de"), ("EN", "en"), ("pt_BR", "pt"), ("French", "fr")])
def test_a_language_is_given_as_users_write_it(model: Path, given: str, code: str) -> None:
    assert whisper(model, language=given).language == code


def test_the_language_decides_what_is_heard(model: Path, samples: np.ndarray) -> None:
    english, german = (hear(whisper(model, language=code), samples) for code in ("en", "de"))
    assert [segment.text for segment in english] != [segment.text for segment in german]


def test_a_clear_language_is_kept_for_the_recording(
    model: Path, samples: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    recognizer = whisper(model, batch_size=4)
    hear(recognizer, samples)
    assert recognizer.language is None  # a random model is never sure
    monkeypatch.setattr("quillgpt.speech.whisper_engine.SURE_OF_LANGUAGE", 0.0)
    hear(recognizer, samples)
    detected = recognizer.language
    assert detected in recognizer._model.supported_languages
    monkeypatch.setattr("quillgpt.speech.whisper_engine.SURE_OF_LANGUAGE", 0.5)
    list(recognizer.segments(samples))
    assert recognizer.language == detected
    recognizer.begin()
    assert recognizer.language is None


@pytest.mark.parametrize("compute_type", ["int8", "float32", "INT8_float32", "auto", "default"])
def test_number_formats_of_a_cpu(model: Path, samples: np.ndarray, compute_type: str) -> None:
    assert hear(whisper(model, compute_type=compute_type, batch_size=4), samples)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (
            {"compute_type": "float16"},
            ConfigError,
            "--compute_type=float16 is not supported by this CPU; it has float32, ",
        ),
        ({"compute_type": "int4"}, ConfigError, "--compute_type=int4 is not supported .* int8"),
        ({"device": "mps"}, DeviceError, "--device=mps: whisper runs on CPUs and NVIDIA GPUs only"),
        ({"device": "gpu"}, DeviceError, "--device=gpu is no device; expected auto, cpu, cuda or cuda:N"),
        ({"device": "cuda:x"}, DeviceError, "--device=cuda:x is no device"),
        ({"language": "klingon"}, ConfigError, "--language=klingon is no language of whisper; give a code: af, am, "),
    ],
)
def test_impossible_settings_are_refused_before_a_model_is_looked_for(
    settings: dict[str, str], error: type[UserError], message: str
) -> None:
    with pytest.raises(error, match=message):
        WhisperRecognizer(RecognizerSettings(model="nowhere/nothing", **{"device": "cpu", **settings}))


def test_a_gpu_that_is_not_there_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctranslate2.get_cuda_device_count", lambda: 0)
    with pytest.raises(DeviceError, match="--device=cuda, but CTranslate2 sees no NVIDIA GPU here"):
        WhisperRecognizer(RecognizerSettings(model=str(model), device="cuda"))
    monkeypatch.setattr("ctranslate2.get_cuda_device_count", lambda: 2)
    with pytest.raises(DeviceError, match="there are 2 GPUs here, cuda:0 to cuda:1"):
        WhisperRecognizer(RecognizerSettings(model=str(model), device="cuda:2"))


def test_a_gpu_without_its_driver_is_left_for_the_cpu_with_a_warning(
    model: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import ctranslate2

    if ctranslate2.get_cuda_device_count():
        pytest.skip("there is a GPU that works")
    monkeypatch.setattr("ctranslate2.get_cuda_device_count", lambda: 1)  # all that follows is real: CUDA fails
    with pytest.raises(DeviceError, match="use --device=cpu"):
        WhisperRecognizer(RecognizerSettings(model=str(model), device="cuda"))
    assert WhisperRecognizer(RecognizerSettings(model=str(model), device="auto")).name == "whisper whisper-random"
    assert "the CPU is used instead" in capfd.readouterr().err


def test_a_model_that_is_damaged_is_refused(model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "cut"
    copy.mkdir()
    for file in model.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    content = (copy / "model.bin").read_bytes()
    (copy / "model.bin").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"cut cannot be loaded as a model of Whisper \(.*; get it again"):
        whisper(copy)
    (copy / "model.bin").write_bytes(content)
    (copy / "preprocessor_config.json").write_text('{"feature_size": 128}')
    with pytest.raises(CheckpointError, match=r"reads 80 frequency bands, but 128 are made"):
        whisper(copy)
    (copy / "preprocessor_config.json").unlink()
    (copy / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be loaded as a model of Whisper"):
        whisper(copy)
