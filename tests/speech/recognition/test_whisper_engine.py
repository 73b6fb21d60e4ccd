"""Whisper's path, run for real with a tiny model that knows one sentence."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from quillgpt.config.schema import RecognizerSettings
from quillgpt.errors import CheckpointError, ConfigError, DeviceError, UserError
from quillgpt.speech.recognition.filters import INVENTED, Fate, judge
from quillgpt.speech.recognition.transcript import SAMPLE_RATE, Segment
from quillgpt.speech.recognition.whisper_engine import WhisperRecognizer
from tiny_whisper import COURTESY, MARGIN_SECONDS, SENTENCE, said, silence


def whisper(model: Path, **settings: object) -> WhisperRecognizer:
    given = {"device": "cpu", "threads": 1, **settings}
    return WhisperRecognizer(RecognizerSettings(engine="whisper", model=str(model), **given))


def hear(recognizer: WhisperRecognizer, samples: NDArray[np.float32]) -> list[Segment]:
    recognizer.begin()
    return list(recognizer.segments(samples))


def seconds(samples: NDArray[np.float32]) -> float:
    return len(samples) / SAMPLE_RATE


@pytest.mark.parametrize("batch_size", [1, 4])
def test_hears_what_is_said_and_when(model: Path, batch_size: int) -> None:
    recognizer = whisper(model, batch_size=batch_size)
    [segment] = hear(recognizer, np.concatenate([silence(5), said(), silence(5)]))
    assert segment.text == SENTENCE
    assert segment.start == pytest.approx(5, abs=MARGIN_SECONDS)
    assert segment.end == pytest.approx(5 + seconds(said()), abs=MARGIN_SECONDS)
    assert segment.confidence > 0.8
    assert segment.no_speech is not None
    assert segment.no_speech < 0.1
    assert (recognizer.name, recognizer.language) == ("whisper whisper-tiny", "en")


@pytest.mark.parametrize("batch_size", [1, 4])
def test_hears_piece_after_piece_without_voice_activity_detection(model: Path, batch_size: int) -> None:
    piece = np.concatenate([said(), silence(30 - seconds(said()))])
    heard = hear(whisper(model, batch_size=batch_size, vad=False), np.concatenate([piece, piece, piece, said()]))
    assert [segment.text for segment in heard][-1] == SENTENCE
    assert len(heard) == 4
    assert all(after.start - before.start == pytest.approx(30, abs=1) for before, after in pairwise(heard))


@pytest.mark.parametrize("batch_size", [1, 4])
def test_what_is_invented_in_silence_is_told_with_its_probability_of_no_speech(model: Path, batch_size: int) -> None:
    heard = hear(whisper(model, batch_size=batch_size, vad=False), silence(30))
    assert [segment.text for segment in heard] == [COURTESY]
    assert heard[0].no_speech is not None
    assert heard[0].no_speech > 0.8
    assert [(judged.fate, judged.reason) for judged in judge(heard)] == [(Fate.DOUBT, INVENTED)]


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("length", [0, 0.01, 8])
def test_voice_activity_detection_hears_nothing_in_silence(model: Path, batch_size: int, length: float) -> None:
    assert hear(whisper(model, batch_size=batch_size), silence(length)) == []


def test_nothing_ends_beyond_the_audio(model: Path) -> None:
    short = said()[: SAMPLE_RATE * 2]
    [segment] = hear(whisper(model, vad=False), short)
    assert (segment.text, segment.end) == (SENTENCE, seconds(short))


def test_the_same_is_heard_twice_though_failures_are_tried_again_at_random(model: Path) -> None:
    noise = np.random.default_rng(1).normal(0, 0.2, 10 * SAMPLE_RATE).astype(np.float32)
    heard = [hear(whisper(model, vad=False), noise) for _ in range(2)]
    assert heard[0] == heard[1]
    assert heard[0]


@pytest.mark.parametrize(("given", "code"), [("de", "de"), ("EN", "en"), ("pt_BR", "pt"), ("French", "fr")])
def test_a_language_is_given_as_users_write_it(model: Path, given: str, code: str) -> None:
    assert whisper(model, language=given).language == code


def test_a_language_that_is_unclear_is_detected_again(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quillgpt.speech.recognition.whisper_engine.SURE_OF_LANGUAGE", 0.9999)
    recognizer = whisper(model)
    assert hear(recognizer, said())
    assert recognizer.language is None
    monkeypatch.setattr("quillgpt.speech.recognition.whisper_engine.SURE_OF_LANGUAGE", 0.5)
    assert list(recognizer.segments(said()))
    assert recognizer.language == "en"
    recognizer.begin()
    assert recognizer.language is None


@pytest.mark.parametrize("vad", [True, False])
def test_silence_at_the_beginning_does_not_decide_the_language(model: Path, vad: bool) -> None:
    recognizer = whisper(model, vad=vad)
    hear(recognizer, silence(30))
    assert recognizer.language is None
    assert list(recognizer.segments(said()))
    assert recognizer.language == "en"


def test_a_language_that_is_given_stays(model: Path) -> None:
    recognizer = whisper(model, language="de")
    assert hear(recognizer, said())
    recognizer.begin()
    assert recognizer.language == "de"


@pytest.mark.parametrize("compute_type", ["int8", "float32", "INT8_float32", "auto", "default"])
def test_number_formats_of_a_cpu(model: Path, compute_type: str) -> None:
    assert [segment.text for segment in hear(whisper(model, compute_type=compute_type), said())] == [SENTENCE]


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
    assert WhisperRecognizer(RecognizerSettings(model=str(model), device="auto")).name == "whisper whisper-tiny"
    assert "the CPU is used instead" in capfd.readouterr().err


def test_a_model_that_is_damaged_is_refused(model: Path, tmp_path: Path) -> None:
    copy = copied(model, tmp_path / "cut")
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


def copied(model: Path, folder: Path) -> Path:
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_a_model_of_english_knows_no_other_language(model: Path, tmp_path: Path) -> None:
    english = copied(model, tmp_path / "tiny.en")
    tokens = json.loads((english / "vocabulary.json").read_text())
    tokens[tokens.index("")] = "unused"  # by which CTranslate2 knows a multilingual model
    (english / "vocabulary.json").write_text(json.dumps(tokens))
    with pytest.raises(ConfigError, match="does not know it; choose a model whose name does not end in"):
        whisper(english, language="de")
    recognizer = whisper(english)
    assert hear(recognizer, said())
    assert recognizer.language == "en"
    assert whisper(english, language="English").language == "en"


def test_a_language_that_came_with_a_later_model_is_refused(model: Path) -> None:
    with pytest.raises(ConfigError, match=r"--language=yue: the model .* does not know it; choose another --model"):
        whisper(model, language="yue")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("CUDA failed with error out of memory"), "too little memory .* smaller --batch_size or --model"),
        (MemoryError("std::bad_alloc"), "too little memory"),
        (RuntimeError("Library libcublas.so.12 is not found or cannot be loaded"), "pip install nvidia-cublas-cu12"),
        (RuntimeError("CUDA driver version is insufficient for CUDA runtime version"), "update its driver"),
        (
            RuntimeError("cuBLAS failed with status CUBLAS_STATUS_NOT_SUPPORTED"),
            "try --device=cpu or another --compute",
        ),
    ],
)
def test_what_a_device_cannot_do_is_one_line_with_a_remedy(
    model: Path, error: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recognizer = whisper(model, language="en")

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(recognizer._model, "encode", fail)
    with pytest.raises(DeviceError, match=message) as failure:
        hear(recognizer, said())
    assert "\n" not in str(failure.value)
