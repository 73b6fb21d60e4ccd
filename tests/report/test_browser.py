"""Reports in a real Chromium, opened over file://."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quillgpt.report.page import write_report
from runs.folders import a_run, evaluation, row, step

EVIL = "<script>alert(1)</script><img src=https://example.org/x onerror=alert(2)>"
NAME = "<script>alert(3)<b>"
NARROW = {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write the report of a run with thousands of rows and hostile texts, and that of two."""
    folder = tmp_path_factory.mktemp("reports")
    lines = [step(at) for at in range(4_000)] + [evaluation(at, 3 - at / 4_000) for at in range(0, 4_000, 2)]
    lines += [row("sample", iter=at, text=EVIL * 40, prompt=EVIL, seed=EVIL, seconds=1.0) for at in range(0, 4_000, 8)]
    lines += [row("warning", iter=at, text=EVIL) for at in range(100)]
    settings = f"dataset = {json.dumps(EVIL)}\ndata = {json.dumps(EVIL)}\nn_layer = 2\n"
    run = a_run(folder / NAME, *lines, settings=settings, summary={"val_loss_full": 2.0, "copied_share": 0.1})
    file = {"location": EVIL, "bytes": 9, "sha256": "0" * 64, "encoding": EVIL}
    data = {"name": EVIL, "train_tokens": 9, "val_tokens": 1, "manifest": {"sources": [file] * 200, "tokenizer": {}}}
    session = {
        "iteration": 0,
        "device": EVIL,
        "packages": {EVIL: EVIL},
        "began": EVIL,
        "given": {"data": {"value": EVIL}},
    }
    provenance = {"format_version": 1, "sessions": [session, session | {"device": "x"}], "data": [data]}
    (run / "provenance.json").write_text(json.dumps(provenance), encoding="utf-8")
    other = a_run(folder / "b", evaluation(0, 3.0), evaluation(10, 2.0), settings="n_layer = 3\n")
    written = {"one": folder / "one.html", "two": folder / "two.html"}
    write_report({NAME: run}, written["one"])
    write_report({NAME: run, "b": other}, written["two"])
    return written


@pytest.mark.parametrize("name", ["one", "two"])
@pytest.mark.parametrize("scripts", [True, False])
def test_a_report_is_quiet_and_fits_a_phone(browser, pages: dict[str, Path], name: str, scripts: bool) -> None:
    assert pages[name].stat().st_size < 1_000_000
    context = browser.new_context(viewport=NARROW, java_script_enabled=scripts)
    page, wrong, asked = context.new_page(), [], []
    page.on("console", lambda said: wrong.append(said.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(pages[name].as_uri())
    assert asked == [pages[name].as_uri()]
    assert page.locator("script, img, iframe, link").count() == 0
    assert page.locator("main").inner_text().count("<script>alert(1)</script>") > 1
    assert page.locator("svg[role=img]").count() >= 2
    about = page.locator("svg[role=img] desc").first.text_content()
    assert "lowest" in about
    assert page.locator("figure").first.bounding_box()["height"] > 150
    for colours in ("light", "dark"):
        page.emulate_media(color_scheme=colours)
        wide = page.locator("body").bounding_box()
        assert wide["x"] >= 0
        assert wide["width"] <= NARROW["width"]
        if scripts:
            assert page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"]
    context.close()
    assert wrong == []


def test_its_policy_stops_a_script_that_should_not_be_there(browser, pages: dict[str, Path], tmp_path: Path) -> None:
    source = pages["two"].read_text(encoding="utf-8")
    spoiled = tmp_path / "spoiled.html"
    spoiled.write_text(source.replace("</main>", "<script>document.title = 'ran'</script></main>"), encoding="utf-8")
    context = browser.new_context()
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.goto(spoiled.as_uri())
    assert page.title() != "ran"
    assert "Content Security Policy" in said[0]
    context.close()
