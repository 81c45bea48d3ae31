"""Serve a bundle over HTTP by a Batcher and Python's own http.server. Described in docs/serving.md.

    python docs/server.py artifacts/minilm/int8 --port 8000
    curl -s localhost:8000/embed -d '{"texts": ["a sentence", "another"]}'

A thread a connection; what the threads send is computed together. Every size is bounded, whoever
leaves is not computed for, and on SIGTERM what has come in is answered before the process ends,
and what still comes is sent elsewhere (503).
"""

import argparse
import json
import select
import socket
import threading
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from pipeline.ending import run_to_end
from pipeline.errors import PipelineError
from pipeline.printable import print_error
from pipeline.runtime import Batcher, load

MAX_BODY = 4 << 20
MAX_TEXTS = 64
MAX_WAITING = 1024
"""Texts of all requests; who comes with more than are free is told to come again."""

READ_S = 30
"""How long a connection may say nothing."""

LINGER_S = 1.0
"""After SIGTERM, so long is who still comes told to go elsewhere; then nobody listens."""

DISCARD_S = 2.0
"""How long a body that is refused is read all the same: its client hears nothing before."""


class RefusedError(Exception):
    """A request that gets no vectors, and what its client is told."""

    def __init__(self, status: HTTPStatus, words: str) -> None:
        super().__init__(words)
        self.status = status


class GoneError(Exception):
    """Nobody waits for the answer any more."""


class Server(ThreadingHTTPServer):
    """Connections, how many texts wait, and the end."""

    daemon_threads = False  # server_close waits for their answers
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], batcher: Batcher) -> None:
        """Listen; requests are taken by ``serve_forever``."""
        super().__init__(address, Handler)
        self.batcher = batcher
        self.ending = False
        self.idle: set[socket.socket] = set()
        self._waiting = 0
        self._lock = threading.Lock()

    def enter(self, texts: int) -> None:
        """Take room for texts.

        Raises:
            RefusedError: too many wait.
        """
        with self._lock:
            if self._waiting + texts > MAX_WAITING:
                raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, "too many texts wait")
            self._waiting += texts

    def leave(self, texts: int) -> None:
        """Give the room back."""
        with self._lock:
            self._waiting -= texts

    def finish(self) -> None:
        """Tell who still comes to go elsewhere; ``server_close`` waits for what has come in."""
        self.ending = True
        time.sleep(LINGER_S)
        self.shutdown()
        for connection in list(self.idle):  # ends the wait for a next request, no answer
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RD)


