"""The input, output and errors of `quill plot`."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

EXPECTED = "; expected the folder of a run (out_dir)"


def make_run(folder: str, *, evaluations: int = 6) -> Path:
    path = Path(folder) / "metrics.jsonl"
    path.parent.mkdir(parents=True)
    with path.open("w") as file:
        for i in range(evaluations):
            where = {"iter": 10 * i, "tokens": 1000 * i, "seconds": 5.0 * i}
            file.write(json.dumps({"kind": "eval", "train_loss": 3 - i / 10, "val_loss": 3.1 - i / 10} | where) + "\n")
        file.write('{"kind": "train", "it')
    return path


def test_one_run_is_drawn_into_its_folder(quill: Any) -> None:
    pytest.importorskip("matplotlib")
    make_run("out-a")
    assert quill("plot", "out-a") == 0, quill.err
    written = [Path("out-a/plots/training.png"), Path("out-a/plots/training.svg")]
    assert quill.out.split() == [str(path) for path in written]
    assert all(path.stat().st_size > 1000 for path in written)


@pytest.mark.parametrize(
    ("words", "written"),
    [
        (["out-a", "out-b"], ["plots/out-a-vs-out-b.png", "plots/out-a-vs-out-b.svg"]),
        (["out-a", "out-b", "out-c", "x/out-a"], ["plots/out-a-vs-3-others.png", "plots/out-a-vs-3-others.svg"]),
        (["out-a", "out-a/", "out-a/metrics.jsonl"], ["out-a/plots/training.png", "out-a/plots/training.svg"]),
        (["out-a", "--out=new/one.svg"], ["new/one.svg"]),
        (["--out", "ONE.PNG", "out-a"], ["ONE.PNG"]),
        (["out-a", "--out=lr-0.1", "--tokens"], ["lr-0.1.png", "lr-0.1.svg"]),
        (["out-a", "--out=x", "--seconds"], ["x/training.png", "x/training.svg"]),
    ],
)
def test_where_figures_go(quill: Any, words: list[str], written: list[str]) -> None:
    for folder in ("out-a", "out-b", "out-c", "x/out-a"):
        make_run(folder)
    quill.replace("quillgpt.plots.figure", "save_figure")
    assert quill("plot", *words) == 0, quill.err
    assert quill.out.split() == [str(Path(path)) for path in written]
    (((_, paths), options),) = quill.calls
    assert paths == [Path(path) for path in written]
    assert options == {"axis": "tokens" if "--tokens" in words else "seconds" if "--seconds" in words else "iter"}


def test_runs_are_named_by_their_folders(quill: Any) -> None:
    for folder in ("out-a", "x/out-a", "out-b"):
        make_run(folder)
    quill.replace("quillgpt.plots.figure", "save_figure")
    assert quill("plot", "out-a", "x/out-a", "out-b") == 0
    (((records, _), _),) = quill.calls
    assert list(records) == ["out-a", str(Path("x/out-a")), "out-b"]


def test_the_chart_needs_no_matplotlib(quill: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    make_run("out-a")
    make_run("out-b", evaluations=2)
    assert quill("plot", "out-a", "out-b", "--terminal", "--tokens") == 0, quill.err
    assert quill.out.startswith("out-a\n")
    assert "lowest 2.6000 at 5,000" in quill.out
    assert quill.out.endswith("out-b\ntoo few points for a chart, or too narrow a terminal\n")
    assert not Path("out-a/plots").exists()
    assert quill("plot", "out-a") == 1
    assert "needs the package matplotlib, which is not installed: pip install 'quillgpt[plots]'" in quill.err
    assert "--terminal" in quill.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "plot needs the folder of a run: quill plot out-shakespeare-char"),
        (["out-a", "--tokens", "--seconds"], "--tokens and --seconds are both an x axis; give one of them"),
        (["out-a", "--terminal", "--out=a.png"], "--terminal writes no file, --out names one; give one of them"),
        (["out-a", "--out=a.pdf"], "--out=a.pdf must end in .png or .svg, or in neither to get both"),
        (["out-a", "--token"], "--token is unknown; did you mean --tokens?"),
    ],
)
def test_misuse(quill: Any, words: list[str], message: str) -> None:
    make_run("out-a")
    assert quill.refused("plot", *words) == message


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("out-shakespear", f"out-shakespear does not exist{EXPECTED}; did you mean out-shakespeare?"),
        ("sub/out-shakespear", f"sub/out-shakespear does not exist{EXPECTED}"),
        ("empty", f"empty holds no metrics.jsonl{EXPECTED}"),
        ("begun", "begun/metrics.jsonl has no numbers yet; the first come with the first evaluation"),
    ],
)
def test_what_is_no_run(quill: Any, given: str, message: str) -> None:
    make_run("out-shakespeare")
    make_run("begun", evaluations=0)
    Path("empty").mkdir()
    assert quill("plot", given) == 1
    assert quill.err == f"quill: {message}\n"
