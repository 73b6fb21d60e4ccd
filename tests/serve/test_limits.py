"""What the server refuses, and that it never computes for nobody."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress

import httpx
import pytest

import quillgpt.serve.app as app
import quillgpt.serve.turns as turns
from exported import saved
from quillgpt.serve import run


def until(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def raw(port, *parts, pause=0.0):
    """Send bytes, and return the answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
        for part in parts:
            sock.sendall(part)
            time.sleep(pause)
        answer = b""
        while part := sock.recv(1 << 16):
            answer += part
        return answer


@pytest.mark.parametrize(
    "host", ["evil.test", "evil.test:{port}", "127.0.0.1.evil.test", "localhost:x", "", "a@evil.test"]
)
@pytest.mark.parametrize("path", ["/health", "/v1/models", "/"])
def test_the_host_header_is_checked_before_anything(running, host, path):
    answer = raw(
        running.port,
        f"GET {path} HTTP/1.1\r\nHost: {host.format(port=running.port)}\r\nConnection: close\r\n\r\n".encode(),
    )
    assert answer.startswith(b"HTTP/1.1 403") or answer.startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:{port}", "[::1]", "LOCALHOST:{port}"])
def test_names_of_this_machine_are_answered(running, host):
    headers = {"Host": host.format(port=running.port)}
    assert httpx.get(f"{running.url}/health", headers=headers).status_code == 200


def test_pages_of_other_sites_may_not_ask(running):
    for origin in ("http://evil.test", "null", f"http://127.0.0.1:{running.port + 1}"):
        for method in ("POST", "OPTIONS"):
            answer = httpx.request(method, f"{running.url}/v1/completions", headers={"Origin": origin}, json={})
            assert answer.status_code == 403
            assert not any(name.startswith("access-control") for name in answer.headers)
    own = httpx.post(f"{running.url}/v1/completions", headers={"Origin": running.url}, json={"max_tokens": 1})
    assert own.status_code == 200


def test_every_answer_says_what_a_page_may_load(running):
    for path in ("/health", "/v1/models", "/nothing"):
        headers = httpx.get(f"{running.url}{path}").headers
        assert headers["content-security-policy"].startswith("default-src 'self'")
        assert headers["x-content-type-options"] == "nosniff"


def test_a_key_is_needed_where_there_is_one(locked):
    url, key = locked
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": key}, {"Authorization": "Basic x"}):
        assert httpx.get(f"{url}/v1/models", headers=headers).status_code == 401
    assert httpx.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code == 200
    assert httpx.get(f"{url}/health").status_code == 200


def test_others_may_not_use_a_server_without_a_key():
    with pytest.raises(run.UserError, match=r"--host=0\.0\.0\.0 .*give --api_key"):
        run.check_access("0.0.0.0", None)
    with pytest.raises(run.UserError, match="--api_key"):
        run.check_access("0.0.0.0", "")
    run.check_access("0.0.0.0", "a key")
    run.check_access("127.0.0.1", None)


def test_an_address_in_use_is_named(running):
    with pytest.raises(run.UserError, match=rf"cannot listen at 127\.0\.0\.1, port {running.port}"):
        run.listen("127.0.0.1", running.port)
    with pytest.raises(run.UserError, match=r"cannot listen at no\.such\.host\.invalid"):
        run.listen("no.such.host.invalid", 0)


def test_a_large_body_is_refused_while_it_comes(running):
    answer = httpx.post(f"{running.url}/v1/completions", content=b" " * (app.LARGEST_BODY + 1))
    assert answer.status_code == 413


def test_a_slow_sender_is_refused(running, monkeypatch):
    monkeypatch.setattr(app, "BODY_SECONDS", 0.2)
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\nConnection: close\r\n\r\n"
    assert raw(running.port, head, b'{"prompt": "a').startswith(b"HTTP/1.1 408")


def test_a_head_that_does_not_come_ends_the_connection(running, monkeypatch):
    monkeypatch.setattr(run, "HEAD_SECONDS", 0.2)
    with socket.create_connection(("127.0.0.1", running.port), timeout=30) as sock:
        sock.sendall(b"GET /health HTT")
        with suppress(ConnectionResetError):
            assert sock.recv(100) == b""


def test_what_is_no_json_is_refused(running):
    for body in (b"", b"{", b"[]", b"\xff", b'{"prompt": NaN}', b'"a"'):
        assert httpx.post(f"{running.url}/v1/completions", content=body).status_code == 400
    assert httpx.get(f"{running.url}/v1/completions").status_code == 405


