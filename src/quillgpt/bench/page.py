"""How fast a page with a model is: from a double click to its first character, and then."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil
import torch

from quillgpt.bench.results import rates
from quillgpt.console import progress
from quillgpt.device import device_description
from quillgpt.errors import ConfigError, UserError
from quillgpt.export.html.assemble import FIRST_LINE
from quillgpt.export.html.chromium import BrowserError, find_chromium, opened

IMPATIENT: Final = """addEventListener("DOMContentLoaded", () => {
  const once = (element, what, when, then) => new MutationObserver((_, observer) => {
    if (!when()) return;
    observer.disconnect();
    then();
  }).observe(element, what);
  const { body } = document;
  const [text, go, most] = ["text", "go", "set-max_new_tokens"].map((id) => document.getElementById(id));
  once(body, { attributes: true }, () => body.dataset.ready, () => {
    globalThis.ready = performance.now();
    most.value = 1;
    go.click();
  });
  once(text, { childList: true }, () => text.querySelector(".t"), () => globalThis.first = performance.now());
});"""
"""Somebody who presses Write at once, and notes when that could be done, in milliseconds since the page was opened."""

WRITE: Final = """quill.ask("prompt", {text: ""}).then(async ({ids}) => {
  const began = performance.now();
  let written = 0;
  for (let seed = 1; written < TOKENS && seed <= 100; seed++) {  // a text may end at once
    const most = TOKENS - written;
    const settings = {max_new_tokens: most, temperature: 0.8, top_k: 200, top_p: null, seed: String(seed), stop: ""};
    written += (await quill.ask("write", {prompt: ids, past: [], settings})).ids.length;
  }
  return 1000 * written / (performance.now() - began);
})"""


@dataclass(frozen=True)
class PageResult:
    """The numbers of a page; `--json` prints them under these names. Each is the median over the rounds.

    Attributes:
        ready_seconds: From opening the page until one can write.
        first_character_seconds: From opening the page to its first character, of a person who writes at once.
        cpu_seconds: The processor time of the page and its worker until then; other programs hardly change it.
        tokens_per_second: The speed of texts after that.
    """

    ready_seconds: float
    ready_seconds_rounds: list[float]
    first_character_seconds: float
    first_character_seconds_rounds: list[float]
    cpu_seconds: float
    cpu_seconds_rounds: list[float]
    tokens_per_second: float
    tokens_per_second_rounds: list[float]

    def rows(self) -> dict[str, str]:
        """Return the numbers in words, by their labels."""
        return {
            "one can write after": rates(self.ready_seconds, self.ready_seconds_rounds, "s"),
            "first character after": rates(self.first_character_seconds, self.first_character_seconds_rounds, "s"),
            "processor time until then": rates(self.cpu_seconds, self.cpu_seconds_rounds, "s"),
            "speed": rates(self.tokens_per_second, self.tokens_per_second_rounds, "tokens/s"),
        }


def bench_page(page: Path, *, tokens: int, rounds: int) -> tuple[dict[str, object], PageResult]:
    """Open a page in a headless browser, each round in a new one, after one that does not count.

    Args:
        page: A page that `quill export --to=html` wrote.
        tokens: Tokens of the texts whose speed is measured.
        rounds: Counted rounds.

    Returns:
        The conditions of the measurement, and the result.

    Raises:
        ConfigError: The file is no such page.
        UserError: There is no browser, or the page does not run in it.
    """
    check_page(page)
    chromium = find_chromium()
    if chromium is None:
        raise UserError("neither Chromium nor Chrome was found here; install one of them to measure a page")
    measured = []
    try:
        with progress("Measuring", rounds + 1) as advance:
            for _ in range(rounds + 1):
                browser, *numbers = open_and_write(page, chromium, tokens)
                measured.append(numbers)
                advance()
    except BrowserError as error:
        raise UserError(f"{page} does not run in {chromium}: {error}") from None
    ready, first, cpu, speed = ([*column] for column in zip(*measured[1:], strict=True))
    median = statistics.median
    about: dict[str, object] = {
        "machine": device_description(torch.device("cpu")),
        "browser": browser.replace("/", " "),
        "bytes": page.stat().st_size,
        "load": round(psutil.getloadavg()[0], 1),
    }
    return about, PageResult(median(ready), ready, median(first), first, median(cpu), cpu, median(speed), speed)


def check_page(page: Path) -> None:
    """Check that a file is a page with a model.

    Raises:
        ConfigError: It is none, or cannot be read.
    """
    try:
        with page.open("rb") as file:
            first = file.readline(200)
    except OSError as error:
        raise ConfigError(f"{page} cannot be read: {error.strerror}") from None
    if not FIRST_LINE.fullmatch(first):
        raise ConfigError(f"{page} is no page of `quill export RUN PAGE.html --to=html`; give one")


def open_and_write(page: Path, chromium: str, tokens: int) -> tuple[str, float, float, float, float]:
    """Return the name of the browser, and what one opening of the page gives for each number of a PageResult."""
    with opened(page, chromium, script=IMPATIENT) as browser:
        while (times := browser.value("globalThis.first ? [ready / 1000, first / 1000] : null")) is None:
            if problem := browser.value('document.getElementById("problem").textContent'):
                raise BrowserError(problem)
            time.sleep(0.02)
        cpu = browser.cpu_seconds()
        rate = browser.value(WRITE.replace("TOKENS", str(tokens)))
        return browser.browser, *times, cpu, rate
