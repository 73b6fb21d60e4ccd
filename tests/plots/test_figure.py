"""Figures of runs."""

from __future__ import annotations

import struct
from pathlib import Path
from xml.etree import ElementTree

import pytest

from quillgpt.errors import ConfigError
from quillgpt.plots.record import Row

pytest.importorskip("matplotlib")

from quillgpt.plots.figure import COLOURS, draw_figure, save_figure


def rows(iterations: int = 20, *, evaluated: bool = True, start: float = 4.0) -> list[Row]:
    made: list[Row] = []
    for i in range(1, iterations + 1):
        when = {"iter": i, "tokens": 100 * i, "seconds": 60.0 * i}
        made.append({"kind": "train", "loss": start / i, "lr": 1e-3, "tokens_per_second": 500.0 + i, "mfu": 0.1} | when)
        if evaluated and i % 5 == 0:
            made.append({"kind": "eval", "train_loss": start / i, "val_loss": 1 + (i - 10) ** 2 / 100} | when)
    return made


def test_png_and_svg_are_what_they_say(tmp_path: Path) -> None:
    paths = [tmp_path / "new" / "a.png", tmp_path / "new" / "a.svg"]
    save_figure({"one": rows()}, paths)
    content = paths[0].read_bytes()
    assert content.startswith(b"\x89PNG")
    assert min(struct.unpack(">II", content[16:24])) >= 1000
    assert ElementTree.parse(paths[1]).getroot().tag.endswith("svg")
    before = paths[1].read_bytes()
    save_figure({"one": rows()}, paths)
    assert paths[1].read_bytes() == before
    assert sorted(path.name for path in paths[0].parent.iterdir()) == ["a.png", "a.svg"]


def test_panels_labels_and_best_evaluation() -> None:
    figure = draw_figure({"one": rows(), "two": rows(start=8.0)})
    losses, rates, speeds = figure.axes
    labels = [panel.get_ylabel() for panel in figure.axes]
    assert labels == ["loss (nats per token)", "learning rate", "tokens per second"]
    assert speeds.get_xlabel() == "iteration"
    names, kinds = ([text.get_text() for text in legend.get_texts()] for legend in figure.legends)
    assert names == [f"{name}: best validation loss 1.0000 at iteration 10" for name in ("one", "two")]
    assert len(kinds) == 4
    stars = [line for line in losses.lines if line.get_marker() == "*"]
    assert [(line.get_xdata().tolist(), line.get_ydata().tolist()) for line in stars] == [([10.0], [1.0])] * 2
    assert [line.get_color() for line in rates.lines] == list(COLOURS[:2])
    assert speeds.lines[0].get_ydata().tolist() == [501.0 + i for i in range(20)]


def test_a_run_without_an_evaluation() -> None:
    figure = draw_figure({"one": rows(1, evaluated=False)})
    names, kinds = ([text.get_text() for text in legend.get_texts()] for legend in figure.legends)
    assert names == ["one: not evaluated yet"]
    assert kinds == ["training, logged batches"]
    assert figure.axes[1].lines[0].get_marker() == "."


def test_a_run_with_evaluations_only() -> None:
    figure = draw_figure({"one": [row for row in rows() if row["kind"] == "eval"]})
    assert figure.legends[1].get_texts()[0].get_text() == "training, at evaluations"
    assert [panel.get_ylabel() for panel in figure.axes] == ["loss (nats per token)"]
    assert figure.axes[0].get_xlabel() == "iteration"


def test_a_panel_is_drawn_if_one_of_the_runs_has_numbers_for_it() -> None:
    evaluated = [row for row in rows() if row["kind"] == "eval"]
    losses, rates, speeds = draw_figure({"one": evaluated, "two": rows()}).axes
    assert len(rates.lines) == len(speeds.lines) == 1
    assert len(losses.lines) == len(draw_figure({"one": evaluated, "two": evaluated}).axes[0].lines) + 1


@pytest.mark.parametrize(
    ("iterations", "label", "last"),
    [(1, "seconds", 60), (20, "minutes", 20), (600, "hours", 10), (6000, "days", 6000 / 1440)],
)
def test_time_is_in_a_readable_unit(iterations: int, label: str, last: float) -> None:
    speeds = draw_figure({"one": rows(iterations)}, axis="seconds").axes[2]
    assert speeds.get_xlabel() == f"time since the start ({label})"
    assert speeds.lines[0].get_xdata()[-1] == pytest.approx(last)


def test_tokens_as_axis() -> None:
    speeds = draw_figure({"one": rows()}, axis="tokens").axes[2]
    assert speeds.get_xlabel() == "tokens trained on"
    assert speeds.lines[0].get_xdata()[-1] == 2000


@pytest.mark.parametrize("name", ["a long name " * 20, "w" * 24, "w" * 25])
@pytest.mark.parametrize("kinds", [("train", "eval"), ("eval",)], ids=["all", "loss alone"])
def test_names_do_not_leave_the_figure(name: str, kinds: tuple[str, ...]) -> None:
    recorded = [row for row in rows(5000) if row["kind"] in kinds]
    figure = draw_figure({name + str(i): recorded for i in range(9)})
    figure.canvas.draw()
    width, height = figure.canvas.get_width_height()
    for legend in figure.legends:
        box = legend.get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= width
        assert box.y0 >= 0
        assert box.y1 <= height


@pytest.mark.parametrize("name", ["a.png", "a.svg"])
def test_only_pictures_of_quill_are_written_over(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    save_figure({"run": rows()}, [path])
    save_figure({"run": rows()}, [path])
    for content in (b"mine", b"<svg><dc:title>Another</dc:title></svg>", b""):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match="was not drawn by Quill"):
            save_figure({"run": rows()}, [path])
        assert path.read_bytes() == content
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="was not drawn by Quill"):
        save_figure({"run": rows()}, [path])
    assert not (tmp_path / "elsewhere").exists()