@pytest.fixture
def held(running, monkeypatch):
    """Let no step be computed until the event is set."""
    event = threading.Event()
    compute = turns.Job.compute

    def wait(job):
        event.wait(30)
        return compute(job)

    monkeypatch.setattr(turns.Job, "compute", wait)
    yield event
    event.set()
    until(lambda: running.server.turns.counts == (0, 0))


def asking(port, **more):
    """Ask for a completion, and return the connection."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=30)
    body = json.dumps({"prompt": "It", "max_tokens": 60, "stream": True} | more).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    sock.sendall(head + body)
    return sock


def test_the_queue_has_an_end_and_those_who_leave_leave_it(running, held):
    most = turns.AT_A_TIME + turns.MOST_WAITING
    clients = [asking(running.port) for _ in range(most)]
    until(lambda: running.server.turns.counts == (turns.AT_A_TIME, turns.MOST_WAITING))
    answer = httpx.post(f"{running.url}/v1/completions", json={"prompt": "It"})
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) > 0
    for client in clients:
        client.close()
    held.set()
    until(lambda: running.server.turns.counts == (0, 0))
    assert running.text(prompt="It", max_tokens=3, seed=1)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_stops_its_computation(running, monkeypatch, stream):
    steps = 0
    compute = turns.Job.compute

    def count(job):
        nonlocal steps
        steps += 1
        time.sleep(0.05)
        return compute(job)

    monkeypatch.setattr(turns.Job, "compute", count)
    client = asking(running.port, stream=stream)
    until(lambda: steps)
    client.close()
    until(lambda: running.server.turns.counts == (0, 0))
    assert steps < 55


def test_a_reader_that_stops_reading_is_left(running, monkeypatch):
    monkeypatch.setattr(app, "READ_SECONDS", 0.3)
    monkeypatch.setattr(turns, "MOST_UNREAD", 4)
    sock = asking(running.port, n=128, logprobs=20)
    until(lambda: running.server.turns.counts[0] == 1)
    until(lambda: running.server.turns.counts == (0, 0))
    sock.close()


def test_a_model_that_fails_is_said_and_the_server_lives(running, monkeypatch):
    from quillgpt.errors import CheckpointError
    from quillgpt.serve import completion

    def fail(*_, **__):
        raise CheckpointError("the model's logits are NaN: a weight is NaN, or too large")
        yield

    with monkeypatch.context() as patched:
        patched.setattr(completion, "generate_ids", fail)
        answer = httpx.post(f"{running.url}/v1/completions", json={"prompt": "It"})
        assert answer.status_code == 500
        assert "logits are NaN" in answer.json()["error"]["message"]
        streamed = httpx.post(f"{running.url}/v1/completions", json={"prompt": "It", "stream": True}).text
        assert "logits are NaN" in streamed
        assert streamed.endswith("data: [DONE]\n\n")
    assert running.text(prompt="It", max_tokens=2)


def test_a_fault_is_answered_and_said_in_one_line(running, monkeypatch, capfd):
    def fail(*_):
        raise ZeroDivisionError("division by zero")

    with monkeypatch.context() as patched:
        patched.setattr(app, "Gathered", fail)
        answer = httpx.post(f"{running.url}/v1/completions", json={"prompt": "It", "max_tokens": 1})
    assert answer.status_code == 500
    assert "ZeroDivisionError: 'division by zero'" in answer.json()["error"]["message"]
    assert "Traceback" not in capfd.readouterr().err
    assert running.text(prompt="It", max_tokens=1)


def test_numbers_for_prometheus(running):
    running.text(prompt="It", max_tokens=3)
    text = httpx.get(f"{running.url}/metrics").text
    assert 'quill_responses_total{status="200"}' in text
    assert int(text.split("quill_generated_tokens_total ")[-1].split()[0]) >= 3


def test_ctrl_c_ends_four_streams_in_one_line(tmp_path):
    saved(tmp_path / "model")
    process = subprocess.Popen(
        [sys.executable, "-m", "quillgpt", "serve", "model", "--port=0", "--threads=1"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    lines = []
    while "http://" not in (line := process.stderr.readline()):
        assert line, lines
        lines.append(line)
    port = int(re.search(r"//127\.0\.0\.1:(\d+)", line)[1])
    clients = [asking(port) for _ in range(4)]
    for client in clients:
        assert client.recv(10)
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, words = process.communicate(timeout=30)
    assert process.returncode == 130
    assert time.monotonic() - start < 10  # 2 s on a quiet machine
    assert words.strip() == "quill: interrupted"
    for client in clients:
        client.close()
