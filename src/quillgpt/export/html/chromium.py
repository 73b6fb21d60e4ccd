"""A headless Chromium that opens one page over file://, driven through a pipe by the DevTools protocol."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

NAMES: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
ELSEWHERE: Final = ("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",)
PATIENCE: Final = 600.0
"""Seconds that an answer may take."""

FLAGS: Final = (
    "--headless",
    "--remote-debugging-pipe",
    "--no-first-run",
    "--disable-gpu",
    "--disable-extensions",
    "--disable-background-networking",
)

START: Final = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)
"""Chromium reads commands from file descriptor 3 and writes answers to 4."""

AS_BYTES: Final = """rows => {
  const all = new Uint8Array(Float32Array.from(rows.flatMap((row) => [...row])).buffer);
  let text = "";
  for (let i = 0; i < all.length; i += 8192) text += String.fromCharCode(...all.subarray(i, i + 8192));
  return [rows.length, btoa(text)];
}"""


class BrowserError(Exception):
    """A browser could not be started, or the page failed in it; the message says how."""


def find_chromium() -> str | None:
    """Return the path of Chromium or Chrome; None where there is none that a pipe can drive."""
    if sys.platform == "win32":
        return None
    found = [path for name in NAMES if (path := shutil.which(name)) is not None]
    return next(iter([*found, *filter(os.path.exists, ELSEWHERE)]), None)


@contextmanager
def opened(page: Path, chromium: str, *, flags: Sequence[str] = (), script: str = "") -> Iterator[Page]:
    """Open a page in a browser of its own, which ends with the block.

    Args:
        page: The file.
        chromium: The browser.
        flags: Further flags.
        script: JavaScript that runs before the page does.

    Raises:
        BrowserError: The browser does not start, or the page does not become ready.
    """
    with ExitStack() as stack:
        profile = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        browsers_ends = stack.enter_context(ExitStack())
        read_commands, write_commands = _pipe(browsers_ends, stack)
        read_answers, write_answers = _pipe(stack, browsers_ends)
        if os.geteuid() == 0:
            flags = (*flags, "--no-sandbox")  # its sandbox does not run as root
        process = subprocess.Popen(
            [
                *(sys.executable, "-c", START, str(read_commands), str(write_answers), chromium),
                *(*FLAGS, *flags, f"--user-data-dir={profile}", "about:blank"),
            ],
            pass_fds=(read_commands, write_answers),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        stack.callback(_end, process)
        browsers_ends.close()
        yield Page(page, write_commands, read_answers, script)


def _pipe(*closing: ExitStack) -> Iterator[int]:
    """Yield both ends of a pipe, each closed with its stack, with numbers above those that Chromium expects."""
    import fcntl

    for end, stack in zip(os.pipe(), closing, strict=True):
        moved = fcntl.fcntl(end, fcntl.F_DUPFD, 10)
        os.close(end)
        stack.callback(os.close, moved)
        yield moved


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Page:
    """A page that was opened.

    Args:
        path: Its file.
        commands: Where commands are written.
        answers: Where answers are read.
        script: JavaScript that runs before the page does.

    Attributes:
        browser: The name and version of the browser.
        requested: The addresses that the page and its worker have asked for.
        wrong: What went wrong in the page.
    """

    def __init__(self, path: Path, commands: int, answers: int, script: str) -> None:
        self._commands, self._answers, self._rest = commands, answers, b""
        self._last = 0
        self.requested: list[str] = []
        self.wrong: list[str] = []
        self.browser: str = self._do("Browser.getVersion")["product"]
        target = self._do("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._do("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for method in ("Network.enable", "Runtime.enable", "Log.enable", "Page.enable"):
            self._do(method, session=self._session)
        self._do("Page.addScriptToEvaluateOnNewDocument", session=self._session, source=script)
        self._do(
            "Target.setAutoAttach", session=self._session, autoAttach=True, waitForDebuggerOnStart=True, flatten=True
        )
        self._do("Page.navigate", session=self._session, url=path.resolve().as_uri())
        self._wait()

    def ask(self, what: str, **arguments: Any) -> Any:
        """Return what the worker answers.

        Raises:
            BrowserError: It answers with an error.
        """
        return self.value(f"quill.ask({json.dumps(what)}, {json.dumps(arguments)})")

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Return the logits after each of the ids, (T, V)."""
        rows, text = self.value(f'quill.ask("logits", {json.dumps({"ids": list(ids)})}).then({AS_BYTES})')
        return np.frombuffer(base64.b64decode(text), dtype="<f4").reshape(rows, -1)

    def _wait(self) -> None:
        """Wait until the page can write."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            ready, problem = self.value(
                '[document.body?.dataset.ready ?? "", document.getElementById("problem")?.textContent ?? ""]'
            )
            if problem:
                raise BrowserError(problem)
            if ready:
                return
            time.sleep(0.02)
        raise BrowserError("the page does not become ready")

    def cpu_seconds(self) -> float:
        """Return the processor time that the page and its worker have taken so far, without the browser's own."""
        processes = self._do("SystemInfo.getProcessInfo")["processInfo"]
        return float(sum(process["cpuTime"] for process in processes if process["type"] == "renderer"))

    def value(self, expression: str) -> Any:
        """Return the value of an expression in the page; a promise is waited for.

        Raises:
            BrowserError: It throws an error.
        """
        answer = self._do(
            "Runtime.evaluate", session=self._session, expression=expression, awaitPromise=True, returnByValue=True
        )
        if failure := answer.get("exceptionDetails"):
            said = failure.get("exception", {}).get("description") or failure.get("text", "")
            raise BrowserError(said.splitlines()[0].removeprefix("Error: "))
        return answer["result"].get("value")

    def _do(self, method: str, *, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        number = self._send(method, session, parameters)
        end = time.monotonic() + PATIENCE
        while (message := self._read(end)).get("id") != number:
            self._take(message)
        if error := message.get("error"):
            raise BrowserError(f"{method}: {error.get('message')}")
        result: dict[str, Any] = message["result"]
        return result

    def _take(self, message: dict[str, Any]) -> None:
        """Keep what an event says."""
        parameters = message.get("params", {})
        match message.get("method"):
            case "Network.requestWillBeSent":
                self.requested.append(parameters["request"]["url"])
            case "Runtime.exceptionThrown":
                self.wrong.append(parameters["exceptionDetails"]["text"])
            case "Log.entryAdded" if parameters["entry"]["level"] == "error":
                self.wrong.append(parameters["entry"]["text"])
            case "Target.attachedToTarget":  # the worker, which waits until its requests are seen
                for method in ("Network.enable", "Runtime.runIfWaitingForDebugger"):
                    self._send(method, parameters["sessionId"], {})

    def _send(self, method: str, session: str | None, parameters: dict[str, Any]) -> int:
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        content = json.dumps(message).encode() + b"\0"
        try:
            while content:
                content = content[os.write(self._commands, content) :]
        except BrokenPipeError:
            raise BrowserError("the browser has ended") from None
        return self._last

    def _read(self, end: float) -> dict[str, Any]:
        parts = [self._rest]
        while b"\0" not in parts[-1]:
            if not select.select([self._answers], [], [], max(0.0, end - time.monotonic()))[0]:
                raise BrowserError("the browser does not answer")
            if not (part := os.read(self._answers, 1 << 20)):
                raise BrowserError("the browser has ended")
            parts.append(part)
        content, _, self._rest = b"".join(parts).partition(b"\0")
        message: dict[str, Any] = json.loads(content)
        return message
