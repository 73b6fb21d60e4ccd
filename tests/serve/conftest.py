"""A server of a small model, in this process, with a client that speaks HTTP to it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

pytest.importorskip("starlette", reason="the extra serve is not installed")
pytest.importorskip("uvicorn", reason="the extra serve is not installed")

import httpx
import uvicorn

import quillgpt
from exported import saved
from quillgpt.api import Model
from quillgpt.data.prepare import prepare
from quillgpt.serve.app import Server
from quillgpt.serve.completion import ServedModel
from quillgpt.serve.run import configuration, listen
from quillgpt.trace import Tracer
from tiny import QWEN3


@dataclass
class Running:
    """A server that answers.

    Attributes:
        url: Where it answers.
        port: Its port.
        model: What it serves, as `tiny`; `other` has letters instead of bytes.
        server: The server.
    """

    url: str
    port: int
    model: Model
    server: Server

    def ask(self, **body: object) -> dict:
        """Return the answer to a request for a completion, which must be a good one."""
        answer = httpx.post(f"{self.url}/v1/completions", json=body, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def text(self, **body: object) -> str:
        """Return the text of a completion."""
        return self.ask(**body)["choices"][0]["text"]


def started(models: dict[str, ServedModel], *, api_key: str | None = None) -> Iterator[tuple[int, Server]]:
    sock = listen("127.0.0.1", 0)
    server = Server(models, host="127.0.0.1", api_key=api_key)
    process = uvicorn.Server(configuration(server))
    thread = threading.Thread(target=process.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    while not process.started:
        time.sleep(0.01)
    yield sock.getsockname()[1], server
    process.should_exit = True
    thread.join()
    server.turns.end()


@pytest.fixture(scope="session")
def start() -> Callable[..., Iterator[tuple[int, Server]]]:
    """Return what yields the port of a server and the server, once, and then ends it."""
    return started


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ServedModel]:
    folder = tmp_path_factory.mktemp("served")
    saved(folder / "tiny", QWEN3, "bpe")
    saved(folder / "other", tokenizer="char")
    return {name: ServedModel(name, quillgpt.load(folder / name, dtype="float32")) for name in ("tiny", "other")}


@pytest.fixture(scope="session")
def running(models: dict[str, ServedModel]) -> Iterator[Running]:
    for port, server in started(models):
        yield Running(f"http://127.0.0.1:{port}", port, models["tiny"].model, server)


@pytest.fixture(scope="session")
def locked(models: dict[str, ServedModel]) -> Iterator[tuple[str, str]]:
    """The address of a server that needs a key, and the key."""
    for port, _ in started(models, api_key="a key"):
        yield f"http://127.0.0.1:{port}", "a key"


@pytest.fixture(scope="session")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Tracer, list[ServedModel]]]:
    """The address of a server of a model that says on what it was trained and one that does not, and the former's
    tracer.
    """
    pytest.importorskip("pydivsufsort", reason="the extra trace is not installed")
    folder = tmp_path_factory.mktemp("traced")
    lines = [f"Line {n}: {n * 7919 % 1000} grey geese and {n * 104729 % 1000} swäns.\n" for n in range(400)]
    (folder / "geese.txt").write_text("".join(lines), encoding="utf-8")
    data_dir = str(folder / "data")
    words = [str(folder / "geese.txt")]
    dataset = prepare(words, dataset="geese", tokenizer="byte", data_dir=folder / "data").dataset
    saved(folder / "tiny")
    known, unknown = (quillgpt.load(folder / "tiny", dtype="float32") for _ in range(2))
    known.about = {"dataset": "geese", "data_fingerprint": dataset.fingerprint}
    unknown.about = {}
    models = [ServedModel(name, model, data_dir=data_dir) for name, model in (("known", known), ("unknown", unknown))]
    for port, _ in started({model.name: model for model in models}):
        yield f"http://127.0.0.1:{port}", known.tracer(data_dir=data_dir), models
