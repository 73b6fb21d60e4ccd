"""Which recognizer is taken."""

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from quillgpt.config.schema import RecognizerSettings
from quillgpt.errors import UserError
from quillgpt.speech.recognition.engines import recognizer
from quillgpt.speech.recognition.whisper_models import ModelUnavailableError, own_place
from tiny_whisper import SENTENCE, said

SMALL = "Systran/faster-whisper-small"


@pytest.fixture(autouse=True)
def _empty_caches_and_no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUILL_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("QUILL_MIRROR", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")


def warnings(capfd: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capfd.readouterr().err.splitlines() if line.startswith("warning:")]


def test_whisper_is_the_default_where_its_model_is_at_hand(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(model, own_place(SMALL))
    engine = recognizer(RecognizerSettings(device="cpu"))
    assert engine.name == "whisper small"
    assert [segment.text for segment in engine.segments(said())] == [SENTENCE]
    assert warnings(capfd) == []


def test_pocketsphinx_takes_its_place_with_one_line_where_it_cannot_be_fetched(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert recognizer(RecognizerSettings()).name == "pocketsphinx en-us"
    [line] = warnings(capfd)
    assert "pocketsphinx is rough" in line
    assert "the model small of Whisper is not here and could not be fetched" in line
    assert str(own_place(SMALL)) in line


def test_pocketsphinx_takes_its_place_with_one_line_where_it_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    assert recognizer(RecognizerSettings(language="en-US")).name == "pocketsphinx en-us"
    [line] = warnings(capfd)
    assert "faster-whisper is not installed: pip install 'quillgpt[whisper]'" in line


@pytest.mark.parametrize("settings", [{"engine": "whisper"}, {"model": "small"}, {"language": "de"}])
def test_nothing_takes_the_place_of_whisper_where_it_is_asked_for(settings: dict[str, str]) -> None:
    with pytest.raises(ModelUnavailableError, match="with a browser and put them into"):
        recognizer(RecognizerSettings(**settings))


@pytest.mark.parametrize("settings", [{"engine": "whisper"}, {"model": "small"}, {"language": "de"}])
def test_a_missing_package_is_named(settings: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    with pytest.raises(UserError, match=r"faster_whisper, which is not installed: pip install 'quillgpt\[whisper\]'"):
        recognizer(RecognizerSettings(**settings))


def test_without_any_recognizer_both_extras_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("faster_whisper", "pocketsphinx"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=r"'quillgpt\[whisper\]', which is accurate, or 'quillgpt\[voice\]'"):
        recognizer(RecognizerSettings())


def test_without_pocketsphinx_a_model_that_cannot_be_fetched_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    with pytest.raises(ModelUnavailableError):
        recognizer(RecognizerSettings())


def test_recognizers_start_without_torch_which_takes_seconds() -> None:
    program = "import sys, quillgpt.speech.recognition.transcribe, faster_whisper; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