class Handler(BaseHTTPRequestHandler):
    """One connection, request after request."""

    server: Server
    protocol_version = "HTTP/1.1"
    timeout = READ_S
    disable_nagle_algorithm = True

    def handle_one_request(self) -> None:
        """Be known as idle until a request's first line is there."""
        self.server.idle.add(self.connection)
        if self.server.ending:
            self.connection.settimeout(LINGER_S)
        with suppress(ConnectionError):  # the client's end of it is its own affair
            super().handle_one_request()
            return
        self.close_connection = True

    def parse_request(self) -> bool:
        """Read the headers; what begins before the end is answered."""
        self.server.idle.discard(self.connection)
        self._late = self.server.ending
        return super().parse_request()

    def finish(self) -> None:
        """Close."""
        self.server.idle.discard(self.connection)
        with suppress(ConnectionError):
            super().finish()

    def do_GET(self) -> None:
        """Say that the model is loaded, until the end begins."""
        known = self.path == "/health" and not self.server.ending
        status = HTTPStatus.OK if known else HTTPStatus.NOT_FOUND
        self._answer(status, {"ready": known})

    def do_POST(self) -> None:
        """Answer with a vector for each text."""
        try:
            embeddings = self._embed(*self._asked())
        except RefusedError as error:
            self._answer(error.status, {"error": str(error)})
            self._discard()
        except GoneError:
            self.close_connection = True
        except Exception:  # the engine's; whoever waits has to know
            traceback.print_exc()
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": "not computed"})
        else:
            self._answer(HTTPStatus.OK, {"embeddings": embeddings})

    def _asked(self) -> tuple[list[str], str | None]:
        """Return the texts of a request and the name of their prompt."""
        lengths = self.headers.get_all("Content-Length", [])
        length = lengths[0] if len(lengths) == 1 and "Transfer-Encoding" not in self.headers else ""
        self.close_connection = True  # a body that is not read would be the next request
        if self.path != "/embed":
            raise RefusedError(HTTPStatus.NOT_FOUND, "expected POST /embed")
        if not (length.isascii() and length.isdigit()):
            raise RefusedError(HTTPStatus.LENGTH_REQUIRED, "expected one Content-Length")
        if len(length) > len(str(MAX_BODY)) or int(length) > MAX_BODY:
            raise RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"expected {MAX_BODY} bytes")
        try:
            body = self.rfile.read(int(length))
        except TimeoutError:
            raise RefusedError(HTTPStatus.REQUEST_TIMEOUT, "the body does not come") from None
        if len(body) < int(length):
            raise GoneError
        self.close_connection = not self._keeps_alive()
        if self._late:
            raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, "this server ends")
        return _read(body)

    def _keeps_alive(self) -> bool:
        return self.headers.get("Connection", "").lower() != "close" and (
            self.request_version == "HTTP/1.1"
        )

    def _embed(self, texts: list[str], prompt: str | None) -> list[list[float]]:
        self.server.enter(len(texts))
        futures: list[Future[Any]] = []
        try:
            for text in texts:
                futures.append(self.server.batcher.submit(text, prompt_name=prompt))
            self._wait(futures)
        except (ValueError, TypeError) as error:
            raise RefusedError(HTTPStatus.BAD_REQUEST, str(error)) from None
        finally:
            for future in futures:
                future.cancel()
            self.server.leave(len(texts))
        return [future.result().tolist() for future in futures]

    def _wait(self, futures: Sequence[Future[Any]]) -> None:
        """Wait for all, for as long as the client does."""
        while wait(futures, timeout=0.1).not_done:
            if self._has_gone():
                raise GoneError

    def _has_gone(self) -> bool:
        poll = select.poll()
        poll.register(self.connection, select.POLLIN)
        try:
            return bool(poll.poll(0)) and self.connection.recv(1, socket.MSG_PEEK) == b""
        except OSError:
            return True

    def _discard(self) -> None:
        """Read what is left of a body that was refused, where the connection ends with it."""
        if self.close_connection:
            until = time.monotonic() + DISCARD_S
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_WR)
                self.connection.settimeout(DISCARD_S)
                while time.monotonic() < until and self.connection.recv(1 << 16):
                    pass

    def _answer(self, status: HTTPStatus, content: dict[str, Any]) -> None:
        self.close_connection = self.close_connection or self.server.ending
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        if status is HTTPStatus.SERVICE_UNAVAILABLE:
            self.send_header("Retry-After", "1")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        """Log nothing: what a client sends is not for a terminal."""


def _read(body: bytes) -> tuple[list[str], str | None]:
    try:
        request = json.loads(body)
        texts, prompt = request["texts"], request.get("prompt_name")
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        words = 'expected {"texts": [a text, …]}'
        raise RefusedError(HTTPStatus.BAD_REQUEST, words) from None
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise RefusedError(HTTPStatus.BAD_REQUEST, "texts: expected a list of strings")
    if not 1 <= len(texts) <= MAX_TEXTS:
        raise RefusedError(HTTPStatus.BAD_REQUEST, f"expected 1 to {MAX_TEXTS} texts")
    if prompt is not None and not isinstance(prompt, str):
        raise RefusedError(HTTPStatus.BAD_REQUEST, "prompt_name: expected a string")
    return texts, prompt


def main() -> int:
    """Serve until a signal comes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--wait-ms", type=float, default=2.0, help="Batcher's wait_ms")
    options = parser.parse_args()

    def serve() -> int:
        with (
            Batcher(load(options.bundle), wait_ms=options.wait_ms) as batcher,
            Server((options.host, options.port), batcher) as server,
        ):
            # Not in the main thread, where a signal would come between a connection and its thread.
            taking = threading.Thread(target=server.serve_forever, args=(0.05,))
            try:
                taking.start()
                print(f"ready on http://{options.host}:{server.server_port}", flush=True)
                threading.Event().wait()  # for a signal; join() is not safe against one
            finally:
                if taking.ident is not None:
                    server.finish()
        return 0

    try:
        return run_to_end(serve, left="what had come in was answered")
    except (PipelineError, OSError) as error:
        print_error(error)
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
