"""The page, in a browser, and what it is made of."""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
import webbrowser
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
import pytest

from exported import saved
from quillgpt.cli.serve import serve
from quillgpt.serve import run as server_process
from quillgpt.serve.app import Server
from quillgpt.serve.completion import ServedModel
from quillgpt.serve.runs import MOST_ROWS, Runs
from quillgpt.serve.static import FILES, FOLDER

KEY = "a key"
PATIENCE_MS = 30_000
PROMPT = "It was the best of café"


class Slow(ServedModel):
    """A model that takes its time, where a test wants to see it write."""

    pause = 0.0

    def complete(self, *arguments):
        for pieces in super().complete(*arguments):
            time.sleep(self.pause)
            yield pieces


@dataclass
class Served:
    url: str
    server: Server
    models: dict[str, Slow]

    def completion(self, **body):
        answer = httpx.post(f"{self.url}v1/completions", json=body, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()["choices"][0]


@dataclass
class Visit:
    """A page that was opened, and what went wrong in it."""

    page: object
    served: Served
    wrong: list[str] = field(default_factory=list)

    def __getattr__(self, name):
        return getattr(self.page, name)

    def write(self, text, **settings):
        self.set(**settings)
        self.fill("#prompt", text)
        self.click("#go")
        self.ends()

    def set(self, **settings):
        self.locator("#settings").evaluate("fold => (fold.open = true)")
        for name, value in settings.items():
            self.fill(f"#set-{name}", str(value))
        self.locator("#settings").evaluate("fold => (fold.open = false)")

    def ends(self):
        """Wait until nothing is written."""
        self.expect("#stop").to_be_disabled()
        self.expect(".status >> nth=0").to_contain_text("token")

    def expect(self, selector):
        from playwright.sync_api import expect

        expect.set_options(timeout=PATIENCE_MS)
        return expect(self.locator(selector))

    def text(self, sheet=0):
        return self.locator(".text").nth(sheet).evaluate("text => text.textContent")


@pytest.fixture(scope="module")
def slow(models) -> dict[str, Slow]:
    return {name: Slow(name, served.model) for name, served in models.items()}


@pytest.fixture(scope="module")
def served(slow, start) -> Iterator[Served]:
    for port, server in start(slow):
        yield Served(f"http://127.0.0.1:{port}/", server, slow)


@pytest.fixture(scope="module")
def with_key(slow, start) -> Iterator[Served]:
    for port, server in start(slow, api_key=KEY):
        yield Served(f"http://127.0.0.1:{port}/", server, slow)


@pytest.fixture
def visit(browser, served) -> Iterator[Callable[..., Visit]]:
    """Opens the page; at the end nothing may have gone wrong there, and no request have left the server."""
    visits = []

    def open_page(at: Served = served, place: str = "", ready: bool = True, **options) -> Visit:
        page = browser.new_context(**options).new_page()
        page.set_default_timeout(PATIENCE_MS)
        visits.append(visit := Visit(page, at))
        page.on("console", lambda said: visit.wrong.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: visit.wrong.append(str(error)))
        page.on("request", lambda asked: None if asked.url.startswith(at.url) else visit.wrong.append(asked.url))
        page.goto(at.url + place)
        if ready:
            page.wait_for_selector("body[data-ready]")
        return visit

    yield open_page
    for each in visits:
        each.context.close()
        assert each.wrong == []


def until(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_text_appears_as_it_is_written_and_stops(visit, served):
    page = visit()
    served.models["tiny"].pause = 0.15
    page.set(max_tokens=40, seed=5)
    page.fill("#prompt", PROMPT)
    page.press("#prompt", "Control+Enter")
    page.wait_for_selector(".t:not(.prompt)")
    page.expect(".text").to_have_attribute("aria-busy", "true")
    page.press("#prompt", "Escape")
    page.ends()
    served.models["tiny"].pause = 0.0
    page.expect(".status").to_contain_text("stopped")
    whole = served.completion(prompt=PROMPT, max_tokens=40, seed=5)["text"]
    assert page.text().startswith(PROMPT)
    written = page.text().removeprefix(PROMPT)
    assert whole.startswith(written)
    assert len(written) < len(whole)
    until(lambda: served.server.turns.counts == (0, 0))


def test_text_is_that_of_the_api_although_letters_are_cut_into_tokens(visit, served):
    page = visit()
    asked = {"max_tokens": 40, "seed": 1, "temperature": 1.5}
    page.write(PROMPT, **asked)
    asked["prompt"] = PROMPT
    assert page.text() == PROMPT + served.completion(**asked)["text"]
    assert page.locator(".status").inner_text().startswith("40 tokens")


def test_prompt_is_coloured_by_surprise_and_a_token_shows_its_probability(visit, served):
    page = visit()
    page.write("It was the best", max_tokens=0)
    scored = served.completion(prompt="It was the best", max_tokens=0, echo=True, logprobs=11)["logprobs"]
    tokens = page.locator(".t.prompt")
    assert tokens.all_text_contents() == scored["tokens"]
    for token, logprob in zip(tokens.all(), scored["token_logprobs"], strict=True):
        bits = 0 if logprob is None else -logprob / 0.6931471805599453
        step = sum(bits >= least for least in (1, 3, 5, 8, 11))
        assert re.findall(r"\bs(\d)", token.get_attribute("class")) == ([str(step)] if step else [])
    tokens.nth(3).hover()
    page.expect(".card").to_be_visible()
    assert page.locator(".card li").count() == 10
    shown = page.locator(".card .what").inner_text()
    assert f"{-scored['token_logprobs'][3] / 0.6931471805599453:.1f} bits" in shown
    names = [name for name, _ in sorted(scored["top_logprobs"][3].items(), key=lambda item: -item[1])]
    likeliest = next(name for name in names if name != scored["tokens"][3])
    seen = page.locator(".card .name").first.inner_text()
    assert seen == likeliest.replace(" ", "␣").replace("\n", "⏎")
    page.mouse.move(0, 0)
    page.expect(".card").to_be_hidden()


def test_alternative_goes_on_and_all_branches_stay(visit):
    page = visit()
    page.write(PROMPT, max_tokens=12, seed=3)
    first = page.text()
    token = page.locator(".t:not(.prompt)").nth(4)
    place = int(token.get_attribute("data-at"))
    before = "".join(page.locator(".t").all_text_contents()[:place])
    token.click()
    choice = page.locator(".card li button:enabled").nth(1)
    name = choice.locator(".name").inner_text().replace("␣", " ").replace("⏎", "\n")
    choice.click()
    page.expect(".card").to_be_hidden()
    page.ends()
    second = page.text()
    assert second.startswith(before + name)
    page.expect(".sheet summary").to_have_text("Branches (3)")
    page.click("#undo")
    assert page.text() == first
    page.click(".sheet summary")
    page.click(".tree button >> nth=2")
    assert page.text() == second
    page.expect(".tree [aria-current=true]").to_have_count(1)
    page.click("#undo")
    page.click("#undo")
    assert page.text() == ""
    page.expect("#undo").to_be_disabled()


def test_branches_are_there_after_the_page_is_loaded_again(visit):
    page = visit()
    page.write(PROMPT, max_tokens=5, n=2, seed=3)
    first = page.text()
    page.click(".sheet summary")
    page.click(".tree button >> nth=2")
    second, note = page.text(), page.locator(".status").inner_text()
    assert first != second
    page.reload()
    page.expect("body[data-ready]").to_have_count(1)
    assert page.text() == second
    assert page.locator(".status").inner_text() == note
    page.click(".sheet summary")
    page.click(".tree button >> nth=1")
    assert page.text() == first
    page.click(".actions button >> nth=0")  # a branch that was read back can be continued
    page.ends()
    assert page.text().startswith(first)
    page.expect(".sheet summary").to_have_text("Branches (5)")  # a prompt, and two samples twice


def test_samples_are_branches_and_a_full_context_is_halved(visit):
    page = visit()
    page.write(PROMPT, max_tokens=6, n=3, seed=4)
    page.expect(".sheet summary").to_have_text("Branches (4)")
    page.set(n=1, max_tokens=40, seed="")
    for _ in range(20):  # any of them may end by itself
        length = len(page.text())
        page.get_by_role("button", name="Go on").click()
        page.ends()
        assert len(page.text()) >= length
        if "exceed the context" in page.locator(".status").inner_text():
            break
    else:
        raise AssertionError("the context does not fill")
    page.write("It was the best of times. " * 30, max_tokens=5)  # no prompt is too long
    assert "exceed the context" in page.locator(".status").inner_text()
    page.wrong[:] = [said for said in page.wrong if "400" not in said]  # how the page learns the size of a prompt


def test_copied_text_is_marked_and_says_where_it_is_from(visit, traced, monkeypatch):
    url, tracer, models = traced
    # A model that was never trained copies no more than single letters.
    by_letter = replace(tracer, calibration=tracer.calibration.model_copy(update={"least": 1}))
    monkeypatch.setitem(vars(models[0]), "tracer", by_letter)
    opened = visit(Served(f"{url}/", None, {}))
    opened.write("Line", max_tokens=8, seed=3, temperature=1)
    assert opened.locator(".t.copied").count() == 0
    opened.check("#trace")
    opened.expect(".trace").to_contain_text("are copied")
    letters = set(tracer.index.text[: len(tracer.index.suffixes)].tobytes().decode(errors="ignore"))
    written = [token for token in opened.locator(".text .t").all() if "prompt" not in token.get_attribute("class")]
    marked = ["copied" in token.get_attribute("class") for token in written]
    assert marked == [token.text_content() in letters for token in written]
    assert any(marked)
    written[marked.index(True)].click()
    opened.expect(".card .from").to_have_text(re.compile(r"copied from geese\.txt:\d+(, [\d,]+ times there)?"))
    opened.uncheck("#trace")
    opened.expect(".t.copied").to_have_count(0)
    opened.expect(".trace").to_be_hidden()


def test_models_stand_side_by_side(visit, served):
    page = visit()
    page.get_by_role("button", name="other").click()
    page.write("It was", max_tokens=8, seed=6)
    for number, model in enumerate(("tiny", "other")):
        wanted = served.completion(model=model, prompt="It was", max_tokens=8, seed=6)["text"]
        assert page.text(number) == "It was" + wanted
    boxes = [box.bounding_box() for box in page.locator(".sheet").all()]
    assert boxes[0]["y"] == boxes[1]["y"]
    page.get_by_role("button", name="tiny").click()
    page.expect(".sheet").to_have_count(1)


def test_keyboard_alone_suffices(visit):
    page = visit()
    page.set(max_tokens=6, seed=7)

    def tab_to(selector):
        for _ in range(20):
            page.keyboard.press("Tab")
            if page.locator(f"{selector}:focus").count():
                return
        raise AssertionError(f"Tab does not lead to {selector}")

    tab_to("#prompt")
    page.keyboard.type(PROMPT)
    page.keyboard.press("Control+Enter")
    page.ends()
    first = page.text()
    tab_to(".t")
    page.expect(".card").to_be_visible()
    page.keyboard.press("End")
    page.keyboard.press("ArrowLeft")
    place = page.locator(".t:focus").get_attribute("data-at")
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Escape")
    page.expect(".card").to_be_hidden()
    assert page.locator(".t:focus").get_attribute("data-at") == place
    page.keyboard.press("ArrowDown")
    page.expect(".card li button:focus").to_have_count(1)
    page.keyboard.press("Enter")
    page.ends()
    assert page.text() != first
    assert page.locator(".t:focus").get_attribute("data-at") == place
    page.keyboard.press("Control+z")
    assert page.text() == first
    page.focus("#tab-write")
    page.keyboard.press("ArrowRight")
    page.expect("#runs").to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_narrow_window_and_dark_mode(visit, scheme):
    page = visit(viewport={"width": 360, "height": 740}, color_scheme=scheme, has_touch=True, is_mobile=True)
    page.write("It was the best of times, " + "w" * 34, max_tokens=10, seed=8)
    page.locator("summary").evaluate_all("folds => folds.forEach((fold) => (fold.parentElement.open = true))")
    page.locator(".t").last.tap()
    page.expect(".card").to_be_visible()
    box = page.locator(".card").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 360
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    paper, ink = page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    assert (brightness(paper) < brightness(ink)) == (scheme == "dark")
    lowest = page.evaluate(LOWEST_CONTRAST)
    assert lowest[0] >= 4.5, lowest
    page.click("#tab-runs")
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def brightness(color: str) -> int:
    return sum(map(int, re.findall(r"\d+", color)[:3]))


LOWEST_CONTRAST = """() => {
  // A canvas knows any spelling of a colour, and lays one over another.
  const canvas = Object.assign(document.createElement("canvas"), {width: 1, height: 1});
  const draw = canvas.getContext("2d", {willReadFrequently: true});
  const over = (colors) => {
    for (const color of colors) { draw.fillStyle = color; draw.fillRect(0, 0, 1, 1); }
    return [...draw.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (rgb) => rgb.map((c) => c / 255).map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  let lowest = [99, ""];
  for (const element of document.querySelectorAll("body *")) {
    const hasText = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!hasText || element.disabled || !element.checkVisibility()) continue;
    const behind = [];
    for (let at = element; at; at = at.parentElement) behind.unshift(getComputedStyle(at).backgroundColor);
    const paper = ["white", ...behind];
    const [a, b] = [light(over(paper)), light(over([...paper, getComputedStyle(element).color]))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < lowest[0]) lowest = [contrast, `${element.tagName}.${element.className}: ${element.textContent}`];
  }
  return lowest;
}"""


def test_key_is_asked_for_once(visit, with_key):
    page = visit(with_key, ready=False)
    page.fill("#key-input", "wrong")
    page.keyboard.press("Enter")
    page.expect("#key-wrong").to_be_visible()
    page.fill("#key-input", KEY)
    page.keyboard.press("Enter")
    page.wait_for_selector("body[data-ready]")
    page.reload()
    page.wait_for_selector("body[data-ready]")
    assert page.url == with_key.url
    assert page.evaluate("Object.values(sessionStorage).includes('a key') && !localStorage.length")
    page.wrong[:] = [said for said in page.wrong if "401" not in said]


def test_wrong_settings_and_refusals_are_said(visit):
    page = visit()
    page.get_by_role("button", name="other").click()
    page.write("東東 € It was", max_tokens=3)
    page.expect("#problem").to_contain_text("other: ")
    page.wrong[:] = [said for said in page.wrong if "400" not in said]
    page.set(temperature=-1)
    page.click("#go")
    assert page.locator("#set-temperature").evaluate("field => field.matches(':focus') && !field.validity.valid")


def row(kind: str = "train", **numbers) -> str:
    return json.dumps({"kind": kind, **numbers}) + "\n"


def a_run(folder: Path, *rows: str, max_iters: int = 100, training: bool = False) -> Path:
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(rows), encoding="utf-8")
    (folder / "config.toml").write_text(f"max_iters = {max_iters}\n", encoding="utf-8")
    if training:
        (folder / ".running").write_text("1 another-machine\n", encoding="utf-8")
    return folder


def rates(iteration: int) -> str:
    return row(iter=iteration, loss=5 - iteration / 50, lr=0.01, seconds=iteration * 2.0, tokens_per_second=1000.0)


def test_runs_are_followed_live(visit, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = visit(place="#runs")
    page.expect("#runs").to_contain_text("No run yet")
    live = a_run(tmp_path / "out-live", row("eval", iter=0, val_loss=5.5), rates(10), rates(20), training=True)
    a_run(tmp_path / "more" / "out-done", rates(100))
    page.expect(".runs nav button").to_have_count(2)
    page.expect(".run h2").to_have_text("out-live")
    page.expect(".facts").to_contain_text("20 of 100")
    page.expect(".facts").to_contain_text("about 2 min 40 s")
    page.expect(".chart").to_have_count(3)
    with (live / "metrics.jsonl").open("a", encoding="utf-8") as record:
        record.write("{damaged\n" + rates(30) + row("sample", iter=30, text="<b>It was</b>") + '{"kind": "tr')
    page.expect(".facts").to_contain_text("30 of 100")
    page.expect(".sample blockquote").to_have_text("<b>It was</b>")
    (live / "metrics.jsonl").write_text(rates(10), encoding="utf-8")  # resumed from an earlier checkpoint
    page.expect(".facts").to_contain_text("10 of 100")
    page.expect(".sample").to_have_count(0)
    page.click(".runs nav button >> nth=1")
    page.expect(".run h2").to_have_text("more/out-done")
    shutil.rmtree(tmp_path / "more")
    page.expect(".runs nav button").to_have_count(1)


@pytest.mark.parametrize("name", ["../outside", "%2e%2e/outside", "/etc", "out/../../outside", "out%00", "none"])
def test_names_of_runs_never_become_paths(served, tmp_path, monkeypatch, name):
    a_run(tmp_path / "here" / "out", rates(1))
    a_run(tmp_path / "outside", rates(1))
    monkeypatch.chdir(tmp_path / "here")
    assert httpx.get(f"{served.url}x/runs/out").status_code == 200
    assert httpx.get(f"{served.url}x/runs/{name}").status_code == 404
    for after in ("-1", "x", "1.5", "9" * 5000, "¹"):
        assert httpx.get(f"{served.url}x/runs/out", params={"after": after}).status_code == 400


def test_record_is_read_on_from_a_line(tmp_path):
    path = a_run(tmp_path / "out", *(rates(iteration) for iteration in range(MOST_ROWS + 10)))
    runs = Runs(tmp_path)
    first = runs.rows("out", 0)
    assert (first.first, first.next, first.more, len(first.rows)) == (0, MOST_ROWS, True, MOST_ROWS)
    rest = runs.rows("out", first.next)
    assert (rest.first, rest.next, rest.more, len(rest.rows)) == (MOST_ROWS, MOST_ROWS + 10, False, 10)
    nothing = runs.rows("out", rest.next)
    assert (nothing.first, nothing.next, nothing.rows) == (rest.next, rest.next, [])
    (path / "metrics.jsonl").write_text(rates(1) + '{"kind": "train", "it', encoding="utf-8")
    shorter = runs.rows("out", rest.next)
    assert (shorter.first, shorter.next, [row["iter"] for row in shorter.rows]) == (0, 1, [1])


def test_card_of_a_run(tmp_path):
    path = a_run(tmp_path / "out", row("eval", iter=0, val_loss=6.0), rates(50), rates(60), training=True)
    [card] = Runs(tmp_path).cards()
    assert (card.state, card.iteration, card.max_iters, card.val_loss) == ("training", 60, 100, 6.0)
    assert card.seconds_left == pytest.approx(80)
    (path / ".running").write_text("half written", encoding="utf-8")
    (path / "config.toml").write_text("max_iters = [", encoding="utf-8")
    [card] = Runs(tmp_path).cards()
    assert (card.state, card.max_iters, card.seconds_left) == ("stopped", None, None)
    (path / "summary.json").write_text('{"iterations": 60}', encoding="utf-8")
    assert Runs(tmp_path).cards()[0].state == "finished"
    (path / "metrics.jsonl").write_bytes(b"\xff")
    assert Runs(tmp_path).cards()[0].iteration is None


def test_files_of_the_page_are_the_only_ones(served, with_key):
    assert sorted(FILES.values()) == sorted(path.name for path in FOLDER.iterdir())
    for address in FILES:
        answer = httpx.get(f"{with_key.url}{address.removeprefix('/')}")  # without the key
        assert answer.status_code == 200
        assert answer.headers["content-security-policy"].startswith("default-src 'self'")
        assert answer.headers["cache-control"] == "no-store"
    types = {address: httpx.get(f"{served.url}{address[1:]}").headers["content-type"] for address in FILES}
    assert types["/"] == "text/html; charset=utf-8"
    assert types["/page/main.js"] == "text/javascript; charset=utf-8"
    assert types["/page/icon.svg"] == "image/svg+xml"
    for address in ("page/", "page/index.html", "page/../app.py", "page/%2e%2e/app.py", "page//main.js", "main.js"):
        assert httpx.get(f"{served.url}{address}").status_code == 404
    assert httpx.get(f"{with_key.url}x/runs").status_code == 401


def test_page_names_no_other_site():
    for path in FOLDER.iterdir():
        named = re.findall(r"https?://[^\s\"')]*", path.read_text(encoding="utf-8"))
        assert set(named) <= {"http://www.w3.org/2000/svg"}, path.name
        assert not re.search(r"\sstyle=|\son\w+=", path.read_text(encoding="utf-8")) or path.suffix != ".html"


def test_open_opens_the_page_once_the_server_listens(tmp_path, monkeypatch):
    saved(tmp_path / "tiny")
    opened, answered = [], threading.Event()
    monkeypatch.setattr(webbrowser, "open", lambda url: (opened.append(url), answered.set()))
    ports = []

    def run(models, sock, **_):
        assert answered.wait(30)
        ports.append(sock.getsockname()[1])

    monkeypatch.setattr(server_process, "run", run)
    serve(str(tmp_path / "tiny"), open_page=True, port=["0"])
    assert opened == [f"http://127.0.0.1:{ports[0]}/"]
