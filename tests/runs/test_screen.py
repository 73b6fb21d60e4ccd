"""What is shown of a run, as text of a given size."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from rich.cells import cell_len

from quillgpt.runs.follow import MOST_POINTS, Curve, Followed
from quillgpt.runs.screen import Frame, compose, line_of, warnings_of
from runs.folders import a_run, evaluation, row, step, trained_elsewhere

NASTY = "[red]\x1b]0;x\x07\x1b[2J\r\x9b5m\u202e{b}\ttab[/]\x0bnew\x85 ünï 漢字漢字"


def followed(folder: Path, name: str = "out") -> Followed:
    run = Followed(name, folder)
    run.look_at_all()
    return run


@pytest.fixture
def run(tmp_path: Path) -> Followed:
    """A run that trains and has everything to be shown."""
    lines = [evaluation(0, 5.0)]
    for i in range(10, 61, 10):
        lines += [step(i), evaluation(i, 5 - i / 20 if i < 50 else 3.2 + i / 1000)]
    lines.append(row("warning", iter=50, text="it has begun to overfit", seconds=100.0))
    lines.append(row("sample", iter=60, text="It was a dark\nand stormy night. " + "word " * 300, seconds=120.0))
    settings = "max_iters = 100\nminutes = 4.0\n"
    return followed(trained_elsewhere(a_run(tmp_path / "out", *lines, settings=settings)))


def shown(run: Followed, frame: Frame) -> list[str]:
    return [line.plain for line in compose(run, frame)]


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40)])
def test_everything_fits_the_screen(run: Followed, width: int, height: int) -> None:
    lines = shown(run, Frame(width=width, height=height, place=(1, 3)))
    assert len(lines) == height
    assert max(map(cell_len, lines)) <= width
    assert lines[0] == "out   running   iter 60 of 100 (60%)   run 1 of 3"
    loss = "loss   train 3.1600   val 3.2600   lowest 3.0000 at 40   1.500 bits/byte"
    assert lines[1] == (loss if width == 80 else f"{loss}   2 evaluations since")
    assert lines[2] == "step   learning rate 1.00e-02   gradient norm 0.5   1,234 tokens/s   mfu 25.0%"
    assert lines[3].startswith("time   2:00 of 4 min planned   1:20 left   0:40 to spare   ends about ")
    assert "loss, nats per token:  · train   • val, lowest 3.0000 at 40" in lines[4]
    assert "warning at iter 50: it has begun to overfit" in lines
    heading = lines.index("sample at iter 60")
    assert lines[heading + 1 : heading + 3][0] == "  It was a dark"
    assert lines[heading + 2].startswith("  and stormy night. word word")
    assert lines[-1] == "q quit   space pause   tab next run"
    plot = [line for line in lines if re.match(r" *[\d.]* *[┤│]", line)]
    assert len(plot) == (9 if height == 24 else 21)


def test_a_file_has_no_limits_but_for_the_chart(run: Followed) -> None:
    lines = shown(run, Frame())
    assert "q quit" not in lines[-1]
    assert lines[-1] == "  ..."
    assert max(len(line) for line in lines if "┤" in line) <= 80
    assert shown(run, Frame(encoding="ascii"))[4:] != lines[4:]
    assert all(line.isascii() for line in shown(run, Frame(encoding="ascii")))


@pytest.mark.parametrize("height", range(30))
@pytest.mark.parametrize("width", [1, 3, 10, 40, 79])
def test_no_size_is_too_small(run: Followed, width: int, height: int) -> None:
    lines = shown(run, Frame(width=width, height=height))
    assert len(lines) == height
    assert all(cell_len(line) <= width for line in lines)


def test_before_the_first_numbers(tmp_path: Path) -> None:
    run = followed(a_run(tmp_path / "out"))
    assert shown(run, Frame())[0].endswith("no numbers yet; the first come with the first evaluation")
    assert len(shown(run, Frame(height=24))) == 24


def test_text_of_a_run_is_text_and_nothing_else(tmp_path: Path) -> None:
    lines = [evaluation(1, 2.0), row("sample", iter=1, text=NASTY), row("warning", iter=1, text=NASTY)]
    run = followed(a_run(tmp_path / "out", *lines), name=NASTY)
    for frame in (Frame(), Frame(width=40, height=24), Frame(width=7, height=30)):
        for line in compose(run, frame):
            assert line.plain.isprintable() or not line.plain
            assert not {str(span.style) for span in line.spans} - {"bold", "yellow", "cyan", "dim", "green", "red"}
            assert cell_len(line.plain) <= frame.width or frame.height is None
    text = "\n".join(shown(run, Frame()))
    assert "[red]\\x1b]0;x\\x07\\x1b[2J" in text
    assert "\\u202e{b}" in text
    assert line_of(run).isprintable()


def test_what_a_user_should_know(tmp_path: Path) -> None:
    lines = [step(1, grad_norm=None), "{damaged\n", row("failed", iter=1, text="the disk is\nfull")]
    run = followed(a_run(tmp_path / "out", *lines))
    assert run.state == "failed"
    assert list(warnings_of(run)) == [
        "a line of its record cannot be read, and what stood there is not shown",
        "at iter 1: the disk is full",
    ]
    assert "gradient norm not finite" in shown(run, Frame())[2]


def test_a_run_goes_on_from_an_earlier_checkpoint(tmp_path: Path) -> None:
    folder = a_run(tmp_path / "out", evaluation(1, 3.0), evaluation(2, 1.0), row("failed", iter=2, text="no memory"))
    run = followed(folder)
    assert (run.state, run.iteration, run.best and run.best["iter"]) == ("failed", 2, 2)
    (folder / "new").write_text(evaluation(1, 3.0))
    (folder / "new").replace(folder / "metrics.jsonl")
    trained_elsewhere(folder)
    assert run.look()
    assert (run.state, run.iteration, run.best and run.best["iter"]) == ("running", 1, 1)
    assert not list(warnings_of(run))
    assert run.losses["val"] == [(1.0, 3.0)]
    assert not run.look()


def test_a_run_that_writes_nothing_any_more_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = trained_elsewhere(a_run(tmp_path / "out", step(1), step(2), step(3)))
    monkeypatch.setattr("quillgpt.runs.follow.quiet_seconds", lambda _: 59.0)
    assert followed(folder).quiet == 0
    monkeypatch.setattr("quillgpt.runs.follow.quiet_seconds", lambda _: 130.0)
    run = followed(folder)
    assert list(warnings_of(run)) == ["no new numbers for 2 min, which is longer than usual"]
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(step(400))  # whose evaluation took 13 minutes
    assert followed(folder).quiet == 0


def test_a_curve_of_any_length_stays_small() -> None:
    curve = Curve()
    for i in range(10 * MOST_POINTS):
        curve.add(i, i / 2)
    curve.add(5, None)
    curve.add(5, 1e300)
    assert MOST_POINTS / 2 <= len(curve.points) < MOST_POINTS
    assert all(y == x / 2 for x, y in curve.points)
    assert sorted(curve.points) == curve.points
