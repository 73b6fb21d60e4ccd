"""Which folder a model of Whisper is read from; the hub is a server on this machine that answers as the hub does."""

import hashlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from quillgpt.errors import CheckpointError, UserError
from quillgpt.speech.recognition.whisper_models import ModelUnavailableError, own_place, whisper_folder

REPOSITORY = "Systran/faster-whisper-tiny"
COMMIT = "0123456789" * 4
CONTENT = {
    "config.json": b'{"lang_ids": []}',
    "model.bin": bytes(200_000),
    "tokenizer.json": b"{}",
    "vocabulary.txt": b"a\nb\n",
    "README.md": b"not needed",
}


def reach(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    """Let the library of the hub look for it at a port of this machine."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{port}")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test empty caches and no hub."""
    monkeypatch.setenv("QUILL_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("QUILL_MIRROR", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        reach(monkeypatch, free.getsockname()[1])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("quillgpt.speech.recognition.whisper_models.ANSWER_SECONDS", 2)
    return tmp_path / "home"


class Hub(BaseHTTPRequestHandler):
    content = CONTENT
    sent = CONTENT
    stalls = False
    requests: list[str]
    gone: threading.Event

    def do_GET(self) -> None:
        self.requests.append(self.path.partition("?")[0])
        name = self.requests[-1].rpartition("/")[2]
        if self.requests[-1] == f"/api/models/{REPOSITORY}":
            files = [self._described(name, content) for name, content in self.content.items()]
            self._send(json.dumps({"id": REPOSITORY, "sha": COMMIT, "siblings": files}).encode())
        elif self.requests[-1] == f"/{REPOSITORY}/resolve/{COMMIT}/{name}" and name in self.sent:
            self._send(self.sent[name], stalls=self.stalls and name == "model.bin")
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()

    @staticmethod
    def _described(name: str, content: bytes) -> dict[str, object]:
        described: dict[str, object] = {"rfilename": name, "size": len(content)}
        if name == "model.bin":
            sha256 = hashlib.sha256(content).hexdigest()
            described["lfs"] = {"size": len(content), "sha256": sha256, "pointerSize": 134}
        return described

    def _send(self, content: bytes, *, stalls: bool = False) -> None:
        first = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        if stalls:
            self.wfile.write(content[first : len(content) // 4])
            self.gone.wait(30)
        else:
            self.wfile.write(content[first:])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    kind = type("Handler", (Hub,), {"requests": [], "gone": threading.Event()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    reach(monkeypatch, server.server_port)
    yield kind
    kind.gone.set()
    server.shutdown()


def model_folder(path: Path, content: dict[str, bytes] = CONTENT) -> Path:
    path.mkdir(parents=True)
    for name, data in content.items():
        (path / name).write_bytes(data)
    return path


def test_a_model_is_fetched_once(hub: type[Hub], capfd: pytest.CaptureFixture[str]) -> None:
    folder = whisper_folder("tiny")
    assert folder == own_place(REPOSITORY)
    assert {file.name: file.read_bytes() for file in folder.iterdir() if not file.name.startswith(".")} == {
        name: content for name, content in CONTENT.items() if name != "README.md"
    }
    assert f"Fetching the model tiny of Whisper from {REPOSITORY}" in capfd.readouterr().err
    before = len(hub.requests)
    assert whisper_folder("tiny") == whisper_folder(REPOSITORY) == folder
    assert (len(hub.requests), capfd.readouterr().err) == (before, "")


def test_what_is_missing_of_a_model_is_fetched(hub: type[Hub]) -> None:
    whisper_folder("tiny")
    hub.requests.clear()
    (own_place(REPOSITORY) / "tokenizer.json").unlink()
    whisper_folder("tiny")
    assert hub.requests == [f"/api/models/{REPOSITORY}", f"/{REPOSITORY}/resolve/{COMMIT}/tokenizer.json"]


def test_a_download_that_stalls_is_given_up_and_goes_on_next_time(
    hub: type[Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.stalls = True
    monkeypatch.setattr("quillgpt.text.sources.downloads.TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr("quillgpt.text.sources.connection.PAUSES_SECONDS", (0.1,))
    kept = r"model.bin of .*tiny could not be fetched .* the 50,000 bytes that came are kept and the next try goes on"
    with pytest.raises(ModelUnavailableError, match=kept):
        whisper_folder("tiny")
    assert (own_place(REPOSITORY) / "model.bin.part").stat().st_size == 50_000
    hub.stalls = False
    hub.gone.set()
    assert (whisper_folder("tiny") / "model.bin").read_bytes() == CONTENT["model.bin"]


def test_weights_with_another_hash_are_refused(hub: type[Hub]) -> None:
    hub.sent = {**CONTENT, "model.bin": b"other"}
    with pytest.raises(ModelUnavailableError, match=r"gave another file than model.bin of Systran/faster-whisper-tiny"):
        whisper_folder("tiny")


def test_a_model_that_other_programs_have_fetched_is_used(tmp_path: Path) -> None:
    cached = tmp_path / "hub" / f"models--{REPOSITORY.replace('/', '--')}"
    folder = model_folder(cached / "snapshots" / COMMIT)
    (cached / "refs").mkdir()
    (cached / "refs/main").write_text(COMMIT)
    assert whisper_folder("tiny") == folder
    (folder / "model.bin").unlink()
    with pytest.raises(ModelUnavailableError):
        whisper_folder("tiny")


def test_a_hub_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        reach(monkeypatch, silent.getsockname()[1])
        before = time.monotonic()
        with pytest.raises(
            ModelUnavailableError, match="the model base of Whisper is not here and could not be fetched"
        ):
            whisper_folder("base")
        assert time.monotonic() - before < 20


def test_without_a_hub_the_message_says_where_to_put_the_files() -> None:
    with pytest.raises(ModelUnavailableError) as error:
        whisper_folder("small")
    place = own_place("Systran/faster-whisper-small")
    assert (
        f"https://huggingface.co/Systran/faster-whisper-small/tree/main with a browser and put them into {place}"
        in str(error.value)
    )
    model_folder(place)
    assert whisper_folder("small") == place


def test_a_network_that_is_forbidden_is_named(hub: type[Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelUnavailableError, match=r"could not be fetched \(HF_HUB_OFFLINE forbids it\)"):
        whisper_folder("tiny")
    assert hub.requests == []


def test_an_unknown_repository_is_named(hub: type[Hub]) -> None:
    with pytest.raises(CheckpointError, match="nobody/nothing is neither a folder nor a public model"):
        whisper_folder("nobody/nothing")


def test_a_repository_in_another_format_is_named_with_the_converter(hub: type[Hub]) -> None:
    hub.content = {"config.json": b"{}", "model.safetensors": b"0"}
    with pytest.raises(CheckpointError, match=rf"ct2-transformers-converter --model {REPOSITORY} --output_dir faster-"):
        whisper_folder(REPOSITORY)


@pytest.mark.parametrize("name", ["tiny", REPOSITORY])
def test_a_mirror_is_looked_into_first(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUILL_MIRROR", str(tmp_path / "mirror"))
    folder = model_folder(tmp_path / "mirror/hub" / name)
    assert whisper_folder("tiny" if name == "tiny" else name) == folder


def test_a_folder_of_the_name_of_a_model_is_used_only_if_it_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small").mkdir()
    with pytest.raises(ModelUnavailableError):
        whisper_folder("small")
    model_folder(tmp_path / "tiny")
    assert whisper_folder("tiny") == Path("tiny")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("smal", "whisper has no such model; did you mean small?"),
        ("large-v4", r"whisper has no such model; did you mean large-v\d\?"),
        ("TINY", "did you mean tiny?"),
        ("nonsense", "neither a folder nor a model of Whisper; names are .*tiny.*turbo"),
        ("./small", "there is no such folder"),
        ("~/whisper/small", "there is no such folder"),
        ("/nowhere/model", "there is no such folder"),
        ("nowhere\\model", "there is no such folder"),
        ("a model", "neither a folder nor a model"),
        ("m" * 400, "neither a folder nor a model"),
        ("m/" * 400, "there is no such folder"),
        ("a\0b", "neither a folder nor a model"),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as error:
        whisper_folder(name)
    assert not isinstance(error.value, ModelUnavailableError)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"model.safetensors": b"0", "config.json": b"{}"},
            "ct2-transformers-converter --model .*x --output_dir .*x-ct2",
        ),
        ({"pytorch_model.bin": b"0"}, "ct2-transformers-converter"),
        ({"notes.txt": b"0"}, "has no model.bin, so it is no model in CTranslate2's format"),
        ({}, "has no model.bin"),
        ({"model.bin": b"0"}, "lacks config.json and tokenizer.json and vocabulary.json"),
        ({**CONTENT, "model.bin": b"version https://git-lfs.github.com/spec/v1\n"}, "pointer of Git LFS"),
        (
            {name: data for name, data in CONTENT.items() if name != "tokenizer.json"},
            "lacks tokenizer.json.* before its conversion",
        ),
    ],
)
def test_folders_that_are_no_model(files: dict[str, bytes], message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        whisper_folder(str(model_folder(tmp_path / "x", files)))


@pytest.mark.parametrize("inner", ["tiny", "snapshots/0123"])
def test_the_folder_around_a_model_names_it(inner: str, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "around" / inner)
    with pytest.raises(CheckpointError, match=f"give --model={folder}"):
        whisper_folder(str(tmp_path / "around"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ggml-base.bin", "such as whisper.cpp's"),
        ("tiny.pt", "such as OpenAI publishes"),
        ("speech.wav", "is a file, not a"),
    ],
)
def test_files_are_no_model(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"0")
    with pytest.raises(UserError, match=message):
        whisper_folder(str(tmp_path / name))
