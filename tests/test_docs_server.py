"""docs/server.py: what it answers, what it refuses, and how it ends."""

import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.serving.__main__ import start_batcher
from benchmarks.serving.abandon import abandon
from benchmarks.serving.clients import Batched, over_http, put_under_load
from benchmarks.serving.terminate import terminate
from pipeline.runtime import TextEncoder, load

pytestmark = pytest.mark.slow

CLOSE = 0.99999
TEXTS = [f"text number {i} " * (1 + i % 5) for i in range(120)]


class Running:
    def __init__(self, bundle: Path, wait_ms: float = 2.0) -> None:
        self.process, self.port = start_batcher(bundle, wait_ms=wait_ms)

    def end(self) -> int:
        self.process.terminate()
        code = self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


@pytest.fixture(scope="module")
def server(tiny_bundle: Path) -> Iterator[Running]:
    running = Running(tiny_bundle)
    yield running
    assert running.end() == 143


@pytest.fixture(scope="module")
def encoder(tiny_bundle: Path) -> TextEncoder:
    return load(tiny_bundle)


def ask(port: int, body: bytes, path: str = "/embed", **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", path, body, headers)
        with connection.getresponse() as response:
            return response.status, json.load(response)
    finally:
        connection.close()


def test_many_clients_lose_nothing(server: Running, encoder: TextEncoder) -> None:
    connect = over_http(server.port, Batched())
    load_ = put_under_load(connect, TEXTS, encoder.encode(TEXTS), clients=16)
    assert (load_.answered, load_.refused, load_.lost) == (len(TEXTS), (), ())
    assert load_.lowest_cosine >= CLOSE


def test_several_texts_and_a_prompt(server: Running, encoder: TextEncoder) -> None:
    body = json.dumps({"texts": TEXTS[:9], "prompt_name": "query"}).encode()
    status, answer = ask(server.port, body)
    assert status == 200
    expected = encoder.encode(TEXTS[:9], prompt_name="query")
    np.testing.assert_allclose(answer["embeddings"], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"", 400, "expected {"),
        (b"{", 400, "expected {"),
        (b"\xff", 400, "expected {"),
        (b"[" * 100_000, 400, "expected {"),
        (b"[1]", 400, "expected {"),
        (b'{"text": "x"}', 400, "expected {"),
        (b'{"texts": "x"}', 400, "a list of strings"),
        (b'{"texts": [1]}', 400, "a list of strings"),
        (b'{"texts": []}', 400, "1 to 64 texts"),
        (json.dumps({"texts": ["x"] * 65}).encode(), 400, "1 to 64 texts"),
        (b'{"texts": ["x"], "prompt_name": "nix"}', 400, "'nix': the model has"),
        (b'{"texts": ["x"], "prompt_name": 1}', 400, "prompt_name"),
        (b'{"texts": ["a", "\\ud800"]}', 400, "not Unicode"),
        (b" " * ((4 << 20) + 1), 413, "4194304 bytes"),
    ],
)
def test_refused_by_name_and_alone(body: bytes, status: int, said: str, server: Running) -> None:
    seen, answer = ask(server.port, body)
    assert seen == status
    assert said in answer["error"]
    assert ask(server.port, b'{"texts": ["x"]}')[0] == 200


def test_other_paths_and_bodies_of_no_length(server: Running) -> None:
    assert ask(server.port, b"{}", "/nix")[0] == 404
    for length in ("-1", "1_0", "\N{SUPERSCRIPT TWO}".encode().decode("latin-1"), "x"):
        assert ask(server.port, b"", **{"Content-Length": length})[0] == 411
    assert ask(server.port, b"", **{"Content-Length": "9" * 5000})[0] == 413
    for more in (b"Content-Length: 3", b"Transfer-Encoding: chunked"):  # whose end is in doubt
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as doubtful:
            head = b"POST /embed HTTP/1.1\r\nContent-Length: 2\r\n" + more
            doubtful.sendall(head + b"\r\n\r\n{}")
            doubtful.shutdown(socket.SHUT_WR)
            assert doubtful.recv(100).startswith(b"HTTP/1.1 411")
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("POST", "/embed", iter([b"x"]), {"Transfer-Encoding": "chunked"})
    assert connection.getresponse().status == 411
    connection.close()


def test_one_connection_many_requests(server: Running) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    for body in (b'{"texts": ["x"]}', b"no", b'{"texts": ["y"]}'):
        connection.request("POST", "/embed", body)
        with connection.getresponse() as response:
            response.read()
            assert response.getheader("Connection") != "close"
    connection.close()


def test_who_has_gone_is_not_computed_for(server: Running) -> None:
    """Their texts are neither computed nor counted, so that there is room again."""
    gone = abandon(server.port, Batched(), "word " * 400, requests=60, texts_each=32)
    assert gone.behind_s is not None
    assert gone.behind_s < 20
    until = time.monotonic() + 20
    while ask(server.port, json.dumps({"texts": ["x"] * 64}).encode())[0] != 200:
        assert time.monotonic() < until


def test_what_has_come_in_is_answered_before_the_end(
    tiny_bundle: Path, encoder: TextEncoder
) -> None:
    running = Running(tiny_bundle)
    connect = over_http(running.port, Batched())
    idle = socket.create_connection(("127.0.0.1", running.port))
    ended = terminate(
        running.process, connect, TEXTS, encoder.encode(TEXTS), clients=8, after_s=0.5
    )
    idle.close()
    running.end()
    assert ended.load.lost == ()
    assert ended.load.answered > 8
    assert all("503" in said or "no connection" in said for said in ended.load.refused)
    assert ended.load.lowest_cosine >= CLOSE
    assert ended.exit_code == 143
    assert ended.seconds < 20


def test_a_request_that_has_begun_when_the_signal_comes(tiny_bundle: Path) -> None:
    """Its body is still to come, and the Batcher waits for others: neither is cut off."""
    running = Running(tiny_bundle, wait_ms=500)
    body = b'{"texts": ["x", "y"]}'
    connection = socket.create_connection(("127.0.0.1", running.port), timeout=60)
    with connection, connection.makefile("rb") as answer:
        head = f"POST /embed HTTP/1.1\r\nContent-Length: {len(body)}\r\n"
        connection.sendall(head.encode() + b"Expect: 100-continue\r\n\r\n")
        assert answer.readline().startswith(b"HTTP/1.1 100")
        running.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        connection.sendall(body)
        assert answer.readline() == b"\r\n"
        assert answer.readline() == b"HTTP/1.1 200 OK\r\n"
        content = answer.read().partition(b"\r\n\r\n")[2]
    assert len(json.loads(content)["embeddings"]) == 2
    assert running.end() == 143


def test_a_bundle_that_is_none_is_one_line(tmp_path: Path) -> None:
    server = Path(__file__).parents[1] / "docs" / "server.py"
    done = subprocess.run(
        [sys.executable, server, tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
