"""The page of a run, whatever its files hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from quillgpt.errors import ConfigError
from quillgpt.report.page import write_report
from quillgpt.report.privacy import Privacy
from runs import folders
from runs.folders import evaluation, row

EVIL = "<script>alert(1)</script>"


def a_run(folder: Path) -> Path:
    losses = [evaluation(10 * at, loss, train_loss=3 - at / 2) for at, loss in enumerate((3.0, 2.0, 2.5, 2.6))]
    written = row("sample", iter=30, text=EVIL, prompt=EVIL, seed=7)
    settings = f'dataset = "{EVIL}"\nout_dir = "/home/somebody/out"\nn_layer = 2\n'
    return folders.a_run(folder, *losses, written, settings=settings)


def test_a_report_executes_nothing_and_tells_no_path(tmp_path):
    write_report({EVIL: a_run(tmp_path / "run")}, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "/home/somebody" not in page
    assert "overfits from iteration 10 on" in page
    assert len(page) < 1_000_000


def test_several_runs_have_the_settings_that_differ(tmp_path):
    runs = {name: a_run(tmp_path / name) for name in ("a", "b")}
    (runs["b"] / "config.toml").write_text('dataset = "x"\nn_layer = 5\n')
    write_report(runs, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<code>n_layer</code></th><td>2</td><td>5</td>" in page
    assert page.count("<polyline") >= 4


def test_a_file_of_somebody_else_is_not_replaced(tmp_path):
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(ConfigError, match="not a report of Quill's"):
        write_report({"a": a_run(tmp_path / "a")}, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("FILE:/srv/x/prompt.txt", "FILE:prompt.txt"),
        (r"C:\Users\x\book.txt", "book.txt"),
        ("--data=/srv/x/book.txt,b.txt", "--data=book.txt,b.txt"),
        ("file:///srv/x/book.txt", "book.txt"),
        ("https://example.org/a/b.txt", "https://example.org/a/b.txt"),
        ("12 ms/iter", "12 ms/iter"),
    ],
)
def test_paths_are_cut(words, told):
    assert Privacy(full=False).told(words) == told
    assert Privacy(full=True).told(words) == words


def test_a_model_is_not_said_to_overfit_by_the_losses_of_the_next_one(tmp_path):
    a_run(tmp_path / "run")
    with (tmp_path / "run" / "config.toml").open("a") as settings:
        settings.write("teacher_iters = 10\n")
    write_report({"run": tmp_path / "run"}, tmp_path / "report.html")
    assert "overfits" not in (tmp_path / "report.html").read_text(encoding="utf-8")
