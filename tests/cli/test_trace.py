"""`quill trace` and `quill sample --trace`, with a model that Quill wrote and the text that it was trained on."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import quillgpt.training as training

LINES = "".join(
    f"Line {number}: {number * 7919 % 1000} grey geese and {number * 104729 % 1000} swans.\n" for number in range(400)
)
TINY = (
    *("--n_layer=1", "--n_head=2", "--n_embd=16", "--block_size=16", "--batch_size=2", "--max_iters=2"),
    *("--eval_iters=1", "--device=cpu", "--dtype=float32", "--compile=False", "--threads=1", "--tokenizer=byte"),
)


@pytest.fixture
def run(quill: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Give a run of two iterations on the data set `geese`."""
    monkeypatch.setitem(sys.modules, "quillgpt.training", training)  # instead of the double of these tests
    Path("geese.txt").write_text(LINES)
    assert quill("train", "--data", "geese.txt", *TINY) == 0, quill.err
    return Path("out-geese")


def test_trace(quill: Any, run: Path) -> None:
    text = "Something else. " + LINES.splitlines()[100] + " Something else."
    Path("text.txt").write_text(text)
    assert quill("trace", str(run), "--text", "text.txt", "--json") == 0, quill.err
    spans = [json.loads(line) for line in quill.out.splitlines()]
    assert [span["kind"] for span in spans].count("copied") == 1
    (copied,) = [span for span in spans if span["kind"] == "copied"]
    assert list(copied) == ["start", "end", "kind", "source", "line", "occurrences", "similarity"]
    assert (copied["source"], copied["line"]) == (str(Path("geese.txt").resolve()), 101)
    assert "are copied (of held-out text, " in quill.err
    assert quill("trace", str(run), "--text=text.txt") == 0
    assert "geese.txt:101" in quill.out
    assert quill.out.splitlines()[-1].startswith(f"Of {len(text)} characters, ")


def test_sample_traces(quill: Any, run: Path) -> None:
    assert quill("sample", str(run), "--num_samples=1", "--max_new_tokens=20", "--trace") == 0, quill.err
    assert "% are copied" in quill.out
    assert quill("sample", str(run), "--num_samples=1", "--max_new_tokens=20", "--trace", "--json") == 0
    assert json.loads(quill.out)["trace"][0]["start"] == 0


def test_what_cannot_be_traced_is_one_line(quill: Any, run: Path) -> None:
    assert quill.refused("trace", str(run)) == "trace needs a text: --text FILE, or --text - for standard input"
    assert quill("trace", str(run), "--text=missing.txt") == 1
    assert quill.err == "quill: --text=missing.txt is not there; give a file, or - for standard input\n"
    Path("geese.txt").write_text(LINES + "One more line.\n")
    assert quill("prepare", "geese.txt", "--tokenizer=byte") == 0, quill.err
    assert quill("trace", str(run), "--text=geese.txt") == 1
    assert "data/geese is not what out-geese/checkpoints/" in quill.err
    assert "prepare it as it was, or trace to what is there now with --dataset geese" in quill.err
    assert quill("trace", str(run), "--text=geese.txt", "--dataset=geese", "--json") == 0, quill.err
    for file in Path("data/geese").iterdir():
        file.unlink()
    Path("data/geese").rmdir()
    assert quill("trace", str(run), "--text=geese.txt") == 1
    assert quill.err.count("\n") == 1
    assert "geese" in quill.err
