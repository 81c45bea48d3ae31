"""Ask a server over HTTP as its clients would: one text a request, an answer, a refusal or nothing.

A request is lost where its client sent all of it and got no answer: no vectors, and no word.
"""

import http.client
import json
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pipeline.vectors import FloatArray, row_cosines

ANSWER_S = 120


class RefusedError(Exception):
    """The server said no, in so many words."""


class LostError(Exception):
    """All of a request was sent, and no answer came."""


class Form(Protocol):
    """How a server is asked."""

    path: str

    def body(self, texts: Sequence[str]) -> bytes:
        """Return a request's body."""
        ...

    def vectors(self, answer: bytes) -> FloatArray:
        """Return ``[texts, dim]`` of an answer."""
        ...


class Client:
    """One connection that is kept as long as the server keeps it, or one a request (``anew``)."""

    def __init__(self, port: int, form: Form, *, anew: bool = False) -> None:
        """Connect with the first request."""
        self._headers = {"Connection": "close"} if anew else {}
        self._form = form
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_S)

    def ask(self, texts: Sequence[str]) -> FloatArray:
        """Return the vectors of some texts.

        Raises:
            RefusedError: the server answers otherwise, or takes no connection.
            LostError: the request was sent and nothing came back.
        """
        body = self._form.body(texts)
        if self._connection.sock is None:
            try:
                self._connection.connect()
            except OSError as error:
                raise RefusedError(f"no connection: {error}") from error
        try:
            self._connection.request("POST", self._form.path, body, self._headers)
            response = self._connection.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise LostError(f"{type(error).__name__}: {error}") from error
        if response.status != http.client.OK:
            raise RefusedError(f"{response.status}: {answer[:200]!r}")
        return self._form.vectors(answer)

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


class Batched:
    """``{"texts": …}``, as ``docs/server.py`` is asked."""

    path = "/embed"

    def body(self, texts: Sequence[str]) -> bytes:
        """Return a request's body."""
        return json.dumps({"texts": list(texts)}).encode()

    def vectors(self, answer: bytes) -> FloatArray:
        """Return ``[texts, dim]`` of an answer."""
        return np.array(json.loads(answer)["embeddings"], np.float32)


class Triton:
    """The bundle's ensemble, by the inference protocol."""

    def __init__(self, model: str) -> None:
        """Name the ensemble."""
        self.path = f"/v2/models/{model}/infer"

    def body(self, texts: Sequence[str]) -> bytes:
        """Return a request's body."""
        shape = [len(texts), 1]
        text = {"name": "text", "datatype": "BYTES", "shape": shape, "data": list(texts)}
        return json.dumps({"inputs": [text]}).encode()

    def vectors(self, answer: bytes) -> FloatArray:
        """Return ``[texts, dim]`` of an answer."""
        output = json.loads(answer)["outputs"][0]
        return np.array(output["data"], np.float32).reshape(output["shape"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What many clients got: each request is answered, refused or lost."""

    seconds: float
    latencies_ms: tuple[float, ...]
    """Of those answered, sorted."""
    lowest_cosine: float
    refused: tuple[str, ...]
    lost: tuple[str, ...]

    @property
    def answered(self) -> int:
        """How many got their vectors."""
        return len(self.latencies_ms)

    def quantile_ms(self, q: float) -> float:
        """Return a quantile of the latencies."""
        return float(np.quantile(self.latencies_ms, q)) if self.latencies_ms else float("nan")


Ask = Callable[[Sequence[str]], FloatArray]
Connect = Callable[[], tuple[Ask, Callable[[], None]]]
"""Return how to ask, and how to hang up."""


def over_http(port: int, form: Form, *, anew: bool = False) -> Connect:
    """Return what connects a client to a server."""

    def connect() -> tuple[Ask, Callable[[], None]]:
        client = Client(port, form, anew=anew)
        return client.ask, client.close

    return connect


def put_under_load(
    connect: Connect,
    texts: Sequence[str],
    expected: FloatArray,
    *,
    clients: int,
    stop: threading.Event | None = None,
) -> Load:
    """Have ``clients`` send the texts, each its share, a request after the other's answer.

    With ``stop`` they go round until it is set, and a client that is refused ends.
    """
    latencies: list[float] = []
    cosines: list[float] = []
    refused: list[str] = []
    lost: list[str] = []

    def run(first: int) -> None:
        ask, close = connect()
        try:
            while True:
                for i in range(first, len(texts), clients):
                    if stop is not None and stop.is_set():
                        return
                    started = time.perf_counter()
                    try:
                        vectors = ask([texts[i]])
                    except RefusedError as error:
                        refused.append(str(error))
                        if stop is not None:
                            return
                    except LostError as error:
                        lost.append(str(error))
                        if stop is not None:
                            return
                    else:
                        latencies.append(1000 * (time.perf_counter() - started))
                        cosines.append(float(row_cosines(vectors, expected[i : i + 1])[0]))
                if stop is None:
                    return
        finally:
            close()

    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(run, range(clients)))
    return Load(
        seconds=time.perf_counter() - started,
        latencies_ms=tuple(sorted(latencies)),
        lowest_cosine=min(cosines, default=float("nan")),
        refused=tuple(refused),
        lost=tuple(lost),
    )
