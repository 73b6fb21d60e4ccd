"""The output, tables and figures of the lab's commands."""

import csv
import math
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from quillgpt.attention import KernelSpec
from quillgpt.cli import main
from quillgpt.evaluation import Score
from quillgpt.lab.figures import draw_comparison, draw_kernel, draw_lengths, draw_maps, draw_rows, draw_swaps
from quillgpt.lab.kernel_summary import RunResult, summarise_kernels
from quillgpt.lab.lengths import LengthLoss
from quillgpt.lab.ranges import measure_ranges
from quillgpt.lab.swap import Swapped, score_kernels
from quillgpt.lab.variants import with_kernel
from quillgpt.lab.weights import RowStatistics
from quillgpt.ownership import RECORD


@pytest.fixture
def here(place, monkeypatch):
    monkeypatch.chdir(place)
    return place


COMMANDS = {
    "ranges": (["ranges", "SM"], {"ranges": ["csv", "md", "png", "svg"], "histograms": ["csv", "md"]}),
    "swap": (["swap", "SM", "--to=GKpoly-2..4,PA_square,GK"], {"swap": ["csv", "md", "png", "svg"]}),
    "look": (
        ["look", "SM", "--start=the quick brown"],
        {
            "maps": ["png", "svg"],
            "rows": ["csv", "md", "png", "svg"],
            "lengths": ["csv", "md", "png", "svg"],
            "positions": ["csv", "md"],
        },
    ),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_tables_and_pictures_are_written(name, here, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    words, expected = COMMANDS[name]
    assert main(["lab", *words, "--threads=1", "--blocks=3", f"--out={tmp_path}"]) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    wanted = {tmp_path / f"{stem}.{ending}" for stem, endings in expected.items() for ending in endings}
    assert set(tmp_path.iterdir()) - {tmp_path / RECORD} == wanted
    for path in wanted:
        assert str(path) in out or (path.stem in ("histograms", "rows", "positions") and path.suffix in (".csv", ".md"))
        if path.suffix == ".svg":
            assert ElementTree.parse(path).getroot().tag.endswith("svg")
        if path.suffix == ".png":
            assert path.read_bytes().startswith(b"\x89PNG")
        if path.suffix == ".csv":
            with path.open() as file:
                rows = list(csv.reader(file))
            assert len({len(row) for row in rows}) == 1
            assert len(rows) >= 4


def test_without_matplotlib_the_tables_are_there(here, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["lab", "swap", "SM", "--to=GK", "--threads=1", "--blocks=2", f"--out={tmp_path}"]) == 0
    said = capsys.readouterr()
    assert "pip install 'quillgpt[plots]'" in " ".join(said.err.split())
    assert sorted(path.name for path in tmp_path.iterdir()) == [RECORD, "swap.csv", "swap.md"]


def test_results_have_a_usual_place(here, capsys):
    assert main(["lab", "swap", "SM", "--to=GK", "--threads=1", "--blocks=2"]) == 0, capsys.readouterr().err
    assert (here / "lab" / "SM" / "swap.csv").is_file()


@pytest.mark.parametrize(
    ("words", "status", "complaint"),
    [
        (["ranges", "nowhere"], 1, "nowhere"),
        (["ranges", "SM", "--dataset=other"], 1, "other"),
        (["ranges", "SM", "--blocks=0"], 2, "--blocks=0"),
        (["swap", "SM"], 2, "--to"),
        (["swap", "SM", "--to=G"], 2, "G is no attention kernel"),
        (["look", "SM", "--start="], 2, "the text to look at is empty"),
        (["look", "SM", "--start=Ä"], 1, "Ä"),
    ],
)
def test_bad_input_is_answered_in_a_line(words, status, complaint, here, tmp_path, capsys):
    assert main(["lab", *words, "--threads=1", f"--out={tmp_path / 'x'}"]) == status
    said = capsys.readouterr().err
    assert complaint in " ".join(said.split())
    assert "Traceback" not in said
    assert not (tmp_path / "x").exists()


def test_results_do_not_go_to_a_file(here, tmp_path, capsys):
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "deeper"):
        assert main(["lab", "ranges", "SM", f"--out={place}"]) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert (
            said
            == f"quill: {tmp_path / 'file'} is a file, so results cannot go to {place}; give another folder with --out"
        )


@pytest.mark.parametrize(
    ("words", "kernel"),
    [
        (
            ["--to=GKpoly-6", "--poly_form=chebyshev", "--poly_range=30"],
            "GKpoly-6, poly_form = chebyshev, poly_range = 30",
        ),
        (["--to=PA_relu", "--len_scale=pos", "--attn_bias=0.5"], "PA_relu, len_scale = pos, attn_bias = 0.5"),
        (["--to=GK,PA_square", "--row_norm"], "GK, row_norm = True"),
    ],
)
def test_a_swap_takes_the_options_of_kernels(words, kernel, here, tmp_path, capsys):
    assert main(["lab", "swap", "SM", *words, "--threads=1", "--blocks=2", f"--out={tmp_path}"]) == 0
    with (tmp_path / "swap.csv").open() as file:
        assert list(csv.DictReader(file))[1]["kernel"].replace(".0", "") == kernel
    assert main(["lab", "swap", "SM", *words[1:], "--to=SM", "--threads=1", f"--out={tmp_path}"]) == 2
    assert "and none of them is named; leave it out" in " ".join(capsys.readouterr().err.split())


def test_a_kernel_that_overflows_says_so(here, tmp_path, capsys, monkeypatch):
    overflown = Score(math.nan, math.nan, None, 10)
    monkeypatch.setattr("quillgpt.lab.model_and_text.score_blocks", lambda *_, **__: overflown)
    assert main(["lab", "swap", "SM", "--to=GKpoly-1", "--threads=1", f"--out={tmp_path}"]) == 0
    assert "GKpoly-1: loss nan: it overflows on arguments" in " ".join(capsys.readouterr().err.split())
    monkeypatch.setattr("quillgpt.api.score_windows", lambda *_, **__: overflown)
    assert main(["eval", "SM", "--attn_type=GKpoly-1", "--split=val", "--threads=1"]) == 0
    assert "the loss on small val is nan: the model overflows" in " ".join(capsys.readouterr().err.split())


@pytest.fixture
def drawing():
    pytest.importorskip("matplotlib")


@pytest.mark.usefixtures("drawing")
def test_the_picture_of_a_kernel_shows_exp_its_polynomial_and_all_pairs(opened):
    model = with_kernel(opened.gpt, KernelSpec("GKpoly-4"))
    ranges = measure_ranges(model, opened.inputs())
    shapes, histogram = draw_kernel(model.config.kernel, ranges).axes
    names = [text.get_text().split(":")[0] for text in shapes.get_legend().get_texts()]
    assert names[:2] == ["exp", "GKpoly-4, power2"]
    x, y = shapes.lines[1].get_data()
    np.testing.assert_allclose(y, (1 + np.asarray(x) / 16) ** 16, rtol=1e-6)
    assert sum(bar.get_height() for bar in histogram.patches) == pytest.approx(1.0)


@pytest.mark.usefixtures("drawing")
def test_maps_show_every_head_and_signs_by_colour():
    weights = torch.randn(2, 3, 5, 5).tril()
    figure = draw_maps(weights, list("abcde"), title="a model")
    maps = [panel for panel in figure.axes if panel.images]
    assert len(maps) == 6
    np.testing.assert_allclose(maps[4].images[0].get_array(), weights[1, 1])
    assert {panel.images[0].get_cmap().name for panel in maps} == {"RdBu_r"}
    sums = [bar.get_width() for bar in figure.axes[1].patches]
    np.testing.assert_allclose(sums, weights[0, 0].sum(-1), rtol=1e-5)
    positive = draw_maps(weights.abs(), list("abcde"), title="a model")
    assert positive.axes[0].images[0].get_cmap().name == "Blues"


@pytest.mark.usefixtures("drawing")
def test_lines_of_every_head_and_length():
    figure = draw_rows(RowStatistics(*(torch.rand(2, 3, 20) for _ in range(3))))
    assert [len(panel.lines) for panel in figure.axes] == [7, 6, 6]
    results = [LengthLoss(length, 1.0 + length / 100, torch.full((length,), 1.0)) for length in (8, 16, 32)]
    positions, means = draw_lengths(results, 16).axes
    assert len(positions.lines) == 4
    assert means.lines[0].get_xdata().tolist() == [0.5, 1.0, 2.0]


@pytest.mark.usefixtures("drawing")
def test_swaps_over_n_and_the_best_of_each_depth(opened):
    results: list[Swapped] = list(score_kernels(opened, ["GKpoly-1", "GKpoly-2", "GKpoly-6", "PA_square"]))
    by_n, by_depth = draw_swaps(results).axes
    assert by_n.lines[0].get_xdata().tolist() == [1, 2, 6]
    front = by_depth.lines[-1].get_ydata().tolist()
    assert front == sorted(front, reverse=True)
    assert {text.get_text() for text in by_depth.texts} == {"GKpoly-1", "GKpoly-2", "GKpoly-6", "PA_square"}


@pytest.mark.usefixtures("drawing")
def test_a_comparison_is_ranked():
    outcomes = [
        RunResult(attn_type=name, seed=seed, kernel=name, val_loss=loss)
        for name, loss in (("GK", 2.0), ("SM", 1.0))
        for seed in (1, 2)
    ]
    curves = {name: [[(0.0, 4.0), (10.0, 2.0)]] * 2 for name in ("GK", "SM")}
    learning, finals = draw_comparison(summarise_kernels(outcomes), curves).axes
    assert [label.get_text() for label in finals.get_yticklabels()] == ["SM", "GK"]
    assert len(learning.lines) == 4
