"""docs/nginx.conf in a real nginx: what it refuses, and that the server behind never sees it."""

import http.client
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.serving.__main__ import start_batcher
from pipeline.runtime import load

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed"),
]

CONF = Path(__file__).parents[1] / "docs" / "nginx.conf"
INFER = "/v2/models/tiny/infer"
LIMIT = 4 << 20

MAIN = """
daemon off;
{user}
worker_processes 1;
pid {here}/nginx.pid;
error_log {here}/error.log;
events {{}}
http {{
  access_log off;
  client_body_temp_path {here}/body;
  proxy_temp_path {here}/proxy;
  fastcgi_temp_path {here}/fastcgi;
  uwsgi_temp_path {here}/uwsgi;
  scgi_temp_path {here}/scgi;
  include {here}/site.conf;
}}
"""


class Behind(ThreadingHTTPServer):
    """Answers at once, or after ``delay_s``; notes what comes."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.seen: list[tuple[str, str, int]] = []
        self.delay_s = 0.0


class Answer(BaseHTTPRequestHandler):
    server: Behind

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen.append((self.command, self.path, len(body)))
        time.sleep(self.server.delay_s)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    do_POST = do_GET

    def log_message(self, *_: Any) -> None: ...


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def nginx(here: Path, behind: int, **other: str) -> Iterator[int]:
    """The documented file, but for its port, who is behind, and directives given anew."""
    port = free_port()
    site = CONF.read_text("utf-8")
    changes = {
        "listen 8000;": f"listen 127.0.0.1:{port};",
        "http://triton:8000": f"http://127.0.0.1:{behind}",
        **other,
    }
    for old, new in changes.items():
        assert old in site
        site = site.replace(old, new)
    (here / "site.conf").write_text(site)
    user = "user root;" if os.geteuid() == 0 else ""
    (here / "nginx.conf").write_text(MAIN.format(here=here, user=user))
    process = subprocess.Popen(
        ["nginx", "-p", here, "-c", here / "nginx.conf", "-e", here / "error.log"]
    )
    try:
        for _ in range(200):
            assert process.poll() is None, (here / "error.log").read_text()
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def behind() -> Iterator[Behind]:
    with Behind() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(port: int, path: str, body: bytes | None = None, **more: Any) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET" if body is None else "POST", path, body, **more)
        with connection.getresponse() as response:
            return response.status, response.read()
    finally:
        connection.close()


def test_a_body_within_the_limit_goes_on_and_a_larger_one_does_not(
    behind: Behind, tmp_path: Path
) -> None:
    with nginx(tmp_path, behind.server_port) as port:
        assert ask(port, INFER, b"x" * LIMIT) == (200, b"ok")
        assert ask(port, INFER, b"x" * (LIMIT + 1))[0] == 413
        # of which nobody says beforehand how long it is
        chunks = {"encode_chunked": True, "headers": {"Transfer-Encoding": "chunked"}}
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        parts = iter([b"x" * (1 << 20)] * 6)
        try:
            connection.request("POST", INFER, parts, **chunks)  # type: ignore[arg-type]
            status = connection.getresponse().status
        except ConnectionError:
            status = 413  # hung up while the rest was sent
        finally:
            connection.close()
        assert status == 413
    assert behind.seen == [("POST", INFER, LIMIT)]


def test_a_client_that_is_slow_or_gone_holds_nothing_behind(behind: Behind, tmp_path: Path) -> None:
    head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n".encode()
    times = {"client_body_timeout 30s": "client_body_timeout 1s"}
    with nginx(tmp_path, behind.server_port, **times) as port:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as slow:
            slow.sendall(head + b"x" * 50)
            said = b"".join(iter(lambda: slow.recv(1000), b""))
        with socket.create_connection(("127.0.0.1", port), timeout=20) as gone:
            gone.sendall(head + b"x" * 50)
        assert ask(port, INFER, b"x") == (200, b"ok")
    assert said == b"" or said.startswith(b"HTTP/1.1 408")
    assert behind.seen == [("POST", INFER, 1)]


def test_a_server_that_does_not_answer_or_is_not_there(behind: Behind, tmp_path: Path) -> None:
    times = {"proxy_read_timeout 60s": "proxy_read_timeout 1s"}
    behind.delay_s = 3
    with nginx(tmp_path, behind.server_port, **times) as port:
        assert ask(port, INFER, b"x")[0] == 504
    with nginx(tmp_path, free_port()) as port:
        assert ask(port, INFER, b"x")[0] == 502


def test_no_way_to_what_is_the_operator_s(behind: Behind, tmp_path: Path) -> None:
    taken = ["/v2", "/v2/health/ready", "/v2/models/tiny", "/v2/models/tiny/versions/1/infer"]
    with nginx(tmp_path, behind.server_port) as port:
        for path in (
            "/v2/logging",
            "/v2/trace/setting",
            "/v2/systemsharedmemory/region/x/register",
            "/v2/cudasharedmemory/status",
            "/v2/repository/models/tiny/unload",
            "/v2/models/tiny/trace/setting",
            "/v2/models/../logging",
            "/v2/models/%2e%2e/logging",
            "/v2/models/tiny/infer/../../../logging",
            "/metrics",
            "/",
        ):
            assert ask(port, path, b"{}")[0] == 404, path
        for path in taken:
            assert ask(port, path) == (200, b"ok"), path
    assert [path for _, path, _ in behind.seen] == taken


def test_in_front_of_the_server_of_the_docs(tiny_bundle: Path, tmp_path: Path) -> None:
    process, own = start_batcher(tiny_bundle)
    try:
        line = next(text for text in CONF.read_text("utf-8").splitlines() if "location ~" in text)
        with nginx(tmp_path, own, **{line.strip(): "location /embed {"}) as port:
            status, body = ask(port, "/embed", json.dumps({"texts": ["a text"]}).encode())
            vectors = np.array(json.loads(body)["embeddings"], np.float32)
            assert ask(port, "/embed", b"x" * (LIMIT + 1))[0] == 413
    finally:
        process.terminate()
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(60) == 143
    assert status == 200
    np.testing.assert_allclose(vectors, load(tiny_bundle).encode(["a text"]), atol=1e-5)
