"""A voice of Piper speaks where the package piper-tts is installed, and is refused in one line where it cannot."""

from __future__ import annotations

import json
import sys
import wave
from pathlib import Path

import numpy as np
import pytest

from quillgpt.cli import main

LETTERS = "abcdefghijklmnopqrstuvwxyzəɪʊɛɔæʌɑːˈˌðθʃʒŋɹɡɚɝ.,?!"
SAMPLE_RATE = 16_000
DESCRIPTION = {
    "num_symbols": 64,
    "num_speakers": 1,
    "audio": {"sample_rate": SAMPLE_RATE},
    "espeak": {"voice": "en-us"},
    "phoneme_type": "espeak",
    "phoneme_id_map": {"_": [0], "^": [1], "$": [2], " ": [3]} | {c: [4 + i] for i, c in enumerate(LETTERS)},
}


def make_voice(path: Path) -> None:
    """Write a voice with the inputs and the output of Piper's: a tone, for each sound as long as the rate says."""
    onnx = pytest.importorskip("onnx")
    node, real, whole = onnx.helper.make_node, onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
    value = onnx.helper.make_tensor_value_info
    constants = {
        "zero": np.int64(0),
        "one": np.int64(1),
        "frame": np.float32(256),
        "frequency": np.float32(0.1),
        "axes": np.array([0, 1, 2], np.int64),
    }
    nodes = [
        node("Gather", ["scales", "one"], ["length_scale"]),
        node("ReduceMax", ["input_lengths"], ["sounds"], keepdims=0),
        node("Cast", ["sounds"], ["count"], to=real),
        node("Mul", ["count", "frame"], ["usual"]),
        node("Mul", ["usual", "length_scale"], ["length"]),
        node("Cast", ["length"], ["samples"], to=whole),
        node("Range", ["zero", "samples", "one"], ["places"]),
        node("Cast", ["places"], ["times"], to=real),
        node("Mul", ["times", "frequency"], ["angles"]),
        node("Sin", ["angles"], ["tone"]),
        node("Unsqueeze", ["tone", "axes"], ["output"]),
    ]
    graph = onnx.helper.make_graph(
        nodes,
        "voice",
        [value("input", whole, ["b", "n"]), value("input_lengths", whole, ["b"]), value("scales", real, [3])],
        [value("output", real, ["b", 1, 1, "t"])],
        [onnx.numpy_helper.from_array(np.array(number), name) for name, number in constants.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    path.with_name(path.name + ".json").write_text(json.dumps(DESCRIPTION))


def seconds(path: str) -> float:
    with wave.open(path) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, SAMPLE_RATE)
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    assert np.abs(samples.astype(int)).max() > 30_000  # piper scales each sentence to the full range
    return len(samples) / SAMPLE_RATE


def test_a_voice_file_speaks_at_the_rate_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("piper")
    monkeypatch.chdir(tmp_path)
    make_voice(Path("tone.onnx"))
    text = "The old man walked down the road. He had a [[big]] dog."
    assert main(["speak", text, "--voice=tone.onnx", "--out=a.wav"]) == 0
    assert "of speech by piper tone, in a.wav" in capsys.readouterr().err
    assert main(["speak", text, "--voice=tone.onnx", "--out=b.wav", "--rate=350"]) == 0
    assert seconds("a.wav") == pytest.approx(2 * seconds("b.wav"), rel=0.1)
    Path("tone.onnx").write_bytes(b"no network")
    assert main(["speak", text, "--voice=tone.onnx", "--out=c.wav"]) == 1
    assert "tone.onnx is no voice that Piper can use" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("description", "flags", "line"),
    [
        (None, [], "there is no file tone.onnx.json; a voice of Piper is FILE.onnx with FILE.onnx.json beside it"),
        ("{}", [], "tone.onnx.json does not describe a voice of Piper"),
        ("\x00", [], "tone.onnx.json does not describe a voice of Piper"),
        ("[[[[", [], "tone.onnx.json does not describe a voice of Piper"),
        (json.dumps(DESCRIPTION), ["--language=de"], "has its own language; leave out --language=de"),
        (json.dumps(DESCRIPTION), [], "needs the package piper, which is not installed: pip install piper-tts"),
    ],
)
def test_a_voice_file_that_cannot_be_used_is_one_line(
    description: str | None,
    flags: list[str],
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "piper", None)
    Path("tone.onnx").write_bytes(b"no network")
    if description is not None:
        Path("tone.onnx.json").write_text(description)
    assert main(["speak", "Hello.", "--voice=tone.onnx", "--out=a.wav", *flags]) != 0
    [error] = capsys.readouterr().err.splitlines()
    assert line in error
    assert not Path("a.wav").exists()
