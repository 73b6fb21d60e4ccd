"""Eight clients at a time: every answer is whole and that of its seed, and the server's memory does not grow."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import threading
import time

import psutil
import pytest
import requests

pytest.importorskip("uvicorn", reason="the extra serve is not installed")

from exported import saved
from tiny import QWEN3

CLIENTS = 8
GROWTH_BYTES = 30 * 2**20
"""What caches of the libraries may take after the first tenth of the time; 10,000 lost answers would take more."""


class Client(threading.Thread):
    """Asks until the time is over, in all ways; sometimes it leaves in the middle of an answer."""

    def __init__(self, number, url, until, answers):
        super().__init__()
        self.random, self.url, self.until, self.answers = random.Random(number), url, until, answers
        self.wrong, self.whole, self.left = [], 0, 0

    def run(self):
        while time.monotonic() < self.until and not self.wrong:
            try:
                self.ask()
            except Exception as error:
                self.wrong.append(repr(error))

    def ask(self):
        chance = self.random.random
        n, streams = self.random.choice([1, 1, 2]), chance() < 0.5
        body = {"prompt": "Once", "max_tokens": 24, "seed": self.random.randrange(20), "n": n, "stream": streams}
        if chance() < 0.2:
            body |= {"logprobs": 3, "echo": True}
        with requests.post(f"{self.url}/v1/completions", json=body, stream=streams, timeout=120) as answer:
            assert answer.status_code == 200, answer.text
            if not streams:
                texts = [choice["text"] for choice in answer.json()["choices"]]
            elif chance() < 0.15:
                next(answer.iter_lines())
                self.left += 1
                return
            else:
                texts = texts_of(answer, n)
        texts = [text.removeprefix("Once") if "echo" in body else text for text in texts]
        assert self.answers.setdefault((body["seed"], n), texts) == texts
        self.whole += 1


def texts_of(stream, n):
    *events, end = (line.removeprefix("data: ") for line in stream.iter_lines(decode_unicode=True) if line)
    assert end == "[DONE]"
    texts = [""] * n
    for event in events:
        for choice in json.loads(event)["choices"]:
            texts[choice["index"]] += choice["text"]
    return texts


@pytest.mark.parametrize("seconds", [3, pytest.param(600, marks=pytest.mark.deep)])
def test_clients_get_whole_answers_and_the_memory_stays_flat(seconds, tmp_path):
    saved(tmp_path / "tiny", QWEN3, "bpe")
    command = [sys.executable, "-m", "quillgpt", "serve", str(tmp_path / "tiny"), "--port=0", "--threads=1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, encoding="utf-8") as process:
        url = next(match[0] for line in process.stderr if (match := re.search(r"http://[\d.]+:\d+", line)))
        try:
            answers, start = {}, time.monotonic()
            clients = [Client(number, url, start + seconds, answers) for number in range(CLIENTS)]
            for client in clients:
                client.start()
            time.sleep(seconds / 10)
            before = psutil.Process(process.pid).memory_info().rss
            for client in clients:
                client.join()
            after = psutil.Process(process.pid).memory_info().rss
        finally:
            process.terminate()
    assert [client.wrong for client in clients if client.wrong] == []
    whole, left = sum(client.whole for client in clients), sum(client.left for client in clients)
    print(f"{whole:,} answers, {left:,} left early, {before:,} bytes, then {after:,}")
    assert whole > 0
    if seconds > 60:  # a server that has just begun still fills its caches
        assert after < before + GROWTH_BYTES
